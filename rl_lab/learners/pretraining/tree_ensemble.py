"""A sum of decision trees as plain arrays, and its actions.

Nothing here needs the libraries that fit such trees: see `boosted_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_lab.core.untrusted import checked_array
from rl_lab.core.world import Array
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.tree_records import EnsembleArrays, TreeArrays
from rl_lab.learners.pretraining.contract import ObservationContract
from rl_lab.learners.pretraining.decision_tree import (
    MAX_ACTIONS,
    MAX_NODES,
    action_mask_of,
    check_nodes,
    depth_of,
    rows_of,
)


@dataclass(frozen=True)
class TreeEnsemble:
    """Trees that map observations to actions by the sums of their leaves. Its arrays are checked when it is made.

    Raises ValueError for arrays that are no trees over these observations.
    """

    observation: ObservationContract
    action_kind: str  # discrete or continuous
    nodes: EnsembleArrays

    def __post_init__(self) -> None:
        nodes = self.nodes
        trees, size, outputs = len(nodes.root), len(nodes.feature), len(nodes.base)
        if size > MAX_NODES:
            raise ValueError(f"{trees} trees have {size:,} nodes, over {MAX_NODES:,}: take fewer or smaller ones")
        if trees > size or not 1 <= outputs <= MAX_ACTIONS:
            raise ValueError(f"{trees} trees of {size} nodes with {outputs} scores are no ensemble")
        checked_array(nodes.output, "output", np.zeros(trees, np.int64), 0, outputs - 1)
        checked_array(nodes.base, "base", np.zeros(outputs))
        checked_array(nodes.value, "value", np.zeros(size))
        check_nodes(nodes.feature, nodes.threshold, nodes.left, nodes.right, nodes.root, self.num_features)

    @property
    def num_features(self) -> int:
        """Return d, the count of numbers of an observation."""
        return int(np.prod(self.observation.shape))

    @property
    def num_outputs(self) -> int:
        """Return the number of actions, or of the numbers of a continuous action."""
        return len(self.nodes.base)

    @property
    def num_trees(self) -> int:
        """Return the number of trees."""
        return len(self.nodes.root)

    @property
    def num_leaves(self) -> int:
        """Return the number of leaves of all trees."""
        return int((self.nodes.left < 0).sum())

    @property
    def depth(self) -> int:
        """Return the largest number of comparisons that a row takes in one tree."""
        return depth_of(self.nodes.left, self.nodes.right)

    def tree(self, number: int) -> DecisionTreeOfScore:
        """Return one of the trees."""
        nodes = self.nodes
        begin, end = int(nodes.root[number]), int(np.append(nodes.root, len(nodes.left))[number + 1])
        part = slice(begin, end)
        left, right = (np.where(each[part] < 0, -1, each[part] - begin) for each in (nodes.left, nodes.right))
        arrays = TreeArrays(nodes.feature[part], nodes.threshold[part], left, right, nodes.value[part, None])
        return DecisionTreeOfScore(int(nodes.output[number]), arrays)

    def scores(self, observations: Array) -> Array:
        """Return the sums over the trees, float64 [B, n], for observations [B, *shape]."""
        rows = rows_of(observations, self.observation)
        scores = np.zeros((len(rows), self.num_outputs))
        build.tree_ensemble().add_up(rows, self.nodes, scores)
        return scores

    def act(self, observations: Array, action_mask: Array | None = None) -> Array:
        """Return actions, int64 [B] or float32 [B, k], for observations [B, *shape] and masks, uint8 [B, n or more]."""
        scores = self.scores(observations)
        if self.action_kind == "continuous":
            return scores.astype(np.float32)
        actions = np.zeros(len(scores), np.int64)
        mask = action_mask_of(action_mask, len(scores), self.num_outputs)
        build.tree_ensemble().best_actions(scores, mask, actions)
        return actions


@dataclass(frozen=True)
class DecisionTreeOfScore:
    """One tree of an ensemble, and the number of the score that it adds to."""

    output: int
    nodes: TreeArrays
