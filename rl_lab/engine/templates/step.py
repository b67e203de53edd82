"""This template has the loops that step and reset the worlds of a batch, and write random or scripted actions.

`compiler` executes the file once for each world with that world's compiled kernels, and numba caches the machine code.
It executes it a second time with the plain kernels, for debugging. The functions write the batch's arrays.

Arguments: `handle` is what callers pass, the address of the batch's header or, in plain Python, the View. `view =
batch_view(handle)` is the View in both (see `buffers.View`), and `i` the index of a world. `view.params` are one record
for all worlds, or one for each: `params[min(i, len(params) - 1)]` is that of world i. Functions that callers reach by
address, and what these call, take (low, high, handle), worlds low to high - 1: see `Batch.native_handle`.

An outcome is the number of ended episodes or, below 0, -(1 + FAULTS * world + fault). The event of a world in one step
is a sum of bits, see `buffers`: 0 for a world whose episode goes on.
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
    replace_illegal_actions,
    sample_action,
    write_scripted_actions,
)
from rl_lab.engine.templates.autoreset import fault_outcome, finish_step, observe_env, reset_env

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
def forfeit(view: Any, i: Any, num_illegal: Any) -> None:
    """Write the rewards of world i, in which this many agents have forfeited the episode by an illegal action.

    They get FORFEIT_REWARD. In a zero-sum world, the other agents share the opposite amount; elsewhere they keep the 0
    that the caller has written.
    """
    for a in range(NUM_AGENTS):
        if view.illegal_actions[i, a]:
            view.rewards[i, a] = FORFEIT_REWARD
        elif ZERO_SUM:
            view.rewards[i, a] = -FORFEIT_REWARD * num_illegal / (NUM_AGENTS - num_illegal)


@inline
def _step_single_agent(view: Any, i: Any) -> Any:
    """Step world i of one agent; write its state, reward and running return."""
    s = view.states[i]
    s.t += 1
    if view.illegal != REFUSE and replace_illegal_actions(view, i) and view.illegal == FORFEIT:
        view.rewards[i, 0] = FORFEIT_REWARD
        view.running_returns[i, 0] += FORFEIT_REWARD
        return True, True
    reward, is_terminated = step(s, view.actions[i, 0], view.params[min(i, len(view.params) - 1)])
    view.rewards[i, 0] = reward
    # The difference is NaN for NaN and infinity. It is of the float32, in which a large float64 becomes infinite.
    is_finite = view.rewards[i, 0] - view.rewards[i, 0] == 0
    if is_finite:
        view.running_returns[i, 0] += reward  # the author's float64; several agents' rewards exist as float32 only
    return is_terminated, is_finite


@inline
def _step_current_player(s: Any, actions: Any, p: Any, rewards: Any) -> Any:
    return step(s, actions[current_player(s)], p, rewards)


@inline
def _step_all_agents(s: Any, actions: Any, p: Any, rewards: Any) -> Any:
    return step(s, actions, p, rewards)


call_step_kernel = _step_current_player if IS_TURN_BASED else _step_all_agents


@inline
def _step_multi_agent(view: Any, i: Any) -> Any:
    """Step world i of several agents; write its state, rewards, running returns and `left_episode`."""
    s = view.states[i]
    s.t += 1
    for a in range(NUM_AGENTS):
        view.rewards[i, a] = 0.0
    num_illegal = replace_illegal_actions(view, i) if view.illegal != REFUSE else 0
    is_terminated = False
    if HAS_EARLY_TERMINATION and IS_TURN_BASED:
        # Until the step is done, left_episode marks the agents that were alive before it. `acting` would not do: an
        # agent may leave while another one is to move. Elsewhere, all that are alive act.
        for a in range(NUM_AGENTS):
            view.left_episode[i, a] = 1 if is_alive(s, a) != 0 else 0
    if num_illegal and view.illegal == FORFEIT:
        forfeit(view, i, num_illegal)
        is_terminated = True
    elif not (num_illegal and IS_TURN_BASED):  # with NOOP nothing happens, and the same agent is to move again
        is_terminated = call_step_kernel(s, view.actions[i], view.params[min(i, len(view.params) - 1)], view.rewards[i])
    if HAS_EARLY_TERMINATION:
        num_alive = 0
        for a in range(NUM_AGENTS):
            alive = is_alive(s, a) != 0
            num_alive += alive
            was_alive = view.left_episode[i, a] if IS_TURN_BASED else view.acting[i, a]
            view.left_episode[i, a] = 1 if was_alive and not alive else 0
        is_terminated = is_terminated or num_alive == 0
    nonfinite = view.rewards[i, 0] - view.rewards[i, 0]  # 0 but for NaN and infinity, which make it NaN
    for a in range(NUM_AGENTS):
        nonfinite += view.rewards[i, a] - view.rewards[i, a]
        view.running_returns[i, a] += view.rewards[i, a]
    return is_terminated, nonfinite == 0


# Steps world i once; returns whether its episode has terminated, and whether all its rewards are finite.
step_one_world = _step_single_agent if SINGLE_AGENT else _step_multi_agent


@internal
def step_scalar(low: Any, high: Any, handle: Any) -> Any:
    """Step worlds low..high-1 one after the other; return the outcome."""
    view = batch_view(handle)
    finished = 0
    for i in range(low, high):
        if not SINGLE_AGENT and view.paused[i]:
            continue
        if view.done[i] and view.mode != SAME_STEP:  # in same-step mode, a world that was done has been reset at once
            for a in range(NUM_AGENTS):
                view.rewards[i, a] = 0.0
                view.left_episode[i, a] = view.illegal_actions[i, a] = 0
            event = ALREADY_DONE
        else:
            is_terminated, is_finite = step_one_world(view, i)
            is_truncated = 0 < view.horizon <= view.states[i].t  # a horizon of 0 is none
            event = (TERMINATED if is_terminated else 0) | (TRUNCATED if is_truncated else 0)
            if not is_finite:
                event = BAD_REWARD_BIT
            else:
                view.terminated[i] = is_terminated
                view.truncated[i] = is_truncated
                view.done[i] = is_terminated or is_truncated
                if not observe_env(view, i, not (is_terminated or is_truncated)):
                    event |= BAD_OBSERVATION_BIT
        if event:
            outcome = finish_step(handle, i, event)
            if outcome < 0:
                return outcome
            finished += outcome
    return finished


@inline
def _step_simd_or_scalar(low: Any, high: Any, handle: Any) -> Any:
    # A block takes the same time whatever the number of its worlds. Up to 3/8 of a block, one by one is faster.
    return step_simd(low, high, handle) if high - low > 3 * BLOCK // 8 else step_scalar(low, high, handle)


step_envs = _step_simd_or_scalar if BLOCK else step_scalar


def check_range(low: Any, high: Any, handle: Any) -> Any:
    """Check the actions of worlds low..high-1: see `check_actions`. Callers have the address of this function."""
    return check_actions(batch_view(handle), low, high)


if ctx.compiled:

    def step_range(low: Any, high: Any, handle: Any) -> Any:
        """Step worlds low..high-1, whose actions have been checked; return the outcome.

        Callers have the address of this function.
        """
        try:
            outcome = step_envs(low, high, handle)
        except Exception:  # numba passes no exception on to a caller that has only the address
            # Which world has raised is not known here; `batch_faults` looks for the error in plain Python.
            outcome = -(1 + FAULTS * low + RAISED)
        return outcome

else:
    step_range = step_envs


@jit
def reset_masked(handle: Any, mask: Any) -> Any:
    """Begin a new episode where mask, uint8 [N], is 1; only write the observations where it is 2; do nothing where 0.

    Return 0, or the outcome of the first world whose observation is not finite.
    """
    view = batch_view(handle)
    for i in range(len(mask)):
        if mask[i] == 1:
            for a in range(NUM_AGENTS):
                view.rewards[i, a] = 0.0
                view.left_episode[i, a] = view.illegal_actions[i, a] = 0
            view.terminated[i] = view.truncated[i] = view.done[i] = 0
            reset_env(view, i)
        if mask[i] and not observe_env(view, i, view.done[i] == 0 or view.mode == SAME_STEP):
            return fault_outcome(i, BAD_OBSERVATION)
    return 0


@jit
def random_actions(handle: Any, key: Any, counter: Any) -> None:
    """Write uniformly random legal actions for all agents that act.

    The random numbers are those of `key` from `counter` on, both uint64: one for each agent of each world in order, or
    one for each number of its action.
    """
    view = batch_view(handle)
    for i in range(len(view.states)):
        for a in range(NUM_AGENTS):
            if SINGLE_AGENT or view.acting[i, a]:
                sample_action(view, i, a, key, counter)


@jit
def expert_actions(handle: Any) -> None:
    """Write the expert's actions, [N, A] or [N, A, k], for every agent that acts."""
    view = batch_view(handle)
    for i in range(len(view.states)):
        write_scripted_actions(expert, view, i)


@jit
def novice_actions(handle: Any) -> None:
    """Write the novice's actions as `expert_actions` does the expert's."""
    view = batch_view(handle)
    for i in range(len(view.states)):
        write_scripted_actions(novice, view, i)
