"""Networks and observations at addresses, because numba would compile all of this anew for each type of array.

A template, executed by `build`: see `engine/template_context.py`.
Observations are float32 or uint8. They enter a network as dense rows, or as lists of the numbers that are not zero.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray

from rl_lab.engine.buffers import CHECK, HEADER_SIZE, STEP
from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import (
    ADDRESSES,
    AT_BUFFERS,
    AT_FORWARD,
    AT_GRAD,
    AT_NONZERO_INDICES,
    AT_NONZERO_VALUES,
    AT_STARTS,
    AT_TRANSPOSE,
    AT_WORK,
    TILE,
)
from rl_lab.learners.compiled.primitives import primitives

internal = decorators().internal
address_to_pointer, call = primitives().address_to_pointer, primitives().call
LOW_BITS = np.uint64(0xFFFFFFFF)
# Stable-Baselines3's VecNormalize divides by sqrt(variance + epsilon) and clips; these are its defaults.
NORM_EPSILON, NORM_CLIP = 1e-8, 10.0


@internal
def as_f32(address: Any, n: Any) -> Any:
    """Return float32 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.float32)


@internal
def as_u8(address: Any, n: Any) -> Any:
    """Return uint8 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.uint8)


@internal
def as_i32(address: Any, n: Any) -> Any:
    """Return int32 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.int32)


@internal
def as_i64(address: Any, n: Any) -> Any:
    """Return int64 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.int64)


@internal
def step_envs(low: Any, high: Any, batch: Any) -> Any:
    """Step environments low..high-1 of a batch; return the outcome: see `Batch.native_handle`."""
    header = as_i64(batch, HEADER_SIZE)
    outcome = call(header[CHECK], low, high, batch)
    return call(header[STEP], low, high, batch) if outcome == 0 else outcome


@internal
def copy(target: Any, source: Any) -> None:
    """Copy numbers [n]; an assignment of arrays would take seconds to compile, for an error that cannot occur."""
    for j in range(len(target)):
        target[j] = source[j]


@internal
def unit_uniform(random_bits: Any) -> Any:
    """Return a float32 in [0, 1), a multiple of 2**-24, from the lower half of 64 random bits."""
    return np.float32((random_bits & LOW_BITS) >> np.uint64(8)) * np.float32(2.0**-24)


@internal
def buffer_address(memory: Any, buffers: Any, index: Any) -> Any:
    """Return the address of a buffer in the memory at this address, and the distance of its rows in floats."""
    buffer = as_i64(buffers + 16 * index, 2)
    return memory + 4 * buffer[0], buffer[1]


@internal
def activations(net: Any, index: Any) -> Any:
    """Return a buffer of a network's workspace as rows, [TILE, ld]."""
    at = as_i64(net, ADDRESSES)
    address, ld = buffer_address(at[AT_WORK], at[AT_BUFFERS], index)
    return as_f32(address, TILE * ld).reshape(TILE, ld)


@internal
def activation_grads(net: Any, index: Any) -> Any:
    """Return the gradient by a buffer of a network's workspace, [TILE, ld]."""
    at = as_i64(net, ADDRESSES)
    address, ld = buffer_address(at[AT_GRAD], at[AT_BUFFERS], index)
    return as_f32(address, TILE * ld).reshape(TILE, ld)


@internal
def transpose_weights(net: Any) -> None:
    """See `network.transpose_weights`."""
    call(as_i64(net, ADDRESSES)[AT_TRANSPOSE], 0, 0, net)


@internal
def forward(rows: Any, d: Any, sparse: Any, net: Any) -> None:
    """Run a network over inputs [rows, d] that lie in its buffer 0."""
    at = as_i64(net, ADDRESSES)
    if sparse:
        build_sparse_rows(activations(net, 0)[:rows, :d], net)
    call(at[AT_FORWARD], rows, np.int64(sparse), net)


@internal
def build_sparse_rows(inputs: Any, net: Any) -> None:
    """Write the lists of numbers that are not zero in inputs [R, d] to the network's sparse inputs."""
    at = as_i64(net, ADDRESSES)
    starts = as_i64(at[AT_STARTS], 2 * TILE).reshape(TILE, 2)
    indices, values = as_i32(at[AT_NONZERO_INDICES], inputs.size + 1), as_f32(at[AT_NONZERO_VALUES], inputs.size + 1)
    n = 0
    for r in range(len(inputs)):
        starts[r, 0] = n
        for k in range(inputs.shape[1]):
            indices[n], values[n] = k, inputs[r, k]
            n += inputs[r, k] != 0
        starts[r, 1] = n


@internal
def build_sparse_rows_u8(observations: Any, rows: Any, d: Any, net: Any) -> None:
    """See `build_sparse_rows`: the observations are uint8 [rows, d] at an address."""
    at = as_i64(net, ADDRESSES)
    starts = as_i64(at[AT_STARTS], 2 * TILE).reshape(TILE, 2)
    indices, values = as_i32(at[AT_NONZERO_INDICES], rows * d + 1), as_f32(at[AT_NONZERO_VALUES], rows * d + 1)
    n = 0
    for r in range(rows):
        starts[r, 0] = n
        n = list_nonzero_u8(observations + r * d, d, n, indices, values)
        starts[r, 1] = n


@internal
def list_nonzero(row: Any, n: Any, indices: Any, values: Any) -> Any:
    """Append the numbers of row [d] that are not zero to indices and values, which have n entries; return the new n."""
    for k in range(len(row)):
        if row[k] != 0:
            indices[n], values[n] = k, row[k]
            n += 1
    return n


@internal
def list_nonzero_u8(row: Any, d: Any, n: Any, indices: Any, values: Any) -> Any:
    """See `list_nonzero`: the row is uint8 [d] at an address, read as words of eight. It writes to entry n, too.

    Rows need not be aligned: this must stay a loop that reads one word at a time, which works at any address.
    """
    numbers, words = as_u8(row, d), as_i64(row, d // 8)
    for i in range(len(words)):
        if words[i]:
            for k in range(8 * i, 8 * i + 8):
                indices[n], values[n] = k, numbers[k]
                n += numbers[k] != 0
    for k in range(8 * len(words), d):
        indices[n], values[n] = k, numbers[k]
        n += numbers[k] != 0
    return n


@internal
def load_observations(
    observations: Any, is_uint8: Any, d: Any, low: Any, high: Any, rows: Any, statistics: Any, inputs: Any
) -> None:
    """Write observations rows[low:high] of [B, d] at an address to inputs [., ld], scaled if there are statistics."""
    for r in range(high - low):
        row = rows[low + r]
        if is_uint8:
            numbers = as_u8(observations + row * d, d)
            for j in range(d):
                inputs[r, j] = numbers[j]
        else:
            copy(inputs[r, :d], as_f32(observations + 4 * row * d, d))
        if statistics.shape[1]:
            for j in range(d):
                scaled = (inputs[r, j] - statistics[0, j]) / math.sqrt(statistics[1, j] + NORM_EPSILON)
                inputs[r, j] = min(max(scaled, -NORM_CLIP), NORM_CLIP)


@internal
def store_observations(target: Any, is_uint8: Any, d: Any, low: Any, high: Any, inputs: Any) -> None:
    """Write inputs to rows low:high of [B, d] at an address."""
    for r in range(high - low):
        if is_uint8:
            numbers = as_u8(target + (low + r) * d, d)
            for j in range(d):
                numbers[j] = np.uint8(inputs[r, j])
        else:
            copy(as_f32(target + 4 * (low + r) * d, d), inputs[r, :d])
