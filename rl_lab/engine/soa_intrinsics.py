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

    The column holds BLOCK values of the type of `value`, which is the author's and known only to the compiler. `like`
    is any value of that type and is not read. A float64 column for every reward would halve the speed, because a vector
    instruction would process half as many lanes.
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
        intp = index.type  # calling an LLVM type makes a constant of it
        stride = field.dtype.itemsize if columns else array_type.dtype.size
        start = field.column_offset if columns else field.offset
        byte_offset = builder.add(builder.mul(index, intp(stride)), intp(start))
        return builder.bitcast(builder.gep(data, [byte_offset]), llvm_type(context, field).as_pointer())

    def llvm_type(context: Any, field: ColumnField) -> Any:
        from numba.np.numpy_support import from_dtype

        return context.get_data_type(from_dtype(field.dtype))

    @intrinsic  # type: ignore[untyped-decorator]
    def move(context: Any, source_type: Any, i: Any, target_type: Any, j: Any, is_selected: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, i, target, j, is_selected = arguments
            source_type, _, target_type, *_ = signature.args
            for field in fields:
                a = address(context, builder, source_type, source, i, field, from_columns)
                b = address(context, builder, target_type, target, j, field, to_columns)
                align = field.dtype.itemsize
                new, old = builder.load(a, align=align), builder.load(b, align=align)
                builder.store(builder.select(is_selected, new, old), b, align=align)
            return context.get_dummy_value()

        return types.void(source_type, types.intp, target_type, types.intp, types.boolean), code

    return move


def _group_adjacent_fields(fields: list[ColumnField]) -> list[list[ColumnField]]:
    """Return the fields in groups of 4, 2 or 1 that are adjacent in a record and have one size.

    The fields of a group are loaded and stored as one vector.
    """
    groups: list[list[ColumnField]] = []
    for field in fields:
        last = groups[-1][-1] if groups else None
        size = field.dtype.itemsize
        beside = last and (last.offset + size, last.dtype.itemsize) == (field.offset, size)
        if beside and len(groups[-1]) < 4:
            groups[-1].append(field)
        else:
            groups.append([field])
    for k, group in enumerate(groups):
        if len(group) == 3:
            groups[k : k + 1] = [group[:2], group[2:]]
    return groups


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
    """Return the intrinsic `move(records, i, columns, lane)`, which copies these fields to columns, or back.

    A call moves TRANSPOSE_TILE records, from record i and lane `lane` on. The intrinsic emits vector loads, shuffles
    and stores itself, because for a plain loop LLVM would choose gather instructions, which are slower than scalar code
    on many machines.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def move(context: Any, records_type: Any, i: Any, columns_type: Any, lane: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            records_type, _, columns_type, _ = signature.args
            records, i, columns, lane = arguments
            records_start, columns_start = (
                builder.bitcast(context.make_array(array_type)(context, builder, array).data, cgutils.voidptr_t)
                for array_type, array in ((records_type, records), (columns_type, columns))
            )
            intp = i.type  # calling an LLVM type makes a constant of it

            def pointer_to(start: Any, index: Any, stride: int, offset: int, vector_type: Any) -> Any:
                byte_offset = builder.add(builder.mul(index, intp(stride)), intp(offset))
                return builder.bitcast(builder.gep(start, [byte_offset]), vector_type.as_pointer())

            for group in _group_adjacent_fields(fields):
                width, size = len(group), group[0].dtype.itemsize
                element_type = ir.IntType(8 * size)
                row_type, column_type = ir.VectorType(element_type, width), ir.VectorType(element_type, TRANSPOSE_TILE)
                indices = [builder.add(i, intp(k)) for k in range(TRANSPOSE_TILE)]
                rows = [
                    pointer_to(records_start, index, records_type.dtype.size, group[0].offset, row_type)
                    for index in indices
                ]
                column_pointers = [
                    pointer_to(columns_start, lane, size, field.column_offset, column_type) for field in group
                ]
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

        return types.void(records_type, types.intp, columns_type, types.intp), code

    return move
