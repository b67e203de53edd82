"""Decision trees as rules that a person reads: one line for each leaf, with the bounds of what leads there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from rl_lab.learners.compiled.tree_records import TreeArrays
from rl_lab.learners.pretraining.decision_tree import DecisionTree
from rl_lab.learners.pretraining.tree_ensemble import TreeEnsemble

_Bounds = dict[int, tuple[float, float]]  # by feature: it is above the first number, and at most the second


def rules(tree: DecisionTree, names: Sequence[str] = (), *, all_legal: bool = True) -> str:
    """Return the rules, in Markdown. Numbers have four significant digits.

    Args:
        tree: the tree.
        names: of the numbers of an observation; by default x[0], x[1] and so on.
        all_legal: every action is legal in every state. Then leaves beside each other with the same most probable
            action are one rule. Otherwise a rule names all actions of its leaf, the most probable first.
    """
    return _number_lines(tree.nodes, _names(tree, names), lambda leaf: _action(tree, leaf, all_legal))


def ensemble_rules(trees: TreeEnsemble, names: Sequence[str] = (), *, first: int = 3) -> str:
    """Return the rules of the first trees, in Markdown: what each leaf adds to a score. `names` as in `rules`."""
    texts = []
    for number in range(min(first, trees.num_trees)):
        tree = trees.tree(number)
        added = [f"{value:+.4g}" for value in tree.nodes.values[:, 0]]
        target = f"action {tree.output}" if trees.action_kind == "discrete" else f"number {tree.output} of the action"
        lines = _number_lines(tree.nodes, _names(trees, names), added.__getitem__)
        texts.append(f"## Tree {number + 1}, which adds to {target}\n\n{lines}")
    return "\n".join(texts)


def _names(tree: DecisionTree | TreeEnsemble, names: Sequence[str]) -> Sequence[str]:
    return list(names) or [f"x[{index}]" for index in range(tree.num_features)]


def _number_lines(nodes: TreeArrays, names: Sequence[str], text_of: Callable[[int], str]) -> str:
    """Return one line for each leaf, or for neighbours with the same text."""
    leaves: list[tuple[_Bounds, str]] = []
    _collect(nodes, 0, {}, text_of, leaves)
    lines = [f"{_conditions(bounds, names)}: {text}" for bounds, text in leaves]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1)) + "\n"


def _collect(
    nodes: TreeArrays, node: int, bounds: _Bounds, text_of: Callable[[int], str], leaves: list[tuple[_Bounds, str]]
) -> None:
    """Add the rules of the leaves below a node, which has these bounds, from left to right."""
    texts = {text_of(leaf) for leaf in _leaves(nodes, node)}
    if len(texts) == 1:
        leaves.append((bounds, texts.pop()))
        return
    feature, threshold = int(nodes.feature[node]), float(nodes.threshold[node])
    low, high = bounds.get(feature, (-math.inf, math.inf))
    for child, part in ((nodes.left[node], (low, threshold)), (nodes.right[node], (threshold, high))):
        _collect(nodes, int(child), {**bounds, feature: part}, text_of, leaves)


def _leaves(nodes: TreeArrays, node: int) -> list[int]:
    """Return the leaves below a node, which may be one itself."""
    pending, leaves = [node], []
    while pending:
        node = pending.pop()
        if nodes.left[node] < 0:
            leaves.append(node)
        else:
            pending += [int(nodes.left[node]), int(nodes.right[node])]
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
