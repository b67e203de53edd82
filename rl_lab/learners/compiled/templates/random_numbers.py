"""Uniform random numbers from the 64 bits that Philox, a counter-based generator, gives for a key and a counter.

A template, executed by `build` before those that sample: see `engine/template_context.py`. It writes nothing: the
callers choose the counters, so that a random number depends on its key and counter alone, not on threads or order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.primitives import primitives

internal = decorators().internal
philox = primitives().philox
LOW_BITS = np.uint64(0xFFFFFFFF)
HALF_WORD = np.uint64(32)  # bits: 64 random bits give two uniform numbers


@internal
def unit_uniform(random_bits: Any) -> Any:
    """Return a float32 in [0, 1), a multiple of 2**-24, from the lower half of 64 random bits."""
    return np.float32((random_bits & LOW_BITS) >> np.uint64(8)) * np.float32(2.0**-24)


@internal
def random_integer(n: Any, rng_key: Any, counter: Any) -> Any:
    """Return a random integer from 0 to n - 1, int64, of the random bits of this key and counter, both uint64."""
    return np.int64(((philox(rng_key, counter) & LOW_BITS) * np.uint64(n)) >> HALF_WORD)
