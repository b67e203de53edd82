"""The arguments of the compiled PPO update with RLlib's loss: what it has beyond those of `ppo_records`.

`learners/rllib/compiled_update.py` makes them for `templates/rllib_ppo.py`. This module only declares types and
columns. Shapes: R rows of a train batch, some of which RLlib adds for their values and leaves out of the loss; n
actions, or k numbers of a continuous action.
"""

from __future__ import annotations

from typing import NamedTuple

from rl_lab.core.world import Array
from rl_lab.learners.compiled.ppo_records import FAILED_MINIBATCH, PpoSettings, RolloutSamples

# Columns of a report after those of `ppo_records`: KL divergence from the policy that sampled, value
# loss before it is clipped, and, for the explained variance, sums over all rows, those without a loss too.
KL, UNCLIPPED_VALUE_LOSS, SUM_TARGETS, SUM_SQUARED_TARGETS, SUM_ERRORS, SUM_SQUARED_ERRORS = range(
    FAILED_MINIBATCH + 1, FAILED_MINIBATCH + 7
)
RLLIB_REPORTED = SUM_SQUARED_ERRORS + 1


class RllibSamples(NamedTuple):
    """A train batch."""

    rollout: (
        RolloutSamples  # its masks are uint8; its indices, int64 [1, any], have all minibatches one after the other
    )
    dist_inputs: Array  # float32 [R, n]: logits of the policy that sampled; or [R, 2 k]: means and log_std
    loss_mask: Array  # bool [R]: False for rows that have no loss


class RllibSettings(NamedTuple):
    """The hyperparameters of RLlib's PPO, by its names where Stable-Baselines3 has no such thing."""

    ppo: PpoSettings
    vf_clip_param: float
    use_kl_loss: bool
    kl_coeff: float
