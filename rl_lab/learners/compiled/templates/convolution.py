"""The convolution of the compiled networks: 16 filters of 3 x 3, over inputs of which most are zero.

A template, executed by `build` before `layers`: see `engine/template_context.py`. A row's inputs are `count` float32
values and their int32 places `indices`. `conv_index` has an entry for each place: the window of up to 3 x 3 positions
whose filters see it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.matrix_intrinsics import Matrix, matrix_intrinsics
from rl_lab.learners.compiled.network import (
    ACROSS,
    ADDRESSES,
    AT_CONV_INDEX,
    AT_GRADS,
    AT_WEIGHTS,
    BIAS,
    COLS,
    OUT_OFFSET,
    OUTPUTS,
    ROWS,
    WEIGHT,
    WEIGHT_OFFSET,
)
from rl_lab.learners.compiled.templates.tiles import as_i64

internal = decorators().internal
KERNEL_ROW = 3 * 64  # bytes from one row of a kernel's weights to the next
block_1_pad, block_1_three = matrix_intrinsics().block_1_pad, matrix_intrinsics().block_1_three


@internal
def convolve(layer: Any, net: Any, y: Any, values: Any, indices: Any, count: Any) -> None:
    """One row: y [positions * 16] = bias + what each input that is not zero adds to the 9 positions that see it."""
    at = as_i64(net, ADDRESSES)
    weights, bias = at[AT_WEIGHTS] + 4 * layer[WEIGHT], at[AT_WEIGHTS] + 4 * layer[BIAS]
    nothing = Matrix(0, 0)
    for position in range(layer[OUTPUTS] // 16):
        block_1_pad(Matrix(y + 64 * position, 0), Matrix(bias, 0), nothing, nothing, 0)
    for i in range(count):
        window = as_i64(at[AT_CONV_INDEX] + 32 * np.int64(indices[i]), 4)
        positions, kernels = y + window[OUT_OFFSET], weights + window[WEIGHT_OFFSET]
        add_window(window, values + 4 * i, positions, -64 * layer[ACROSS], kernels, KERNEL_ROW)


@internal
def convolve_back(layer: Any, net: Any, grad: Any, values: Any, indices: Any, count: Any) -> None:
    """Add the gradient by the weights of one row, for each of its inputs that are not zero."""
    at = as_i64(net, ADDRESSES)
    grads = at[AT_GRADS] + 4 * layer[WEIGHT]
    for i in range(count):
        window = as_i64(at[AT_CONV_INDEX] + 32 * np.int64(indices[i]), 4)
        positions, kernels = grad + window[OUT_OFFSET], grads + window[WEIGHT_OFFSET]
        add_window(window, values + 4 * i, kernels, KERNEL_ROW, positions, -64 * layer[ACROSS])


@internal
def add_window(window: Any, value: Any, to: Any, to_row: Any, source: Any, source_row: Any) -> None:
    """Add value[0] * source to `to`, both with 16 numbers for each position of an input's window.

    All are addresses. `to_row` and `source_row` are the bytes from one row of positions to the next.
    """
    for _ in range(window[ROWS]):
        if window[COLS] == 3:
            block_1_three(Matrix(to, 0), Matrix(to, 0), Matrix(value, 0), Matrix(source, 0), 1)
        else:
            for j in range(window[COLS]):
                one = Matrix(to + 64 * j, 0)
                block_1_pad(one, one, Matrix(value, 0), Matrix(source + 64 * j, 0), 1)
        to, source = to + to_row, source + source_row
