"""Minimax: alpha-beta by iterative deepening, with a table of positions and the history heuristic.

Not imported as it stands: see `playout.py`. Ply d is d actions from the root; seat 0 maximises, seat 1 minimises. A
reward at ply d counts 1 - d * HASTE of itself, so that of two wins the quicker is taken, and of two losses the slower.
Sources: Knuth & Moore 1975, "An analysis of alpha-beta pruning"; Schaeffer 1989, "The history heuristic and alpha-beta
search enhancements in practice".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .compiler import inlined, jit, outlined
    from .desk import Board
    from .playout import borrow, borrow_desk, choices, copy, digest, drawn, marked, play, playout

    to_move: Any
    KEPT_WORDS: int  # of a state's first 8-byte words: its random stream

HASTE = 2.0**-20
MARGIN = 2.0**-30  # below the best, at the root: actions as good as it come back with their value, not with a bound
EXACT, AT_LEAST, AT_MOST = 0, 1, 2
SPENT, ROOT, EQUAL = 0, 1, 2  # counters: actions taken, the root's number, how many actions are equally good


@inlined
def _entry(board: Any, key: Any) -> Any:
    return board.table[np.int64(key & np.uint64(len(board.table) - 1))]


@outlined
def _estimate(d: Any, desk: Any, board: Any, p: Any) -> Any:
    """Return the mean of random playouts from ply d: of the same position always the same."""
    desk.stream[0] = board.plies[d].key ^ desk.seed
    last, total = len(desk.states) - 1, 0.0
    for _ in range(board.playouts):
        copy(desk.words, d, desk.words, last)
        gain, taken = playout(last, desk, p)
        total += gain
        board.counters[SPENT] += taken
    return total / board.playouts


@inlined
def _enter(d: Any, alpha: Any, beta: Any, limit: Any, desk: Any, board: Any, p: Any) -> Any:
    """Begin ply d, whose state is there; return whether its value, `best`, is known at once."""
    f, s = board.plies[d], desk.states[d]
    f.alpha = f.floor = alpha
    f.beta = f.ceiling = beta
    f.seat, f.index, f.open, f.best, f.action, f.hint = to_move(s), 0, 0, 0.0, -1, -1
    f.count = choices(s, f.seat, p, desk.mask)
    if f.count == 0:
        return True
    f.key = digest(desk.words, d, KEPT_WORDS, np.uint64(0))
    if d >= limit:
        f.open = 1
        if board.playouts > 0:
            f.best = _estimate(d, desk, board, p)
        return True
    entry = _entry(board, f.key)
    if entry.key == f.key and entry.root == board.counters[ROOT]:
        f.hint = entry.action
        if d > 0 and (entry.limit == limit or entry.open == 0):
            kind, value = entry.kind, entry.value
            if kind == EXACT or (kind == AT_LEAST and value >= beta) or (kind == AT_MOST and value <= alpha):
                f.best, f.open = value, entry.open
                return True
    action = 0
    for k in range(f.count):
        action = marked(desk.mask, action)
        board.actions[d, k] = action
        action += 1
    f.best = -np.inf if f.seat == 0 else np.inf
    return False


@inlined
def _next(d: Any, board: Any) -> Any:
    """Return the action to try next: the table's, then whichever cut off most elsewhere."""
    f, best = board.plies[d], board.plies[d].index
    for k in range(f.index, f.count):
        action = board.actions[d, k]
        if action == f.hint:
            best = k
            break
        if board.history[f.seat, action] > board.history[f.seat, board.actions[d, best]]:
            best = k
    action = board.actions[d, best]
    board.actions[d, best] = board.actions[d, f.index]
    board.actions[d, f.index] = action
    f.index += 1
    return action


@inlined
def _fold(d: Any, value: Any, is_open: Any, board: Any) -> None:
    """Take the value of the action that was tried into account."""
    f, slack = board.plies[d], 0.0
    f.open |= is_open
    if d == 0:
        board.worth[f.tried] = value
        slack = MARGIN * max(1.0, abs(value))
    if f.seat == 0:
        if value > f.best:
            f.best, f.action = value, f.tried
        f.alpha = max(f.alpha, f.best - slack)
    else:
        if value < f.best:
            f.best, f.action = value, f.tried
        f.beta = min(f.beta, f.best + slack)


@inlined
def _leave(d: Any, limit: Any, board: Any) -> None:
    """Write ply d's value into the table, over whatever is there."""
    f = board.plies[d]
    if f.alpha >= f.beta:
        board.history[f.seat, f.action] += (limit - d) * (limit - d)
    entry = _entry(board, f.key)
    entry.key, entry.root, entry.limit = f.key, board.counters[ROOT], limit
    entry.value, entry.action, entry.open = f.best, f.action, f.open
    entry.kind = AT_MOST if f.best <= f.floor else AT_LEAST if f.best >= f.ceiling else EXACT


@outlined
def _deepen(limit: Any, desk: Any, board: Any, p: Any) -> Any:
    """Search `limit` plies deep; return whether that was done before the nodes were spent."""
    board.worth[:] = np.nan
    d, alpha, beta, fresh, known = 0, -np.inf, np.inf, True, False
    while True:
        if fresh:
            known = _enter(d, alpha, beta, limit, desk, board, p)
        f = board.plies[d]
        fresh = not known and f.index < f.count and f.alpha < f.beta
        if fresh:
            if limit > 1 and 0 < board.nodes <= board.counters[SPENT]:
                return False
            board.counters[SPENT] += 1
            f.tried = _next(d, board)
            copy(desk.words, d, desk.words, d + 1)
            d += 1
            reward, over = play(desk.states[d], f.tried, p, desk.rewards, desk.horizon)
            f.reward = reward * (1.0 - d * HASTE)
            alpha, beta = f.alpha - f.reward, f.beta - f.reward
            if over:
                board.plies[d].best, board.plies[d].open = 0.0, 0
                fresh, known = False, True
        else:
            if not known:
                _leave(d, limit, board)
            if d == 0:
                return True
            d -= 1
            known = False
            _fold(d, board.plies[d].reward + board.plies[d + 1].best, board.plies[d + 1].open, board)


@outlined
def _solve(desk: Any, board: Any, p: Any, answer: Any) -> None:
    """Look deeper and deeper from state 0, for as long as that is wanted and can change anything."""
    board.history[:] = 0
    board.counters[SPENT] = 0
    board.counters[ROOT] += 1
    root = board.plies[0]
    for limit in range(1, len(board.plies)):
        if not _deepen(limit, desk, board, p):
            break
        board.counters[EQUAL] = 0
        for action in range(len(board.worth)):
            if board.worth[action] == root.best:
                board.equal[board.counters[EQUAL]] = action
                board.counters[EQUAL] += 1
        answer.value = root.best if root.seat == 0 else -root.best
        if root.open == 0:
            answer.exact = 1
            break
    answer.nodes = board.counters[SPENT]
    if root.count > 0:
        desk.stream[0] = digest(desk.words, 0, 0, desk.seed)
        answer.action = board.equal[drawn(desk, board.counters[EQUAL])]


@jit
def search(which: Any, first: Any, stride: Any, desk: Any, board: Any, answers: Any) -> None:
    """Answer for roots which[k], int64 [R], with k = first, first + stride, ..."""
    desk = borrow_desk(desk)
    board = Board(
        borrow(board.plies),
        borrow(board.actions),
        borrow(board.table),
        borrow(board.history),
        borrow(board.worth),
        borrow(board.equal),
        borrow(board.counters),
        board.nodes,
        board.playouts,
    )
    for k in range(first, len(which), stride):
        i = which[k]
        copy(desk.roots, i, desk.words, 0)
        _solve(desk, board, desk.params[min(i, len(desk.params) - 1)], answers[k])
