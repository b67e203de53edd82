"""Minimax: alpha-beta by iterative deepening, with a table of positions and the history heuristic.

A template, see `engine/template_context.py`. Ply d is d actions from the root; seat 0 maximises, seat 1 minimises. A
reward at ply d counts 1 - d * DEPTH_DISCOUNT, so that the faster of two wins is chosen, and the slower of two losses.
A value is open if it depends on positions beyond the depth limit, where playouts or 0 take the place of a search.

`memory` are the AlphaBetaBuffers and `buffers` the SearchBuffers of `workspace`; `p` is the world's Params, `limit` the
depth of the search in plies, and `f` the FRAME of a ply.

Sources: Knuth & Moore 1975, "An analysis of alpha-beta pruning"; Schaeffer 1989, "The history heuristic and alpha-beta
search enhancements in practice".
"""

from __future__ import annotations

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
from rl_lab.games.search.workspace import AlphaBetaBuffers

inline, internal, jit = decorators().inline, decorators().internal, decorators().jit
current_player, read_at = world_context().kernels.current_player, atomics()["read_at"]
RNG_WORDS = world_context().constants.rng_words  # of a state's first 8-byte words: its random stream

DEPTH_DISCOUNT = 2.0**-20
MARGIN = 2.0**-30  # below the best, at the root: actions as good as it come back with their value, not with a bound
EXACT, AT_LEAST, AT_MOST = 0, 1, 2
# Indices of counters: the actions so far, the root's number, and the number of actions that are equally good.
NUM_ACTIONS, ROOT, EQUAL = 0, 1, 2


@inline
def _entry(memory: Any, key: Any) -> Any:
    return memory.table[np.int64(key & np.uint64(len(memory.table) - 1))]


@internal
def _estimate(d: Any, buffers: Any, memory: Any, p: Any) -> Any:
    """Return the mean of random playouts from ply d, which is always the same for the same position."""
    buffers.stream[0] = memory.plies[d].key ^ buffers.seed
    last, total = len(buffers.states) - 1, 0.0
    for _ in range(memory.playouts):
        copy_state(buffers.words, last, buffers.words, d)
        gain, num_actions = playout(last, buffers, p)
        total += gain
        memory.counters[NUM_ACTIONS] += num_actions
    return total / memory.playouts


@inline
def _begin_ply(d: Any, alpha: Any, beta: Any, limit: Any, buffers: Any, memory: Any, p: Any) -> Any:
    """Begin ply d, whose state has been written; return whether its value, `best`, is is_known without a search."""
    f, s = memory.plies[d], buffers.states[d]
    f.alpha = f.floor = alpha
    f.beta = f.ceiling = beta
    f.seat, f.index, f.open, f.best, f.action, f.hint = current_player(s), 0, 0, 0.0, -1, -1
    f.count = choices(s, f.seat, p, buffers.mask)
    if f.count == 0:
        return True
    f.key = digest(buffers.words, d, RNG_WORDS, np.uint64(0))
    if d >= limit:
        f.open = 1
        if memory.playouts > 0:
            f.best = _estimate(d, buffers, memory, p)
        return True
    entry = _entry(memory, f.key)
    if entry.key == f.key and entry.root == memory.counters[ROOT]:
        f.hint = entry.action
        if d > 0 and (entry.limit == limit or entry.open == 0):
            kind, value = entry.kind, entry.value
            if kind == EXACT or (kind == AT_LEAST and value >= beta) or (kind == AT_MOST and value <= alpha):
                f.best, f.open = value, entry.open
                return True
    action = 0
    for k in range(f.count):
        action = next_legal(buffers.mask, action)
        memory.actions[d, k] = action
        action += 1
    f.best = -np.inf if f.seat == 0 else np.inf
    return False


@inline
def _next_action(d: Any, memory: Any) -> Any:
    """Return the action to try next: the table's, else the one that has cut off most elsewhere."""
    f, best = memory.plies[d], memory.plies[d].index
    for k in range(f.index, f.count):
        action = memory.actions[d, k]
        if action == f.hint:
            best = k
            break
        if memory.history[f.seat, action] > memory.history[f.seat, memory.actions[d, best]]:
            best = k
    action = memory.actions[d, best]
    memory.actions[d, best] = memory.actions[d, f.index]
    memory.actions[d, f.index] = action
    f.index += 1
    return action


@inline
def _backup(d: Any, value: Any, is_open: Any, memory: Any) -> None:
    """Take the value of the action that was tried into account."""
    f, slack = memory.plies[d], 0.0
    f.open |= is_open
    if d == 0:
        memory.root_values[f.tried] = value
        slack = MARGIN * max(1.0, abs(value))
    if f.seat == 0:
        if value > f.best:
            f.best, f.action = value, f.tried
        f.alpha = max(f.alpha, f.best - slack)
    else:
        if value < f.best:
            f.best, f.action = value, f.tried
        f.beta = min(f.beta, f.best + slack)


@inline
def _store_in_table(d: Any, limit: Any, memory: Any) -> None:
    """Write ply d's value into the table, over whatever is there."""
    f = memory.plies[d]
    if f.alpha >= f.beta:
        memory.history[f.seat, f.action] += (limit - d) * (limit - d)
    entry = _entry(memory, f.key)
    entry.key, entry.root, entry.limit = f.key, memory.counters[ROOT], limit
    entry.value, entry.action, entry.open = f.best, f.action, f.open
    entry.kind = AT_MOST if f.best <= f.floor else AT_LEAST if f.best >= f.ceiling else EXACT


@internal
def _search_to_depth(limit: Any, buffers: Any, memory: Any, p: Any) -> Any:
    """Search `limit` plies deep; return whether that was done before the nodes were spent.

    It is a recursion written as a loop: `is_new` says that ply d has just been entered, and `is_known` that its value
    is known without a search. Otherwise the next action of ply d is tried or, where none is left, its value is handed
    back to ply d - 1.
    """
    memory.root_values[:] = np.nan
    d, alpha, beta, is_new, is_known = 0, -np.inf, np.inf, True, False
    while True:
        if is_new:
            is_known = _begin_ply(d, alpha, beta, limit, buffers, memory, p)
        f = memory.plies[d]
        is_new = not is_known and f.index < f.count and f.alpha < f.beta
        if is_new:
            if limit > 1 and 0 < memory.nodes <= memory.counters[NUM_ACTIONS]:
                return False
            if read_at(buffers.stop) != 0:
                return False
            memory.counters[NUM_ACTIONS] += 1
            f.tried = _next_action(d, memory)
            copy_state(buffers.words, d + 1, buffers.words, d)
            d += 1
            reward, over = play(buffers.states[d], f.tried, p, buffers.rewards, buffers.horizon)
            f.reward = reward * (1.0 - d * DEPTH_DISCOUNT)
            alpha, beta = f.alpha - f.reward, f.beta - f.reward
            if over:
                memory.plies[d].best, memory.plies[d].open = 0.0, 0
                is_new, is_known = False, True
        else:
            if not is_known:
                _store_in_table(d, limit, memory)
            if d == 0:
                return True
            d -= 1
            is_known = False
            _backup(d, memory.plies[d].reward + memory.plies[d + 1].best, memory.plies[d + 1].open, memory)


@internal
def _iterative_deepening(buffers: Any, memory: Any, p: Any, answer: Any) -> None:
    """Search from state 0 to increasing depths, until a limit is reached or the value is exact."""
    memory.history[:] = 0
    memory.counters[NUM_ACTIONS] = 0
    memory.counters[ROOT] += 1
    root = memory.plies[0]
    for limit in range(1, len(memory.plies)):
        if not _search_to_depth(limit, buffers, memory, p):
            break
        memory.counters[EQUAL] = 0
        for action in range(len(memory.root_values)):
            if memory.root_values[action] == root.best:
                memory.equal[memory.counters[EQUAL]] = action
                memory.counters[EQUAL] += 1
        answer.value = root.best if root.seat == 0 else -root.best
        if root.open == 0:
            answer.exact = 1
            break
    answer.nodes = memory.counters[NUM_ACTIONS]
    if root.count > 0:
        buffers.stream[0] = digest(buffers.words, 0, 0, buffers.seed)
        answer.action = memory.equal[random_int(buffers, memory.counters[EQUAL])]


@jit
def search(which: Any, first: Any, stride: Any, buffers: Any, memory: Any, answers: Any) -> None:
    """Answer for roots which[k], int64 [R], with k = first, first + stride, ..."""
    buffers = unmanaged_buffers(buffers)
    memory = AlphaBetaBuffers(
        unmanaged_view(memory.plies),
        unmanaged_view(memory.actions),
        unmanaged_view(memory.table),
        unmanaged_view(memory.history),
        unmanaged_view(memory.root_values),
        unmanaged_view(memory.equal),
        unmanaged_view(memory.counters),
        memory.nodes,
        memory.playouts,
    )
    for k in range(first, len(which), stride):
        i = which[k]
        copy_state(buffers.words, 0, buffers.roots, i)
        _iterative_deepening(buffers, memory, buffers.params[min(i, len(buffers.params) - 1)], answers[k])
        if read_at(buffers.stop) != 0:
            return
