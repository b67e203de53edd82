"""Products of matrices at addresses, dense and with a sparse row.

A template, executed by `build` before `layers`: see `engine/template_context.py`. They are made of the
blocks that `matrix_intrinsics` describes.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.matrix_intrinsics import Matrix, Transpose, matrix_intrinsics

internal = decorators().internal
intrinsics = matrix_intrinsics()
block_1_wide, block_2_wide = intrinsics.block_1_wide, intrinsics.block_2_wide
block_4_wide, block_6_wide = intrinsics.block_4_wide, intrinsics.block_6_wide
block_1_pad, block_6_pad, part = intrinsics.block_1_pad, intrinsics.block_6_pad, intrinsics.part
row_wide, row_pad = intrinsics.row_wide, intrinsics.row_pad
WIDE, PAD = intrinsics.WIDE, intrinsics.PAD
DEEP = 128  # of the inner dimension at a time: that much of the right factor stays in the nearest cache


@internal
def multiply(m: Any, n: Any, k: Any, c: Matrix, init: Matrix, a: Matrix | Transpose, b: Matrix) -> None:
    """C[m, n] = init + A[m, k] B[k, n], n a multiple of PAD."""
    for low in range(0, max(k, 1), DEEP):
        deep = min(DEEP, k - low)
        begin = init if low == 0 else c
        column = 0
        while column < n:
            to, origin, left = part(c, 0, column), part(begin, 0, column), part(a, 0, low)
            right, row = part(b, low, column), 0
            if column + WIDE <= n:
                while row + 6 <= m:
                    block_6_wide(part(to, row, 0), part(origin, row, 0), part(left, row, 0), right, deep)
                    row += 6
                if row + 4 <= m:
                    block_4_wide(part(to, row, 0), part(origin, row, 0), part(left, row, 0), right, deep)
                    row += 4
                if row + 2 <= m:
                    block_2_wide(part(to, row, 0), part(origin, row, 0), part(left, row, 0), right, deep)
                    row += 2
                if row < m:
                    block_1_wide(part(to, row, 0), part(origin, row, 0), part(left, row, 0), right, deep)
                column += WIDE
            else:
                while row + 6 <= m:
                    block_6_pad(part(to, row, 0), part(origin, row, 0), part(left, row, 0), right, deep)
                    row += 6
                while row < m:
                    block_1_pad(part(to, row, 0), part(origin, row, 0), part(left, row, 0), right, deep)
                    row += 1
                column += PAD


@internal
def add_multiple(n: Any, c: Any, value: Any, b: Any) -> None:
    """C[n] += value[0] * B[n] at addresses, n a multiple of PAD."""
    column, factor = 0, Matrix(value, 0)
    while column + WIDE <= n:
        to = Matrix(c + 4 * column, 0)
        block_1_wide(to, to, factor, Matrix(b + 4 * column, 0), 1)
        column += WIDE
    while column < n:
        to = Matrix(c + 4 * column, 0)
        block_1_pad(to, to, factor, Matrix(b + 4 * column, 0), 1)
        column += PAD


@internal
def sparse_row_gemv(n: Any, c: Any, init: Any, values: Any, indices: Any, b: Any, k: Any) -> None:
    """C[n] = init[n] + the sum of k rows of B, rows n apart, each times its value."""
    column = 0
    while column + WIDE <= n:
        row_wide(c + 4 * column, init + 4 * column, values, indices, b + 4 * column, n, k)
        column += WIDE
    while column < n:
        row_pad(c + 4 * column, init + 4 * column, values, indices, b + 4 * column, n, k)
        column += PAD
