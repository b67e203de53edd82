"""LLVM instructions on vectors of float32 for numba intrinsics, and how wide this processor's vectors are.

A vector is a register that holds several numbers, its lanes, which one instruction computes at once. `VectorBuilder` is
used while numba compiles: its methods emit instructions through the `builder` of the function that is being compiled.
Addresses are LLVM int64 values. Nothing is kept but LLVM's types.
"""

from __future__ import annotations

from functools import cache
from typing import Any

FLOAT = 4  # bytes of a float32


@cache
def vector_shape() -> tuple[int, int]:
    """Return how many floats a vector register holds, and how many registers wide the widest block of a product is.

    A block of 6 rows, see `matrix_intrinsics`, keeps its sums in 6 times that many registers.
    """
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 4  # 6 x 4 of 32 registers
    if features.get("avx"):
        return 8, 2  # 6 x 2 of 16
    return 4, 4  # 6 x 4 of NEON's 32; SSE has 16, so that some sums are moved to the stack


class VectorBuilder:
    """Emits LLVM instructions on vectors of `width` float32 lanes.

    `load` and `store` access the vector number `v`, from 0, of consecutive ones that begin at an address, which needs
    no alignment.
    """

    def __init__(self, width: int) -> None:
        from llvmlite import ir

        self.width, self.float32 = width, ir.FloatType()
        self.vector = ir.VectorType(self.float32, width)
        self.int64, self.int32 = ir.IntType(64), ir.IntType(32)
        self._undefined = ir.Constant(self.vector, ir.Undefined)
        self._all_from_lane_0 = ir.Constant(ir.VectorType(self.int32, width), [0] * width)
        self._fma_type = ir.FunctionType(self.vector, [self.vector] * 3)

    def _pointer(self, builder: Any, address: Any, v: int) -> Any:
        return builder.inttoptr(builder.add(address, self.int64(v * self.width * FLOAT)), self.vector.as_pointer())

    def load(self, builder: Any, address: Any, v: int) -> Any:
        """Load a vector."""
        return builder.load(self._pointer(builder, address, v), align=FLOAT)

    def store(self, builder: Any, value: Any, address: Any, v: int) -> None:
        """Store a vector."""
        builder.store(value, self._pointer(builder, address, v), align=FLOAT)

    def broadcast(self, builder: Any, address: Any) -> Any:
        """Load one float32 into every lane of a vector."""
        number = builder.load(builder.inttoptr(address, self.float32.as_pointer()), align=FLOAT)
        one_lane = builder.insert_element(self._undefined, number, self.int32(0))
        return builder.shuffle_vector(one_lane, self._undefined, self._all_from_lane_0)

    def shuffle(self, builder: Any, a: Any, b: Any, lanes: list[Any]) -> Any:
        """Return a vector of these lanes, numbered through the lanes of a and then those of b."""
        from llvmlite import ir

        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(self.int32, len(lanes)), lanes))

    def multiply_add(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c, rounded once."""
        from numba.core import cgutils

        name = f"llvm.fma.v{self.width}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, self._fma_type, name), [a, b, c])
