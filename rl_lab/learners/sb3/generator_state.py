"""Saves and restores the global random generators of torch, numpy and random, as arrays and JSON.

SB3 samples from these generators, so that a checkpoint has to contain them. `new_rng_key` seeds compiled code from
them.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from rl_lab.core.world import Array


def generator_arrays() -> dict[str, Array]:
    """Return the states of torch's generators, on the CPU and the current GPU, and the words of numpy's."""
    numpy_state: Any = np.random.get_state(legacy=False)
    arrays = {"torch": torch.get_rng_state().numpy(), "numpy": numpy_state["state"]["key"]}
    if torch.cuda.is_available():
        arrays["cuda"] = torch.cuda.get_rng_state().cpu().numpy()
    return arrays


def generator_values() -> dict[str, Any]:
    """Return the rest of the state of numpy's generator, and the state of Python's."""
    numpy_state: Any = np.random.get_state(legacy=False)
    version, words, gauss = random.getstate()
    return {
        "numpy": {
            "pos": numpy_state["state"]["pos"],
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        },
        "python": [version, list(words), gauss],
    }


def restore_generators(arrays: dict[str, Array], values: dict[str, Any]) -> None:
    """Set the global generators to what `generator_arrays` and `generator_values` returned."""
    torch.set_rng_state(torch.from_numpy(np.array(arrays["torch"])))
    if "cuda" in arrays and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(np.array(arrays["cuda"])))
    numpy_state = values["numpy"]
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": arrays["numpy"], "pos": numpy_state["pos"]},
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        }
    )
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))


def new_rng_key() -> np.uint64:
    """Return a random key for compiled code from torch's global generator, which is advanced by it.

    So the key depends on the seed, and two learners of a process have different ones.
    """
    return np.uint64(int(torch.randint(2**32, (1,))))
