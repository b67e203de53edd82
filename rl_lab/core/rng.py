"""This module makes random numbers for worlds with a counter-based generator; its state is two fields of State.

The n-th number of a stream is a pure function of (key, stream, n). The key is the seed; the counter's upper 24 bits are
the stream, which is the world's index in its batch, and its lower 40 bits count the numbers used. So a trajectory does
not depend on batch size, threads, process or device, and the streams of distinct seeds or indices never overlap.

Source: Philox2x32-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.core.kernel import kernel
from rl_lab.core.record import f4, i8

STREAM_SHIFT = np.uint64(40)
_MULTIPLIER = np.uint64(0xD256D193)
_WEYL = np.uint64(0x9E3779B9)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_8 = np.uint64(8)
_1 = np.uint64(1)
_UNIT = f4(2.0**-24)


@kernel
def philox(key: Any, counter: Any) -> Any:
    """Return 64 random bits for a 32-bit key and a 64-bit counter, both uint64."""
    left = counter & _LOW
    right = counter >> _32
    for _ in range(10):
        product = left * _MULTIPLIER
        left = (product >> _32) ^ key ^ right
        right = product & _LOW
        key = (key + _WEYL) & _LOW
    return (right << _32) | left


@kernel
def bits(s: Any) -> Any:
    """Return 32 random bits as uint64 and advance the world's stream by one draw."""
    result = philox(np.uint64(s.rng_key), np.uint64(s.rng_counter)) & _LOW
    s.rng_counter = np.uint64(s.rng_counter) + _1
    return result


@kernel
def uniform(s: Any, low: Any, high: Any) -> Any:
    """Return a number in [low, high), with 24 random bits."""
    value = low + (high - low) * (f4(bits(s) >> _8) * _UNIT)
    return value if value < high else low  # rounding can reach high


@kernel
def integers(s: Any, n: Any) -> Any:
    """Return an integer in 0..n-1, n below 2**31 (multiply-shift: bias below n / 2**32)."""
    return i8((bits(s) * np.uint64(n)) >> _32)


@kernel
def normal(s: Any) -> Any:
    """Return a standard normal number (Box-Muller; two draws)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(s, 0.0, 1.0)))
    return radius * math.cos(2.0 * math.pi * uniform(s, 0.0, 1.0))
