"""A decision tree as plain arrays, and its actions.

Nothing here needs scikit-learn: that only fits trees, see `tree_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_lab.core.untrusted import checked_array
from rl_lab.core.world import Array
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.tree_records import TreeArrays
from rl_lab.learners.pretraining.contract import ObservationContract

MAX_NODES, MAX_ACTIONS = 2**20, 2**16


@dataclass(frozen=True)
class DecisionTree:
    """A tree that maps observations to actions. Its arrays are checked when it is made.

    Raises ValueError for arrays that are no tree over these observations.
    """

    observation: ObservationContract
    action_kind: str  # discrete or continuous
    nodes: TreeArrays

    def __post_init__(self) -> None:
        size, values = len(self.nodes.feature), np.asarray(self.nodes.values)
        if not 1 <= size <= MAX_NODES or values.ndim != 2 or not 1 <= values.shape[1] <= MAX_ACTIONS:
            raise ValueError(f"a tree of {size} nodes with values {list(values.shape)} is none")
        checked_array(self.nodes.values, "values", np.zeros((size, values.shape[1])))
        feature, threshold, left, right, _ = self.nodes
        check_nodes(feature, threshold, left, right, np.zeros(1, np.int64), self.num_features)
        if self.action_kind == "discrete" and values.min() < 0:
            raise ValueError("a probability is negative")

    @property
    def num_features(self) -> int:
        """Return d, the count of numbers of an observation."""
        return int(np.prod(self.observation.shape))

    @property
    def num_outputs(self) -> int:
        """Return the number of actions, or of the numbers of a continuous action."""
        return int(self.nodes.values.shape[1])

    @property
    def num_leaves(self) -> int:
        """Return the number of leaves."""
        return int((self.nodes.left < 0).sum())

    @property
    def depth(self) -> int:
        """Return the largest number of comparisons that a row takes."""
        return depth_of(self.nodes.left, self.nodes.right)

    def act(self, observations: Array, action_mask: Array | None = None) -> Array:
        """Return actions, int64 [B] or float32 [B, k], for observations [B, *shape] and masks, uint8 [B, n or more]."""
        obs, size, compiled = rows_of(observations, self.observation), self.num_outputs, build.decision_tree()
        if self.action_kind == "continuous":
            continuous = np.zeros((len(obs), size), np.float32)
            compiled.continuous_actions(obs, self.nodes, continuous)
            return continuous
        discrete = np.zeros(len(obs), np.int64)
        compiled.discrete_actions(obs, action_mask_of(action_mask, len(obs), size), self.nodes, discrete)
        return discrete


def check_nodes(feature: Array, threshold: Array, left: Array, right: Array, roots: Array, num_features: int) -> None:
    """Raise ValueError unless these nodes are trees, one after the other, over so many features.

    `roots` is int64 [K], the first node of each tree; the other arrays are those of `TreeArrays`.
    """
    size = len(feature)
    for name, array in {"feature": feature, "left": left, "right": right}.items():
        checked_array(array, name, np.zeros(size, np.int64))
    checked_array(threshold, "threshold", np.zeros(size))
    # In this range, their differences do not overflow.
    checked_array(roots, "root", np.zeros(len(roots), np.int64), 0, max(size - 1, 0))
    # Without a tree there are no nodes; else the first one is a root.
    if np.any(np.diff(roots) <= 0) or (len(roots) > 0) != (size > 0) or (size and roots[0] != 0):
        raise ValueError("the roots are not the first nodes of trees")
    number = np.arange(size)
    inner = left >= 0
    if not ((left == -1) & (right == -1))[~inner].all():
        raise ValueError("a leaf has a child")
    # A child behind its parent, in the same tree, and each node but the roots the child of one: so a walk ends, in a
    # leaf.
    children = np.concatenate([left[inner], right[inner]])
    if (left <= number)[inner].any() or (right <= number)[inner].any():
        raise ValueError("a child stands before its parent")
    if not np.array_equal(np.sort(children), np.setdiff1d(number, roots)):
        raise ValueError("a node is not the child of exactly one other")
    tree = np.searchsorted(roots, number, side="right")
    if (tree[children] != np.tile(tree[inner], 2)).any():
        raise ValueError("a node's child is in another tree")
    if (feature < 0)[inner].any() or (feature >= num_features)[inner].any():
        raise ValueError(f"a node compares a number that is not among the observation's {num_features}")


def depth_of(left: Array, right: Array) -> int:
    """Return the depth of the deepest of some trees, whose nodes have these children, int64 [M] each."""
    depths = np.zeros(len(left), np.int64)
    for node in np.flatnonzero(left >= 0):
        depths[[left[node], right[node]]] = depths[node] + 1
    return int(depths.max(initial=0))


def rows_of(observations: Array, contract: ObservationContract) -> Array:
    """Return observations [B, *shape] as float32 [B, d]. Raises ValueError for those of another size."""
    rows = np.ascontiguousarray(observations, np.float32).reshape(len(observations), -1)
    if rows.shape[1] != int(np.prod(contract.shape)):
        raise ValueError(f"the tree observes {contract}, not {list(observations.shape[1:])}")
    return rows


def action_mask_of(action_mask: Array | None, rows: int, num_actions: int) -> Array:
    """Return a mask as compiled code reads it, uint8 [B, n or more], or [B, 0] without one; or raise ValueError."""
    mask = np.zeros((rows, 0), np.uint8) if action_mask is None else np.array(action_mask, np.uint8)
    if mask.shape != (rows, 0) and (len(mask) != rows or mask.shape[1] < num_actions):
        raise ValueError(f"the mask is {list(mask.shape)}; expected [{rows}, {num_actions} or more]")
    return mask
