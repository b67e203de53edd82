"""Intrinsics for products of matrices and activations, which numba's loops would compute more slowly.

A matrix product holds a block of its result in registers while it runs along the inner dimension; which block fits
depends on the processor. Each element of the result is summed in the order of that dimension, whatever the block: the
same numbers come out of every blocking, and of every split of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from rl_lab.learners.compiled.vector_builder import FLOAT, VectorBuilder, vector_shape

PAD = 16  # floats: rows of weights and activations are as long as a multiple of it


class Matrix(NamedTuple):
    """A float32 matrix whose rows are contiguous. `ld`, the leading dimension, is 0 where all rows are the same one."""

    address: int
    ld: int  # floats from one row to the next


class Transpose(NamedTuple):
    """The transpose of such a matrix. It is a type of its own, so that code for each layout is compiled by itself."""

    address: int
    ld: int  # floats from one column to the next


@dataclass(frozen=True)
class MatrixIntrinsics:
    """Intrinsics for products of matrices, and the widths in floats, WIDE and PAD, that they have on this processor.

    `block(c, init, a, b, k)` sets C[R, width] = init[R, width] + A[R, k] B[k, width], where R is the number in the
    intrinsic's name. A is a `Matrix` or a `Transpose`, the others are a `Matrix` each; `init` may be C itself.
    """

    block_1_wide: Any  # the width is WIDE
    block_2_wide: Any
    block_4_wide: Any
    block_6_wide: Any
    block_1_pad: Any  # the width is PAD
    block_6_pad: Any
    block_1_three: Any  # the width is 3 * PAD: three positions of a convolution
    row_wide: Any  # see `_sparse_row`
    row_pad: Any
    transpose: Any  # see `_transpose`
    relu_backward: Any  # see `_activation_backward`
    tanh_backward: Any
    part: Any  # (matrix, row, column): the part of a matrix, of either type, that begins at this row and column
    WIDE: int
    PAD: int = PAD


@cache
def matrix_intrinsics() -> MatrixIntrinsics:
    """Return the intrinsics, which are made at the first call."""
    width, vectors = vector_shape()
    return MatrixIntrinsics(
        block_1_wide=_block(1, vectors, width),
        block_2_wide=_block(2, vectors, width),
        block_4_wide=_block(4, vectors, width),
        block_6_wide=_block(6, vectors, width),
        block_1_pad=_block(1, PAD // width, width),
        block_6_pad=_block(6, PAD // width, width),
        block_1_three=_block(1, 3 * PAD // width, width),
        row_wide=_sparse_row(vectors, width),
        row_pad=_sparse_row(PAD // width, width),
        transpose=_transpose(),
        relu_backward=_activation_backward(relu=True),
        tanh_backward=_activation_backward(relu=False),
        part=_part(),
        WIDE=vectors * width,
    )


def _part() -> Any:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def part(context: Any, matrix: Any, row: Any, column: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            whole, row, column = arguments
            address, ld = cgutils.unpack_tuple(builder, whole)
            line, place = (column, row) if matrix.instance_class is Transpose else (row, column)
            floats = builder.add(builder.mul(line, ld), place)
            address = builder.add(address, builder.mul(floats, ir.IntType(64)(FLOAT)))
            return builder.insert_value(whole, address, 0)

        return matrix(matrix, types.intp, types.intp), code

    return part


def _block(rows: int, vectors: int, width: int) -> Any:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    word = ir.IntType(64)
    kit = VectorBuilder(width)
    matrix = types.NamedUniTuple(types.intp, len(Matrix._fields), Matrix)

    @intrinsic
    def block(context: Any, c: Any, init: Any, a: Any, b: Any, k: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *matrices, k = arguments
            (c, ldc), (init, ldi), (left, lda), (b, ldb) = (cgutils.unpack_tuple(builder, m) for m in matrices)
            row, step = (word(1), lda) if a.instance_class is Transpose else (lda, word(1))
            size = word(FLOAT)
            ldc, ldi, row, step, ldb = (builder.mul(n, size) for n in (ldc, ldi, row, step, ldb))
            sums = [[cgutils.alloca_once(builder, kit.vector) for _ in range(vectors)] for _ in range(rows)]
            for m, line in enumerate(sums):
                begin = builder.add(init, builder.mul(ldi, word(m)))
                for v, total in enumerate(line):
                    builder.store(kit.load(builder, begin, v), total)
            lefts = [builder.add(left, builder.mul(row, word(m))) for m in range(rows)]
            with cgutils.for_range(builder, k) as loop:
                right = builder.add(b, builder.mul(loop.index, ldb))
                factors = [kit.load(builder, right, v) for v in range(vectors)]
                along = builder.mul(loop.index, step)
                for begin, line in zip(lefts, sums, strict=True):
                    same = kit.spread(builder, builder.add(begin, along))
                    for factor, total in zip(factors, line, strict=True):
                        builder.store(kit.multiply_add(builder, same, factor, builder.load(total)), total)
            for m, line in enumerate(sums):
                begin = builder.add(c, builder.mul(ldc, word(m)))
                for v, total in enumerate(line):
                    kit.store(builder, builder.load(total), begin, v)
            return context.get_dummy_value()

        return types.void(matrix, matrix, a, matrix, types.intp), code

    return block


def _sparse_row(vectors: int, width: int) -> Any:
    """Return `row(c, init, values, indices, b, ldb, k)`: one row, of which only k columns of A are not zero.

    C = init + sum of values[i] * B[indices[i]]; float32 values and int32 indices.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    word, place = ir.IntType(64), ir.IntType(32)
    kit = VectorBuilder(width)

    @intrinsic
    def row(context: Any, c: Any, init: Any, values: Any, indices: Any, b: Any, ldb: Any, k: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            c, init, values, indices, b, ldb, k = arguments
            size = word(FLOAT)
            ldb = builder.mul(ldb, size)
            sums = [cgutils.alloca_once(builder, kit.vector) for _ in range(vectors)]
            for v, total in enumerate(sums):
                builder.store(kit.load(builder, init, v), total)
            with cgutils.for_range(builder, k) as loop:
                along = builder.mul(loop.index, size)
                at = builder.inttoptr(builder.add(indices, along), place.as_pointer())
                right = builder.add(b, builder.mul(builder.sext(builder.load(at), word), ldb))
                same = kit.spread(builder, builder.add(values, along))
                for v, total in enumerate(sums):
                    factor = kit.load(builder, right, v)
                    builder.store(kit.multiply_add(builder, same, factor, builder.load(total)), total)
            for v, total in enumerate(sums):
                kit.store(builder, builder.load(total), c, v)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), code

    return row


def _transpose() -> Any:
    """Return `transpose(target, ldt, source, lds)`: a block of PAD x PAD."""
    from numba import types
    from numba.extending import intrinsic

    kit = VectorBuilder(PAD)
    half = PAD // 2
    masks = [[kit.lane(PAD * (k % 2) + k // 2 + low) for k in range(PAD)] for low in (0, half)]

    @intrinsic
    def transpose(context: Any, target: Any, ldt: Any, source: Any, lds: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target, ldt, source, lds = arguments
            size = kit.word(FLOAT)
            ldt, lds = builder.mul(ldt, size), builder.mul(lds, size)
            rows = [kit.load(builder, builder.add(source, builder.mul(lds, kit.word(i))), 0) for i in range(PAD)]
            for _ in range(PAD.bit_length() - 1):  # a perfect shuffle of all elements, log2 PAD times over
                rows = [kit.shuffle(builder, rows[i // 2], rows[i // 2 + half], masks[i % 2]) for i in range(PAD)]
            for i, row in enumerate(rows):
                kit.store(builder, row, builder.add(target, builder.mul(ldt, kit.word(i))), 0)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 4), code

    return transpose


def _activation_backward(relu: bool) -> Any:
    """Return `backward(grad, y, bias, ld, rows)`: the gradient by outputs y [rows, PAD] becomes that by their sums.

    y is the ReLU of these sums or, if not `relu`, their tanh. The columns of the new gradient are added to bias [PAD].
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    kit = VectorBuilder(vector_shape()[0])
    vectors = range(PAD // kit.width)
    zero, one = (ir.Constant(kit.vector, [ir.Constant(kit.number, n)] * kit.width) for n in (0.0, 1.0))

    @intrinsic
    def backward(context: Any, grad: Any, y: Any, bias: Any, ld: Any, rows: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            grad, y, bias, ld, rows = arguments
            sums = [cgutils.alloca_once(builder, kit.vector) for _ in vectors]
            for v, total in enumerate(sums):
                builder.store(kit.load(builder, bias, v), total)
            with cgutils.for_range(builder, rows) as loop:
                along = builder.mul(loop.index, builder.mul(ld, kit.word(FLOAT)))
                to, from_ = builder.add(grad, along), builder.add(y, along)
                for v, total in enumerate(sums):
                    slope, output = kit.load(builder, to, v), kit.load(builder, from_, v)
                    if relu:
                        slope = builder.select(builder.fcmp_ordered(">", output, zero), slope, zero)
                    else:
                        slope = builder.fmul(slope, builder.fsub(one, builder.fmul(output, output)))
                    kit.store(builder, slope, to, v)
                    builder.store(builder.fadd(builder.load(total), slope), total)
            for v, total in enumerate(sums):
                kit.store(builder, builder.load(total), bias, v)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), code

    return backward
