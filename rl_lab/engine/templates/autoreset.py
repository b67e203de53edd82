"""Resets, observes and ends the episode of one world, between two steps.

A template: it is executed once for each world, see `template_context`.
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
def reset_env(b: Any, i: Any) -> None:
    """Begin world i's next episode: zero its state but for the random stream, then the author's reset."""
    for k in range(RNG_WORDS, STATE_WORDS):
        b.state_words[i, k] = 0.0
    for a in range(NUM_AGENTS):
        b.running_returns[i, a] = 0.0
    reset(b.states[i], b.params[min(i, len(b.params) - 1)])


@inline
def _finite(row: Any) -> Any:
    nonfinite = row[0] - row[0]
    for k in range(1, OBSERVATION_SIZE):
        nonfinite += row[k] - row[k]  # 0 but for NaN and infinity, which make it NaN
    return nonfinite == 0


@inline
def _always(row: Any) -> Any:
    return True


finite = _finite if HAS_REAL_OBSERVATIONS else _always


@inline
def _observe_single_agent(b: Any, i: Any, live: Any) -> Any:
    row = b.flat_observations[i, 0]
    for k in range(OBSERVATION_SIZE):
        row[k] = 0
    observe(b.states[i], b.params[min(i, len(b.params) - 1)], b.observations[i, 0])
    if HAS_ACTION_MASK:
        for k in range(MASK_SIZE):
            b.action_mask[i, 0, k] = 0
        action_mask(b.states[i], b.params[min(i, len(b.params) - 1)], b.action_mask[i, 0])
    return finite(row)


@inline
def _observe_agents(b: Any, i: Any, live: Any) -> Any:
    s, p = b.states[i], b.params[min(i, len(b.params) - 1)]
    good = True
    for a in range(NUM_AGENTS):
        row = b.flat_observations[i, a]
        for k in range(OBSERVATION_SIZE):
            row[k] = 0
        observe(s, a, p, b.observations[i, a])
        good &= finite(row)
        acts = live
        if IS_TURN_BASED:
            acts = acts and current_player(s) == a
        if HAS_EARLY_TERMINATION:
            acts = acts and is_alive(s, a) != 0
        b.acting[i, a] = 1 if acts else 0
        if HAS_ACTION_MASK:
            for k in range(MASK_SIZE):
                b.action_mask[i, a, k] = 0
            if acts:
                action_mask(s, a, p, b.action_mask[i, a])
    return good


# Writes the observations, legal actions and activity of world i; returns whether every number is finite. `live`:
# whether the next step will be one of this episode's.
observe_env = _observe_single_agent if SINGLE_AGENT else _observe_agents


@internal
def finish_step(batch: Any, i: Any, event: Any) -> Any:
    """Do what a step left to do about world i; return 1 if its episode ended, else 0 or a fault's outcome.

    Few worlds come here, so it is compiled once, apart from the loops.
    """
    b = batch_view(batch)
    if event & BAD_REWARD_BIT:
        return -(1 + FAULTS * i + BAD_REWARD)
    if event & BAD_OBSERVATION_BIT:
        return -(1 + FAULTS * i + BAD_OBSERVATION)
    finished = 0
    if event & (TERMINATED | TRUNCATED):
        finished = 1
        b.episode_lengths[i] = b.states[i].t
        b.log_totals[i, 0] += 1.0
        for k in range(LOG_SIZE):
            b.log_totals[i, 1 + k] += b.state_words[i, LOG_WORD + k]
        for a in range(NUM_AGENTS):
            b.episode_returns[i, a] = b.running_returns[i, a]
        if b.mode != SAME_STEP:
            return finished
        for a in range(NUM_AGENTS):
            for k in range(OBSERVATION_SIZE):
                b.flat_final_observations[i, a, k] = b.flat_observations[i, a, k]
    elif b.mode == NEXT_STEP:
        b.terminated[i] = b.truncated[i] = b.done[i] = 0
    else:
        return finished
    reset_env(b, i)
    if not observe_env(b, i, True):
        return -(1 + FAULTS * i + BAD_OBSERVATION)
    return finished
