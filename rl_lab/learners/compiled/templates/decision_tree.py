"""The actions of a decision tree.

A template, executed by `build` alone: see `engine/template_context.py`. `learners/pretraining/tree_agent.py` calls it.
The action of a row depends on that row alone.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.tree_records import TreeArrays

internal, jit = decorators().internal, decorators().jit


@internal
def leaf_of(observation: Any, tree: TreeArrays) -> Any:
    """Return the index of the leaf that an observation, float32 [d], falls into."""
    node = 0
    while tree.left[node] >= 0:
        goes_left = observation[tree.feature[node]] <= tree.threshold[node]
        node = tree.left[node] if goes_left else tree.right[node]
    return node


@jit
def discrete_actions(observations: Any, action_mask: Any, tree: TreeArrays, actions: Any) -> None:
    """Write each row's legal action with the highest probability in its leaf, the first of equals.

    `observations` is float32 [B, d], `actions` int64 [B], and `action_mask` uint8 [B, n or more], or [B, 0] where every
    action is legal. A row without a legal action gets action 0.
    """
    for row in range(len(observations)):
        leaf = leaf_of(observations[row], tree)
        action = -1
        for k in range(tree.values.shape[1]):
            if action_mask.shape[1] and action_mask[row, k] == 0:
                continue
            if action < 0 or tree.values[leaf, k] > tree.values[leaf, action]:
                action = k
        actions[row] = max(action, 0)


@jit
def continuous_actions(observations: Any, tree: TreeArrays, actions: Any) -> None:
    """Write the numbers of each row's leaf to `actions`, float32 [B, k], for `observations`, float32 [B, d]."""
    for row in range(len(observations)):
        leaf = leaf_of(observations[row], tree)
        for k in range(tree.values.shape[1]):
            actions[row, k] = tree.values[leaf, k]
