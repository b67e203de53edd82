"""This template checks the actions of a batch, replaces illegal ones, and writes random or scripted actions.

Its functions are compiled into those of `step`; see there for `view`, `i` and outcomes. They write `actions` and
`illegal_actions`. Most exist in several versions, of which the assignment below them takes the one for this world: for
one agent or several, for Discrete or Box actions, with or without an action mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.buffers import BAD_ACTION, FAULTS, REFUSE, SAME_STEP
from rl_lab.engine.template_context import decorators, world_context

ctx = world_context()
inline, philox = decorators().inline, ctx.kernels.philox
NUM_AGENTS, SINGLE_AGENT = ctx.constants.num_agents, ctx.constants.single_agent
DISCRETE, NUM_ACTIONS = ctx.constants.discrete, ctx.constants.num_actions
ACTION_LOW, ACTION_HIGH = ctx.constants.action_low, ctx.constants.action_high
HAS_ACTION_MASK = ctx.constants.has_action_mask
LOW_BITS, HALF_WORD = np.uint64(0xFFFFFFFF), np.uint64(32)  # of random bits; 32 bits are half of them


@inline
def _is_discrete_action_valid(view: Any, i: Any, a: Any) -> Any:
    return 0 <= view.actions[i, a] < NUM_ACTIONS[a]


@inline
def _is_action_legal(view: Any, i: Any, a: Any) -> Any:
    action = view.actions[i, a]
    return 0 <= action < NUM_ACTIONS[a] and view.action_mask[i, a, action] != 0


@inline
def _is_box_action_valid(view: Any, i: Any, a: Any) -> Any:
    """Return whether all numbers of agent a's action are within their bounds."""
    all_valid = True
    for k in range(ACTION_LOW.shape[1]):
        all_valid &= ACTION_LOW[a, k] <= view.actions[i, a, k] <= ACTION_HIGH[a, k]
    return all_valid


is_action_valid = (
    _is_action_legal if HAS_ACTION_MASK else _is_discrete_action_valid if DISCRETE else _is_box_action_valid
)


@inline
def _are_actions_valid_single_agent(view: Any, i: Any) -> Any:
    return is_action_valid(view, i, 0)


@inline
def _are_actions_valid_multi_agent(view: Any, i: Any) -> Any:
    # The actions of agents that do not act are ignored.
    all_valid = True
    for a in range(NUM_AGENTS):
        all_valid &= view.acting[i, a] == 0 or is_action_valid(view, i, a)
    return all_valid or view.paused[i] != 0


@inline
def _are_actions_valid_single_agent_masked(view: Any, i: Any) -> Any:
    # A world that has ended takes no action, and may have no legal one.
    return is_action_valid(view, i, 0) or (view.done[i] != 0 and view.mode != SAME_STEP)


_are_actions_valid_one_agent = (
    _are_actions_valid_single_agent_masked if HAS_ACTION_MASK else _are_actions_valid_single_agent
)
are_actions_valid = _are_actions_valid_one_agent if SINGLE_AGENT else _are_actions_valid_multi_agent


@inline
def check_actions(view: Any, low: Any, high: Any) -> Any:
    """Return 0, or an outcome with BAD_ACTION for the first of worlds low..high-1 with an action outside its space."""
    if HAS_ACTION_MASK and view.illegal != REFUSE:
        return 0  # the step of each world handles its illegal actions
    all_valid = True
    # LLVM vectorises this loop, because it has no exit but its end and its unsigned index cannot be negative.
    for i in range(np.uint64(low), np.uint64(high)):
        all_valid &= are_actions_valid(view, i)
    if not all_valid:
        for i in range(low, high):
            if not are_actions_valid(view, i):
                return -(1 + FAULTS * i + BAD_ACTION)
    return 0


@inline
def _replace_illegal_actions(view: Any, i: Any) -> Any:
    """Mark the agents of world i whose action is illegal, give each its first legal action; return their number."""
    num_illegal = 0
    for a in range(NUM_AGENTS):
        bad = (SINGLE_AGENT or view.acting[i, a] != 0) and not is_action_valid(view, i, a)
        view.illegal_actions[i, a] = 1 if bad else 0
        if bad:
            num_illegal += 1
            view.actions[i, a] = 0
            while view.actions[i, a] < NUM_ACTIONS[a] - 1 and view.action_mask[i, a, view.actions[i, a]] == 0:
                view.actions[i, a] += 1
    return num_illegal


@inline
def _no_illegal_actions(view: Any, i: Any) -> Any:
    return 0


replace_illegal_actions = _replace_illegal_actions if HAS_ACTION_MASK else _no_illegal_actions


@inline
def _script_discrete_single_agent(policy: Any, view: Any, i: Any) -> None:
    view.actions[i, 0] = policy(view.states[i], view.params[min(i, len(view.params) - 1)])


@inline
def _script_box_single_agent(policy: Any, view: Any, i: Any) -> None:
    policy(view.states[i], view.params[min(i, len(view.params) - 1)], view.actions[i, 0])


@inline
def _script_discrete_multi_agent(policy: Any, view: Any, i: Any) -> None:
    for a in range(NUM_AGENTS):
        if view.acting[i, a]:
            view.actions[i, a] = policy(view.states[i], a, view.params[min(i, len(view.params) - 1)])


@inline
def _script_box_multi_agent(policy: Any, view: Any, i: Any) -> None:
    for a in range(NUM_AGENTS):
        if view.acting[i, a]:
            policy(view.states[i], a, view.params[min(i, len(view.params) - 1)], view.actions[i, a])


write_scripted_actions = (
    (_script_discrete_single_agent if DISCRETE else _script_box_single_agent)
    if SINGLE_AGENT
    else _script_discrete_multi_agent
    if DISCRETE
    else _script_box_multi_agent
)


@inline
def _sample_discrete(view: Any, i: Any, a: Any, key: Any, counter: Any) -> None:
    """Write a uniformly random action of agent a of world i, from one random number."""
    view.actions[i, a] = (
        (philox(key, counter + np.uint64(i * NUM_AGENTS + a)) & LOW_BITS) * np.uint64(NUM_ACTIONS[a])
    ) >> HALF_WORD


@inline
def _sample_legal(view: Any, i: Any, a: Any, key: Any, counter: Any) -> None:
    """Write a uniformly random legal action of agent a of world i, from one random number."""
    count = 0
    for k in range(NUM_ACTIONS[a]):
        count += view.action_mask[i, a, k] != 0
    random_bits = philox(key, counter + np.uint64(i * NUM_AGENTS + a)) & LOW_BITS
    rank = np.int64((random_bits * np.uint64(count)) >> HALF_WORD)
    for k in range(NUM_ACTIONS[a]):
        if view.action_mask[i, a, k]:
            if rank == 0:
                view.actions[i, a] = k
            rank -= 1


@inline
def _sample_box(view: Any, i: Any, a: Any, key: Any, counter: Any) -> None:
    """Write uniformly random numbers within the bounds of agent a's action; unbounded sides end at 1e6."""
    for k in range(ACTION_LOW.shape[1]):
        number_index = np.uint64((i * NUM_AGENTS + a) * ACTION_LOW.shape[1] + k)
        fraction = np.float32((philox(key, counter + number_index) & LOW_BITS) >> np.uint64(8)) * np.float32(2.0**-24)
        low, high = max(ACTION_LOW[a, k], np.float32(-1e6)), min(ACTION_HIGH[a, k], np.float32(1e6))
        view.actions[i, a, k] = min(low + (high - low) * fraction, high)


sample_action = _sample_legal if HAS_ACTION_MASK else _sample_discrete if DISCRETE else _sample_box
