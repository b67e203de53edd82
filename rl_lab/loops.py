"""The batch loops around a world's scalar kernels.

Not imported as it stands: `compiler` executes a copy of this file once a world, with that world's compiled kernels
and constants set as its globals, so that numba's disk cache serves every later process; and once with the plain
kernels, so that the same loops run under a debugger. Shapes: N worlds, A agents; A is 1 in these loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_lab.layout import (
    ACTIONS,
    BAD_ACTION,
    BAD_OBSERVATION,
    FAULTS,
    FROZEN,
    LATE,
    OVER,
    SAME_STEP,
    UNPAID,
    UNSEEN,
)

if TYPE_CHECKING:
    from numba import prange

    from .compiler import inlined, jit, outlined, parallel_jit
    from .episode import look, restart, settle, view
    from .lanes import step_blocks

    step: Any  # the world's kernels, compiled
    expert: Any
    DISCRETE: bool
    LOWEST: Any  # of an action: ints, or float32 [k]
    HIGHEST: Any
    LANES: int  # worlds stepped at a time, or 0
    GRAIN: int  # chunks for threads are multiples of this many worlds


@outlined
def step_each(low: Any, high: Any, batch: Any) -> Any:
    """Step worlds low..high-1 one after the other; return the outcome (see FAULTS)."""
    (
        mode,
        horizon,
        states,
        _,
        params,
        actions,
        observations,
        flat,
        rewards,
        terminated,
        truncated,
        ended,
        _,
        running,
        _,
        _,
        _,
    ) = view(batch)
    finished = 0
    for i in range(low, high):
        if ended[i] and mode != SAME_STEP:
            rewards[i, 0] = 0.0
            event = FROZEN
        else:
            s = states[i]
            s.t += 1
            reward, over = step(s, actions[i, 0], params[min(i, len(params) - 1)])
            rewards[i, 0] = reward
            late = 0 < horizon <= s.t
            event = (OVER if over else 0) | (LATE if late else 0)
            if reward - reward != 0:
                event = UNPAID
            else:
                running[i, 0] += reward
                terminated[i] = over
                truncated[i] = late
                ended[i] = over or late
                if not look(i, states, params, observations, flat):
                    event |= UNSEEN
        if event:
            outcome = settle(i, event, batch)
            if outcome < 0:
                return outcome
            finished += outcome
    return finished


@inlined
def _step_many(low: Any, high: Any, batch: Any) -> Any:
    # A block takes as long for one world as for all of its lanes.
    return step_blocks(low, high, batch) if high - low > 3 * LANES // 8 else step_each(low, high, batch)


step_range = _step_many if LANES else step_each


@inlined
def _scalar_fits(actions: Any, i: Any) -> Any:
    return LOWEST <= actions[i, 0] <= HIGHEST


@inlined
def _row_fits(actions: Any, i: Any) -> Any:
    fits = True
    for k in range(len(LOWEST)):
        fits &= LOWEST[k] <= actions[i, 0, k] <= HIGHEST[k]
    return fits


fits = _scalar_fits if DISCRETE else _row_fits


@inlined
def check_actions(actions: Any) -> Any:
    """Return 0, or the outcome of the first action outside its space; NaN is outside every space."""
    good = True
    for i in range(len(actions)):
        good &= fits(actions, i)  # and no way out: such a loop takes many actions at a time
    if not good:
        for i in range(len(actions)):
            if not fits(actions, i):
                return -(1 + FAULTS * i + BAD_ACTION)
    return 0


@jit
def step_serial(batch: Any) -> Any:
    """Step every world on the calling thread; nothing moves if any action is outside its space."""
    actions = view(batch)[ACTIONS]
    outcome = check_actions(actions)
    return step_range(0, len(actions), batch) if outcome == 0 else outcome


@parallel_jit
def step_parallel(batch: Any, outcomes: Any) -> Any:
    """Do what `step_serial` does, one chunk of whole blocks a thread; outcomes int64 [CHUNKS] is scratch."""
    actions = view(batch)[ACTIONS]
    outcome = check_actions(actions)
    if outcome < 0:
        return outcome
    chunks, n, blocks = len(outcomes), len(actions), -(-len(actions) // GRAIN)
    for k in prange(chunks):
        low, high = k * blocks // chunks * GRAIN, (k + 1) * blocks // chunks * GRAIN
        outcomes[k] = step_range(low, min(high, n), batch)
    for k in range(chunks):
        if outcomes[k] < 0:
            return outcomes[k]  # the lowest world's: chunks are in order
        outcome += outcomes[k]
    return outcome


@jit
def reset_masked(batch: Any, mask: Any) -> Any:
    """Begin a new episode in the worlds where mask [N] is 1; where it is 2 only observe. Return the outcome."""
    (
        _,
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
        _,
        running,
        _,
        _,
        _,
    ) = view(batch)
    for i in range(len(mask)):
        if mask[i] == 1:
            rewards[i, 0] = 0.0
            terminated[i] = truncated[i] = ended[i] = 0
            restart(i, states, words, params, running)
        if mask[i] and not look(i, states, params, observations, flat):
            return -(1 + FAULTS * i + BAD_OBSERVATION)
    return 0


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
