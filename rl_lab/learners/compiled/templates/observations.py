"""Observations on their way between environments, buffers and networks: loaded, normalised, stored, listed sparsely.

A template, executed by `build` after `memory_views`: see `engine/template_context.py`. Observations are float32 or
uint8 [B, d] at an address. They enter a network, whose address is `net`, in one of two forms:

    dense    rows [TILE, stride] in its buffer 0
    sparse   its lists of the numbers that are not zero: row r of the tile has values[starts[r, 0]:starts[r, 1]] in the
             columns indices[starts[r, 0]:starts[r, 1]], see `network.NetworkMemory`

Sparse inputs are faster where most numbers are zero, as on the boards of MinAtar.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import (
    AT_NONZERO_INDICES,
    AT_NONZERO_STARTS,
    AT_NONZERO_VALUES,
    NUM_ADDRESSES,
    TILE,
)
from rl_lab.learners.compiled.templates.memory_views import as_f32, as_i32, as_i64, as_u8, copy

internal = decorators().internal
# Stable-Baselines3's VecNormalize divides by sqrt(variance + epsilon) and clips; these are its defaults.
NORM_EPSILON, NORM_CLIP = 1e-8, 10.0


@internal
def load_observations(
    observations: Any, is_uint8: Any, d: Any, low: Any, high: Any, rows: Any, obs_rms: Any, inputs: Any
) -> None:
    """Write observations rows[low:high] of [B, d] at an address to inputs [high - low or more, stride], as float32.

    They are normalised by `obs_rms`, float64 [3, d]: mean, variance, count; [3, 0] leaves them as they are.
    """
    for r in range(high - low):
        row = rows[low + r]
        if is_uint8:
            numbers = as_u8(observations + row * d, d)
            for j in range(d):
                inputs[r, j] = numbers[j]
        else:
            copy(inputs[r, :d], as_f32(observations + 4 * row * d, d))
        if obs_rms.shape[1]:
            for j in range(d):
                normalized = (inputs[r, j] - obs_rms[0, j]) / math.sqrt(obs_rms[1, j] + NORM_EPSILON)
                inputs[r, j] = min(max(normalized, -NORM_CLIP), NORM_CLIP)


@internal
def store_observations(target: Any, is_uint8: Any, d: Any, low: Any, high: Any, inputs: Any) -> None:
    """Write inputs [high - low or more, stride] to rows low to high - 1 of [B, d] at an address."""
    for r in range(high - low):
        if is_uint8:
            numbers = as_u8(target + (low + r) * d, d)
            for j in range(d):
                numbers[j] = np.uint8(inputs[r, j])
        else:
            copy(as_f32(target + 4 * (low + r) * d, d), inputs[r, :d])


@internal
def build_sparse_rows(inputs: Any, net: Any) -> None:
    """Write the lists of numbers that are not zero in inputs [R, d] to the network's sparse inputs."""
    table = as_i64(net, NUM_ADDRESSES)
    starts = as_i64(table[AT_NONZERO_STARTS], 2 * TILE).reshape(TILE, 2)
    indices = as_i32(table[AT_NONZERO_INDICES], inputs.size + 1)
    values = as_f32(table[AT_NONZERO_VALUES], inputs.size + 1)
    n = 0
    for r in range(len(inputs)):
        starts[r, 0] = n
        for k in range(inputs.shape[1]):
            # Every number is written, and a zero is overwritten by the next one: faster than a branch.
            indices[n], values[n] = k, inputs[r, k]
            n += inputs[r, k] != 0
        starts[r, 1] = n


@internal
def build_sparse_rows_u8(observations: Any, rows: Any, d: Any, net: Any) -> None:
    """See `build_sparse_rows`: the observations are uint8 [rows, d] at an address."""
    table = as_i64(net, NUM_ADDRESSES)
    starts = as_i64(table[AT_NONZERO_STARTS], 2 * TILE).reshape(TILE, 2)
    indices = as_i32(table[AT_NONZERO_INDICES], rows * d + 1)
    values = as_f32(table[AT_NONZERO_VALUES], rows * d + 1)
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
    """See `list_nonzero`: the row is uint8 [d] at an address. It writes to entry n of the lists, too.

    Eight numbers are read as one int64, which is 0 where all of them are. Rows need not be aligned: this must stay a
    loop that reads one int64 at a time, which works at any address.
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
