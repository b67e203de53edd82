"""The scores of a sum of trees, and the actions by them.

A template, executed by `build` alone: see `engine/template_context.py`. `learners/pretraining/tree_ensemble.py` calls
it. What a row gets depends on that row alone.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.tree_records import EnsembleArrays

jit = decorators().jit


@jit
def add_up(observations: Any, trees: EnsembleArrays, scores: Any) -> None:
    """Write each row's sums over the trees, float64 [B, n], for `observations`, float32 [B, d]."""
    for row in range(len(observations)):
        for k in range(scores.shape[1]):
            scores[row, k] = trees.base[k]
        for tree in range(len(trees.root)):
            node = trees.root[tree]
            while trees.left[node] >= 0:
                goes_left = observations[row, trees.feature[node]] <= trees.threshold[node]
                node = trees.left[node] if goes_left else trees.right[node]
            scores[row, trees.output[tree]] += trees.value[node]


@jit
def best_actions(scores: Any, action_mask: Any, actions: Any) -> None:
    """Write each row's legal action with the highest score, the first of equals.

    `scores` is float64 [B, n], `actions` int64 [B], and `action_mask` uint8 [B, n or more], or [B, 0] where every
    action is legal. A row without a legal action gets action 0.
    """
    for row in range(len(scores)):
        action = -1
        for k in range(scores.shape[1]):
            if action_mask.shape[1] and action_mask[row, k] == 0:
                continue
            if action < 0 or scores[row, k] > scores[row, action]:
                action = k
        actions[row] = max(action, 0)
