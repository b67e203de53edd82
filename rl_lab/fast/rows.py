"""Rows on their way into a network: observations at addresses, as numbers or by what is not zero in them.

Not imported as it stands: see `kernels.py`. Observations are float32 or bytes, at addresses: of each type of array,
numba would compile all of this anew.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.fast.plan import TILE

if TYPE_CHECKING:
    from numba import carray

    from rl_lab.compiler import address_to_pointer, outlined


@outlined
def find(inputs: Any, starts: Any, places: Any, values: Any) -> None:
    """Note what is not zero in each row of inputs [R, d]."""
    n = 0
    for r in range(len(inputs)):
        starts[r, 0] = n
        for k in range(inputs.shape[1]):
            places[n], values[n] = k, inputs[r, k]
            n += inputs[r, k] != 0
        starts[r, 1] = n


@outlined
def list_nonzero(row: Any, n: Any, places: Any, values: Any) -> Any:
    """Append what is not zero in row [d] to places and values, of which n are taken; return how many then are."""
    for k in range(len(row)):
        if row[k] != 0:
            places[n], values[n] = k, row[k]
            n += 1
    return n


@outlined
def tile_of(work: Any, buffers: Any, index: Any) -> Any:
    """Return a buffer of the workspace as rows, [TILE, ld]."""
    first, ld = buffers[index, 0], buffers[index, 1]
    return work[first : first + TILE * ld].reshape(TILE, ld)


@outlined
def floats(address: Any, n: Any) -> Any:
    """Return float32 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.float32)


@outlined
def octets(address: Any, n: Any) -> Any:
    """Return uint8 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.uint8)


@outlined
def show(seen: Any, octet: Any, d: Any, low: Any, high: Any, which: Any, statistics: Any, inputs: Any) -> None:
    """Put observations which[low:high] of [B, d] at an address into inputs [., ld], scaled if there are statistics."""
    for r in range(high - low):
        row = which[low + r]
        if octet:
            small = octets(seen + row * d, d)
            for j in range(d):
                inputs[r, j] = small[j]
        else:
            inputs[r, :d] = floats(seen + 4 * row * d, d)
        if statistics.shape[1]:
            for j in range(d):
                scaled = (inputs[r, j] - statistics[0, j]) / math.sqrt(statistics[1, j] + 1e-8)
                inputs[r, j] = min(max(scaled, -10.0), 10.0)


@outlined
def keep(kept: Any, octet: Any, d: Any, low: Any, high: Any, inputs: Any) -> None:
    """Put inputs into rows low:high of [B, d] at an address."""
    for r in range(high - low):
        if octet:
            small = octets(kept + (low + r) * d, d)
            for j in range(d):
                small[j] = np.uint8(inputs[r, j])
        else:
            floats(kept + 4 * (low + r) * d, d)[:] = inputs[r, :d]
