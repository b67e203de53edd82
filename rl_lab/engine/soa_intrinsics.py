"""This module has intrinsics that move numbers between records and columns, for `templates/simd_step`.

A processor's vector instructions work on columns: x of 64 worlds side by side (a structure of arrays, SoA). States are
records: all numbers of one world side by side (an array of structures, AoS). Each function returns an intrinsic, which
emits LLVM instructions into the loop that calls it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from rl_lab.engine.vectorization import TRANSPOSE_TILE, ColumnField


@cache
def stack_alloc() -> Any:
    """Return the intrinsic `stack_alloc(bytes)`: a pointer to memory on the stack, until the function returns.

    LLVM keeps in registers what fits, so a record that is filled, stepped and read there costs nothing.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
    def stack_alloc(context: Any, size: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            memory = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(8), size.literal_value))
            memory.align = 64
            return builder.bitcast(memory, cgutils.voidptr_t)

        return types.voidptr(size), code

    return stack_alloc


@cache
def reward_column() -> tuple[Any, Any]:
    """Return the intrinsics `store_lane(memory, lane, value)` and `load_lane(memory, lane, like)`.

    The column has the type of `value`.

    The type of a reward is the author's and known only to the compiler; wider than needed, it would halve the speed.
    """
    from numba import types
    from numba.extending import intrinsic

    def pointer_to(context: Any, builder: Any, memory: Any, lane: Any, kind: Any) -> Any:
        pointer = builder.bitcast(memory, context.get_data_type(kind).as_pointer())
        return builder.gep(pointer, [lane])

    @intrinsic  # type: ignore[untyped-decorator]
    def store_lane(context: Any, memory: Any, lane: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            column, at, number = arguments
            context.pack_value(builder, value, number, pointer_to(context, builder, column, at, value))
            return context.get_dummy_value()

        return types.void(types.voidptr, types.intp, value), code

    @intrinsic  # type: ignore[untyped-decorator]
    def load_lane(context: Any, memory: Any, lane: Any, like: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            column, at, _ = arguments
            return context.unpack_value(builder, like, pointer_to(context, builder, column, at, like))

        return like(types.voidptr, types.intp, like), code

    return store_lane, load_lane


def make_field_copy(fields: list[ColumnField], from_columns: bool, to_columns: bool) -> Any:
    """Return the intrinsic `move(source, i, target, j, is_selected)`, which copies these fields of item i to item j.

    Source and target are arrays of records, or byte arrays that hold columns. If `is_selected` is False, it writes what
    was there before: a choice between numbers is a vector instruction, a branch is not.
    """
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    def address(
        context: Any, builder: Any, array_type: Any, array: Any, index: Any, field: ColumnField, columns: bool
    ) -> Any:
        data = context.make_array(array_type)(context, builder, array).data
        data = builder.bitcast(data, cgutils.voidptr_t)
        word = index.type
        stride = field.dtype.itemsize if columns else array_type.dtype.size
        start = field.column_offset if columns else field.offset
        byte_offset = builder.add(builder.mul(index, word(stride)), word(start))
        return builder.bitcast(builder.gep(data, [byte_offset]), number(context, field).as_pointer())

    def number(context: Any, field: ColumnField) -> Any:
        from numba.np.numpy_support import from_dtype

        return context.get_data_type(from_dtype(field.dtype))

    @intrinsic  # type: ignore[untyped-decorator]
    def move(context: Any, source: Any, i: Any, target: Any, j: Any, is_selected: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            s, i, t, j, is_selected = arguments
            source, _, target, *_ = signature.args
            for field in fields:
                a = address(context, builder, source, s, i, field, from_columns)
                b = address(context, builder, target, t, j, field, to_columns)
                align = field.dtype.itemsize
                new, old = builder.load(a, align=align), builder.load(b, align=align)
                builder.store(builder.select(is_selected, new, old), b, align=align)
            return context.get_dummy_value()

        return types.void(source, types.intp, target, types.intp, types.boolean), code

    return move


def _split_into_runs(fields: list[ColumnField]) -> list[list[ColumnField]]:
    """Split fields into runs of 4, 2 or 1 that lie side by side in a record and have one size: vectors."""
    runs: list[list[ColumnField]] = []
    for field in fields:
        last = runs[-1][-1] if runs else None
        size = field.dtype.itemsize
        beside = last and (last.offset + size, last.dtype.itemsize) == (field.offset, size)
        if beside and len(runs[-1]) < 4:
            runs[-1].append(field)
        else:
            runs.append([field])
    for k, run in enumerate(runs):
        if len(run) == 3:
            runs[k : k + 1] = [run[:2], run[2:]]
    return runs


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Return the vector of these lanes of a followed by b."""
    from llvmlite import ir

    i32 = ir.IntType(32)
    mask = ir.Constant(ir.VectorType(i32, len(lanes)), [i32(lane) for lane in lanes])
    return builder.shuffle_vector(a, b, mask)


def _concatenate(builder: Any, vectors: list[Any]) -> Any:
    """Return vectors of one length, whose number is a power of two, one after the other."""
    while len(vectors) > 1:
        width = vectors[0].type.count
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [_shuffle(builder, a, b, list(range(2 * width))) for a, b in pairs]
    return vectors[0]


def make_aos_soa_transpose(fields: list[ColumnField], to_columns: bool) -> Any:
    """Return the intrinsic `move(records, i, columns, lane)`: copies these fields to columns, or back.

    A call moves TRANSPOSE_TILE records, from record i and lane `lane` on.

    Written out as vector loads, shuffles and stores: left to itself LLVM takes gather instructions, which are slower
    than scalar code on many machines.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def move(context: Any, records: Any, i: Any, columns: Any, lane: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            records, _, columns, _ = signature.args
            r, i, c, lane = arguments
            base, memory = (
                builder.bitcast(context.make_array(kind)(context, builder, value).data, cgutils.voidptr_t)
                for kind, value in ((records, r), (columns, c))
            )
            word = i.type
            for run in _split_into_runs(fields):
                width, size = len(run), run[0].dtype.itemsize
                number = ir.IntType(8 * size)

                def pointer_to(
                    start: Any, index: Any, stride: int, offset: int, count: int, number: Any = number
                ) -> Any:
                    at = builder.add(builder.mul(index, word(stride)), word(offset))
                    return builder.bitcast(builder.gep(start, [at]), ir.VectorType(number, count).as_pointer())

                indices = [builder.add(i, word(k)) for k in range(TRANSPOSE_TILE)]
                rows = [pointer_to(base, index, records.dtype.size, run[0].offset, width) for index in indices]
                column_pointers = [pointer_to(memory, lane, size, field.column_offset, TRANSPOSE_TILE) for field in run]
                if to_columns:
                    vector = _concatenate(builder, [builder.load(row, align=size) for row in rows])
                    for k, column_pointer in enumerate(column_pointers):
                        column = _shuffle(builder, vector, vector, list(range(k, width * TRANSPOSE_TILE, width)))
                        builder.store(column, column_pointer, align=size)
                else:
                    vector = _concatenate(
                        builder, [builder.load(column_pointer, align=size) for column_pointer in column_pointers]
                    )
                    order = [k * TRANSPOSE_TILE + world for world in range(TRANSPOSE_TILE) for k in range(width)]
                    rows_vector = _shuffle(builder, vector, vector, order)
                    for k, row in enumerate(rows):
                        row_vector = _shuffle(
                            builder, rows_vector, rows_vector, list(range(k * width, (k + 1) * width))
                        )
                        builder.store(row_vector, row, align=size)
            return context.get_dummy_value()

        return types.void(records, types.intp, columns, types.intp), code

    return move
