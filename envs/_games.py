"""This module has kernels for scripted players of board and card games: random choices, and sets of cells as bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.core.kernel import kernel
from rl_lab.core.record import i8
from rl_lab.core.rng import philox

_APART = np.uint64(1 << 39)  # counters that no world reaches, because a script must not change the world's stream
_1, _2, _4, _8, _16, _32 = (np.uint64(1 << k) for k in range(6))
_LOW = np.uint64(0xFFFFFFFF)
_PAIRS, _NIBBLES, _BYTES = (np.uint64(0xFFFFFFFFFFFFFFFF // k) for k in (3, 5, 17))  # every other 1, 2, 4 bits set


@kernel
def dice(s: Any, n: Any) -> int:
    """Return an integer in 0..n-1 that depends on the episode's random stream and on t, which is below 128."""
    counter = (np.uint64(s.rng_counter) ^ _APART) + (np.uint64(s.t) << _32)
    return i8(((philox(np.uint64(s.rng_key), counter) & _LOW) * np.uint64(n)) >> _32)


@kernel
def count(places: Any) -> int:
    """Return the number of bits that are set, of 64."""
    m = np.uint64(places)
    m = (m & _PAIRS) + ((m >> _1) & _PAIRS)
    m = (m & _NIBBLES) + ((m >> _2) & _NIBBLES)
    m = (m & _BYTES) + ((m >> _4) & _BYTES)
    m = m + (m >> _8)
    m = m + (m >> _16)
    return i8((m + (m >> _32)) & np.uint64(127))


@kernel
def pick(s: Any, places: Any) -> int:
    """Return the number of a random bit among those that are set, uniformly; 0 if none is set."""
    m, left, place = np.uint64(places), dice(s, count(places)), 0
    for k in range(64):
        if (m >> np.uint64(k)) & _1:
            if left == 0:
                place = k
            left -= 1
    return place
