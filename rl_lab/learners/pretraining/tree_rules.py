"""A decision tree as rules that a person reads: one line for each leaf, with the bounds of what leads there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rl_lab.learners.pretraining.decision_tree import DecisionTree

_Bounds = dict[int, tuple[float, float]]  # by feature: it is above the first number, and at most the second


def rules(tree: DecisionTree, names: Sequence[str] = (), *, all_legal: bool = True) -> str:
    """Return the rules, in Markdown. Numbers have four significant digits.

    Args:
        tree: the tree.
        names: of the numbers of an observation; by default x[0], x[1] and so on.
        all_legal: every action is legal in every state. Then leaves beside each other with the same most probable
            action are one rule. Otherwise a rule names all actions of its leaf, the most probable first.
    """
    names = list(names) or [f"x[{index}]" for index in range(tree.num_features)]
    leaves: list[tuple[_Bounds, str]] = []
    _collect(tree, 0, {}, all_legal, leaves)
    lines = [f"{_conditions(bounds, names)}: {action}" for bounds, action in leaves]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1)) + "\n"


def _collect(tree: DecisionTree, node: int, bounds: _Bounds, merges: bool, leaves: list[tuple[_Bounds, str]]) -> None:
    """Add the rules of the leaves below a node, which has these bounds, from left to right."""
    actions = {_action(tree, leaf, merges) for leaf in _leaves(tree, node)}
    if len(actions) == 1:
        leaves.append((bounds, actions.pop()))
        return
    feature, threshold = int(tree.nodes.feature[node]), float(tree.nodes.threshold[node])
    low, high = bounds.get(feature, (-math.inf, math.inf))
    for child, part in ((tree.nodes.left[node], (low, threshold)), (tree.nodes.right[node], (threshold, high))):
        _collect(tree, int(child), {**bounds, feature: part}, merges, leaves)


def _leaves(tree: DecisionTree, node: int) -> list[int]:
    """Return the leaves below a node, which may be one itself."""
    pending, leaves = [node], []
    while pending:
        node = pending.pop()
        if tree.nodes.left[node] < 0:
            leaves.append(node)
        else:
            pending += [int(tree.nodes.left[node]), int(tree.nodes.right[node])]
    return leaves


def _action(tree: DecisionTree, leaf: int, merges: bool) -> str:
    values = tree.nodes.values[leaf]
    if tree.action_kind == "continuous":
        return "action [" + ", ".join(f"{value:.4g}" for value in values) + "]"
    if merges:
        return f"action {values.argmax()}"
    order = np.argsort(-values, kind="stable")
    return "action " + ", else ".join(str(action) for action in order if values[action] > 0)


def _conditions(bounds: _Bounds, names: Sequence[str]) -> str:
    if not bounds:
        return "always"
    parts = []
    for feature, (low, high) in bounds.items():
        name = names[feature]
        below = f" <= {high:.4g}" if high < math.inf else ""
        parts.append(f"{low:.4g} < {name}{below}" if low > -math.inf and below else f"{name}{below or f' > {low:.4g}'}")
    return " and ".join(parts)
