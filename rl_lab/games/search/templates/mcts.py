"""This template has Monte Carlo tree search: UCT with random playouts.

It is compiled once for each world, see `engine/template_context.py`; `search.agents` calls `search`, which writes
records `workspace.ANSWER` and the thread's own buffers, and nothing else. Read `_run_simulations` first.

A node is a row of `nodes`, see `workspace.NODE`; row 0 is the root. At its second visit a node gets its children, in
adjacent rows and random order. The state of a visited node is stored in `buffers.states`, because copying it is
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
    copy_state,
    find_legal_actions,
    hash_words,
    next_legal_action,
    playout,
    random_int,
    take_action,
    unmanaged_buffers,
    unmanaged_view,
)

internal, jit = decorators().internal, decorators().jit
current_player, read_at = world_context().kernels.current_player, atomics()["read_at"]


@internal
def _expand(row: Any, end: Any, buffers: Any, nodes: Any, p: Any) -> Any:
    """Add the children of node `row` in rows from `end` on, if they fit; return the new end of the rows in use.

    `first_child` is set in any case, so that this is done once for a node. Where the game is over or too few rows are
    left, the node has no children, and playouts begin at it.

    Source: Durstenfeld 1964, "Algorithm 235: Random permutation" (Fisher-Yates), from inside out.
    """
    node, s = nodes[row], buffers.states[nodes[row].state_index]
    node.first_child = end
    if node.is_over:
        return end
    count = find_legal_actions(s, current_player(s), p, buffers.mask)
    if end + count > len(nodes):
        return end
    node.num_children = count
    action = 0
    for k in range(count):
        action = next_legal_action(buffers.mask, action)
        # Each action gets a random row among those so far; the action that was there moves to the last row.
        place = end + random_int(buffers, k + 1)
        nodes[end + k].action = nodes[place].action
        nodes[place].action = action
        action += 1
    for child in range(end, end + count):
        nodes[child].parent = row
        nodes[child].visits = 0
        nodes[child].total_return = 0.0
    return end + count


@internal
def _select_child(row: Any, nodes: Any, exploration: Any) -> Any:
    """Return the row of the child to go to: the first unvisited one, which is counted as visited, or else UCB1's.

    That is the child with the highest upper confidence bound of the mean return of the agent to move.
    """
    node = nodes[row]
    if node.num_visited_children < node.num_children:
        node.num_visited_children += 1
        return node.first_child + node.num_visited_children - 1
    sign = 1.0 if node.seat == 0 else -1.0
    # Half the width of a child's confidence interval is this number over the square root of the child's visits.
    radius = exploration * math.sqrt(math.log(node.visits))
    best, highest = node.first_child, -np.inf
    for child in range(node.first_child, node.first_child + node.num_children):
        visits = nodes[child].visits
        bound = sign * nodes[child].total_return / visits + radius / math.sqrt(visits)
        if bound > highest:
            best, highest = child, bound
    return best


@internal
def _initialize_node(node: Any, state: Any, path_reward: Any, is_over: Any, s: Any) -> None:
    """Set the fields of a node at its first visit, except for `parent` and `action`; `s` is the node's state."""
    node.state_index, node.path_reward, node.is_over = state, path_reward, 1 if is_over else 0
    node.seat = current_player(s)
    node.visits = node.num_visited_children = node.num_children = node.first_child = 0
    node.total_return = 0.0


@internal
def _run_simulations(buffers: Any, settings: Any, nodes: Any, p: Any) -> None:
    """Grow the tree whose root has state 0 by `settings.simulations` simulations, or until the search is to stop."""
    playout_state = len(buffers.states) - 1  # index of the state in which playouts are played
    num_states = 1
    lowest, highest = np.inf, -np.inf  # the range of the returns so far
    _initialize_node(nodes[0], 0, 0.0, False, buffers.states[0])
    nodes[0].parent = -1
    end = _expand(0, 1, buffers, nodes, p)
    for _ in range(settings.simulations):
        if read_at(buffers.stop_address) != 0:
            return
        row = 0
        # Rewards have any scale: exploration is relative to half of the range of returns so far.
        exploration = settings.exploration * (0.5 * (highest - lowest) if highest > lowest else 1.0)
        # Selection, down to a node that is visited for the first time or has no children; expansion on the way.
        while True:
            if nodes[row].visits and nodes[row].first_child == 0:
                end = _expand(row, end, buffers, nodes, p)
            if nodes[row].num_children == 0:
                break
            row = _select_child(row, nodes, exploration)
            if nodes[row].visits == 0:
                parent, s = nodes[nodes[row].parent], buffers.states[num_states]
                copy_state(buffers.words, num_states, buffers.words, parent.state_index)
                reward, is_over = take_action(s, nodes[row].action, p, buffers.rewards, buffers.horizon)
                _initialize_node(nodes[row], num_states, parent.path_reward + reward, is_over, s)
                num_states += 1
                break
        # Simulation.
        simulation_return = nodes[row].path_reward  # the return of seat 0
        if not nodes[row].is_over:
            copy_state(buffers.words, playout_state, buffers.words, nodes[row].state_index)
            simulation_return += playout(playout_state, buffers, p)[0]
        lowest, highest = min(lowest, simulation_return), max(highest, simulation_return)
        # Backpropagation.
        while row >= 0:
            nodes[row].visits += 1
            nodes[row].total_return += simulation_return
            row = nodes[row].parent


@internal
def _write_answer(buffers: Any, settings: Any, nodes: Any, answer: Any) -> None:
    """Write the root's action and its value for the agent to move to a record `workspace.ANSWER`.

    It is the action with the most visits, of several the one with the best total return; or, without `settings.greedy`,
    a random one with a probability proportional to its visits. Without any legal action, neither is written.
    """
    root = nodes[0]
    sign = 1.0 if root.seat == 0 else -1.0
    answer.nodes = settings.simulations
    if root.num_children == 0:
        return
    best = root.first_child
    if settings.greedy:
        for child in range(root.first_child + 1, root.first_child + root.num_children):
            extra_visits = nodes[child].visits - nodes[best].visits
            has_better_return = sign * nodes[child].total_return > sign * nodes[best].total_return
            if extra_visits > 0 or (extra_visits == 0 and has_better_return):
                best = child
    else:
        remaining = random_int(buffers, settings.simulations)
        while remaining >= nodes[best].visits:
            remaining -= nodes[best].visits
            best += 1
    answer.action = nodes[best].action
    answer.value = sign * nodes[best].total_return / nodes[best].visits


@jit
def search(env_indices: Any, first: Any, stride: Any, buffers: Any, settings: Any, answers: Any) -> None:
    """Search the games buffers.roots[env_indices[k]] and write answers[k], for k = first, first + stride, ...

    `env_indices` is int64 [R], `answers` [R] records `workspace.ANSWER`, `settings` a `MctsBuffers`. Each of `stride`
    threads has its own `first`, and buffers of its own. If the search is to stop, the answers from there on are not
    written.
    """
    buffers, nodes = unmanaged_buffers(buffers), unmanaged_view(settings.nodes)
    for k in range(first, len(env_indices), stride):
        i = env_indices[k]
        buffers.rng_state[0] = hash_words(buffers.roots, i, 0, buffers.seed)
        copy_state(buffers.words, 0, buffers.roots, i)
        _run_simulations(buffers, settings, nodes, buffers.params[min(i, len(buffers.params) - 1)])
        if read_at(buffers.stop_address) != 0:
            return
        _write_answer(buffers, settings, nodes, answers[k])
