"""Networks and observations at addresses: of each type of array, numba would compile all of this anew.

Not imported as it stands: see `kernels.py`. Observations are float32 or bytes, and enter a network as numbers or by
what is not zero in them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.fast.plan import (
    ADDRESSES,
    AT_BUFFERS,
    AT_FORWARD,
    AT_PLACES,
    AT_SLOPE,
    AT_STARTS,
    AT_TURN,
    AT_VALUES,
    AT_WORK,
    TILE,
)
from rl_lab.layout import CHECK, HEADER_SIZE, STEP

if TYPE_CHECKING:
    from numba import carray

    from rl_lab.compiler import address_to_pointer, outlined

    call: Any

LOW_BITS = np.uint64(0xFFFFFFFF)


@outlined
def floats(address: Any, n: Any) -> Any:
    """Return float32 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.float32)


@outlined
def octets(address: Any, n: Any) -> Any:
    """Return uint8 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.uint8)


@outlined
def shorts(address: Any, n: Any) -> Any:
    """Return int32 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.int32)


@outlined
def words(address: Any, n: Any) -> Any:
    """Return int64 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.int64)


@outlined
def step_worlds(low: Any, high: Any, batch: Any) -> Any:
    """Step worlds low..high-1 of a batch; return the outcome: see `Batch.entrance`."""
    header = words(batch, HEADER_SIZE)
    outcome = call(header[CHECK], low, high, batch)
    return call(header[STEP], low, high, batch) if outcome == 0 else outcome


@outlined
def copy(target: Any, source: Any) -> None:
    """Copy numbers [n]; assigned at once, arrays would cost seconds of compilation for a message that nobody sees."""
    for j in range(len(target)):
        target[j] = source[j]


@outlined
def fraction(drawn: Any) -> Any:
    """Return a float32 in [0, 1), a multiple of 2**-24, from the lower half of 64 random bits."""
    return np.float32((drawn & LOW_BITS) >> np.uint64(8)) * np.float32(2.0**-24)


@outlined
def place_of(memory: Any, buffers: Any, index: Any) -> Any:
    """Return where a buffer of the memory at this address begins, and how many floats its rows lie apart."""
    buffer = words(buffers + 16 * index, 2)
    return memory + 4 * buffer[0], buffer[1]


@outlined
def tile_of(net: Any, index: Any) -> Any:
    """Return a buffer of a network's workspace as rows, [TILE, ld]."""
    at = words(net, ADDRESSES)
    address, ld = place_of(at[AT_WORK], at[AT_BUFFERS], index)
    return floats(address, TILE * ld).reshape(TILE, ld)


@outlined
def slope_of(net: Any, index: Any) -> Any:
    """Return the gradient by a buffer of a network's workspace, [TILE, ld]."""
    at = words(net, ADDRESSES)
    address, ld = place_of(at[AT_SLOPE], at[AT_BUFFERS], index)
    return floats(address, TILE * ld).reshape(TILE, ld)


@outlined
def turn(net: Any) -> None:
    """See `network.turn`."""
    call(words(net, ADDRESSES)[AT_TURN], 0, 0, net)


@outlined
def forward(rows: Any, d: Any, sparse: Any, net: Any) -> None:
    """Run a network over inputs [rows, d] that lie in its buffer 0."""
    at = words(net, ADDRESSES)
    if sparse:
        find(tile_of(net, 0)[:rows, :d], net)
    call(at[AT_FORWARD], rows, np.int64(sparse), net)


@outlined
def find(inputs: Any, net: Any) -> None:
    """Note what is not zero in each row of inputs [R, d] where the network looks for it."""
    at = words(net, ADDRESSES)
    starts = words(at[AT_STARTS], 2 * TILE).reshape(TILE, 2)
    places, values = shorts(at[AT_PLACES], inputs.size + 1), floats(at[AT_VALUES], inputs.size + 1)
    n = 0
    for r in range(len(inputs)):
        starts[r, 0] = n
        for k in range(inputs.shape[1]):
            places[n], values[n] = k, inputs[r, k]
            n += inputs[r, k] != 0
        starts[r, 1] = n


@outlined
def find_octets(seen: Any, rows: Any, d: Any, net: Any) -> None:
    """As `find`: in bytes [rows, d] at an address."""
    at = words(net, ADDRESSES)
    starts = words(at[AT_STARTS], 2 * TILE).reshape(TILE, 2)
    places, values = shorts(at[AT_PLACES], rows * d + 1), floats(at[AT_VALUES], rows * d + 1)
    n = 0
    for r in range(rows):
        starts[r, 0] = n
        n = list_nonzero_octets(seen + r * d, d, n, places, values)
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
def list_nonzero_octets(row: Any, d: Any, n: Any, places: Any, values: Any) -> Any:
    """See `list_nonzero`: bytes [d] at an address, looked at eight at a time. One place more than is needed is used.

    Rows may begin anywhere: it must stay a loop that reads one word at a time, for which no address is too odd.
    """
    small, eights = octets(row, d), words(row, d // 8)
    for i in range(len(eights)):
        if eights[i]:
            for k in range(8 * i, 8 * i + 8):
                places[n], values[n] = k, small[k]
                n += small[k] != 0
    for k in range(8 * len(eights), d):
        places[n], values[n] = k, small[k]
        n += small[k] != 0
    return n


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
            copy(inputs[r, :d], floats(seen + 4 * row * d, d))
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
            copy(floats(kept + 4 * (low + r) * d, d), inputs[r, :d])
