"""Intrinsics for products of matrices and activations, which numba's loops would compute more slowly.

An intrinsic is a function for numba's compiled code whose LLVM instructions are emitted here. They take addresses of
float32 matrices and write only to the memory that their first argument names.

A matrix product C = init + A B is computed in blocks, as in `templates/matrix_product.py`:

              B  [k, width]        one block of C, 6 rows and `width` columns for example, is held in vector registers
    A [6, k]  C  [6, width]        while the loop runs along k: in each round one number of each of A's rows, broadcast
                                   to all lanes, is multiplied with one row of B and added

Which block fits into the registers depends on the processor. Each element of C is summed in the order of k, whatever
the block: the same bits come out of every blocking, and of every split of the rows among threads.
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

    `block_R_...(c, init, a, b, k)` sets C[R, width] = init[R, width] + A[R, k] B[k, width], where R is the number in
    the intrinsic's name. A is a `Matrix` or a `Transpose`, the others are a `Matrix` each; `init` may be C itself.
    """

    block_1_wide: Any  # the width is WIDE
    block_2_wide: Any
    block_4_wide: Any
    block_6_wide: Any
    block_1_pad: Any  # the width is PAD
    block_6_pad: Any
    block_1_three: Any  # the width is 3 * PAD: three positions of a convolution
    sparse_row_wide: Any  # see `_sparse_row`
    sparse_row_pad: Any
    transpose: Any  # see `_transpose`
    relu_backward: Any  # see `_activation_backward`
    tanh_backward: Any
    submatrix: Any  # see `_submatrix`
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
        sparse_row_wide=_sparse_row(vectors, width),
        sparse_row_pad=_sparse_row(PAD // width, width),
        transpose=_transpose(),
        relu_backward=_activation_backward(relu=True),
        tanh_backward=_activation_backward(relu=False),
        submatrix=_submatrix(),
        WIDE=vectors * width,
    )


def _submatrix() -> Any:
    """Return `submatrix(matrix, row, column)`: the part of a matrix, of either type, that begins at row and column."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def submatrix(context: Any, matrix: Any, row: Any, column: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            matrix_value, row, column = arguments
            address, ld = cgutils.unpack_tuple(builder, matrix_value)
            outer, inner = (column, row) if matrix.instance_class is Transpose else (row, column)
            floats = builder.add(builder.mul(outer, ld), inner)
            address = builder.add(address, builder.mul(floats, ir.IntType(64)(FLOAT)))
            return builder.insert_value(matrix_value, address, 0)

        return matrix(matrix, types.intp, types.intp), code

    return submatrix


def _block(rows: int, vectors: int, width: int) -> Any:
    """Return the intrinsic `block` of this many rows and vectors, each of `width` floats: see `MatrixIntrinsics`."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    int64 = ir.IntType(64)
    vec = VectorBuilder(width)
    matrix = types.NamedUniTuple(types.intp, len(Matrix._fields), Matrix)

    @intrinsic
    def block(context: Any, c: Any, init: Any, a: Any, b: Any, k: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *matrices, k = arguments
            (c, ldc), (init, ld_init), (left, lda), (b, ldb) = (cgutils.unpack_tuple(builder, m) for m in matrices)
            a_row, a_step = (int64(1), lda) if a.instance_class is Transpose else (lda, int64(1))
            size = int64(FLOAT)
            ldc, ld_init, a_row, a_step, ldb = (builder.mul(n, size) for n in (ldc, ld_init, a_row, a_step, ldb))
            # LLVM keeps these stack slots in registers. sums[m][v] is vector v of row m of the block.
            sums = [[cgutils.alloca_once(builder, vec.vector) for _ in range(vectors)] for _ in range(rows)]
            for m, row_sums in enumerate(sums):
                init_row = builder.add(init, builder.mul(ld_init, int64(m)))
                for v, total in enumerate(row_sums):
                    builder.store(vec.load(builder, init_row, v), total)
            a_rows = [builder.add(left, builder.mul(a_row, int64(m))) for m in range(rows)]
            with cgutils.for_range(builder, k) as loop:
                b_row = builder.add(b, builder.mul(loop.index, ldb))
                b_vectors = [vec.load(builder, b_row, v) for v in range(vectors)]
                a_offset = builder.mul(loop.index, a_step)
                for a_begin, row_sums in zip(a_rows, sums, strict=True):
                    a_number = vec.broadcast(builder, builder.add(a_begin, a_offset))
                    for b_vector, total in zip(b_vectors, row_sums, strict=True):
                        builder.store(vec.multiply_add(builder, a_number, b_vector, builder.load(total)), total)
            for m, row_sums in enumerate(sums):
                c_row = builder.add(c, builder.mul(ldc, int64(m)))
                for v, total in enumerate(row_sums):
                    vec.store(builder, builder.load(total), c_row, v)
            return context.get_dummy_value()

        return types.void(matrix, matrix, a, matrix, types.intp), code

    return block


def _sparse_row(vectors: int, width: int) -> Any:
    """Return `sparse_row(c, init, values, indices, b, ldb, k)`: one row, of which only k columns of A are not zero.

    C = init + sum of values[i] * B[indices[i]]; values are float32, indices int32. All arguments but k and ldb are
    addresses.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    int64, int32 = ir.IntType(64), ir.IntType(32)
    vec = VectorBuilder(width)

    @intrinsic
    def sparse_row(context: Any, c: Any, init: Any, values: Any, indices: Any, b: Any, ldb: Any, k: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            c, init, values, indices, b, ldb, k = arguments
            size = int64(FLOAT)  # of a value, and of an index as well
            ldb = builder.mul(ldb, size)
            sums = [cgutils.alloca_once(builder, vec.vector) for _ in range(vectors)]
            for v, total in enumerate(sums):
                builder.store(vec.load(builder, init, v), total)
            with cgutils.for_range(builder, k) as loop:
                offset = builder.mul(loop.index, size)
                index_pointer = builder.inttoptr(builder.add(indices, offset), int32.as_pointer())
                b_row = builder.add(b, builder.mul(builder.sext(builder.load(index_pointer), int64), ldb))
                value = vec.broadcast(builder, builder.add(values, offset))
                for v, total in enumerate(sums):
                    b_vector = vec.load(builder, b_row, v)
                    builder.store(vec.multiply_add(builder, value, b_vector, builder.load(total)), total)
            for v, total in enumerate(sums):
                vec.store(builder, builder.load(total), c, v)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), code

    return sparse_row


def _transpose() -> Any:
    """Return `transpose(target, ldt, source, lds)`: writes the transpose of a block of PAD x PAD.

    All elements, in the order of rows, are interleaved as a deck of cards is: element i of the first half, then element
    i of the second half. One such shuffle rotates the bits of an element's index by one; log2 PAD of them exchange row
    and column.
    """
    from numba import types
    from numba.extending import intrinsic

    vec = VectorBuilder(PAD)
    half = PAD // 2
    masks = [[vec.int32(PAD * (k % 2) + k // 2 + low) for k in range(PAD)] for low in (0, half)]

    @intrinsic
    def transpose(context: Any, target: Any, ldt: Any, source: Any, lds: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target, ldt, source, lds = arguments
            size = vec.int64(FLOAT)
            ldt, lds = builder.mul(ldt, size), builder.mul(lds, size)
            rows = [vec.load(builder, builder.add(source, builder.mul(lds, vec.int64(i))), 0) for i in range(PAD)]
            for _ in range(PAD.bit_length() - 1):
                rows = [vec.shuffle(builder, rows[i // 2], rows[i // 2 + half], masks[i % 2]) for i in range(PAD)]
            for i, row in enumerate(rows):
                vec.store(builder, row, builder.add(target, builder.mul(ldt, vec.int64(i))), 0)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 4), code

    return transpose


def _activation_backward(relu: bool) -> Any:
    """Return `backward(grad, y, bias, ld, rows)`, which replaces grad [rows, PAD] and adds to bias [PAD].

    grad [rows, PAD] is the gradient with respect to the outputs y; it is overwritten by the gradient with respect to
    the pre-activations, whose ReLU or, if not `relu`, tanh y is. Its column sums are added to bias [PAD], the gradient
    with respect to the bias. Rows are `ld` floats apart.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    vec = VectorBuilder(vector_shape()[0])
    vectors = range(PAD // vec.width)
    zero, one = (ir.Constant(vec.vector, [ir.Constant(vec.float32, n)] * vec.width) for n in (0.0, 1.0))

    @intrinsic
    def backward(context: Any, grad: Any, y: Any, bias: Any, ld: Any, rows: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            grad, y, bias, ld, rows = arguments
            bias_sums = [cgutils.alloca_once(builder, vec.vector) for _ in vectors]
            for v, total in enumerate(bias_sums):
                builder.store(vec.load(builder, bias, v), total)
            with cgutils.for_range(builder, rows) as loop:
                offset = builder.mul(loop.index, builder.mul(ld, vec.int64(FLOAT)))
                grad_row, y_row = builder.add(grad, offset), builder.add(y, offset)
                for v, total in enumerate(bias_sums):
                    row_grad, output = vec.load(builder, grad_row, v), vec.load(builder, y_row, v)
                    if relu:
                        row_grad = builder.select(builder.fcmp_ordered(">", output, zero), row_grad, zero)
                    else:
                        row_grad = builder.fmul(row_grad, builder.fsub(one, builder.fmul(output, output)))
                    vec.store(builder, row_grad, grad_row, v)
                    builder.store(builder.fadd(builder.load(total), row_grad), total)
            for v, total in enumerate(bias_sums):
                vec.store(builder, builder.load(total), bias, v)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), code

    return backward
