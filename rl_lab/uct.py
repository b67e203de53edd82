"""Monte Carlo tree search: UCT with random playouts.

Not imported as it stands: see `playout.py`. A node is a row of `nodes`. When it is met for the second time it gets its
children, side by side and in random order. The state of a node that was met is kept: measured, copying is quicker than
playing again from the root.
Source: Kocsis & Szepesvari 2006, "Bandit based Monte-Carlo planning".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .compiler import jit, outlined
    from .playout import borrow, borrow_desk, choices, copy, digest, drawn, marked, play, playout

    to_move: Any


@outlined
def _expand(n: Any, size: Any, desk: Any, nodes: Any, p: Any) -> Any:
    """Give node n its children, from row `size` on, where there is room; return how many rows are then taken."""
    node, s = nodes[n], desk.states[nodes[n].state]
    node.first = size
    if node.over:
        return size
    count = choices(s, to_move(s), p, desk.mask)
    if size + count > len(nodes):
        return size
    node.children = count
    action = 0
    for rank in range(count):
        action = marked(desk.mask, action)
        # Each takes a random place among those so far, and who was there moves to the end.
        place = size + drawn(desk, rank + 1)
        nodes[size + rank].action = nodes[place].action
        nodes[place].action = action
        action += 1
    for child in range(size, size + count):
        nodes[child].parent = n
        nodes[child].visits = 0
        nodes[child].total = 0.0
    return size + count


@outlined
def _select(n: Any, nodes: Any, exploration: Any) -> Any:
    """Return the child to go on with: one never met, or that of the highest upper confidence bound for the mover."""
    node = nodes[n]
    if node.met < node.children:
        node.met += 1
        return node.first + node.met - 1
    sign = 1.0 if node.seat == 0 else -1.0
    wide = exploration * math.sqrt(math.log(node.visits))
    best, highest = node.first, -np.inf
    for child in range(node.first, node.first + node.children):
        visits = nodes[child].visits
        bound = sign * nodes[child].total / visits + wide / math.sqrt(visits)
        if bound > highest:
            best, highest = child, bound
    return best


@outlined
def _begin(node: Any, state: Any, paid: Any, over: Any, s: Any) -> None:
    """Fill in a node that is met for the first time."""
    node.state, node.paid, node.over, node.seat = state, paid, 1 if over else 0, to_move(s)
    node.visits = node.met = node.children = node.first = 0
    node.total = 0.0


@outlined
def _grow(desk: Any, tree: Any, nodes: Any, p: Any) -> None:
    """Grow the tree over state 0."""
    last = len(desk.states) - 1  # where playouts are played
    kept, low, high = 1, np.inf, -np.inf
    _begin(nodes[0], 0, 0.0, False, desk.states[0])
    nodes[0].parent = -1
    size = _expand(0, 1, desk, nodes, p)
    for _ in range(tree.simulations):
        n = 0
        # Rewards come in any size: exploration counts in halves of the range that was seen.
        exploration = tree.exploration * (0.5 * (high - low) if high > low else 1.0)
        while True:
            if nodes[n].visits and nodes[n].first == 0:
                size = _expand(n, size, desk, nodes, p)
            if nodes[n].children == 0:
                break
            n = _select(n, nodes, exploration)
            if nodes[n].visits == 0:
                above = nodes[nodes[n].parent]
                copy(desk.words, above.state, desk.words, kept)
                reward, over = play(desk.states[kept], nodes[n].action, p, desk.rewards, desk.horizon)
                _begin(nodes[n], kept, above.paid + reward, over, desk.states[kept])
                kept += 1
                break
        gain = nodes[n].paid
        if not nodes[n].over:
            copy(desk.words, nodes[n].state, desk.words, last)
            gain += playout(last, desk, p)[0]
        low, high = min(low, gain), max(high, gain)
        while n >= 0:
            nodes[n].visits += 1
            nodes[n].total += gain
            n = nodes[n].parent


@outlined
def _answer(desk: Any, tree: Any, nodes: Any, answer: Any) -> None:
    root = nodes[0]
    sign = 1.0 if root.seat == 0 else -1.0
    answer.nodes = tree.simulations
    if root.children == 0:
        return
    best = root.first
    if tree.greedy:
        for child in range(root.first + 1, root.first + root.children):
            more = nodes[child].visits - nodes[best].visits
            if more > 0 or (more == 0 and sign * nodes[child].total > sign * nodes[best].total):
                best = child
    else:
        left = drawn(desk, tree.simulations)
        while left >= nodes[best].visits:
            left -= nodes[best].visits
            best += 1
    answer.action = nodes[best].action
    answer.value = sign * nodes[best].total / nodes[best].visits


@jit
def search(which: Any, first: Any, stride: Any, desk: Any, tree: Any, answers: Any) -> None:
    """Answer for roots which[k], int64 [R], with k = first, first + stride, ..."""
    desk, nodes = borrow_desk(desk), borrow(tree.nodes)
    for k in range(first, len(which), stride):
        i = which[k]
        desk.stream[0] = digest(desk.roots, i, 0, desk.seed)
        copy(desk.roots, i, desk.words, 0)
        _grow(desk, tree, nodes, desk.params[min(i, len(desk.params) - 1)])
        _answer(desk, tree, nodes, answers[k])
