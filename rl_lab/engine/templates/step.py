"""This template has the loops that step, reset and script the worlds of a batch.

`compiler` executes the file once for each world with that world's compiled kernels, and numba caches the machine code.
It executes it a second time with the plain kernels, for debugging. `batch` is the argument that callers pass: the
address of the header or, in plain Python, the `View`. `b = batch_view(batch)` is the View in both. Its `params` are one
record for all worlds, or one for each: `params[min(i, len(params) - 1)]` is that of world i.

An outcome is the number of ended episodes or, below 0, -(1 + FAULTS * world + fault). The events of a world in one step
are the sum of bits, see `buffers`: 0 for a world whose episode goes on.

Functions take the batch before the world's number i. Those that callers reach by address, and what these call, take
(low, high, batch): see `Batch.native_handle`.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.buffers import (
    ALREADY_DONE,
    BAD_OBSERVATION,
    BAD_OBSERVATION_BIT,
    BAD_REWARD_BIT,
    FAULTS,
    FORFEIT,
    RAISED,
    REFUSE,
    SAME_STEP,
    TERMINATED,
    TRUNCATED,
)
from rl_lab.engine.template_context import decorators, world_context
from rl_lab.engine.templates.actions import (
    check_actions,
    draw_action,
    replace_illegal_actions,
    write_scripted_actions,
)
from rl_lab.engine.templates.autoreset import finish_step, observe_env, reset_env

ctx = world_context()
inline, internal, jit = decorators().inline, decorators().internal, decorators().jit
step, expert, novice = ctx.kernels.step, ctx.kernels.expert, ctx.kernels.novice
current_player, is_alive, batch_view = ctx.kernels.current_player, ctx.kernels.is_alive, ctx.batch_view
NUM_AGENTS, SINGLE_AGENT = ctx.constants.num_agents, ctx.constants.single_agent
IS_TURN_BASED, HAS_EARLY_TERMINATION = ctx.constants.is_turn_based, ctx.constants.has_early_termination
ZERO_SUM, FORFEIT_REWARD = ctx.constants.zero_sum, ctx.constants.forfeit_reward
BLOCK = ctx.simd.block if ctx.simd else 0  # worlds stepped at a time
if BLOCK:
    from rl_lab.engine.templates.simd_step import step_simd


@inline
def forfeit(b: Any, i: Any, num_illegal: Any) -> None:
    """Write the rewards of world i, in which this many agents have forfeited the episode by an illegal action.

    They get FORFEIT_REWARD. In a zero-sum world, the other agents share the opposite amount; elsewhere they keep the 0
    that the caller has written.
    """
    for a in range(NUM_AGENTS):
        if b.illegal_actions[i, a]:
            b.rewards[i, a] = FORFEIT_REWARD
        elif ZERO_SUM:
            b.rewards[i, a] = -FORFEIT_REWARD * num_illegal / (NUM_AGENTS - num_illegal)


@inline
def _step_single_agent(b: Any, i: Any) -> Any:
    s = b.states[i]
    s.t += 1
    if b.illegal != REFUSE and replace_illegal_actions(b, i) and b.illegal == FORFEIT:
        b.rewards[i, 0] = FORFEIT_REWARD
        b.running_returns[i, 0] += FORFEIT_REWARD
        return True, True
    reward, is_terminated = step(s, b.actions[i, 0], b.params[min(i, len(b.params) - 1)])
    b.rewards[i, 0] = reward
    # The difference is NaN for NaN and infinity. It is of the float32, in which a large float64 becomes infinite.
    finite = b.rewards[i, 0] - b.rewards[i, 0] == 0
    if finite:
        b.running_returns[i, 0] += reward  # the author's float64; several agents' rewards exist as float32 only
    return is_terminated, finite


@inline
def _step_mover(s: Any, actions: Any, p: Any, rewards: Any) -> Any:
    return step(s, actions[current_player(s)], p, rewards)


@inline
def _step_all(s: Any, actions: Any, p: Any, rewards: Any) -> Any:
    return step(s, actions, p, rewards)


step_world = _step_mover if IS_TURN_BASED else _step_all


@inline
def _step_multi_agent(b: Any, i: Any) -> Any:
    s = b.states[i]
    s.t += 1
    for a in range(NUM_AGENTS):
        b.rewards[i, a] = 0.0
    num_illegal = replace_illegal_actions(b, i) if b.illegal != REFUSE else 0
    is_terminated = False
    if HAS_EARLY_TERMINATION and IS_TURN_BASED:
        # Until the step is done, left_episode marks the agents that were alive before it. `acting` would not do: an
        # agent may leave while another one is to move. Elsewhere, all that are alive act.
        for a in range(NUM_AGENTS):
            b.left_episode[i, a] = 1 if is_alive(s, a) != 0 else 0
    if num_illegal and b.illegal == FORFEIT:
        forfeit(b, i, num_illegal)
        is_terminated = True
    elif not (num_illegal and IS_TURN_BASED):  # with NOOP nothing happens, and the same agent is to move again
        is_terminated = step_world(s, b.actions[i], b.params[min(i, len(b.params) - 1)], b.rewards[i])
    if HAS_EARLY_TERMINATION:
        num_alive = 0
        for a in range(NUM_AGENTS):
            alive = is_alive(s, a) != 0
            num_alive += alive
            was_alive = b.left_episode[i, a] if IS_TURN_BASED else b.acting[i, a]
            b.left_episode[i, a] = 1 if was_alive and not alive else 0
        is_terminated = is_terminated or num_alive == 0
    nonfinite = b.rewards[i, 0] - b.rewards[i, 0]  # 0 but for NaN and infinity, which make it NaN
    for a in range(NUM_AGENTS):
        nonfinite += b.rewards[i, a] - b.rewards[i, a]
        b.running_returns[i, a] += b.rewards[i, a]
    return is_terminated, nonfinite == 0


# Steps world i once; returns whether its episode has terminated, and whether the rewards are finite.
step_one_world = _step_single_agent if SINGLE_AGENT else _step_multi_agent


@internal
def step_scalar(low: Any, high: Any, batch: Any) -> Any:
    """Step worlds low..high-1 one after the other; return the outcome."""
    b = batch_view(batch)
    finished = 0
    for i in range(low, high):
        if not SINGLE_AGENT and b.paused[i]:
            continue
        if b.done[i] and b.mode != SAME_STEP:  # in same-step mode, a world that was done has been reset at once
            for a in range(NUM_AGENTS):
                b.rewards[i, a] = 0.0
                b.left_episode[i, a] = b.illegal_actions[i, a] = 0
            event = ALREADY_DONE
        else:
            is_terminated, finite = step_one_world(b, i)
            is_truncated = 0 < b.horizon <= b.states[i].t  # a horizon of 0 is none
            event = (TERMINATED if is_terminated else 0) | (TRUNCATED if is_truncated else 0)
            if not finite:
                event = BAD_REWARD_BIT
            else:
                b.terminated[i] = is_terminated
                b.truncated[i] = is_truncated
                b.done[i] = is_terminated or is_truncated
                if not observe_env(b, i, not (is_terminated or is_truncated)):
                    event |= BAD_OBSERVATION_BIT
        if event:
            outcome = finish_step(batch, i, event)
            if outcome < 0:
                return outcome
            finished += outcome
    return finished


@inline
def _step_many(low: Any, high: Any, batch: Any) -> Any:
    # A block takes the same time whatever the number of its worlds. Up to 3/8 of a block, one by one is faster.
    return step_simd(low, high, batch) if high - low > 3 * BLOCK // 8 else step_scalar(low, high, batch)


step_envs = _step_many if BLOCK else step_scalar


def check_range(low: Any, high: Any, batch: Any) -> Any:
    """Check the actions of worlds low..high-1: see `check_actions`. Callers have the address of this function."""
    return check_actions(batch_view(batch), low, high)


if ctx.compiled:

    def step_range(low: Any, high: Any, batch: Any) -> Any:
        """Step worlds low..high-1, whose actions have been checked; return the outcome.

        Callers have the address of this function.
        """
        try:
            outcome = step_envs(low, high, batch)
        except Exception:  # numba passes no exception on to a caller that has only the address
            # Which world has raised is not known here; `batch_faults` looks for the error in plain Python.
            outcome = -(1 + FAULTS * low + RAISED)
        return outcome

else:
    step_range = step_envs


@jit
def reset_masked(batch: Any, mask: Any) -> Any:
    """Begin a new episode where mask, uint8 [N], is 1; only write the observations where it is 2; do nothing where 0.

    Return 0, or the outcome of the first world whose observation is not finite.
    """
    b = batch_view(batch)
    for i in range(len(mask)):
        if mask[i] == 1:
            for a in range(NUM_AGENTS):
                b.rewards[i, a] = 0.0
                b.left_episode[i, a] = b.illegal_actions[i, a] = 0
            b.terminated[i] = b.truncated[i] = b.done[i] = 0
            reset_env(b, i)
        if mask[i] and not observe_env(b, i, b.done[i] == 0 or b.mode == SAME_STEP):
            return -(1 + FAULTS * i + BAD_OBSERVATION)
    return 0


@jit
def random_actions(batch: Any, key: Any, counter: Any) -> None:
    """Write uniformly random legal actions for all agents that act.

    The random numbers are those of `key` from `counter` on, both uint64: one for each agent of each world in order, or
    one for each number of its action.
    """
    b = batch_view(batch)
    for i in range(len(b.states)):
        for a in range(NUM_AGENTS):
            if SINGLE_AGENT or b.acting[i, a]:
                draw_action(b, i, a, key, counter)


@jit
def expert_actions(batch: Any) -> None:
    """Write the expert's actions, [N, A] or [N, A, k], for every agent that acts."""
    b = batch_view(batch)
    for i in range(len(b.states)):
        write_scripted_actions(expert, b, i)


@jit
def novice_actions(batch: Any) -> None:
    """Write the novice's actions as `expert_actions` does the expert's."""
    b = batch_view(batch)
    for i in range(len(b.states)):
        write_scripted_actions(novice, b, i)
