"""Forward and backward pass of a small network over a tile: up to TILE rows of observations at once.

A template, executed by `build` after `matrix_product` and `convolution`: see `engine/template_context.py`. Its last
three functions are called by address from all other templates: they are the largest part of every learner, and compiled
once. Each gets `net`, the address of a row of `network.NetworkMemory.tables`, and finds all memory through it:

    transpose_weights  writes the thread's transposed copies of the weights
    forward            writes the thread's activations: reads buffer 0 or the sparse inputs, then layer by layer
    backward           adds to the parameter gradient and writes the activation gradients, in reverse order of layers

The forward pass multiplies with weights [inputs, outputs], the backward pass with weights [outputs, inputs]. Parameters
lie in one of the two orders, whichever has less padding; the transposed copies lie in the other one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.matrix_intrinsics import Matrix, Transpose, matrix_intrinsics
from rl_lab.learners.compiled.network import (
    ACTIVATION,
    ADD_TO_SOURCE_GRAD,
    AT_ACTIVATION_GRADS,
    AT_ACTIVATIONS,
    AT_BUFFER_LAYOUT,
    AT_LAYERS,
    AT_NONZERO_INDICES,
    AT_NONZERO_STARTS,
    AT_NONZERO_VALUES,
    AT_NUM_LAYERS,
    AT_PARAM_GRADS,
    AT_TRANSPOSED_WEIGHTS,
    AT_WEIGHTS,
    AT_ZEROS,
    BIAS,
    CONVOLUTION,
    INPUTS,
    LAYER_COLUMNS,
    LAYER_KIND,
    LINEAR,
    NUM_ADDRESSES,
    OUTPUTS,
    RELU,
    ROW_MAJOR_OUT,
    SOURCE_BUFFER,
    TANH,
    TARGET_BUFFER,
    TILE,
    TRANSPOSED,
    WEIGHT,
)
from rl_lab.learners.compiled.templates.convolution import convolve, convolve_backward
from rl_lab.learners.compiled.templates.matrix_product import add_multiple, multiply, sparse_row_product
from rl_lab.learners.compiled.templates.memory_views import as_f32, as_i32, as_i64, buffer_address

fastmath, internal = decorators().fastmath, decorators().internal
intrinsics = matrix_intrinsics()
transpose, PAD = intrinsics.transpose, intrinsics.PAD
relu_backward, tanh_backward = intrinsics.relu_backward, intrinsics.tanh_backward
ONE = np.float32(1.0)


@fastmath
def tanh_forward(y: Any) -> None:
    """Set y [n] to tanh(y), by a quotient of polynomials fitted to it on -9..9: within 4e-7 of it; NaN stays."""
    for j in range(len(y)):
        x = min(max(y[j], np.float32(-9.0)), np.float32(9.0))
        u = x * x
        p = np.float32(1.335465871221686e-08) * u + np.float32(2.0609082639566623e-05)
        p = (p * u + np.float32(0.003495588432997465)) * u + np.float32(0.13381026685237885)
        q = np.float32(7.776557708893961e-07) * u + np.float32(0.0003285635029897094)
        q = (q * u + np.float32(0.025876984000205994)) * u + np.float32(0.4671434164047241)
        tanh = x * (p * u + ONE) / (q * u + ONE)
        y[j] = min(max(tanh, -ONE), ONE) if y[j] == y[j] else y[j]


@fastmath
def relu_forward(y: Any) -> None:
    """Set y [n] to max(y, 0); NaN stays."""
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
def activation_backward(layer: Any, net: Any, grad: Any, y: Any, rows: Any, stride: Any, n: Any) -> None:
    """Turn grad, the gradient with respect to the outputs y [rows, n], into that with respect to the pre-activations.

    Both are addresses of rows `stride` floats apart. The column sums are added to the gradient of the layer's bias.
    """
    bias_grad = as_i64(net, NUM_ADDRESSES)[AT_PARAM_GRADS] + 4 * layer[BIAS]
    for column in range(0, 4 * n, 4 * PAD):  # in bytes
        if layer[ACTIVATION] == TANH:
            tanh_backward(grad + column, y + column, bias_grad + column, stride, rows)
        elif layer[ACTIVATION] == RELU:
            relu_backward(grad + column, y + column, bias_grad + column, stride, rows)
    if layer[ACTIVATION] == LINEAR:
        add_columns(as_f32(grad, rows * stride).reshape(rows, stride), as_f32(bias_grad, n))


@fastmath
def add_columns(grad: Any, bias_grad: Any) -> None:
    """Add the columns of grad [R, n or more] to bias_grad [n]."""
    for r in range(len(grad)):
        for j in range(len(bias_grad)):
            bias_grad[j] += grad[r, j]


def transpose_weights(_rows: Any, _sparse: Any, net: Any) -> Any:
    """Write the transposed copies of weights; rows and columns of both are padded to multiples of PAD.

    `_rows` and `_sparse` are not used: a function that is called by address has three parameters.
    """
    table = as_i64(net, NUM_ADDRESSES)
    layers = as_i64(table[AT_LAYERS], table[AT_NUM_LAYERS] * LAYER_COLUMNS).reshape(table[AT_NUM_LAYERS], LAYER_COLUMNS)
    for layer in layers:
        if layer[TRANSPOSED] < 0:
            continue
        padded_out, padded_in = -(-layer[OUTPUTS] // PAD) * PAD, -(-layer[INPUTS] // PAD) * PAD
        rows, columns = (padded_out, padded_in) if layer[ROW_MAJOR_OUT] else (padded_in, padded_out)
        weight = table[AT_WEIGHTS] + 4 * layer[WEIGHT]
        transposed = table[AT_TRANSPOSED_WEIGHTS] + 4 * layer[TRANSPOSED]
        for i in range(0, rows, PAD):
            for j in range(0, columns, PAD):
                transpose(transposed + 4 * (j * rows + i), rows, weight + 4 * (i * columns + j), columns)
    return 0


def forward(rows: Any, sparse: Any, net: Any) -> Any:
    """Compute all layers for `rows` rows, whose inputs are in buffer 0 or, if `sparse`, in the lists of sparse inputs.

    Row r then has the numbers values[starts[r, 0]:starts[r, 1]] at the same entries of `indices`.
    """
    table = as_i64(net, NUM_ADDRESSES)
    layers = as_i64(table[AT_LAYERS], table[AT_NUM_LAYERS] * LAYER_COLUMNS).reshape(table[AT_NUM_LAYERS], LAYER_COLUMNS)
    starts = as_i64(table[AT_NONZERO_STARTS], 2 * TILE).reshape(TILE, 2)
    weights, transposed = table[AT_WEIGHTS], table[AT_TRANSPOSED_WEIGHTS]
    for layer in layers:
        n_out, n_in = layer[OUTPUTS], layer[INPUTS]
        padded_out = -(-n_out // PAD) * PAD
        y, y_stride = buffer_address(table[AT_ACTIVATIONS], table[AT_BUFFER_LAYOUT], layer[TARGET_BUFFER])
        x, x_stride = buffer_address(table[AT_ACTIVATIONS], table[AT_BUFFER_LAYOUT], layer[SOURCE_BUFFER])
        if sparse and layer[SOURCE_BUFFER] == 0:
            for r in range(rows):
                first, count, y_row = starts[r, 0], starts[r, 1] - starts[r, 0], y + 4 * r * y_stride
                values, indices = table[AT_NONZERO_VALUES] + 4 * first, table[AT_NONZERO_INDICES] + 4 * first
                if layer[LAYER_KIND] == CONVOLUTION:
                    convolve(layer, net, y_row, values, as_i32(indices, count), count)
                else:
                    bias, weight = weights + 4 * layer[BIAS], weights + 4 * layer[WEIGHT]
                    sparse_row_product(padded_out, y_row, bias, values, indices, weight, count)
                activation_forward(layer, y_row, padded_out)  # while the row is in the nearest cache
        else:
            weight = transposed + 4 * layer[TRANSPOSED] if layer[ROW_MAJOR_OUT] else weights + 4 * layer[WEIGHT]
            bias_of_all_rows = Matrix(weights + 4 * layer[BIAS], 0)
            multiply(
                rows, padded_out, n_in,
                Matrix(y, y_stride), bias_of_all_rows, Matrix(x, x_stride), Matrix(weight, padded_out),
            )  # fmt: skip
            activation_forward(layer, y, rows * y_stride)
    return 0


def backward(rows: Any, sparse: Any, net: Any) -> Any:
    """Add the loss gradient of `rows` rows with respect to all parameters to the network's parameter gradient.

    The caller has written the gradient with respect to the network's outputs to its activation gradients, after
    `forward` has computed the same rows.
    """
    table = as_i64(net, NUM_ADDRESSES)
    layers = as_i64(table[AT_LAYERS], table[AT_NUM_LAYERS] * LAYER_COLUMNS).reshape(table[AT_NUM_LAYERS], LAYER_COLUMNS)
    starts = as_i64(table[AT_NONZERO_STARTS], 2 * TILE).reshape(TILE, 2)
    for index in range(len(layers) - 1, -1, -1):
        layer = layers[index]
        n_out, n_in = layer[OUTPUTS], layer[INPUTS]
        padded_out, padded_in = -(-n_out // PAD) * PAD, -(-n_in // PAD) * PAD
        y, y_stride = buffer_address(table[AT_ACTIVATIONS], table[AT_BUFFER_LAYOUT], layer[TARGET_BUFFER])
        x, x_stride = buffer_address(table[AT_ACTIVATIONS], table[AT_BUFFER_LAYOUT], layer[SOURCE_BUFFER])
        y_grad, _ = buffer_address(table[AT_ACTIVATION_GRADS], table[AT_BUFFER_LAYOUT], layer[TARGET_BUFFER])
        x_grad, _ = buffer_address(table[AT_ACTIVATION_GRADS], table[AT_BUFFER_LAYOUT], layer[SOURCE_BUFFER])
        # 1. The gradients of the pre-activations, from those of the outputs, and of the bias. A convolution does it row
        # by row.
        if layer[LAYER_KIND] != CONVOLUTION:
            activation_backward(layer, net, y_grad, y, rows, y_stride, padded_out)
        # 2. The gradient of the weights: that of the pre-activations times the inputs.
        weight_grad = table[AT_PARAM_GRADS] + 4 * layer[WEIGHT]
        if sparse and layer[SOURCE_BUFFER] == 0:
            for r in range(rows):
                first, count, row_grad = starts[r, 0], starts[r, 1] - starts[r, 0], y_grad + 4 * r * y_stride
                values = table[AT_NONZERO_VALUES] + 4 * first
                indices = as_i32(table[AT_NONZERO_INDICES] + 4 * first, count)
                if layer[LAYER_KIND] == CONVOLUTION:
                    # As [positions, 16], whose columns are the filters, each with a bias.
                    activation_backward(layer, net, row_grad, y + 4 * r * y_stride, n_out // 16, 16, 16)
                    convolve_backward(layer, net, row_grad, values, indices, count)
                    continue
                for i in range(count):
                    weight_row = weight_grad + 4 * padded_out * np.int64(indices[i])
                    add_multiple(padded_out, weight_row, values + 4 * i, row_grad)
        elif layer[ROW_MAJOR_OUT]:
            grads = Matrix(weight_grad, padded_in)
            multiply(n_out, padded_in, rows, grads, grads, Transpose(y_grad, y_stride), Matrix(x, x_stride))
        else:
            grads = Matrix(weight_grad, padded_out)
            multiply(n_in, padded_out, rows, grads, grads, Transpose(x, x_stride), Matrix(y_grad, y_stride))
        # 3. The gradient of the inputs: that of the pre-activations times the weights. Observations need none.
        if layer[SOURCE_BUFFER] > 0:
            weight = (
                table[AT_WEIGHTS] + 4 * layer[WEIGHT]
                if layer[ROW_MAJOR_OUT]
                else table[AT_TRANSPOSED_WEIGHTS] + 4 * layer[TRANSPOSED]
            )
            source_grads = Matrix(x_grad, x_stride)
            init = source_grads if layer[ADD_TO_SOURCE_GRAD] else Matrix(table[AT_ZEROS], 0)
            multiply(rows, padded_in, n_out, source_grads, init, Matrix(y_grad, y_stride), Matrix(weight, padded_in))
    return 0
