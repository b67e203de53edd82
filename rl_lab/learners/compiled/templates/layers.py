"""Small networks run forwards and backwards over tiles of rows.

A template, executed by `build`: see `engine/template_context.py`. `transpose_weights`, `forward` and `backward` are
called by address: they are the largest part of every learner, and compiled once. A network is a table of layers (see
`network.py`), its parameters one float32 array, its activations rows in a workspace. Each layer reads one buffer of the
workspace and writes another. Parameters lie as the product of the forward pass (inputs x outputs) or of the backward
pass (outputs x inputs) needs them, whichever wastes less room; copies lie the other way round.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.matrix_intrinsics import Matrix, Transpose, matrix_intrinsics
from rl_lab.learners.compiled.network import (
    ACTIVATION,
    ADDRESSES,
    ADDS,
    AT_BUFFERS,
    AT_COUNT,
    AT_GRAD,
    AT_GRADS,
    AT_LAYERS,
    AT_NONZERO_INDICES,
    AT_NONZERO_VALUES,
    AT_STARTS,
    AT_TRANSPOSED,
    AT_WEIGHTS,
    AT_WORK,
    AT_ZEROS,
    BIAS,
    COLUMNS,
    CONVOLUTION,
    INPUTS,
    KIND,
    LINEAR,
    OUTPUTS,
    RELU,
    ROW_MAJOR_OUT,
    SOURCE,
    TANH,
    TARGET,
    TILE,
    TRANSPOSED,
    WEIGHT,
)
from rl_lab.learners.compiled.templates.convolution import convolve, convolve_back
from rl_lab.learners.compiled.templates.matrix_product import add_multiple, multiply, sparse_row_gemv
from rl_lab.learners.compiled.templates.tiles import as_f32, as_i32, as_i64, buffer_address

fastmath, internal = decorators().fastmath, decorators().internal
intrinsics = matrix_intrinsics()
transpose, PAD = intrinsics.transpose, intrinsics.PAD
relu_backward, tanh_backward = intrinsics.relu_backward, intrinsics.tanh_backward
ONE = np.float32(1.0)


@fastmath
def tanh_forward(y: Any) -> None:
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


@fastmath
def relu_forward(y: Any) -> None:
    """Set y to max(y, 0); NaN stays."""
    for j in range(len(y)):
        y[j] = np.float32(0.0) if y[j] < 0 else y[j]


@internal
def activation_forward(layer: Any, y: Any, n: Any) -> None:
    """Apply a layer's activation to y [n] at an address."""
    if layer[ACTIVATION] == TANH:
        tanh_forward(as_f32(y, n))
    elif layer[ACTIVATION] == RELU:
        relu_forward(as_f32(y, n))


@internal
def activation_backward(layer: Any, net: Any, grad: Any, y: Any, rows: Any, ld: Any, n: Any) -> None:
    """Turn the gradient by outputs y [rows, n], ld apart, into that by their sums, and add it to that by the bias."""
    bias = as_i64(net, ADDRESSES)[AT_GRADS] + 4 * layer[BIAS]
    for column in range(0, 4 * n, 4 * PAD):
        if layer[ACTIVATION] == TANH:
            tanh_backward(grad + column, y + column, bias + column, ld, rows)
        elif layer[ACTIVATION] == RELU:
            relu_backward(grad + column, y + column, bias + column, ld, rows)
    if layer[ACTIVATION] == LINEAR:
        add_columns(as_f32(grad, rows * ld).reshape(rows, ld), as_f32(bias, n))


@fastmath
def add_columns(grad: Any, bias: Any) -> None:
    """Add the columns of grad [R, n] to bias [n]."""
    for r in range(len(grad)):
        for j in range(len(bias)):
            bias[j] += grad[r, j]


def transpose_weights(_: Any, __: Any, net: Any) -> Any:
    """Refresh the copies of parameters that lie the other way round; both ways, rows and columns are padded."""
    at = as_i64(net, ADDRESSES)
    layers = as_i64(at[AT_LAYERS], at[AT_COUNT] * COLUMNS).reshape(at[AT_COUNT], COLUMNS)
    for layer in layers:
        if layer[TRANSPOSED] < 0:
            continue
        n, k = -(-layer[OUTPUTS] // PAD) * PAD, -(-layer[INPUTS] // PAD) * PAD
        lines, columns = (n, k) if layer[ROW_MAJOR_OUT] else (k, n)
        w, t = at[AT_WEIGHTS] + 4 * layer[WEIGHT], at[AT_TRANSPOSED] + 4 * layer[TRANSPOSED]
        for i in range(0, lines, PAD):
            for j in range(0, columns, PAD):
                transpose(t + 4 * (j * lines + i), lines, w + 4 * (i * columns + j), columns)
    return 0


def forward(rows: Any, sparse: Any, net: Any) -> Any:
    """Compute all layers for a tile whose inputs are in buffer 0 or, if `sparse`, lists of numbers that are not zero.

    Row r of the tile has the numbers values[starts[r, 0]:starts[r, 1]] at the same entries of `indices`.
    """
    at = as_i64(net, ADDRESSES)
    layers = as_i64(at[AT_LAYERS], at[AT_COUNT] * COLUMNS).reshape(at[AT_COUNT], COLUMNS)
    starts = as_i64(at[AT_STARTS], 2 * TILE).reshape(TILE, 2)
    w, t = at[AT_WEIGHTS], at[AT_TRANSPOSED]
    for layer in layers:
        n, k = layer[OUTPUTS], layer[INPUTS]
        wide = -(-n // PAD) * PAD
        y, ld = buffer_address(at[AT_WORK], at[AT_BUFFERS], layer[TARGET])
        x, ldx = buffer_address(at[AT_WORK], at[AT_BUFFERS], layer[SOURCE])
        if sparse and layer[SOURCE] == 0:
            for r in range(rows):
                low, count = starts[r, 0], starts[r, 1] - starts[r, 0]
                values, indices, to = at[AT_NONZERO_VALUES] + 4 * low, at[AT_NONZERO_INDICES] + 4 * low, y + 4 * r * ld
                if layer[KIND] == CONVOLUTION:
                    convolve(layer, net, to, values, as_i32(indices, count), count)
                else:
                    sparse_row_gemv(wide, to, w + 4 * layer[BIAS], values, indices, w + 4 * layer[WEIGHT], count)
                activation_forward(layer, to, wide)  # while it is in the nearest cache
        else:
            matrix = t + 4 * layer[TRANSPOSED] if layer[ROW_MAJOR_OUT] else w + 4 * layer[WEIGHT]
            bias = Matrix(w + 4 * layer[BIAS], 0)  # one row for all
            multiply(rows, wide, k, Matrix(y, ld), bias, Matrix(x, ldx), Matrix(matrix, wide))
            activation_forward(layer, y, rows * ld)
    return 0


def backward(rows: Any, sparse: Any, net: Any) -> Any:
    """Add the gradient by the parameters; that by the outputs is in the workspace of gradients."""
    at = as_i64(net, ADDRESSES)
    layers = as_i64(at[AT_LAYERS], at[AT_COUNT] * COLUMNS).reshape(at[AT_COUNT], COLUMNS)
    starts = as_i64(at[AT_STARTS], 2 * TILE).reshape(TILE, 2)
    for index in range(len(layers) - 1, -1, -1):
        layer = layers[index]
        n, k = layer[OUTPUTS], layer[INPUTS]
        wide, long = -(-n // PAD) * PAD, -(-k // PAD) * PAD
        y, ld = buffer_address(at[AT_WORK], at[AT_BUFFERS], layer[TARGET])
        x, ldx = buffer_address(at[AT_WORK], at[AT_BUFFERS], layer[SOURCE])
        d, _ = buffer_address(at[AT_GRAD], at[AT_BUFFERS], layer[TARGET])
        into, _ = buffer_address(at[AT_GRAD], at[AT_BUFFERS], layer[SOURCE])
        if layer[KIND] != CONVOLUTION:
            activation_backward(layer, net, d, y, rows, ld, wide)
        target = at[AT_GRADS] + 4 * layer[WEIGHT]
        if sparse and layer[SOURCE] == 0:
            for r in range(rows):
                low, count = starts[r, 0], starts[r, 1] - starts[r, 0]
                values, indices = at[AT_NONZERO_VALUES] + 4 * low, as_i32(at[AT_NONZERO_INDICES] + 4 * low, count)
                if layer[KIND] == CONVOLUTION:
                    activation_backward(layer, net, d + 4 * r * ld, y + 4 * r * ld, n // 16, 16, 16)
                    convolve_back(layer, net, d + 4 * r * ld, values, indices, count)
                    continue
                for i in range(count):
                    add_multiple(wide, target + 4 * wide * np.int64(indices[i]), values + 4 * i, d + 4 * r * ld)
        elif layer[ROW_MAJOR_OUT]:
            grads = Matrix(target, long)
            multiply(n, long, rows, grads, grads, Transpose(d, ld), Matrix(x, ldx))
        else:
            grads = Matrix(target, wide)
            multiply(k, wide, rows, grads, grads, Transpose(x, ldx), Matrix(d, ld))
        if layer[SOURCE] > 0:
            w = (
                at[AT_WEIGHTS] + 4 * layer[WEIGHT]
                if layer[ROW_MAJOR_OUT]
                else at[AT_TRANSPOSED] + 4 * layer[TRANSPOSED]
            )
            source_grads = Matrix(into, ldx)
            init = source_grads if layer[ADDS] else Matrix(at[AT_ZEROS], 0)
            multiply(rows, long, n, source_grads, init, Matrix(d, ld), Matrix(w, long))
    return 0
