"""Stepping LANES worlds at a time, in loops that LLVM turns into vector instructions.

Not imported as it stands: `compiler` executes it as it does `loops.py`, for worlds whose kernels allow it (see
`columns`). Each loop here runs over the lanes of one block, writes only one of the batch's arrays (so that LLVM need
not prove which arrays overlap) and does nothing that depends on the lane but choose between two numbers. They stand
in one function because numba optimises each function before it inlines it: a loop over an argument would be compiled
without knowing its stride, or that it overlaps no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.layout import DISABLED, FROZEN, LATE, OVER, SAME_STEP, UNPAID, UNSEEN

if TYPE_CHECKING:
    from numba import carray

    from .compiler import inlined, outlined, put, scratch, take
    from .episode import settle, view

    step: Any
    observe: Any
    STATE: Any
    PARAMS: Any
    OBSERVATION: Any
    OBSERVATION_SHAPE: tuple[int, ...]
    OBSERVATION_SIZE: int
    OBSERVATION_BYTES: int
    OBSERVATION_COLUMNS: int
    DISCRETE: bool
    LANES: int
    GROUP: int
    COLUMN: int  # bytes that hold a number a lane
    STATE_COLUMNS: int  # bytes
    PARAMS_COLUMNS: int
    STATE_BYTES: int
    PARAMS_BYTES: int
    gather_states: Any
    load_state: Any
    save_state: Any
    scatter_states: Any
    gather_params: Any
    spread_params: Any
    load_params: Any

NEVER = 2**31 - 1


@inlined
def _narrow(actions: Any, given: Any, lane: Any) -> None:
    given[lane] = actions[lane]  # within its space, so 32 bits do; wider, a loop steps half as many lanes at once


@inlined
def _leave(actions: Any, given: Any, lane: Any) -> None:
    pass


@inlined
def _number(actions: Any, given: Any, lane: Any) -> Any:
    return np.int64(given[lane])


@inlined
def _row(actions: Any, given: Any, lane: Any) -> Any:
    return actions[lane]


prepare, action_of = (_narrow, _number) if DISCRETE else (_leave, _row)


@outlined
def step_blocks(low: Any, high: Any, batch: Any) -> Any:
    """Step worlds low..high-1; return the outcome (see FAULTS). The batch has room up to the end of the last block."""
    b = view(batch)
    mode, horizon, states, params, actions, flat = b.mode, b.horizon, b.states, b.params, b.actions, b.flat
    rewards, terminated, truncated, ended, running = b.rewards, b.terminated, b.truncated, b.ended, b.running
    state_columns = carray(scratch(STATE_COLUMNS), (STATE_COLUMNS,), np.uint8)
    params_columns = carray(scratch(PARAMS_COLUMNS), (PARAMS_COLUMNS,), np.uint8)
    given = carray(scratch(COLUMN), (LANES,), np.int32)
    earned = scratch(COLUMN)
    events = carray(scratch(COLUMN), (LANES,), np.uint8)
    seen = carray(scratch(OBSERVATION_COLUMNS), (OBSERVATION_SIZE, LANES), OBSERVATION)
    # One world's records and observation: LLVM keeps them in registers, a lane each.
    state, own = carray(scratch(STATE_BYTES), (1,), STATE), carray(scratch(PARAMS_BYTES), (1,), PARAMS)
    memory = scratch(OBSERVATION_BYTES)
    out, row = carray(memory, OBSERVATION_SHAPE, OBSERVATION), carray(memory, (OBSERVATION_SIZE,), OBSERVATION)

    limit = np.int32(horizon if 0 < horizon < NEVER else NEVER)
    standing = np.uint8(0 if mode == SAME_STEP else FROZEN)
    own_params = len(params) > 1
    finished = 0
    for lane in range(LANES):
        spread_params(params, 0, params_columns, lane, True)
    for first in range(low, high, LANES):
        # Views that begin at the block: LLVM sees that a lane is no negative index.
        actions_here, rewards_here, running_here = actions[first:, 0], rewards[first:, 0], running[first:, 0]
        terminated_here, truncated_here, ended_here = terminated[first:], truncated[first:], ended[first:]
        flat_here = flat[first:, 0]
        for lane in range(0, LANES, GROUP):
            gather_states(states, first + lane, state_columns, lane)
        if own_params:
            for lane in range(0, LANES, GROUP):
                gather_params(params, first + lane, params_columns, lane)
        for lane in range(LANES):
            prepare(actions_here, given, lane)
        for lane in range(LANES):
            events[lane] = ended_here[lane] * standing

        for lane in range(LANES):
            load_state(state_columns, lane, state, 0, True)
            load_params(params_columns, lane, own, 0, True)
            s = state[0]
            s.t += 1
            reward, over = step(s, action_of(actions_here, given, lane), own[0])
            put(earned, lane, reward)
            stands = events[lane] != 0
            save_state(state, 0, state_columns, lane, not stands)
            event = (OVER if over else 0) | (LATE if limit <= s.t else 0) | (UNPAID if reward - reward != 0 else 0)
            events[lane] = FROZEN if stands else event

        for lane in range(LANES):
            load_state(state_columns, lane, state, 0, True)
            load_params(params_columns, lane, own, 0, True)
            for k in range(OBSERVATION_SIZE):
                row[k] = 0
            observe(state[0], own[0], out)
            excess = row[0] - row[0]
            for k in range(OBSERVATION_SIZE):
                excess += row[k] - row[k]
                seen[k, lane] = row[k]
            bad = excess != 0 and not events[lane] & FROZEN
            events[lane] |= np.uint8(UNSEEN if bad else 0)

        for lane in range(0, LANES, GROUP):
            scatter_states(states, first + lane, state_columns, lane)
        for lane in range(LANES):
            rewards_here[lane] = 0.0 if events[lane] & FROZEN else take(earned, lane, reward)
        for lane in range(LANES):
            more = running_here[lane] + take(earned, lane, reward)
            running_here[lane] = running_here[lane] if events[lane] & (FROZEN | UNPAID) else more
        for lane in range(LANES):
            terminated_here[lane] = events[lane] & OVER | (terminated_here[lane] if events[lane] & FROZEN else 0)
        for lane in range(LANES):
            was = truncated_here[lane] if events[lane] & FROZEN else 0
            truncated_here[lane] = 1 if events[lane] & LATE else was
        for lane in range(LANES):
            ended_here[lane] = 1 if events[lane] & (FROZEN | OVER | LATE) else 0

        if mode == DISABLED:
            for lane in range(LANES):
                if not events[lane] & FROZEN:
                    for k in range(OBSERVATION_SIZE):
                        flat_here[lane, k] = seen[k, lane]
        else:
            for lane in range(LANES):
                for k in range(OBSERVATION_SIZE):
                    flat_here[lane, k] = seen[k, lane]

        for lane in range(min(LANES, high - first)):
            if events[lane]:
                outcome = settle(first + lane, np.int64(events[lane]), batch)
                if outcome < 0:
                    return outcome
                finished += outcome
    return finished
