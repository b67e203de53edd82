"""This module has atomic operations on memory that threads share, as numba intrinsics, for the compiled learners."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def atomics() -> dict[str, Any]:
    """Return the intrinsics `add_at(address, n)` and `read_at(address)` of a shared int64, and `yield_cpu()`.

    `add_at` returns what was there before; `yield_cpu` lets the system run another thread on this core.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    word = ir.IntType(64)

    @intrinsic
    def add_at(context: Any, address: Any, n: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.atomic_rmw("add", builder.inttoptr(arguments[0], word.as_pointer()), arguments[1], "seq_cst")

        return types.intp(types.intp, types.intp), code

    @intrinsic
    def read_at(context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load_atomic(builder.inttoptr(arguments[0], word.as_pointer()), "seq_cst", 8)

        return types.intp(types.intp), code

    @intrinsic
    def yield_cpu(context: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
            return context.get_dummy_value()

        return types.void(), code

    return {"add_at": add_at, "read_at": read_at, "yield_cpu": yield_cpu}
