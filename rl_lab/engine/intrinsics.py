"""This module has intrinsics (functions that emit LLVM instructions) for memory and functions at an address.

Compiled code uses them to reach a batch by the address of its header, and a world's loops by theirs.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def indirect_call() -> Any:
    """Return the intrinsic `call(function, low, high, batch)`: calls int64 f(int64, int64, int64) at an address."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    word = ir.IntType(64)
    kind = ir.FunctionType(word, [word] * 3).as_pointer()

    @intrinsic  # type: ignore[untyped-decorator]
    def call(context: Any, function: Any, low: Any, high: Any, batch: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function, low, high, batch = arguments
            return builder.call(builder.inttoptr(function, kind), [low, high, batch])

        return types.intp(*[types.intp] * 4), code

    return call


@cache
def address_to_pointer() -> Any:
    """Return the intrinsic that makes a pointer of an address, so that one integer stands for all arrays of a batch.

    Unpacking 15 array arguments costs numba about 1 us a call; this costs 0.2 us.
    """
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def address_to_pointer(context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return types.voidptr(types.intp), code

    return address_to_pointer
