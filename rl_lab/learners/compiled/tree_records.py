"""The arrays of decision trees, which templates walk. This module only declares types."""

from __future__ import annotations

from typing import NamedTuple

from rl_lab.core.world import Array


class TreeArrays(NamedTuple):
    """M nodes, of which node 0 is the root. A child's index is larger than its parent's; a leaf has children -1."""

    feature: Array  # int64 [M]: the index of the number of the observation that the node compares
    threshold: Array  # float64 [M]: rows with a number up to this one go left, the others right
    left: Array  # int64 [M]
    right: Array  # int64 [M]
    values: Array  # float64 [M, n]: probabilities of n actions; or [M, k]: the numbers of a continuous action


class EnsembleArrays(NamedTuple):
    """K trees with M nodes in all, one tree after the other, whose leaves are summed up to n scores.

    Within a tree, nodes lie as in `TreeArrays`. The scores are those of n actions, or the n numbers of
    a continuous one.
    """

    root: Array  # int64 [K]: the first node of each tree
    output: Array  # int64 [K]: the score to which the tree adds
    base: Array  # float64 [n]: the scores before the first tree
    feature: Array  # int64 [M]
    threshold: Array  # float64 [M]
    left: Array  # int64 [M]
    right: Array  # int64 [M]
    value: Array  # float64 [M]: what a leaf adds
