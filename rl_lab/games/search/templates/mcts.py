"""Monte Carlo tree search: UCT with random playouts.

A template, see `engine/template_context.py`. A node is a row of `nodes`. At its second visit it gets its
children, in adjacent rows and random order. The state of a visited node is stored, because copying it is measured to be
faster than playing again from the root.
Source: Kocsis & Szepesvari 2006, "Bandit based Monte-Carlo planning".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.atomics import atomics
from rl_lab.engine.template_context import decorators, world_context
from rl_lab.games.search.templates.primitives import (
    choices,
    copy,
    digest,
    next_legal,
    play,
    playout,
    random_int,
    unmanaged_buffers,
    unmanaged_view,
)

internal, jit = decorators().internal, decorators().jit
current_player, read_at = world_context().kernels.current_player, atomics()["read_at"]


@internal
def _expand(n: Any, size: Any, buffers: Any, nodes: Any, p: Any) -> Any:
    """Add the children of node n in rows from `size` on, if they fit; return the number of rows in use."""
    node, s = nodes[n], buffers.states[nodes[n].state]
    node.first = size
    if node.over:
        return size
    count = choices(s, current_player(s), p, buffers.mask)
    if size + count > len(nodes):
        return size
    node.children = count
    action = 0
    for rank in range(count):
        action = next_legal(buffers.mask, action)
        # Each action gets a random row among those so far; the action that was there moves to the last row.
        place = size + random_int(buffers, rank + 1)
        nodes[size + rank].action = nodes[place].action
        nodes[place].action = action
        action += 1
    for child in range(size, size + count):
        nodes[child].parent = n
        nodes[child].visits = 0
        nodes[child].total = 0.0
    return size + count


@internal
def _select(n: Any, nodes: Any, exploration: Any) -> Any:
    """Return the next child: an unvisited one, or that of the highest upper confidence bound for the mover."""
    node = nodes[n]
    if node.num_expanded < node.children:
        node.num_expanded += 1
        return node.first + node.num_expanded - 1
    sign = 1.0 if node.seat == 0 else -1.0
    wide = exploration * math.sqrt(math.log(node.visits))
    best, highest = node.first, -np.inf
    for child in range(node.first, node.first + node.children):
        visits = nodes[child].visits
        bound = sign * nodes[child].total / visits + wide / math.sqrt(visits)
        if bound > highest:
            best, highest = child, bound
    return best


@internal
def _begin(node: Any, state: Any, path_reward: Any, over: Any, s: Any) -> None:
    """Initialise a node at its first visit."""
    node.state, node.path_reward, node.over, node.seat = state, path_reward, 1 if over else 0, current_player(s)
    node.visits = node.num_expanded = node.children = node.first = 0
    node.total = 0.0


@internal
def _grow(buffers: Any, tree: Any, nodes: Any, p: Any) -> None:
    """Grow the tree over state 0."""
    last = len(buffers.states) - 1  # index of the state in which playouts are played
    num_states, low, high = 1, np.inf, -np.inf
    _begin(nodes[0], 0, 0.0, False, buffers.states[0])
    nodes[0].parent = -1
    size = _expand(0, 1, buffers, nodes, p)
    for _ in range(tree.simulations):
        if read_at(buffers.stop) != 0:
            return
        n = 0
        # Rewards have any scale: exploration is relative to half of the range of returns so far.
        exploration = tree.exploration * (0.5 * (high - low) if high > low else 1.0)
        while True:
            if nodes[n].visits and nodes[n].first == 0:
                size = _expand(n, size, buffers, nodes, p)
            if nodes[n].children == 0:
                break
            n = _select(n, nodes, exploration)
            if nodes[n].visits == 0:
                above = nodes[nodes[n].parent]
                copy(buffers.words, above.state, buffers.words, num_states)
                reward, over = play(buffers.states[num_states], nodes[n].action, p, buffers.rewards, buffers.horizon)
                _begin(nodes[n], num_states, above.path_reward + reward, over, buffers.states[num_states])
                num_states += 1
                break
        gain = nodes[n].path_reward
        if not nodes[n].over:
            copy(buffers.words, nodes[n].state, buffers.words, last)
            gain += playout(last, buffers, p)[0]
        low, high = min(low, gain), max(high, gain)
        while n >= 0:
            nodes[n].visits += 1
            nodes[n].total += gain
            n = nodes[n].parent


@internal
def _answer(buffers: Any, tree: Any, nodes: Any, answer: Any) -> None:
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
        left = random_int(buffers, tree.simulations)
        while left >= nodes[best].visits:
            left -= nodes[best].visits
            best += 1
    answer.action = nodes[best].action
    answer.value = sign * nodes[best].total / nodes[best].visits


@jit
def search(which: Any, first: Any, stride: Any, buffers: Any, tree: Any, answers: Any) -> None:
    """Answer for roots which[k], int64 [R], with k = first, first + stride, ..."""
    buffers, nodes = unmanaged_buffers(buffers), unmanaged_view(tree.nodes)
    for k in range(first, len(which), stride):
        i = which[k]
        buffers.stream[0] = digest(buffers.roots, i, 0, buffers.seed)
        copy(buffers.roots, i, buffers.words, 0)
        _grow(buffers, tree, nodes, buffers.params[min(i, len(buffers.params) - 1)])
        if read_at(buffers.stop) != 0:
            return
        _answer(buffers, tree, nodes, answers[k])
