"""What happens to one world between two steps: its episode begins, is observed, ends.

Not imported as it stands: see `loops.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.layout import (
    BAD_OBSERVATION,
    BAD_REWARD,
    FAULTS,
    FIRST_POINTER,
    HEADER_SIZE,
    HORIZON,
    ILLEGAL,
    LATE,
    MODE,
    N_PARAMS,
    NEXT_STEP,
    OVER,
    SAME_STEP,
    UNPAID,
    UNSEEN,
    N,
    View,
)

if TYPE_CHECKING:
    from numba import carray

    from .compiler import address_to_pointer, inlined, outlined

    reset: Any  # the world's kernels, compiled
    observe: Any
    legal: Any
    present: Any  # present(s, agent) and to_move(s) read the State fields that the world names
    to_move: Any
    STATE: Any  # its dtypes and shapes
    PARAMS: Any
    ACTION: Any
    OBSERVATION: Any
    ACTION_SHAPE: tuple[int, ...]
    OBSERVATION_SHAPE: tuple[int, ...]
    OBSERVATION_SIZE: int
    STATE_WORDS: int  # a state's size in 8-byte words
    KEPT_WORDS: int  # of a state's first 8-byte words, which a reset keeps: the random stream
    LOG_WORD: int  # where the log's float64 fields begin
    LOG_SIZE: int
    A: int
    SOLO: bool  # one agent, whose kernels take no index
    MASKED: bool  # the world has legal and illegal actions
    MASK_SIZE: int
    TURNS: bool
    LEAVING: bool  # agents can leave before the episode ends
    REAL: bool  # observations can be NaN
    COMPILED: bool


@inlined
def _view(header: Any) -> Any:
    """Return the View of the batch whose header lies at this address."""
    h = carray(address_to_pointer(header), (HEADER_SIZE,), np.int64)
    n, p = h[N], FIRST_POINTER
    return View(
        h[MODE],
        h[HORIZON],
        h[ILLEGAL],
        carray(address_to_pointer(h[p]), (n,), STATE),
        carray(address_to_pointer(h[p]), (n, STATE_WORDS), np.float64),
        carray(address_to_pointer(h[p + 1]), (h[N_PARAMS],), PARAMS),
        carray(address_to_pointer(h[p + 2]), (n, A) + ACTION_SHAPE, ACTION),
        carray(address_to_pointer(h[p + 3]), (n, A) + OBSERVATION_SHAPE, OBSERVATION),
        carray(address_to_pointer(h[p + 3]), (n, A, OBSERVATION_SIZE), OBSERVATION),
        carray(address_to_pointer(h[p + 4]), (n, A), np.float32),
        carray(address_to_pointer(h[p + 5]), (n,), np.uint8),
        carray(address_to_pointer(h[p + 6]), (n,), np.uint8),
        carray(address_to_pointer(h[p + 7]), (n,), np.uint8),
        carray(address_to_pointer(h[p + 8]), (n, A, OBSERVATION_SIZE), OBSERVATION),
        carray(address_to_pointer(h[p + 9]), (n, A), np.float64),
        carray(address_to_pointer(h[p + 10]), (n, A), np.float64),
        carray(address_to_pointer(h[p + 11]), (n,), np.int32),
        carray(address_to_pointer(h[p + 12]), (n, 1 + LOG_SIZE), np.float64),
        carray(address_to_pointer(h[p + 13]), (n, A, MASK_SIZE), np.uint8),
        carray(address_to_pointer(h[p + 14]), (n, A), np.uint8),
        carray(address_to_pointer(h[p + 15]), (n, A), np.uint8),
        carray(address_to_pointer(h[p + 16]), (n, A), np.uint8),
        carray(address_to_pointer(h[p + 17]), (n,), np.uint8),
    )


@inlined
def _as_is(view: Any) -> Any:
    return view


view = _view if COMPILED else _as_is  # plain loops are handed the view itself


@inlined
def restart(i: Any, b: Any) -> None:
    """Begin world i's next episode: zero its state but for the random stream, then the author's reset."""
    for k in range(KEPT_WORDS, STATE_WORDS):
        b.words[i, k] = 0.0
    for a in range(A):
        b.running[i, a] = 0.0
    reset(b.states[i], b.params[min(i, len(b.params) - 1)])


@inlined
def _finite(row: Any) -> Any:
    excess = row[0] - row[0]
    for k in range(1, OBSERVATION_SIZE):
        excess += row[k] - row[k]  # 0 but for NaN and infinity, which make it NaN
    return excess == 0


@inlined
def _always(row: Any) -> Any:
    return True


finite = _finite if REAL else _always


@inlined
def _look_solo(i: Any, b: Any, live: Any) -> Any:
    row = b.flat[i, 0]
    for k in range(OBSERVATION_SIZE):
        row[k] = 0
    observe(b.states[i], b.params[min(i, len(b.params) - 1)], b.observations[i, 0])
    if MASKED:
        for k in range(MASK_SIZE):
            b.legal[i, 0, k] = 0
        legal(b.states[i], b.params[min(i, len(b.params) - 1)], b.legal[i, 0])
    return finite(row)


@inlined
def _look_several(i: Any, b: Any, live: Any) -> Any:
    s, p = b.states[i], b.params[min(i, len(b.params) - 1)]
    good = True
    for a in range(A):
        row = b.flat[i, a]
        for k in range(OBSERVATION_SIZE):
            row[k] = 0
        observe(s, a, p, b.observations[i, a])
        good &= finite(row)
        acts = live
        if TURNS:
            acts = acts and to_move(s) == a
        if LEAVING:
            acts = acts and present(s, a) != 0
        b.active[i, a] = 1 if acts else 0
        if MASKED:
            for k in range(MASK_SIZE):
                b.legal[i, a, k] = 0
            if acts:
                legal(s, a, p, b.legal[i, a])
    return good


# Writes the observations, legal actions and activity of world i; returns whether every number is finite. `live`:
# whether the next step will be one of this episode's.
look = _look_solo if SOLO else _look_several


@outlined
def settle(i: Any, event: Any, batch: Any) -> Any:
    """Do what a step left to do about world i; return 1 if its episode ended, else 0 or a fault's outcome.

    Few worlds come here, so it is compiled once, apart from the loops.
    """
    b = view(batch)
    if event & UNPAID:
        return -(1 + FAULTS * i + BAD_REWARD)
    if event & UNSEEN:
        return -(1 + FAULTS * i + BAD_OBSERVATION)
    finished = 0
    if event & (OVER | LATE):
        finished = 1
        b.lengths[i] = b.states[i].t
        b.logs[i, 0] += 1.0
        for k in range(LOG_SIZE):
            b.logs[i, 1 + k] += b.words[i, LOG_WORD + k]
        for a in range(A):
            b.returns[i, a] = b.running[i, a]
        if b.mode != SAME_STEP:
            return finished
        for a in range(A):
            for k in range(OBSERVATION_SIZE):
                b.final_observations[i, a, k] = b.flat[i, a, k]
    elif b.mode == NEXT_STEP:
        b.terminated[i] = b.truncated[i] = b.ended[i] = 0
    else:
        return finished
    restart(i, b)
    if not look(i, b, True):
        return -(1 + FAULTS * i + BAD_OBSERVATION)
    return finished
