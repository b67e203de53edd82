"""This template resets, observes and ends the episode of one world, between two steps.

A template is executed once for each world, with that world's kernels: see `engine/template_context.py`. Its functions
are compiled into those of `step` and `simd_step`; see `step` for `view`, `i`, `handle`, events and outcomes.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.buffers import (
    BAD_OBSERVATION,
    BAD_OBSERVATION_BIT,
    BAD_REWARD,
    BAD_REWARD_BIT,
    FAULTS,
    NEXT_STEP,
    SAME_STEP,
    TERMINATED,
    TRUNCATED,
)
from rl_lab.engine.template_context import decorators, world_context

ctx = world_context()
inline, internal = decorators().inline, decorators().internal
reset, observe, action_mask = ctx.kernels.reset, ctx.kernels.observe, ctx.kernels.action_mask
current_player, is_alive, batch_view = ctx.kernels.current_player, ctx.kernels.is_alive, ctx.batch_view
NUM_AGENTS, SINGLE_AGENT = ctx.constants.num_agents, ctx.constants.single_agent
OBSERVATION_SIZE, HAS_REAL_OBSERVATIONS = ctx.constants.observation_size, ctx.constants.has_real_observations
STATE_WORDS, RNG_WORDS = ctx.constants.state_words, ctx.constants.rng_words
LOG_WORD, LOG_SIZE = ctx.constants.log_word, ctx.constants.log_size
HAS_ACTION_MASK, MASK_SIZE = ctx.constants.has_action_mask, ctx.constants.mask_size
IS_TURN_BASED, HAS_EARLY_TERMINATION = ctx.constants.is_turn_based, ctx.constants.has_early_termination


@inline
def fault_outcome(i: Any, fault: Any) -> Any:
    """Return the outcome, below 0, of a fault in world i; `Batch.raise_fault` raises its exception."""
    return -(1 + FAULTS * i + fault)


@inline
def reset_env(view: Any, i: Any) -> None:
    """Begin world i's next episode: zero its state but for the random stream, then the author's reset."""
    for k in range(RNG_WORDS, STATE_WORDS):
        view.state_words[i, k] = 0.0
    for a in range(NUM_AGENTS):
        view.running_returns[i, a] = 0.0
    reset(view.states[i], view.params[min(i, len(view.params) - 1)])


@inline
def _is_finite(row: Any) -> Any:
    """Return whether no number of an observation is NaN or infinite."""
    nonfinite = row[0] - row[0]
    for k in range(1, OBSERVATION_SIZE):
        nonfinite += row[k] - row[k]  # 0 but for NaN and infinity, which make it NaN
    return nonfinite == 0


@inline
def _always_finite(row: Any) -> Any:
    return True


is_finite = _is_finite if HAS_REAL_OBSERVATIONS else _always_finite


@inline
def _observe_single_agent(view: Any, i: Any, episode_continues: Any) -> Any:
    """Write the observation and the action mask of a world of one agent; see `observe_env`."""
    row = view.flat_observations[i, 0]
    for k in range(OBSERVATION_SIZE):
        row[k] = 0
    observe(view.states[i], view.params[min(i, len(view.params) - 1)], view.observations[i, 0])
    if HAS_ACTION_MASK:
        for k in range(MASK_SIZE):
            view.action_mask[i, 0, k] = 0
        action_mask(view.states[i], view.params[min(i, len(view.params) - 1)], view.action_mask[i, 0])
    return is_finite(row)


@inline
def _observe_agents(view: Any, i: Any, episode_continues: Any) -> Any:
    """Write the observations, the action masks and `acting` of a world of several agents; see `observe_env`."""
    s, p = view.states[i], view.params[min(i, len(view.params) - 1)]
    all_valid = True
    for a in range(NUM_AGENTS):
        row = view.flat_observations[i, a]
        for k in range(OBSERVATION_SIZE):
            row[k] = 0
        observe(s, a, p, view.observations[i, a])
        all_valid &= is_finite(row)
        is_acting = episode_continues
        if IS_TURN_BASED:
            is_acting = is_acting and current_player(s) == a
        if HAS_EARLY_TERMINATION:
            is_acting = is_acting and is_alive(s, a) != 0
        view.acting[i, a] = 1 if is_acting else 0
        if HAS_ACTION_MASK:
            for k in range(MASK_SIZE):
                view.action_mask[i, a, k] = 0
            if is_acting:
                action_mask(s, a, p, view.action_mask[i, a])
    return all_valid


# Writes the observations, action masks and `acting` of world i, and returns whether every observed number is finite.
# `episode_continues`: the next step will be one of this episode, so agents may act in it.
observe_env = _observe_single_agent if SINGLE_AGENT else _observe_agents


@internal
def finish_step(handle: Any, i: Any, event: Any) -> Any:
    """Handle world i's event after a step; return 1 if its episode ended, else 0 or the outcome of a fault.

    It writes the statistics of an ended episode, copies its last observation, and resets the world if the mode says so.
    Few worlds have an event, so it is compiled once, apart from the loops.
    """
    view = batch_view(handle)
    if event & BAD_REWARD_BIT:
        return fault_outcome(i, BAD_REWARD)
    if event & BAD_OBSERVATION_BIT:
        return fault_outcome(i, BAD_OBSERVATION)
    finished = 0
    if event & (TERMINATED | TRUNCATED):
        finished = 1
        view.episode_lengths[i] = view.states[i].t
        view.log_totals[i, 0] += 1.0
        for k in range(LOG_SIZE):
            view.log_totals[i, 1 + k] += view.state_words[i, LOG_WORD + k]
        for a in range(NUM_AGENTS):
            view.episode_returns[i, a] = view.running_returns[i, a]
        if view.mode != SAME_STEP:
            return finished
        for a in range(NUM_AGENTS):
            for k in range(OBSERVATION_SIZE):
                view.flat_final_observations[i, a, k] = view.flat_observations[i, a, k]
    elif view.mode == NEXT_STEP:  # here and below, the event is ALREADY_DONE: the episode ended in an earlier step
        view.terminated[i] = view.truncated[i] = view.done[i] = 0
    else:  # DISABLED: the world stays as it is until its caller resets it
        return finished
    reset_env(view, i)
    if not observe_env(view, i, True):
        return fault_outcome(i, BAD_OBSERVATION)
    return finished
