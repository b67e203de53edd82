"""Building blocks that numba has no words for: products of matrices, bent sums, threads' counters, caches, the clock.

A matrix product holds a block of its result in registers while it runs along the inner dimension; which block fits
depends on the processor. Each element of the result is summed in the order of that dimension, whatever the block: the
same numbers come out of every blocking, and of every split of the rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

PAD = 16  # floats: rows of weights and activations are as long as a multiple of it
FLOAT = 4  # bytes


class Matrix(NamedTuple):
    """A float32 matrix whose rows are contiguous. `ld`, the leading dimension, is 0 where all rows are the same one."""

    address: int
    ld: int  # floats from one row to the next


class Transpose(NamedTuple):
    """The transpose of such a matrix. It is a type of its own, so that code for each layout is compiled by itself."""

    address: int
    ld: int  # floats from one column to the next


@cache
def _shape() -> tuple[int, int]:
    """Return how many floats a vector register holds, and how many of them the widest block spans."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 4  # 6 x 4 of 32 registers accumulate
    if features.get("avx"):
        return 8, 2  # 6 x 2 of 16
    return 4, 4  # 6 x 4 of NEON's 32; of SSE's 16, some spill


@cache
def blocks() -> dict[str, Any]:
    """Return the intrinsics `block_R_wide`, `_pad` and `_three` (pads) for R rows, and two widths in floats.

    `block(c, init, a, b, k)` sets C[R, width] = init[R, width] + A[R, k] B[k, width]. A is a `Matrix` or a
    `Transpose`, the others are a `Matrix` each; `init` may be C itself. `part(matrix, row, column)` is the part of a
    matrix, of either type, that begins at this row and column.
    """
    width, vectors = _shape()
    made: dict[str, Any] = {f"block_{rows}_wide": _block(rows, vectors, width) for rows in (1, 2, 4, 6)}
    made |= {f"block_{rows}_pad": _block(rows, PAD // width, width) for rows in (1, 6)}
    made["block_1_three"] = _block(1, 3 * PAD // width, width)  # what three neighbours see
    made["row_wide"], made["row_pad"] = _sparse_row(vectors, width), _sparse_row(PAD // width, width)
    made |= {"transpose": _transpose(), "unbend_relu": _unbending(True), "unbend_tanh": _unbending(False)}
    return made | {"part": _part(), "WIDE": vectors * width, "PAD": PAD}


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
    kit = _VectorBuilder(width)
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
    kit = _VectorBuilder(width)

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

    kit = _VectorBuilder(PAD)
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


def _unbending(relu: bool) -> Any:
    """Return `activation_backward(grad, y, bias, ld, rows)`: the gradient by outputs [rows, PAD] becomes that by sums.

    The sums are what was bent into y; the columns of their gradient are added to bias [PAD].
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    kit = _VectorBuilder(_shape()[0])
    vectors = range(PAD // kit.width)
    zero, one = (ir.Constant(kit.vector, [ir.Constant(kit.number, n)] * kit.width) for n in (0.0, 1.0))

    @intrinsic
    def activation_backward(context: Any, grad: Any, y: Any, bias: Any, ld: Any, rows: Any) -> Any:
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

    return activation_backward


class _VectorBuilder:
    """Vector instructions at addresses."""

    def __init__(self, width: int) -> None:
        from llvmlite import ir

        self.width, self.number = width, ir.FloatType()
        self.vector = ir.VectorType(self.number, width)
        self.word, self.lane = ir.IntType(64), ir.IntType(32)
        self.undefined = ir.Constant(self.vector, ir.Undefined)
        self.first = ir.Constant(ir.VectorType(self.lane, width), [0] * width)
        self.triple = ir.FunctionType(self.vector, [self.vector] * 3)

    def _at(self, builder: Any, address: Any, v: int) -> Any:
        return builder.inttoptr(builder.add(address, self.word(v * self.width * FLOAT)), self.vector.as_pointer())

    def load(self, builder: Any, address: Any, v: int) -> Any:
        return builder.load(self._at(builder, address, v), align=FLOAT)

    def store(self, builder: Any, value: Any, address: Any, v: int) -> None:
        builder.store(value, self._at(builder, address, v), align=FLOAT)

    def spread(self, builder: Any, address: Any) -> Any:
        number = builder.load(builder.inttoptr(address, self.number.as_pointer()), align=FLOAT)
        one = builder.insert_element(self.undefined, number, self.lane(0))
        return builder.shuffle_vector(one, self.undefined, self.first)

    def shuffle(self, builder: Any, a: Any, b: Any, lanes: list[Any]) -> Any:
        from llvmlite import ir

        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(self.lane, len(lanes)), lanes))

    def multiply_add(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        from numba.core import cgutils

        name = f"llvm.fma.v{self.width}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, self.triple, name), [a, b, c])


@cache
def prefetch() -> Any:
    """Return the intrinsic `fetch(address, size)`: it brings bytes that will be read soon to the nearest cache."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    octet, flag, word = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
    kind = ir.FunctionType(ir.VoidType(), [octet, flag, flag, flag])

    @intrinsic
    def fetch(context: Any, address: Any, size: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            end = builder.add(*arguments)
            begin = builder.and_(arguments[0], word(-64))
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            with cgutils.for_range_slice(builder, begin, end, word(64), word) as (line, _):
                builder.call(function, [builder.inttoptr(line, octet), flag(0), flag(3), flag(1)])
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), code

    return fetch


@cache
def clock() -> Any:
    """Return the intrinsic `cycles()`: the processor's time stamp, int64."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    kind = ir.FunctionType(ir.IntType(64), [])

    @intrinsic
    def cycles(context: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])

        return types.intp(), code

    return cycles
