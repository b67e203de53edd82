"""This template has the functions that both searches share: legal actions, taking an action, playouts, random numbers.

It is compiled once for each world, see `engine/template_context.py`. Games are continued in copies of a world's state,
so the batch's own states are only read. The functions write the `SearchBuffers` of their thread: states, mask, rewards
and rng_state. Rewards are those of seat 0; in a zero-sum world, they determine those of seat 1.

As in kernels, `s` is a State and `p` the Params. Where a world has no action mask, the functions are replaced by ones
without loops; they are bound at the end of each pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from rl_lab.engine.atomics import atomics
from rl_lab.engine.intrinsics import address_to_pointer as make_address_to_pointer
from rl_lab.engine.template_context import decorators, world_context
from rl_lab.games.search.workspace import SearchBuffers

ctx = world_context()
inline, internal = decorators().inline, decorators().internal
step, action_mask = ctx.kernels.step, ctx.kernels.action_mask
current_player, is_alive = ctx.kernels.current_player, ctx.kernels.is_alive
HAS_ACTION_MASK, MASK_SIZE, NUM_ACTIONS = (
    ctx.constants.has_action_mask,
    ctx.constants.mask_size,
    ctx.constants.num_actions,
)
HAS_EARLY_TERMINATION, STATE_WORDS = ctx.constants.has_early_termination, ctx.constants.state_words
read_at, address_to_pointer = atomics()["read_at"], make_address_to_pointer()

ACTIONS_BETWEEN_CHECKS = 1024  # of whether the search is to stop
# The constants of SplitMix64: its increment, and the multipliers of its mixing function. Source: Steele, Lea and Flood
# 2014, "Fast splittable pseudorandom number generators".
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1, _MULTIPLIER_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _32 = (np.uint64(k) for k in (27, 30, 31, 32))  # a Python int would make the result a float64


@inline
def unmanaged_view(a: Any) -> Any:
    """Return the array without its owner, whose references numba would count, with a locked instruction each time."""
    return carray(address_to_pointer(a.ctypes.data), a.shape, a.dtype)


@inline
def unmanaged_buffers(d: Any) -> Any:
    """Return the SearchBuffers with arrays made by `unmanaged_view`; they are valid as long as the caller's."""
    return SearchBuffers(
        unmanaged_view(d.roots),
        unmanaged_view(d.params),
        d.horizon,
        d.seed,
        d.max_playout_length,
        unmanaged_view(d.states),
        unmanaged_view(d.words),
        unmanaged_view(d.mask),
        unmanaged_view(d.rewards),
        unmanaged_view(d.rng_state),
        d.stop_address,
    )


@inline
def mix_bits(x: Any) -> Any:
    """Return a hash of x, uint64 (SplitMix64's mixing function)."""
    x = (x ^ (x >> _30)) * _MULTIPLIER_1
    x = (x ^ (x >> _27)) * _MULTIPLIER_2
    return x ^ (x >> _31)


@inline
def hash_words(words: Any, k: Any, first: Any, seed: Any) -> Any:
    """Return a hash, uint64, of the words of row k from index `first` on."""
    x = seed
    for j in range(first, STATE_WORDS):
        x = mix_bits((x ^ words[k, j]) + _INCREMENT)
    return x


@inline
def random_int(buffers: Any, n: Any) -> Any:
    """Return a random integer in 0..n-1, and advance the random stream (multiply-shift: bias below n / 2**32)."""
    buffers.rng_state[0] += _INCREMENT
    return np.int64(((mix_bits(buffers.rng_state[0]) >> _32) * np.uint64(n)) >> _32)


@inline
def copy_state(target: Any, k: Any, source: Any, i: Any) -> None:
    """Copy to state k of `target` state i of `source`; both are uint64 [any, STATE_WORDS]."""
    for j in range(STATE_WORDS):
        target[k, j] = source[i, j]


@inline
def _find_masked(s: Any, agent: Any, p: Any, mask: Any) -> Any:
    for k in range(MASK_SIZE):
        mask[k] = 0
    action_mask(s, agent, p, mask)
    count = 0
    for k in range(MASK_SIZE):
        count += 1 if mask[k] != 0 else 0
    return count


@inline
def _find_all(s: Any, agent: Any, p: Any, mask: Any) -> Any:
    return NUM_ACTIONS[agent]


# (s, agent, p, mask): writes the mask of the agent's legal actions, and returns their number. Where all actions are
# legal, the mask is not written.
find_legal_actions = _find_masked if HAS_ACTION_MASK else _find_all


@inline
def _next_masked(mask: Any, action: Any) -> Any:
    while mask[action] == 0:
        action += 1
    return action


@inline
def _next_of_all(mask: Any, action: Any) -> Any:
    return action


# (mask, action): returns the first legal action from this one on, by the mask that `find_legal_actions` has written.
next_legal_action = _next_masked if HAS_ACTION_MASK else _next_of_all


@inline
def _nth_masked(mask: Any, n: Any) -> Any:
    action = 0
    while True:
        if mask[action] != 0:
            if n == 0:
                return action
            n -= 1
        action += 1


@inline
def _nth_of_all(mask: Any, n: Any) -> Any:
    return n


# (mask, n): returns the legal action that n legal actions precede.
nth_legal_action = _nth_masked if HAS_ACTION_MASK else _nth_of_all


@internal
def take_action(s: Any, action: Any, p: Any, rewards: Any, horizon: Any) -> Any:
    """Step the state s in place by an action; return seat 0's reward, and whether the game is over."""
    rewards[0] = rewards[1] = 0.0
    s.t += 1
    over = step(s, action, p, rewards)
    if HAS_EARLY_TERMINATION:
        over = over or (is_alive(s, 0) == 0 and is_alive(s, 1) == 0)
    return np.float64(rewards[0]), over or 0 < horizon <= s.t


@internal
def playout(k: Any, buffers: Any, p: Any) -> Any:
    """Play random actions from buffers.states[k], in place; return seat 0's sum of rewards, and the number of actions.

    The game is cut off after `max_playout_length` actions, or if the search is to stop.
    """
    s, total, num_actions, over = buffers.states[k], 0.0, 0, False
    while not over and num_actions < buffers.max_playout_length:
        count = find_legal_actions(s, current_player(s), p, buffers.mask)
        if count == 0:
            break
        reward, over = take_action(
            s, nth_legal_action(buffers.mask, random_int(buffers, count)), p, buffers.rewards, buffers.horizon
        )
        total += reward
        num_actions += 1
        if num_actions % ACTIONS_BETWEEN_CHECKS == 0 and read_at(buffers.stop_address) != 0:
            break
    return total, num_actions
