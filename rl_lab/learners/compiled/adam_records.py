"""The numbers of one step of Adam, as `templates/adam.py` computes them; its state is `ppo_records.AdamState`.

Like the other `records` modules, this one only declares types, which templates bind at their top.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Adam's settings by position, in an array or in `ppo_records.AdamSettings`.
LEARNING_RATE, MAX_GRAD_NORM, BETA_1, BETA_2, EPSILON = range(5)
NUM_ADAM_SETTINGS = EPSILON + 1


class AdamStep(NamedTuple):
    """Numbers that all parameters share in one step, all float32; the names are those of `torch.optim.adam`."""

    clip_coef: np.float32  # factor of the gradient, by which its norm is clipped
    beta_1: np.float32
    beta_2: np.float32
    step_size: np.float32  # learning rate / (1 - beta_1 ** t)
    bias_correction_2_sqrt: np.float32  # square root of 1 - beta_2 ** t
    eps: np.float32
