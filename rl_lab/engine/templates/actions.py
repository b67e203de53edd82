"""This template checks, corrects and chooses the actions of a batch: at random, or by a world's own scripts.

Its functions are compiled into those of `step`; see there for their argument `b`, and for outcomes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.buffers import BAD_ACTION, FAULTS, REFUSE, SAME_STEP
from rl_lab.engine.template_context import decorators, world_context

ctx = world_context()
inline, philox = decorators().inline, ctx.kernels.philox
NUM_AGENTS, SINGLE_AGENT = ctx.constants.num_agents, ctx.constants.single_agent
DISCRETE, COUNTS = ctx.constants.discrete, ctx.constants.counts
LOWEST, HIGHEST = ctx.constants.lowest, ctx.constants.highest
HAS_ACTION_MASK = ctx.constants.has_action_mask
LOW_BITS, HALF_WORD = np.uint64(0xFFFFFFFF), np.uint64(32)  # of random bits; 32 bits are half of them


@inline
def _scalar_fits(b: Any, i: Any, a: Any) -> Any:
    return 0 <= b.actions[i, a] < COUNTS[a]


@inline
def _legal_fits(b: Any, i: Any, a: Any) -> Any:
    action = b.actions[i, a]
    return 0 <= action < COUNTS[a] and b.action_mask[i, a, action] != 0


@inline
def _row_fits(b: Any, i: Any, a: Any) -> Any:
    fits = True
    for k in range(LOWEST.shape[1]):
        fits &= LOWEST[a, k] <= b.actions[i, a, k] <= HIGHEST[a, k]
    return fits


fits = _legal_fits if HAS_ACTION_MASK else _scalar_fits if DISCRETE else _row_fits


@inline
def _world_fits_solo(b: Any, i: Any) -> Any:
    return fits(b, i, 0)


@inline
def _world_fits_several(b: Any, i: Any) -> Any:
    # The actions of agents that do not act are ignored.
    good = True
    for a in range(NUM_AGENTS):
        good &= b.acting[i, a] == 0 or fits(b, i, a)
    return good or b.paused[i] != 0


@inline
def _world_fits_masked(b: Any, i: Any) -> Any:
    # A world that has ended takes no action, and may have no legal one.
    return fits(b, i, 0) or (b.done[i] != 0 and b.mode != SAME_STEP)


_world_fits_alone = _world_fits_masked if HAS_ACTION_MASK else _world_fits_solo
world_fits = _world_fits_alone if SINGLE_AGENT else _world_fits_several


@inline
def check_actions(b: Any, low: Any, high: Any) -> Any:
    """Return 0, or an outcome with BAD_ACTION for the first of worlds low..high-1 with an action outside its space."""
    if HAS_ACTION_MASK and b.illegal != REFUSE:
        return 0  # the step of each world handles its illegal actions
    good = True
    # LLVM vectorises this loop, because it has no exit but its end and its unsigned index cannot be negative.
    for i in range(np.uint64(low), np.uint64(high)):
        good &= world_fits(b, i)
    if not good:
        for i in range(low, high):
            if not world_fits(b, i):
                return -(1 + FAULTS * i + BAD_ACTION)
    return 0


@inline
def _replace_illegal_actions(b: Any, i: Any) -> Any:
    """Mark the agents of world i whose action is illegal, give each its first legal action; return their number."""
    num_illegal = 0
    for a in range(NUM_AGENTS):
        bad = (SINGLE_AGENT or b.acting[i, a] != 0) and not fits(b, i, a)
        b.illegal_actions[i, a] = 1 if bad else 0
        if bad:
            num_illegal += 1
            b.actions[i, a] = 0
            while b.actions[i, a] < COUNTS[a] - 1 and b.action_mask[i, a, b.actions[i, a]] == 0:
                b.actions[i, a] += 1
    return num_illegal


@inline
def _no_illegal_actions(b: Any, i: Any) -> Any:
    return 0


replace_illegal_actions = _replace_illegal_actions if HAS_ACTION_MASK else _no_illegal_actions


@inline
def _script_scalar(policy: Any, b: Any, i: Any) -> None:
    b.actions[i, 0] = policy(b.states[i], b.params[min(i, len(b.params) - 1)])


@inline
def _script_row(policy: Any, b: Any, i: Any) -> None:
    policy(b.states[i], b.params[min(i, len(b.params) - 1)], b.actions[i, 0])


@inline
def _script_scalars(policy: Any, b: Any, i: Any) -> None:
    for a in range(NUM_AGENTS):
        if b.acting[i, a]:
            b.actions[i, a] = policy(b.states[i], a, b.params[min(i, len(b.params) - 1)])


@inline
def _script_rows(policy: Any, b: Any, i: Any) -> None:
    for a in range(NUM_AGENTS):
        if b.acting[i, a]:
            policy(b.states[i], a, b.params[min(i, len(b.params) - 1)], b.actions[i, a])


write_scripted_actions = (
    (_script_scalar if DISCRETE else _script_row) if SINGLE_AGENT else _script_scalars if DISCRETE else _script_rows
)


@inline
def _draw_choice(b: Any, i: Any, a: Any, key: Any, counter: Any) -> None:
    b.actions[i, a] = (
        (philox(key, counter + np.uint64(i * NUM_AGENTS + a)) & LOW_BITS) * np.uint64(COUNTS[a])
    ) >> HALF_WORD


@inline
def _draw_legal(b: Any, i: Any, a: Any, key: Any, counter: Any) -> None:
    count = 0
    for k in range(COUNTS[a]):
        count += b.action_mask[i, a, k] != 0
    random_bits = philox(key, counter + np.uint64(i * NUM_AGENTS + a)) & LOW_BITS
    rank = np.int64((random_bits * np.uint64(count)) >> HALF_WORD)
    for k in range(COUNTS[a]):
        if b.action_mask[i, a, k]:
            if rank == 0:
                b.actions[i, a] = k
            rank -= 1


@inline
def _draw_numbers(b: Any, i: Any, a: Any, key: Any, counter: Any) -> None:
    for k in range(LOWEST.shape[1]):
        place = np.uint64((i * NUM_AGENTS + a) * LOWEST.shape[1] + k)
        share = np.float32((philox(key, counter + place) & LOW_BITS) >> np.uint64(8)) * np.float32(2.0**-24)
        low, high = max(LOWEST[a, k], np.float32(-1e6)), min(HIGHEST[a, k], np.float32(1e6))
        b.actions[i, a, k] = min(low + (high - low) * share, high)


draw_action = _draw_legal if HAS_ACTION_MASK else _draw_choice if DISCRETE else _draw_numbers
