"""This template steps BLOCK worlds at a time with loops that LLVM turns into vector instructions (SIMD).

It is executed for each world whose kernels allow it (see `vectorization`), and `step` calls `step_simd`. Lane k of a
block is world first + k. A loop over the lanes can be vectorised if it writes to one of the batch's arrays only, and
selects one of two numbers where code would branch. The last loops may branch: few lanes need what they do, or they only
copy.

All loops are in one function because numba optimises a function before it inlines it. A loop in a function of its own
would be compiled without knowing the strides of its arrays, or that they do not overlap.

Arrays named `*_columns` are structures of arrays: for each number of a record, BLOCK values side by side, one per lane.
Names ending in _BYTES are sizes of memory on the stack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from rl_lab.engine.buffers import (
    ALREADY_DONE,
    BAD_OBSERVATION_BIT,
    BAD_REWARD_BIT,
    DISABLED,
    SAME_STEP,
    TERMINATED,
    TRUNCATED,
)
from rl_lab.engine.template_context import decorators, world_context
from rl_lab.engine.templates.autoreset import finish_step

ctx, simd = world_context(), world_context().simd
assert simd is not None
inline, internal = decorators().inline, decorators().internal
step, observe, batch_view = ctx.kernels.step, ctx.kernels.observe, ctx.batch_view
STATE, PARAMS, OBSERVATION = ctx.constants.state, ctx.constants.params, ctx.constants.observation
OBSERVATION_SHAPE, OBSERVATION_SIZE = ctx.constants.observation_shape, ctx.constants.observation_size
DISCRETE, BLOCK, TRANSPOSE_TILE = ctx.constants.discrete, simd.block, simd.transpose_tile
COLUMN_BYTES, STATE_COLUMNS_BYTES = simd.column_bytes, simd.state_columns_bytes
PARAMS_COLUMNS_BYTES = simd.params_columns_bytes
STATE_BYTES, PARAMS_BYTES = STATE.itemsize, PARAMS.itemsize
OBSERVATION_BYTES = OBSERVATION_SIZE * OBSERVATION.itemsize
OBSERVATION_COLUMNS_BYTES = BLOCK * OBSERVATION_BYTES
gather_states, load_state, save_state = simd.gather_states, simd.load_state, simd.save_state
scatter_states, gather_params = simd.scatter_states, simd.gather_params
broadcast_params, load_params = simd.broadcast_params, simd.load_params
stack_alloc, store_lane, load_lane = simd.stack_alloc, simd.store_lane, simd.load_lane

NO_HORIZON = 2**31 - 1


@inline
def _narrow_discrete_action(actions: Any, narrow_actions: Any, lane: Any) -> None:
    # An action within its space fits into 32 bits; with wider numbers, a loop would step half as many lanes at once.
    narrow_actions[lane] = actions[lane]


@inline
def _keep_box_action(actions: Any, narrow_actions: Any, lane: Any) -> None:
    pass  # the numbers of a Box are read where they are: their dtype is the author's choice


@inline
def _read_discrete_action(actions: Any, narrow_actions: Any, lane: Any) -> Any:
    return np.int64(narrow_actions[lane])


@inline
def _read_box_action(actions: Any, narrow_actions: Any, lane: Any) -> Any:
    return actions[lane]


prepare_action, read_action = (
    (_narrow_discrete_action, _read_discrete_action) if DISCRETE else (_keep_box_action, _read_box_action)
)


@internal
def step_simd(low: Any, high: Any, handle: Any) -> Any:
    """Step worlds low..high-1; write the arrays that a step writes, and return the outcome.

    `handle` is the address of the batch's header, see `step`. The outcome is the number of episodes that ended, or a
    negative number that names a fault and its world. The arrays must have memory up to the end of the last block, which
    is written, too.
    """
    view = batch_view(handle)
    mode, horizon, states, params = view.mode, view.horizon, view.states, view.params
    actions, flat_observations = view.actions, view.flat_observations
    rewards, running_returns = view.rewards, view.running_returns
    terminated, truncated, done = view.terminated, view.truncated, view.done
    # Memory on the stack. COLUMN_BYTES holds BLOCK values of up to 8 bytes, the other sizes all columns of a record.
    state_columns = carray(stack_alloc(STATE_COLUMNS_BYTES), (STATE_COLUMNS_BYTES,), np.uint8)
    params_columns = carray(stack_alloc(PARAMS_COLUMNS_BYTES), (PARAMS_COLUMNS_BYTES,), np.uint8)
    narrow_actions = carray(stack_alloc(COLUMN_BYTES), (BLOCK,), np.int32)
    step_rewards = stack_alloc(COLUMN_BYTES)  # [BLOCK], of the dtype that the author's step returns
    events = carray(stack_alloc(COLUMN_BYTES), (BLOCK,), np.uint8)
    observation_columns = carray(stack_alloc(OBSERVATION_COLUMNS_BYTES), (OBSERVATION_SIZE, BLOCK), OBSERVATION)
    # The records of one world, [1], and its observation, in its own shape as `out` and as [OBSERVATION_SIZE] as `row`.
    # In a vectorised loop, LLVM keeps them in registers that hold a value for each lane.
    state, env_params = carray(stack_alloc(STATE_BYTES), (1,), STATE), carray(stack_alloc(PARAMS_BYTES), (1,), PARAMS)
    memory = stack_alloc(OBSERVATION_BYTES)
    out, row = carray(memory, OBSERVATION_SHAPE, OBSERVATION), carray(memory, (OBSERVATION_SIZE,), OBSERVATION)

    horizon_or_max = np.int32(horizon if 0 < horizon < NO_HORIZON else NO_HORIZON)
    # With SAME_STEP, a world whose `done` is 1 was reset in that step already, so it is stepped like the others.
    done_event = np.uint8(0 if mode == SAME_STEP else ALREADY_DONE)
    has_own_params = len(params) > 1
    finished = 0
    for lane in range(BLOCK):
        broadcast_params(params, 0, params_columns, lane, True)
    for first in range(low, high, BLOCK):
        # Views that begin at the block: LLVM sees that a lane is no negative index.
        actions_here, rewards_here = actions[first:, 0], rewards[first:, 0]
        running_returns_here = running_returns[first:, 0]
        terminated_here, truncated_here, done_here = terminated[first:], truncated[first:], done[first:]
        flat_here = flat_observations[first:, 0]
        # Copy the states, params and actions of the block into columns, and mark in `events` which worlds had ended.
        for lane in range(0, BLOCK, TRANSPOSE_TILE):
            gather_states(states, first + lane, state_columns, lane)
        if has_own_params:
            for lane in range(0, BLOCK, TRANSPOSE_TILE):
                gather_params(params, first + lane, params_columns, lane)
        for lane in range(BLOCK):
            prepare_action(actions_here, narrow_actions, lane)
        for lane in range(BLOCK):
            events[lane] = done_here[lane] * done_event

        # Step each world that has not ended; write its state, its reward and its event.
        for lane in range(BLOCK):
            load_state(state_columns, lane, state, 0, True)
            load_params(params_columns, lane, env_params, 0, True)
            s = state[0]
            s.t += 1
            reward, is_terminated = step(s, read_action(actions_here, narrow_actions, lane), env_params[0])
            store_lane(step_rewards, lane, reward)
            stored_reward = np.float32(reward)  # a large float64 becomes infinite in it
            was_done = events[lane] != 0
            save_state(state, 0, state_columns, lane, not was_done)
            # x - x is 0 for a finite x, and NaN, which is not equal to 0, where x is infinite or NaN.
            event = (
                (TERMINATED if is_terminated else 0)
                | (TRUNCATED if horizon_or_max <= s.t else 0)
                | (BAD_REWARD_BIT if stored_reward - stored_reward != 0 else 0)
            )
            events[lane] = ALREADY_DONE if was_done else event

        # Observe each world; add to its event whether a number is not finite.
        for lane in range(BLOCK):
            load_state(state_columns, lane, state, 0, True)
            load_params(params_columns, lane, env_params, 0, True)
            for k in range(OBSERVATION_SIZE):
                row[k] = 0
            observe(state[0], env_params[0], out)
            nonfinite = row[0] - row[0]  # the sum of x - x: 0 if all numbers are finite, else NaN
            for k in range(OBSERVATION_SIZE):
                nonfinite += row[k] - row[k]
                observation_columns[k, lane] = row[k]
            is_bad = nonfinite != 0 and not events[lane] & ALREADY_DONE
            events[lane] |= np.uint8(BAD_OBSERVATION_BIT if is_bad else 0)

        # Copy the results into the batch's arrays, one array in each loop.
        for lane in range(0, BLOCK, TRANSPOSE_TILE):
            scatter_states(states, first + lane, state_columns, lane)
        # load_lane needs `reward`, of whatever lane, for its dtype only.
        for lane in range(BLOCK):
            rewards_here[lane] = 0.0 if events[lane] & ALREADY_DONE else load_lane(step_rewards, lane, reward)
        for lane in range(BLOCK):
            before = running_returns_here[lane]
            after = before + load_lane(step_rewards, lane, reward)
            running_returns_here[lane] = before if events[lane] & (ALREADY_DONE | BAD_REWARD_BIT) else after
        for lane in range(BLOCK):
            terminated_here[lane] = events[lane] & TERMINATED | (
                terminated_here[lane] if events[lane] & ALREADY_DONE else 0
            )
        for lane in range(BLOCK):
            was_truncated = truncated_here[lane] if events[lane] & ALREADY_DONE else 0
            truncated_here[lane] = 1 if events[lane] & TRUNCATED else was_truncated
        for lane in range(BLOCK):
            done_here[lane] = 1 if events[lane] & (ALREADY_DONE | TERMINATED | TRUNCATED) else 0

        if mode == DISABLED:
            for lane in range(BLOCK):
                if not events[lane] & ALREADY_DONE:
                    for k in range(OBSERVATION_SIZE):
                        flat_here[lane, k] = observation_columns[k, lane]
        else:
            for lane in range(BLOCK):
                for k in range(OBSERVATION_SIZE):
                    flat_here[lane, k] = observation_columns[k, lane]

        # End episodes and reset worlds, where there is an event.
        for lane in range(min(BLOCK, high - first)):
            if events[lane]:
                outcome = finish_step(handle, first + lane, np.int64(events[lane]))
                if outcome < 0:
                    return outcome
                finished += outcome
    return finished
