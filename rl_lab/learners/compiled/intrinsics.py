"""Intrinsics of the learners: the processor's caches and clock, and arrays without reference counts."""

from __future__ import annotations

from functools import cache
from typing import Any


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


@cache
def uncounted() -> Any:
    """Return the intrinsic `uncounted(record)`: the same array, or tuple of arrays, without references to its memory.

    numba counts references to an array at every use, with atomic instructions that took a quarter of DQN's time. It
    does not count where an array has no owner. The caller keeps the memory while compiled code runs.
    """
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    def without_owner(context: Any, builder: Any, kind: Any, value: Any) -> Any:
        if isinstance(kind, types.Array):
            array = cgutils.create_struct_proxy(kind)(context, builder, value=value)
            array.meminfo = cgutils.get_null_value(array.meminfo.type)
            array.parent = cgutils.get_null_value(array.parent.type)
            return array._getvalue()
        if isinstance(kind, types.BaseTuple):
            for i, member in enumerate(kind):
                part = without_owner(context, builder, member, builder.extract_value(value, i))
                value = builder.insert_value(value, part, i)
        return value

    @intrinsic
    def uncounted(context: Any, record: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return without_owner(context, builder, record, arguments[0])

        return record(record), code

    return uncounted
