"""What every search does: it plays on in copies of a world's state.

Not imported as it stands: see `loops.py`. Values are rewards of seat 0: in a zero-sum world the other's are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numba import carray

    from .compiler import address_to_pointer, inlined, outlined
    from .desk import Desk

    step: Any  # the world's kernels, compiled
    legal: Any
    present: Any  # present(s, agent) and to_move(s) read the State fields that the world names
    to_move: Any
    COUNTS: Any  # of actions, int64 [2]
    MASK_SIZE: int
    STATE_WORDS: int  # a state's size in 8-byte words
    MASKED: bool
    LEAVING: bool

# SplitMix64 (Source: Steele et al. 2014, "Fast splittable pseudorandom number generators").
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _32 = (np.uint64(k) for k in (27, 30, 31, 32))


@inlined
def borrow(a: Any) -> Any:
    """Return the array without its owner: numba counts references to those, with a locked instruction each time."""
    return carray(address_to_pointer(a.ctypes.data), a.shape, a.dtype)


@inlined
def borrow_desk(d: Any) -> Any:
    """Return the Desk with borrowed arrays; they last as long as the caller's."""
    return Desk(
        borrow(d.roots),
        borrow(d.params),
        d.horizon,
        d.seed,
        d.longest,
        borrow(d.states),
        borrow(d.words),
        borrow(d.mask),
        borrow(d.rewards),
        borrow(d.stream),
    )


@inlined
def mixed(x: Any) -> Any:
    """Return 64 bits that each depend on all of x, uint64."""
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    return x ^ (x >> _31)


@inlined
def digest(words: Any, k: Any, first: Any, seed: Any) -> Any:
    """Return a hash, uint64, of row k's words from `first` on."""
    x = seed
    for j in range(first, STATE_WORDS):
        x = mixed((x ^ words[k, j]) + _GAMMA)
    return x


@inlined
def drawn(desk: Any, n: Any) -> Any:
    """Return a random integer in 0..n-1 (multiply-shift: bias below n / 2**32)."""
    desk.stream[0] += _GAMMA
    return np.int64(((mixed(desk.stream[0]) >> _32) * np.uint64(n)) >> _32)


@inlined
def copy(source: Any, i: Any, target: Any, k: Any) -> None:
    """Make state k of `target` what state i of `source` is; both are uint64 [any, STATE_WORDS]."""
    for j in range(STATE_WORDS):
        target[k, j] = source[i, j]


@inlined
def _count_marked(s: Any, agent: Any, p: Any, mask: Any) -> Any:
    for k in range(MASK_SIZE):
        mask[k] = 0
    legal(s, agent, p, mask)
    count = 0
    for k in range(MASK_SIZE):
        count += 1 if mask[k] != 0 else 0
    return count


@inlined
def _count_all(s: Any, agent: Any, p: Any, mask: Any) -> Any:
    return COUNTS[agent]


# Marks in `mask` what agent may do, and returns how many actions that are.
choices = _count_marked if MASKED else _count_all


@inlined
def _next_marked(mask: Any, action: Any) -> Any:
    while mask[action] == 0:
        action += 1
    return action


@inlined
def _next_of_all(mask: Any, action: Any) -> Any:
    return action


# Returns the first action from this one on that `choices` has marked.
marked = _next_marked if MASKED else _next_of_all


@inlined
def _ranked_marked(mask: Any, rank: Any) -> Any:
    action = 0
    while True:
        if mask[action] != 0:
            if rank == 0:
                return action
            rank -= 1
        action += 1


@inlined
def _ranked_of_all(mask: Any, rank: Any) -> Any:
    return rank


# Returns the action before which `rank` others are marked.
ranked = _ranked_marked if MASKED else _ranked_of_all


@outlined
def play(s: Any, action: Any, p: Any, rewards: Any, horizon: Any) -> Any:
    """Take an action; return what seat 0 gets for it, and whether the game is over."""
    rewards[0] = rewards[1] = 0.0
    s.t += 1
    over = step(s, action, p, rewards)
    if LEAVING:
        over = over or (present(s, 0) == 0 and present(s, 1) == 0)
    return np.float64(rewards[0]), over or 0 < horizon <= s.t


@outlined
def playout(k: Any, desk: Any, p: Any) -> Any:
    """Go on from state k at random; return what seat 0 gets in all, and how many actions that took."""
    s, total, taken, over = desk.states[k], 0.0, 0, False
    while not over and taken < desk.longest:
        count = choices(s, to_move(s), p, desk.mask)
        if count == 0:
            break
        reward, over = play(s, ranked(desk.mask, drawn(desk, count)), p, desk.rewards, desk.horizon)
        total += reward
        taken += 1
    return total, taken
