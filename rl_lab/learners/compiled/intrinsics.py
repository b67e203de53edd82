"""Intrinsics of the learners: prefetching, the cycle counter, and arrays without reference counts.

An intrinsic is a function for numba's compiled code that consists of LLVM instructions, which `code` emits while numba
compiles a caller. Each function here makes one, at its first call; `primitives` collects them.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def make_prefetch() -> Any:
    """Return the intrinsic `prefetch(address, size)`: it brings bytes that will be read soon to the nearest cache."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    byte_pointer, int32, int64 = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
    function_type = ir.FunctionType(ir.VoidType(), [byte_pointer, int32, int32, int32])
    line_bytes = 64  # of a cache line
    to_read, keep, data = int32(0), int32(3), int32(1)  # the last arguments of llvm.prefetch

    @intrinsic
    def prefetch(context: Any, address: Any, size: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            end = builder.add(*arguments)
            first_line = builder.and_(arguments[0], int64(-line_bytes))
            function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0i8")
            with cgutils.for_range_slice(builder, first_line, end, int64(line_bytes), int64) as (line, _):
                builder.call(function, [builder.inttoptr(line, byte_pointer), to_read, keep, data])
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), code

    return prefetch


@cache
def make_cycles() -> Any:
    """Return the intrinsic `cycles()`: the processor's time stamp, int64."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    function_type = ir.FunctionType(ir.IntType(64), [])

    @intrinsic
    def cycles(context: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.readcyclecounter")
            return builder.call(function, [])

        return types.intp(), code

    return cycles


@cache
def make_without_refcounts() -> Any:
    """Return the intrinsic `without_refcounts(record)`: the same array, or tuple of arrays, without owners.

    numba counts references to an array at every use, with atomic instructions that took a quarter of DQN's time. It
    does not count where an array has no owner. So the caller must keep the memory while compiled code runs.
    """
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    def without_owner(context: Any, builder: Any, numba_type: Any, value: Any) -> Any:
        if isinstance(numba_type, types.Array):
            array = cgutils.create_struct_proxy(numba_type)(context, builder, value=value)
            array.meminfo = cgutils.get_null_value(array.meminfo.type)
            array.parent = cgutils.get_null_value(array.parent.type)
            return array._getvalue()
        if isinstance(numba_type, types.BaseTuple):
            for i, member_type in enumerate(numba_type):
                member = without_owner(context, builder, member_type, builder.extract_value(value, i))
                value = builder.insert_value(value, member, i)
        return value

    @intrinsic
    def without_refcounts(context: Any, record: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return without_owner(context, builder, record, arguments[0])

        return record(record), code

    return without_refcounts
