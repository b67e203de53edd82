"""This module has kernels for scripted players of board and card games: random choices, and sets of cells as bits.

They write nothing. In particular they take no numbers from the world's random stream: where a script plays, the world
must draw the same numbers as elsewhere. So they use counters that no world reaches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.core.kernel import kernel
from rl_lab.core.record import i8
from rl_lab.core.rng import philox

_SCRIPT_COUNTERS = np.uint64(1 << 39)  # the highest bit of a stream's counters, see rng.STREAM_SHIFT
_1, _2, _4, _8, _16, _32 = (np.uint64(1 << k) for k in range(6))
_LOW = np.uint64(0xFFFFFFFF)
_PAIRS, _NIBBLES, _BYTES = (np.uint64(0xFFFFFFFFFFFFFFFF // k) for k in (3, 5, 17))  # every other 1, 2, 4 bits set


@kernel
def random_index(s: Any, n: Any) -> int:
    """Return an integer in 0..n-1 that depends on the episode's random stream and on t, which is below 128."""
    counter = (np.uint64(s.rng_counter) ^ _SCRIPT_COUNTERS) + (np.uint64(s.t) << _32)
    return i8(((philox(np.uint64(s.rng_key), counter) & _LOW) * np.uint64(n)) >> _32)


@kernel
def count_bits(cells: Any) -> int:
    """Return the number of bits that are set in a set of up to 64 cells (a bit count)."""
    m = np.uint64(cells)
    m = (m & _PAIRS) + ((m >> _1) & _PAIRS)
    m = (m & _NIBBLES) + ((m >> _2) & _NIBBLES)
    m = (m & _BYTES) + ((m >> _4) & _BYTES)
    m = m + (m >> _8)
    m = m + (m >> _16)
    return i8((m + (m >> _32)) & np.uint64(127))


@kernel
def random_set_bit(s: Any, cells: Any) -> int:
    """Return the number of a random bit among those that are set, uniformly; 0 if none is set."""
    m, bits_to_skip, cell = np.uint64(cells), random_index(s, count_bits(cells)), 0
    for k in range(64):
        if (m >> np.uint64(k)) & _1:
            if bits_to_skip == 0:
                cell = k
            bits_to_skip -= 1
    return cell
