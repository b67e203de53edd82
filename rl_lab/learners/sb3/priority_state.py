"""Saves and restores the priorities of DQN's prioritised replay as arrays; `training_state` calls it."""

from __future__ import annotations

import numpy as np

from rl_lab.core.world import Array
from rl_lab.learners.compiled.dqn_records import PriorityTree


def priority_arrays(tree: PriorityTree) -> dict[str, Array]:
    """Return "priorities", the tree's leaves, float64 [leaves], and "highest", the highest one so far, float64 [1].

    The result is empty for a tree without leaves.
    """
    if not len(tree.sums):
        return {}
    return {"priorities": tree.sums[len(tree.sums) // 2 :].copy(), "highest": tree.max_priority.copy()}


def restore_priority_tree(tree: PriorityTree, saved: dict[str, Array], num_transitions: int) -> None:
    """Write what `priority_arrays` returned to a tree, for a replay buffer of `num_transitions` transitions.

    Raises:
        ValueError: The priorities have another size, or are not finite, or negative, or outside the replay buffer.
    """
    sums, max_priority = tree
    leaves = len(sums) // 2
    if saved["priorities"].shape != (leaves,) or saved["highest"].shape != (1,):
        raise ValueError("the checkpoint's priorities are of another size")
    unused = saved["priorities"][num_transitions:]
    if not np.isfinite(saved["priorities"]).all() or (saved["priorities"] < 0).any() or unused.any():
        raise ValueError("the checkpoint's priorities are not finite, negative or outside the replay buffer")
    sums[leaves:], max_priority[:] = saved["priorities"], saved["highest"]
    for node in range(leaves - 1, 0, -1):
        sums[node] = sums[2 * node] + sums[2 * node + 1]
