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
    LATE,
    MODE,
    N_PARAMS,
    NEXT_STEP,
    OVER,
    SAME_STEP,
    UNPAID,
    UNSEEN,
    N,
)

if TYPE_CHECKING:
    from numba import carray

    from .compiler import address_to_pointer, inlined, outlined

    reset: Any  # the world's kernels, compiled
    observe: Any
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
    COMPILED: bool


@inlined
def _view(header: Any) -> Any:
    """Return (mode, horizon, arrays...) of the batch whose header lies at this address, in `Batch.arrays` order."""
    h = carray(address_to_pointer(header), (HEADER_SIZE,), np.int64)
    n, p = h[N], FIRST_POINTER
    return (
        h[MODE],
        h[HORIZON],
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
    )


@inlined
def _arrays(arrays: Any) -> Any:
    return arrays


view = _view if COMPILED else _arrays  # plain loops are handed the arrays themselves


@inlined
def restart(i: Any, states: Any, words: Any, params: Any, running: Any) -> None:
    """Begin world i's next episode: zero its state but for the random stream, then the author's reset."""
    for k in range(KEPT_WORDS, words.shape[1]):
        words[i, k] = 0.0
    running[i, 0] = 0.0
    reset(states[i], params[min(i, len(params) - 1)])


@inlined
def look(i: Any, states: Any, params: Any, observations: Any, flat: Any) -> Any:
    """Write world i's observation into its row; return whether every number in it is finite."""
    row = flat[i, 0]
    for k in range(OBSERVATION_SIZE):
        row[k] = 0
    observe(states[i], params[min(i, len(params) - 1)], observations[i, 0])
    excess = row[0] - row[0]
    for k in range(1, OBSERVATION_SIZE):
        excess += row[k] - row[k]  # 0 but for NaN and infinity, which make it NaN
    return excess == 0


@outlined
def settle(i: Any, event: Any, batch: Any) -> Any:
    """Do what a step left to do about world i; return 1 if its episode ended, else 0 or a fault's outcome.

    Few worlds come here, so it is compiled once, apart from the loops.
    """
    (
        mode,
        _,
        states,
        words,
        params,
        _,
        observations,
        flat,
        rewards,
        terminated,
        truncated,
        ended,
        final_observations,
        running,
        returns,
        lengths,
        logs,
    ) = view(batch)
    if event & UNPAID:
        return -(1 + FAULTS * i + BAD_REWARD)
    if event & UNSEEN:
        return -(1 + FAULTS * i + BAD_OBSERVATION)
    finished = 0
    if event & (OVER | LATE):
        finished = 1
        returns[i, 0] = running[i, 0]
        lengths[i] = states[i].t
        logs[i, 0] += 1.0
        for k in range(LOG_SIZE):
            logs[i, 1 + k] += words[i, LOG_WORD + k]
        if mode != SAME_STEP:
            return finished
        for k in range(OBSERVATION_SIZE):
            final_observations[i, 0, k] = flat[i, 0, k]
    elif mode == NEXT_STEP:
        terminated[i] = truncated[i] = ended[i] = 0
    else:
        return finished
    restart(i, states, words, params, running)
    if not look(i, states, params, observations, flat):
        return -(1 + FAULTS * i + BAD_OBSERVATION)
    return finished
