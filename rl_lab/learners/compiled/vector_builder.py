"""Vector instructions for numba intrinsics, and the vectors that this processor has."""

from __future__ import annotations

from functools import cache
from typing import Any

FLOAT = 4  # bytes


@cache
def vector_shape() -> tuple[int, int]:
    """Return how many floats a vector register holds, and how many of them the widest block spans."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 4  # 6 x 4 of 32 registers accumulate
    if features.get("avx"):
        return 8, 2  # 6 x 2 of 16
    return 4, 4  # 6 x 4 of NEON's 32; of SSE's 16, some spill


class VectorBuilder:
    """Emits LLVM instructions on float32 vectors of `width` numbers; `v` counts the vectors from an address on."""

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
        """Load a vector."""
        return builder.load(self._at(builder, address, v), align=FLOAT)

    def store(self, builder: Any, value: Any, address: Any, v: int) -> None:
        """Store a vector."""
        builder.store(value, self._at(builder, address, v), align=FLOAT)

    def spread(self, builder: Any, address: Any) -> Any:
        """Load one float32 into every lane of a vector."""
        number = builder.load(builder.inttoptr(address, self.number.as_pointer()), align=FLOAT)
        one = builder.insert_element(self.undefined, number, self.lane(0))
        return builder.shuffle_vector(one, self.undefined, self.first)

    def shuffle(self, builder: Any, a: Any, b: Any, lanes: list[Any]) -> Any:
        """Return a vector of these lanes, counted through the lanes of a and then those of b."""
        from llvmlite import ir

        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(self.lane, len(lanes)), lanes))

    def multiply_add(self, builder: Any, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c, rounded once."""
        from numba.core import cgutils

        name = f"llvm.fma.v{self.width}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, self.triple, name), [a, b, c])
