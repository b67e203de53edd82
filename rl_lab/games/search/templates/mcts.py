"""Monte Carlo tree search: UCT with random playouts.

A template, see `engine/template_context.py`. A node is a row of `nodes`, see `workspace.NODE`. At its second visit it
gets its children, in adjacent rows and random order. The state of a visited node is stored, because copying it is
measured to be faster than playing again from the root.

Source: Kocsis and Szepesvari 2006, "Bandit based Monte-Carlo planning"; Auer, Cesa-Bianchi and Fischer 2002,
"Finite-time analysis of the multiarmed bandit problem" (UCB1).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.atomics import atomics
from rl_lab.engine.template_context import decorators, world_context
from rl_lab.games.search.templates.primitives import (
    choices,
    copy_state,
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
def _expand(n: Any, num_rows: Any, buffers: Any, nodes: Any, p: Any) -> Any:
    """Add the children of node n in rows from `num_rows` on, if they fit; return the number of rows in use.

    `first` is set in any case, so that this is tried once. Where the game is over or there is no room, the node has no
    children, and its playouts begin at it.

    Source: Durstenfeld 1964, "Algorithm 235: Random permutation" (Fisher-Yates), from inside out.
    """
    node, s = nodes[n], buffers.states[nodes[n].state]
    node.first = num_rows
    if node.over:
        return num_rows
    count = choices(s, current_player(s), p, buffers.mask)
    if num_rows + count > len(nodes):
        return num_rows
    node.children = count
    action = 0
    for rank in range(count):
        action = next_legal(buffers.mask, action)
        # Each action gets a random row among those so far; the action that was there moves to the last row.
        place = num_rows + random_int(buffers, rank + 1)
        nodes[num_rows + rank].action = nodes[place].action
        nodes[place].action = action
        action += 1
    for child in range(num_rows, num_rows + count):
        nodes[child].parent = n
        nodes[child].visits = 0
        nodes[child].total = 0.0
    return num_rows + count


@internal
def _descend(n: Any, nodes: Any, exploration: Any) -> Any:
    """Return the child to go to: the first unvisited one, which is counted as visited, or else UCB1's.

    That has the highest upper confidence bound of the mean return, as seen by the agent to move.
    """
    node = nodes[n]
    if node.num_visited_children < node.children:
        node.num_visited_children += 1
        return node.first + node.num_visited_children - 1
    sign = 1.0 if node.seat == 0 else -1.0
    radius = exploration * math.sqrt(math.log(node.visits))  # of a confidence interval, but for the child's visits
    best, highest = node.first, -np.inf
    for child in range(node.first, node.first + node.children):
        visits = nodes[child].visits
        bound = sign * nodes[child].total / visits + radius / math.sqrt(visits)
        if bound > highest:
            best, highest = child, bound
    return best


@internal
def _visit_first(node: Any, state: Any, path_reward: Any, over: Any, s: Any) -> None:
    """Set the fields of a node at its first visit, but for its parent and action."""
    node.state, node.path_reward, node.over, node.seat = state, path_reward, 1 if over else 0, current_player(s)
    node.visits = node.num_visited_children = node.children = node.first = 0
    node.total = 0.0


@internal
def _grow(buffers: Any, tree: Any, nodes: Any, p: Any) -> None:
    """Grow the tree over state 0 by `tree.simulations` simulations, or until the search is to stop."""
    last = len(buffers.states) - 1  # index of the state in which playouts are played
    num_states, lowest, highest = 1, np.inf, -np.inf  # the range of the returns so far
    _visit_first(nodes[0], 0, 0.0, False, buffers.states[0])
    nodes[0].parent = -1
    num_rows = _expand(0, 1, buffers, nodes, p)
    for _ in range(tree.simulations):
        if read_at(buffers.stop) != 0:
            return
        n = 0
        # Rewards have any scale: exploration is relative to half of the range of returns so far.
        exploration = tree.exploration * (0.5 * (highest - lowest) if highest > lowest else 1.0)
        # Selection, down to a node that is visited for the first time or has no children; expansion on the way.
        while True:
            if nodes[n].visits and nodes[n].first == 0:
                num_rows = _expand(n, num_rows, buffers, nodes, p)
            if nodes[n].children == 0:
                break
            n = _descend(n, nodes, exploration)
            if nodes[n].visits == 0:
                parent = nodes[nodes[n].parent]
                copy_state(buffers.words, num_states, buffers.words, parent.state)
                reward, over = play(buffers.states[num_states], nodes[n].action, p, buffers.rewards, buffers.horizon)
                _visit_first(nodes[n], num_states, parent.path_reward + reward, over, buffers.states[num_states])
                num_states += 1
                break
        # Simulation.
        total = nodes[n].path_reward  # the return of seat 0
        if not nodes[n].over:
            copy_state(buffers.words, last, buffers.words, nodes[n].state)
            total += playout(last, buffers, p)[0]
        lowest, highest = min(lowest, total), max(highest, total)
        # Backpropagation.
        while n >= 0:
            nodes[n].visits += 1
            nodes[n].total += total
            n = nodes[n].parent


@internal
def _answer(buffers: Any, tree: Any, nodes: Any, answer: Any) -> None:
    """Write the root's action and its value for the agent to move to a record `workspace.ANSWER`.

    It is the action with the most visits, of several the one of the highest total; or, without `tree.greedy`, a random
    one with a probability proportional to its visits. Without any legal action, neither is written.
    """
    root = nodes[0]
    sign = 1.0 if root.seat == 0 else -1.0
    answer.nodes = tree.simulations
    if root.children == 0:
        return
    best = root.first
    if tree.greedy:
        for child in range(root.first + 1, root.first + root.children):
            extra_visits = nodes[child].visits - nodes[best].visits
            if extra_visits > 0 or (extra_visits == 0 and sign * nodes[child].total > sign * nodes[best].total):
                best = child
    else:
        remaining = random_int(buffers, tree.simulations)
        while remaining >= nodes[best].visits:
            remaining -= nodes[best].visits
            best += 1
    answer.action = nodes[best].action
    answer.value = sign * nodes[best].total / nodes[best].visits


@jit
def search(which: Any, first: Any, stride: Any, buffers: Any, tree: Any, answers: Any) -> None:
    """Search the games buffers.roots[which[k]] and write answers[k], for k = first, first + stride, ...

    `which` is int64 [R], `answers` [R] records `workspace.ANSWER`. Each of `stride` threads has its own `first`, and
    buffers of its own. If the search is to stop, the answers from there on are not written.
    """
    buffers, nodes = unmanaged_buffers(buffers), unmanaged_view(tree.nodes)
    for k in range(first, len(which), stride):
        i = which[k]
        buffers.stream[0] = digest(buffers.roots, i, 0, buffers.seed)
        copy_state(buffers.words, 0, buffers.roots, i)
        _grow(buffers, tree, nodes, buffers.params[min(i, len(buffers.params) - 1)])
        if read_at(buffers.stop) != 0:
            return
        _answer(buffers, tree, nodes, answers[k])
