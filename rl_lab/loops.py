"""The batch loops around a world's scalar kernels.

Not imported as it stands: `compiler` executes a copy of this file once a world, with that world's compiled kernels
and constants set as its globals, so that numba's disk cache serves every later process; and once with the plain
kernels, so that the same loops run under a debugger. Shapes: N worlds, A agents; A is 1 in these loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.layout import (
    ACTIONS,
    BAD_ACTION,
    BAD_OBSERVATION,
    BAD_REWARD,
    CHUNKS,
    FAULTS,
    FIRST_POINTER,
    HEADER_SIZE,
    HORIZON,
    MODE,
    N_PARAMS,
    NEXT_STEP,
    SAME_STEP,
    N,
)

if TYPE_CHECKING:
    from numba import carray, prange

    from .compiler import address_to_pointer, inlined, jit, parallel_jit

    reset: Any  # the world's kernels, compiled
    step: Any
    observe: Any
    expert: Any
    STATE: Any  # its dtypes and shapes
    PARAMS: Any
    ACTION: Any
    OBSERVATION: Any
    ACTION_SHAPE: tuple[int, ...]
    OBSERVATION_SHAPE: tuple[int, ...]
    OBSERVATION_SIZE: int
    DISCRETE: bool
    LOWEST: Any  # of an action: ints, or float32 [k]
    HIGHEST: Any
    STATE_WORDS: int  # a state's size in 8-byte words
    KEPT_WORDS: int  # of a state's first 8-byte words, which a reset keeps: the random stream
    LOG_WORD: int  # where the log's float64 fields begin
    LOG_SIZE: int
    A: int


@inlined
def view(header: Any) -> Any:
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


@inlined
def step_range(
    low: Any,
    high: Any,
    mode: Any,
    horizon: Any,
    states: Any,
    words: Any,
    params: Any,
    actions: Any,
    observations: Any,
    flat: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
    ended: Any,
    final_observations: Any,
    running: Any,
    returns: Any,
    lengths: Any,
    logs: Any,
) -> Any:
    """Step worlds low..high-1; return the outcome (see FAULTS)."""
    finished = 0
    for i in range(low, high):
        s = states[i]
        if ended[i] and mode != SAME_STEP:
            rewards[i, 0] = 0.0
            if mode == NEXT_STEP:
                terminated[i] = truncated[i] = ended[i] = 0
                restart(i, states, words, params, running)
                if not look(i, states, params, observations, flat):
                    return -(1 + FAULTS * i + BAD_OBSERVATION)
            continue
        s.t += 1
        reward, over = step(s, actions[i, 0], params[min(i, len(params) - 1)])
        rewards[i, 0] = reward
        if reward - reward != 0:
            return -(1 + FAULTS * i + BAD_REWARD)
        running[i, 0] += reward
        out_of_time = 0 < horizon <= s.t
        terminated[i] = over
        truncated[i] = out_of_time
        if not look(i, states, params, observations, flat):
            return -(1 + FAULTS * i + BAD_OBSERVATION)
        ended[i] = over or out_of_time
        if ended[i]:
            finished += 1
            returns[i, 0] = running[i, 0]
            lengths[i] = s.t
            logs[i, 0] += 1.0
            for k in range(LOG_SIZE):
                logs[i, 1 + k] += words[i, LOG_WORD + k]
            if mode == SAME_STEP:
                for k in range(OBSERVATION_SIZE):
                    final_observations[i, 0, k] = flat[i, 0, k]
                restart(i, states, words, params, running)
                if not look(i, states, params, observations, flat):
                    return -(1 + FAULTS * i + BAD_OBSERVATION)
    return finished


@inlined
def reset_range(
    mask: Any,
    mode: Any,
    horizon: Any,
    states: Any,
    words: Any,
    params: Any,
    actions: Any,
    observations: Any,
    flat: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
    ended: Any,
    final_observations: Any,
    running: Any,
    returns: Any,
    lengths: Any,
    logs: Any,
) -> Any:
    """Begin a new episode in the worlds where mask [N] is 1; where it is 2 only observe. Return the outcome."""
    for i in range(len(mask)):
        if mask[i] == 1:
            rewards[i, 0] = 0.0
            terminated[i] = truncated[i] = ended[i] = 0
            restart(i, states, words, params, running)
        if mask[i] and not look(i, states, params, observations, flat):
            return -(1 + FAULTS * i + BAD_OBSERVATION)
    return 0


@inlined
def _bad_scalar(actions: Any) -> Any:
    for i in range(len(actions)):
        if not LOWEST <= actions[i, 0] <= HIGHEST:
            return i
    return -1


@inlined
def _bad_row(actions: Any) -> Any:
    for i in range(len(actions)):
        for k in range(len(LOWEST)):
            if not LOWEST[k] <= actions[i, 0, k] <= HIGHEST[k]:
                return i
    return -1


first_bad_action = _bad_scalar if DISCRETE else _bad_row


@inlined
def check_actions(actions: Any) -> Any:
    """Return 0, or the outcome of the first action outside its space; NaN is outside every space."""
    bad = first_bad_action(actions)
    return 0 if bad < 0 else -(1 + FAULTS * bad + BAD_ACTION)


@jit
def step_serial(header: Any) -> Any:
    """Step every world on the calling thread; nothing moves if any action is outside its space."""
    arrays = view(header)
    outcome = check_actions(arrays[ACTIONS])
    if outcome < 0:
        return outcome
    return step_range(0, len(arrays[ACTIONS]), *arrays)


@parallel_jit
def step_parallel(header: Any, outcomes: Any) -> None:
    """Step every world, one chunk a thread; outcomes int64 [CHUNKS]."""
    h = carray(address_to_pointer(header), (HEADER_SIZE,), np.int64)
    n, chunks = h[N], h[CHUNKS]
    outcomes[0] = check_actions(view(header)[ACTIONS])
    if outcomes[0] < 0:
        return
    for k in prange(chunks):
        outcomes[k] = step_range(k * n // chunks, (k + 1) * n // chunks, *view(header))


@jit
def reset_masked(header: Any, mask: Any) -> Any:
    """Compiled `reset_range`; mask uint8 [N]."""
    return reset_range(mask, *view(header))


@jit
def _expert_scalars(states: Any, params: Any, actions: Any) -> None:
    for i in range(len(states)):
        actions[i, 0] = expert(states[i], params[min(i, len(params) - 1)])


@jit
def _expert_rows(states: Any, params: Any, actions: Any) -> None:
    for i in range(len(states)):
        expert(states[i], params[min(i, len(params) - 1)], actions[i, 0])


# Writes the expert's actions [N, A] or [N, A, k]; for a Box the kernel fills its row.
expert_actions = _expert_scalars if DISCRETE else _expert_rows
