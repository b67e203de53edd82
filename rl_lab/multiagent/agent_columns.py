"""This module copies between a batch's arrays and those of an environment that has some of the batch's agents.

An index `agents` of the first two axes selects [N, K] of [N, A]. The batch's arrays are padded to the largest of its
agents' spaces; where the other environment's arrays are narrower, the padding is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.engine.buffers import AGENT_OUTPUTS


def read(batch: BatchedEnv, name: str, agents: Any, width: tuple[int, ...]) -> Array:
    """Return a copy of some agents' rows of one of the batch's arrays, [N, K, *width]."""
    return np.asarray(getattr(batch, name)[agents][(..., *(slice(size) for size in width))])


def copy_outputs(batch: BatchedEnv, agents: Any, target: BatchedEnv, names: Iterable[str] = AGENT_OUTPUTS) -> None:
    """Copy some agents' rows of the batch's arrays into the target's arrays of the same names."""
    for name in names:
        array = getattr(target, name)
        array[...] = read(batch, name, agents, array.shape[2:])


def write_actions(batch: BatchedEnv, agents: Any, actions: Array) -> None:
    """Write the actions of some agents, [N, K] or [N, K, width], into the batch's; padding keeps what it has."""
    rows = batch.actions[agents]
    rows[(..., *(slice(size) for size in actions.shape[2:]))] = actions
    batch.actions[agents] = rows
