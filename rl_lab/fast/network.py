"""Small networks run forwards and backwards over tiles of rows.

Not imported as it stands: `kernels` executes it with compiled building blocks as its globals. `turn`, `forward` and
`backward` are called by address: they are the largest part of every learner, and compiled once. A network is a table of
layers (see `plan.py`), its parameters one float32 array, its activations rows in a workspace. Each layer reads one
buffer of the workspace and writes another. Parameters lie as the product of the forward pass (inputs x outputs) or of
the backward pass (outputs x inputs) needs them, whichever wastes less room; copies lie the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.fast.plan import (
    ACROSS,
    ACTIVATION,
    ADDRESSES,
    ADDS,
    AT_BUFFERS,
    AT_COUNT,
    AT_LAYERS,
    AT_PLACES,
    AT_SIGHTS,
    AT_SLOPE,
    AT_SLOPES,
    AT_STARTS,
    AT_TURNED,
    AT_VALUES,
    AT_WEIGHTS,
    AT_WORK,
    AT_ZEROS,
    BIAS,
    COLUMNS,
    CONVOLUTION,
    INPUTS,
    KIND,
    LENS,
    LINEAR,
    LINES,
    OUTPUTS,
    OUTWARD,
    RELU,
    SEER,
    SOURCE,
    TANH,
    TARGET,
    TILE,
    TURNED,
    WEIGHT,
    WIDTH,
)

if TYPE_CHECKING:
    from rl_lab.compiler import outlined, quick

    from .rows import floats, place_of, shorts, words

    block_1_wide: Any
    block_2_wide: Any
    block_4_wide: Any
    block_6_wide: Any
    block_1_pad: Any
    block_1_three: Any
    block_6_pad: Any
    row_wide: Any
    row_pad: Any
    transpose: Any
    unbend_relu: Any
    unbend_tanh: Any
    WIDE: int
    PAD: int

DEEP = 128  # of the inner dimension at a time: that much of the right factor stays in the nearest cache
ONE = np.float32(1.0)


@outlined
def multiply(
    m: Any, n: Any, k: Any, c: Any, ldc: Any, init: Any, ldi: Any, a: Any, row: Any, step: Any, b: Any, ldb: Any
) -> None:
    """C[m, n] = init + A[m, k] B[k, n] at addresses, n a multiple of PAD; see `vectors.blocks`."""
    for low in range(0, max(k, 1), DEEP):
        deep = min(DEEP, k - low)
        begin, ld = (init, ldi) if low == 0 else (c, ldc)
        column = 0
        while column < n:
            to, origin = c + 4 * column, begin + 4 * column
            left, right, rows = a + 4 * low * step, b + 4 * (low * ldb + column), m
            if column + WIDE <= n:
                while rows >= 6:
                    block_6_wide(to, ldc, origin, ld, left, row, step, right, ldb, deep)
                    to, origin, left, rows = to + 24 * ldc, origin + 24 * ld, left + 24 * row, rows - 6
                if rows >= 4:
                    block_4_wide(to, ldc, origin, ld, left, row, step, right, ldb, deep)
                    to, origin, left, rows = to + 16 * ldc, origin + 16 * ld, left + 16 * row, rows - 4
                if rows >= 2:
                    block_2_wide(to, ldc, origin, ld, left, row, step, right, ldb, deep)
                    to, origin, left, rows = to + 8 * ldc, origin + 8 * ld, left + 8 * row, rows - 2
                if rows:
                    block_1_wide(to, ldc, origin, ld, left, row, step, right, ldb, deep)
                column += WIDE
            else:
                while rows >= 6:
                    block_6_pad(to, ldc, origin, ld, left, row, step, right, ldb, deep)
                    to, origin, left, rows = to + 24 * ldc, origin + 24 * ld, left + 24 * row, rows - 6
                while rows:
                    block_1_pad(to, ldc, origin, ld, left, row, step, right, ldb, deep)
                    to, origin, left, rows = to + 4 * ldc, origin + 4 * ld, left + 4 * row, rows - 1
                column += PAD


@outlined
def add_multiple(n: Any, c: Any, value: Any, b: Any) -> None:
    """C[n] += value[0] * B[n] at addresses, n a multiple of PAD."""
    column = 0
    while column + WIDE <= n:
        block_1_wide(c + 4 * column, 0, c + 4 * column, 0, value, 0, 0, b + 4 * column, 0, 1)
        column += WIDE
    while column < n:
        block_1_pad(c + 4 * column, 0, c + 4 * column, 0, value, 0, 0, b + 4 * column, 0, 1)
        column += PAD


@outlined
def gather(n: Any, c: Any, init: Any, values: Any, places: Any, b: Any, k: Any) -> None:
    """C[n] = init[n] + the sum of k rows of B, rows n apart, each times its value."""
    column = 0
    while column + WIDE <= n:
        row_wide(c + 4 * column, init + 4 * column, values, places, b + 4 * column, n, k)
        column += WIDE
    while column < n:
        row_pad(c + 4 * column, init + 4 * column, values, places, b + 4 * column, n, k)
        column += PAD


@quick
def bend_tanh(y: Any) -> None:
    """Set y to tanh(y), by a quotient of polynomials fitted to it on -9..9: within 4e-7 of it."""
    for j in range(len(y)):
        x = min(max(y[j], np.float32(-9.0)), np.float32(9.0))
        u = x * x
        p = np.float32(1.335465871221686e-08) * u + np.float32(2.0609082639566623e-05)
        p = (p * u + np.float32(0.003495588432997465)) * u + np.float32(0.13381026685237885)
        q = np.float32(7.776557708893961e-07) * u + np.float32(0.0003285635029897094)
        q = (q * u + np.float32(0.025876984000205994)) * u + np.float32(0.4671434164047241)
        bent = x * (p * u + ONE) / (q * u + ONE)
        y[j] = min(max(bent, -ONE), ONE) if y[j] == y[j] else y[j]


@quick
def bend_relu(y: Any) -> None:
    """Set y to max(y, 0); NaN stays."""
    for j in range(len(y)):
        y[j] = np.float32(0.0) if y[j] < 0 else y[j]


@outlined
def bend(layer: Any, y: Any, n: Any) -> None:
    """Apply a layer's activation to y [n] at an address."""
    if layer[ACTIVATION] == TANH:
        bend_tanh(floats(y, n))
    elif layer[ACTIVATION] == RELU:
        bend_relu(floats(y, n))


@outlined
def unbend(layer: Any, net: Any, slope: Any, y: Any, rows: Any, ld: Any, n: Any) -> None:
    """Turn the gradient by outputs y [rows, n], ld apart, into that by their sums, and add it to that by the bias."""
    bias = words(net, ADDRESSES)[AT_SLOPES] + 4 * layer[BIAS]
    for column in range(0, 4 * n, 4 * PAD):
        if layer[ACTIVATION] == TANH:
            unbend_tanh(slope + column, y + column, bias + column, ld, rows)
        elif layer[ACTIVATION] == RELU:
            unbend_relu(slope + column, y + column, bias + column, ld, rows)
    if layer[ACTIVATION] == LINEAR:
        add_columns(floats(slope, rows * ld).reshape(rows, ld), floats(bias, n))


@quick
def add_columns(slope: Any, bias: Any) -> None:
    """Add the columns of slope [R, n] to bias [n]."""
    for r in range(len(slope)):
        for j in range(len(bias)):
            bias[j] += slope[r, j]


def turn(_: Any, __: Any, net: Any) -> Any:
    """Refresh the copies of parameters that lie the other way round; both ways, rows and columns are padded."""
    at = words(net, ADDRESSES)
    layers = words(at[AT_LAYERS], at[AT_COUNT] * COLUMNS).reshape(at[AT_COUNT], COLUMNS)
    for layer in layers:
        if layer[TURNED] < 0:
            continue
        n, k = -(-layer[OUTPUTS] // PAD) * PAD, -(-layer[INPUTS] // PAD) * PAD
        lines, columns = (n, k) if layer[OUTWARD] else (k, n)
        w, t = at[AT_WEIGHTS] + 4 * layer[WEIGHT], at[AT_TURNED] + 4 * layer[TURNED]
        for i in range(0, lines, PAD):
            for j in range(0, columns, PAD):
                transpose(t + 4 * (j * lines + i), lines, w + 4 * (i * columns + j), columns)
    return 0


@outlined
def convolve(layer: Any, net: Any, y: Any, values: Any, places: Any, count: Any) -> None:
    """One row: y [positions * 16] = bias + what each input that is not zero adds to the 9 positions that see it."""
    at = words(net, ADDRESSES)
    weights, bias = at[AT_WEIGHTS] + 4 * layer[WEIGHT], at[AT_WEIGHTS] + 4 * layer[BIAS]
    for position in range(layer[OUTPUTS] // 16):
        block_1_pad(y + 64 * position, 0, bias, 0, 0, 0, 0, 0, 0, 0)
    for i in range(count):
        sight, value = words(at[AT_SIGHTS] + 32 * np.int64(places[i]), 4), values + 4 * i
        to, kernel = y + sight[SEER], weights + sight[LENS]
        for _ in range(sight[LINES]):
            if sight[WIDTH] == 3:
                block_1_three(to, 0, to, 0, value, 0, 0, kernel, 0, 1)
            else:
                for j in range(sight[WIDTH]):
                    block_1_pad(to + 64 * j, 0, to + 64 * j, 0, value, 0, 0, kernel + 64 * j, 0, 1)
            to, kernel = to - 64 * layer[ACROSS], kernel + 192


@outlined
def convolve_back(layer: Any, net: Any, slope: Any, values: Any, places: Any, count: Any) -> None:
    """One row: add to the gradient by the weights that of each input that is not zero."""
    at = words(net, ADDRESSES)
    slopes = at[AT_SLOPES] + 4 * layer[WEIGHT]
    for i in range(count):
        sight, value = words(at[AT_SIGHTS] + 32 * np.int64(places[i]), 4), values + 4 * i
        by, to = slope + sight[SEER], slopes + sight[LENS]
        for _ in range(sight[LINES]):
            if sight[WIDTH] == 3:
                block_1_three(to, 0, to, 0, value, 0, 0, by, 0, 1)
            else:
                for j in range(sight[WIDTH]):
                    block_1_pad(to + 64 * j, 0, to + 64 * j, 0, value, 0, 0, by + 64 * j, 0, 1)
            by, to = by - 64 * layer[ACROSS], to + 192


def forward(rows: Any, sparse: Any, net: Any) -> Any:
    """Fill the workspace for a tile whose inputs are in buffer 0 or, if `sparse`, given by what is not zero.

    Row r of the tile has `values[starts[r, 0]:starts[r, 1]]` at `places`.
    """
    at = words(net, ADDRESSES)
    layers = words(at[AT_LAYERS], at[AT_COUNT] * COLUMNS).reshape(at[AT_COUNT], COLUMNS)
    starts = words(at[AT_STARTS], 2 * TILE).reshape(TILE, 2)
    w, t = at[AT_WEIGHTS], at[AT_TURNED]
    for layer in layers:
        n, k = layer[OUTPUTS], layer[INPUTS]
        wide = -(-n // PAD) * PAD
        y, ld = place_of(at[AT_WORK], at[AT_BUFFERS], layer[TARGET])
        x, ldx = place_of(at[AT_WORK], at[AT_BUFFERS], layer[SOURCE])
        if sparse and layer[SOURCE] == 0:
            for r in range(rows):
                low, count = starts[r, 0], starts[r, 1] - starts[r, 0]
                values, places, to = at[AT_VALUES] + 4 * low, at[AT_PLACES] + 4 * low, y + 4 * r * ld
                if layer[KIND] == CONVOLUTION:
                    convolve(layer, net, to, values, shorts(places, count), count)
                else:
                    gather(wide, to, w + 4 * layer[BIAS], values, places, w + 4 * layer[WEIGHT], count)
                bend(layer, to, wide)  # while it is in the nearest cache
        else:
            matrix = t + 4 * layer[TURNED] if layer[OUTWARD] else w + 4 * layer[WEIGHT]
            multiply(rows, wide, k, y, ld, w + 4 * layer[BIAS], 0, x, ldx, 1, matrix, wide)
            bend(layer, y, rows * ld)
    return 0


def backward(rows: Any, sparse: Any, net: Any) -> Any:
    """Add to the gradient by the weights, from that by the outputs in the workspace of slopes."""
    at = words(net, ADDRESSES)
    layers = words(at[AT_LAYERS], at[AT_COUNT] * COLUMNS).reshape(at[AT_COUNT], COLUMNS)
    starts = words(at[AT_STARTS], 2 * TILE).reshape(TILE, 2)
    for index in range(len(layers) - 1, -1, -1):
        layer = layers[index]
        n, k = layer[OUTPUTS], layer[INPUTS]
        wide, long = -(-n // PAD) * PAD, -(-k // PAD) * PAD
        y, ld = place_of(at[AT_WORK], at[AT_BUFFERS], layer[TARGET])
        x, ldx = place_of(at[AT_WORK], at[AT_BUFFERS], layer[SOURCE])
        d, _ = place_of(at[AT_SLOPE], at[AT_BUFFERS], layer[TARGET])
        into, _ = place_of(at[AT_SLOPE], at[AT_BUFFERS], layer[SOURCE])
        if layer[KIND] != CONVOLUTION:
            unbend(layer, net, d, y, rows, ld, wide)
        target = at[AT_SLOPES] + 4 * layer[WEIGHT]
        if sparse and layer[SOURCE] == 0:
            for r in range(rows):
                low, count = starts[r, 0], starts[r, 1] - starts[r, 0]
                values, places = at[AT_VALUES] + 4 * low, shorts(at[AT_PLACES] + 4 * low, count)
                if layer[KIND] == CONVOLUTION:
                    unbend(layer, net, d + 4 * r * ld, y + 4 * r * ld, n // 16, 16, 16)
                    convolve_back(layer, net, d + 4 * r * ld, values, places, count)
                    continue
                for i in range(count):
                    add_multiple(wide, target + 4 * wide * np.int64(places[i]), values + 4 * i, d + 4 * r * ld)
        elif layer[OUTWARD]:
            multiply(n, long, rows, target, long, target, long, d, 1, ld, x, ldx)
        else:
            multiply(k, wide, rows, target, wide, target, wide, x, 1, ldx, d, ld)
        if layer[SOURCE] > 0:
            w = at[AT_WEIGHTS] + 4 * layer[WEIGHT] if layer[OUTWARD] else at[AT_TURNED] + 4 * layer[TURNED]
            init, ldi = (into, ldx) if layer[ADDS] else (at[AT_ZEROS], 0)
            multiply(rows, long, n, into, ldx, init, ldi, d, ld, 1, w, long)
    return 0
