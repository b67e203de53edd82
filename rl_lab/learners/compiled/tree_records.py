"""The arrays of a decision tree, which `templates/decision_tree.py` walks. This module only declares types."""

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
