"""The convolution of the compiled networks: 16 filters of 3 x 3, over inputs of which most are zero.

A template, executed by `build` before `layers`: see `engine/template_context.py`. It runs over the inputs that are not
zero, instead of over the outputs: each adds to the outputs of up to 3 x 3 positions, its window. `layers.py` calls both
functions for one row of a tile at a time. The row's inputs are `count` float32 values at an address and an array of
their int32 indices. The layout of weights, outputs and `conv_index` is that of `NetworkSpec.add_convolution`:

    outputs     [positions, 16]     16 filters side by side, 64 bytes for each position of the board
    weights     [depth, 3, 3, 16]   columns of a filter from right to left
    conv_index  [inputs, 4]         an input's window in both: where it begins, how many rows and columns it has
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.matrix_intrinsics import Matrix, matrix_intrinsics
from rl_lab.learners.compiled.network import (
    AT_CONV_INDEX,
    AT_PARAM_GRADS,
    AT_WEIGHTS,
    BIAS,
    COLS,
    NUM_ADDRESSES,
    OUT_OFFSET,
    OUT_WIDTH,
    OUTPUTS,
    ROWS,
    WEIGHT,
    WEIGHT_OFFSET,
)
from rl_lab.learners.compiled.templates.memory_views import as_i64

internal = decorators().internal
POSITION_BYTES = 64  # of the 16 numbers that a position has, and of the 16 weights of one place in a filter
WEIGHT_ROW_BYTES = 3 * POSITION_BYTES  # from one row of the filters' weights to the next
CONV_INDEX_BYTES = 32  # of a row of `conv_index`
block_1_pad, block_1_three = matrix_intrinsics().block_1_pad, matrix_intrinsics().block_1_three


@internal
def convolve(layer: Any, net: Any, y: Any, values: Any, indices: Any, count: Any) -> None:
    """Set y [positions, 16], one row's outputs before the activation, to the bias plus what each input adds."""
    table = as_i64(net, NUM_ADDRESSES)
    weights, bias = table[AT_WEIGHTS] + 4 * layer[WEIGHT], table[AT_WEIGHTS] + 4 * layer[BIAS]
    no_factor = Matrix(0, 0)
    for position in range(layer[OUTPUTS] // 16):  # a product with an inner dimension of 0 copies the bias
        block_1_pad(Matrix(y + POSITION_BYTES * position, 0), Matrix(bias, 0), no_factor, no_factor, 0)
    for i in range(count):
        window = as_i64(table[AT_CONV_INDEX] + CONV_INDEX_BYTES * np.int64(indices[i]), 4)
        out, weight = y + window[OUT_OFFSET], weights + window[WEIGHT_OFFSET]
        # A position one row further up meets this input one row further down in its filter.
        add_window(window, values + 4 * i, out, -POSITION_BYTES * layer[OUT_WIDTH], weight, WEIGHT_ROW_BYTES)


@internal
def convolve_backward(layer: Any, net: Any, grad: Any, values: Any, indices: Any, count: Any) -> None:
    """Add the gradient of the weights, from one row's gradient of the pre-activations, grad [positions, 16]."""
    table = as_i64(net, NUM_ADDRESSES)
    weight_grads = table[AT_PARAM_GRADS] + 4 * layer[WEIGHT]
    for i in range(count):
        window = as_i64(table[AT_CONV_INDEX] + CONV_INDEX_BYTES * np.int64(indices[i]), 4)
        out_grad, weight_grad = grad + window[OUT_OFFSET], weight_grads + window[WEIGHT_OFFSET]
        add_window(window, values + 4 * i, weight_grad, WEIGHT_ROW_BYTES, out_grad, -POSITION_BYTES * layer[OUT_WIDTH])


@internal
def add_window(window: Any, value: Any, target: Any, target_row: Any, source: Any, source_row: Any) -> None:
    """Add value[0] * source to `target`, both with 16 numbers for each position of an input's window.

    All three are addresses. `target_row` and `source_row` are the bytes from one row of positions to the next.
    """
    for _ in range(window[ROWS]):
        if window[COLS] == 3:
            block_1_three(Matrix(target, 0), Matrix(target, 0), Matrix(value, 0), Matrix(source, 0), 1)
        else:
            for j in range(window[COLS]):
                position = Matrix(target + POSITION_BYTES * j, 0)
                block_1_pad(position, position, Matrix(value, 0), Matrix(source + POSITION_BYTES * j, 0), 1)
        target, source = target + target_row, source + source_row
