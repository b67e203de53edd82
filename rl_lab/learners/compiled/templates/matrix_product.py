"""Products of float32 matrices at addresses: dense, with a matrix of one row, and with a sparse row.

A template, executed by `build` before `layers`: see `engine/template_context.py`. `layers.py` calls these functions;
each writes only C, its argument `c`. They cut a product into the blocks that `matrix_intrinsics` describes, of WIDE
columns as long as that many are left, then of PAD columns.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.matrix_intrinsics import Matrix, Transpose, matrix_intrinsics

internal = decorators().internal
intrinsics = matrix_intrinsics()
block_1_wide, block_2_wide = intrinsics.block_1_wide, intrinsics.block_2_wide
block_4_wide, block_6_wide = intrinsics.block_4_wide, intrinsics.block_6_wide
block_1_pad, block_6_pad, submatrix = intrinsics.block_1_pad, intrinsics.block_6_pad, intrinsics.submatrix
sparse_row_wide, sparse_row_pad = intrinsics.sparse_row_wide, intrinsics.sparse_row_pad
WIDE, PAD = intrinsics.WIDE, intrinsics.PAD
K_BLOCK = 128  # of the inner dimension k at a time: that many rows of a column block of B stay in the nearest cache


@internal
def multiply(m: Any, n: Any, k: Any, c: Matrix, init: Matrix, a: Matrix | Transpose, b: Matrix) -> None:
    """C[m, n] = init + A[m, k] B[k, n], n a multiple of PAD."""
    for low in range(0, max(k, 1), K_BLOCK):
        block_k = min(K_BLOCK, k - low)
        block_init = init if low == 0 else c  # later blocks of k add to what the earlier ones have written
        column = 0
        while column < n:
            c_block, init_block = submatrix(c, 0, column), submatrix(block_init, 0, column)
            a_block, b_block, row = submatrix(a, 0, low), submatrix(b, low, column), 0
            if column + WIDE <= n:
                while row + 6 <= m:
                    block_6_wide(
                        submatrix(c_block, row, 0), submatrix(init_block, row, 0), submatrix(a_block, row, 0),
                        b_block, block_k,
                    )  # fmt: skip
                    row += 6
                if row + 4 <= m:
                    block_4_wide(
                        submatrix(c_block, row, 0), submatrix(init_block, row, 0), submatrix(a_block, row, 0),
                        b_block, block_k,
                    )  # fmt: skip
                    row += 4
                if row + 2 <= m:
                    block_2_wide(
                        submatrix(c_block, row, 0), submatrix(init_block, row, 0), submatrix(a_block, row, 0),
                        b_block, block_k,
                    )  # fmt: skip
                    row += 2
                if row < m:
                    block_1_wide(
                        submatrix(c_block, row, 0), submatrix(init_block, row, 0), submatrix(a_block, row, 0),
                        b_block, block_k,
                    )  # fmt: skip
                column += WIDE
            else:
                while row + 6 <= m:
                    block_6_pad(
                        submatrix(c_block, row, 0), submatrix(init_block, row, 0), submatrix(a_block, row, 0),
                        b_block, block_k,
                    )  # fmt: skip
                    row += 6
                while row < m:
                    block_1_pad(
                        submatrix(c_block, row, 0), submatrix(init_block, row, 0), submatrix(a_block, row, 0),
                        b_block, block_k,
                    )  # fmt: skip
                    row += 1
                column += PAD


@internal
def add_multiple(n: Any, c: Any, value: Any, b: Any) -> None:
    """C[n] += value[0] * B[n] at addresses, n a multiple of PAD."""
    column, factor = 0, Matrix(value, 0)
    while column + WIDE <= n:
        c_block = Matrix(c + 4 * column, 0)
        block_1_wide(c_block, c_block, factor, Matrix(b + 4 * column, 0), 1)
        column += WIDE
    while column < n:
        c_block = Matrix(c + 4 * column, 0)
        block_1_pad(c_block, c_block, factor, Matrix(b + 4 * column, 0), 1)
        column += PAD


@internal
def sparse_row_product(n: Any, c: Any, init: Any, values: Any, indices: Any, b: Any, k: Any) -> None:
    """C[n] = init[n] + the sum over i < k of values[i] * B[indices[i]], at addresses; rows of B are n floats apart."""
    column = 0
    while column + WIDE <= n:
        sparse_row_wide(c + 4 * column, init + 4 * column, values, indices, b + 4 * column, n, k)
        column += WIDE
    while column < n:
        sparse_row_pad(c + 4 * column, init + 4 * column, values, indices, b + 4 * column, n, k)
        column += PAD
