"""Which worlds the engine steps many at a time, and the moves between records and columns that this takes.

A processor's vector instructions work on columns: x of 64 worlds side by side. States are records: all of one world
side by side. Code that LLVM shall turn into vector instructions must not loop, call libm or compute an index; so
`plan` reads the bytecode of a world's step and observe, and says whether they are such code. `lanes.py` runs it.
"""

from __future__ import annotations

import dis
import math
from dataclasses import dataclass
from functools import cache
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .kernel import globals_used, is_kernel, reached

if TYPE_CHECKING:
    from .world import World

LANES = 64  # worlds stepped at a time: their columns stay in the nearest cache
GROUP = 16  # records turned into columns, or back, at once
_MOST_NUMBERS = 16  # of an observation, to be written by columns
_QUICK = {"sqrt", "fabs", "floor", "ceil", "trunc", "copysign"}  # instructions, not calls
_LIBM = {name for name, value in vars(math).items() if callable(value)} - _QUICK
_DIVIDING = ("%", "//", "**")  # and their in-place forms: calls, or instructions that vectors do not have
_HIDDEN = {"getattr", "setattr"}  # would reach fields that we do not see named


@dataclass(frozen=True)
class Field:
    """A number in a record, and where its column begins."""

    offset: int
    column: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Plan:
    """The numbers that a world's step and observe deal with."""

    state: list[Field]
    written: list[Field]  # of those, what a step may change
    params: list[Field]


@cache
def plan(world: World) -> Plan | None:
    """Return what moves when many worlds are stepped at a time; None for worlds that are stepped one by one."""
    kernels = reached(world.step) | reached(world.observe)
    if len(world.agents) > 1 or world.masked:
        return None
    if np.prod(world.observation.shape) > _MOST_NUMBERS or not all(_straight(function) for function in kernels):
        return None
    named = {name for function in kernels for name in function.__code__.co_names} | {"t"}
    instructions = [i for function in kernels for i in dis.get_instructions(function)]
    stored = {"t"} | {i.argval for i in instructions if i.opname == "STORE_ATTR"}
    state, params = _numbers(world.State.dtype, named), _numbers(world.Params.dtype, named)
    if state is None or params is None:
        return None
    written = [part for name, part in state if name in stored]
    return Plan([part for _, part in state], written, [part for _, part in params])


def room(world: World, n: int) -> int:
    """Return for how many worlds a batch's arrays need room: whole blocks, where blocks are stepped."""
    return -(-n // LANES) * LANES if plan(world) else n


def _straight(function: FunctionType) -> bool:
    """Say whether a kernel runs straight through: no loops, no calls but of kernels and casts, no computed indices."""
    used, names = globals_used(function), set(function.__code__.co_names)
    through_module = any(isinstance(value, ModuleType) for value in used.values())
    called = {name for name, value in used.items() if not is_kernel(value)}
    if _HIDDEN & names or _LIBM & (names if through_module else called):
        return False
    before: Any = None
    for i in dis.get_instructions(function):
        if i.opname == "FOR_ITER" or "BACKWARD" in i.opname:
            return False
        if i.opname == "BINARY_OP" and i.argrepr.rstrip("=") in _DIVIDING:
            return False
        if i.opname in ("BINARY_SUBSCR", "STORE_SUBSCR") and not isinstance(before, int):
            return False
        before = i.argval if i.opname == "LOAD_CONST" else None
    return True


def _numbers(dtype: np.dtype[Any], named: set[str]) -> list[tuple[str, Field]] | None:
    """Return the named numbers of a record with its nested ones; None where one is an array."""
    found, column = [], 0
    for name, kind, offset in _leaves(dtype):
        if name in named:
            if kind.shape:
                return None
            found.append((name, Field(offset, column, kind)))
            column += 8 * LANES
    return found


def _leaves(dtype: np.dtype[Any], base: int = 0) -> list[tuple[str, np.dtype[Any], int]]:
    leaves = []
    for name, (kind, offset, *_) in (dtype.fields or {}).items():
        inside = _leaves(kind, base + offset)
        leaves += inside or [(name, kind, base + offset)]
    return leaves


def size(fields: list[Field]) -> int:
    """Return the bytes that columns of LANES numbers take."""
    return 8 * LANES * max(len(fields), 1)


@cache
def scratch() -> Any:
    """Return the intrinsic `scratch(bytes)`: a pointer to memory that lasts as long as the function.

    LLVM keeps what it can of it in registers: a record filled, stepped and read out there costs nothing.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
    def scratch(context: Any, size: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            memory = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(8), size.literal_value))
            memory.align = 64
            return builder.bitcast(memory, cgutils.voidptr_t)

        return types.voidptr(size), code

    return scratch


@cache
def reward_column() -> tuple[Any, Any]:
    """Return the intrinsics `put(memory, lane, value)` and `take(memory, lane, like)`: a column of `value`'s own type.

    The type of a reward is the author's and known only to the compiler; wider than needed, it would halve the speed.
    """
    from numba import types
    from numba.extending import intrinsic

    def place(context: Any, builder: Any, memory: Any, lane: Any, kind: Any) -> Any:
        pointer = builder.bitcast(memory, context.get_data_type(kind).as_pointer())
        return builder.gep(pointer, [lane])

    @intrinsic  # type: ignore[untyped-decorator]
    def put(context: Any, memory: Any, lane: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            column, at, number = arguments
            context.pack_value(builder, value, number, place(context, builder, column, at, value))
            return context.get_dummy_value()

        return types.void(types.voidptr, types.intp, value), code

    @intrinsic  # type: ignore[untyped-decorator]
    def take(context: Any, memory: Any, lane: Any, like: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            column, at, _ = arguments
            return context.unpack_value(builder, like, place(context, builder, column, at, like))

        return like(types.voidptr, types.intp, like), code

    return put, take


def mover(fields: list[Field], from_columns: bool, to_columns: bool) -> Any:
    """Return the intrinsic `move(source, i, target, j, wanted)`: copies these fields of item i to item j, if wanted.

    Source and target are arrays of records, or byte arrays that hold columns. Not wanted, it writes what was there:
    a choice between numbers is a vector instruction, a branch is not.
    """
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    def address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, part: Field, columns: bool) -> Any:
        data = context.make_array(array_type)(context, builder, array).data
        data = builder.bitcast(data, cgutils.voidptr_t)
        word = index.type
        stride = part.dtype.itemsize if columns else array_type.dtype.size
        start = part.column if columns else part.offset
        place = builder.add(builder.mul(index, word(stride)), word(start))
        return builder.bitcast(builder.gep(data, [place]), number(context, part).as_pointer())

    def number(context: Any, part: Field) -> Any:
        from numba.np.numpy_support import from_dtype

        return context.get_data_type(from_dtype(part.dtype))

    @intrinsic  # type: ignore[untyped-decorator]
    def move(context: Any, source: Any, i: Any, target: Any, j: Any, wanted: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            s, i, t, j, wanted = arguments
            source, _, target, *_ = signature.args
            for part in fields:
                a = address(context, builder, source, s, i, part, from_columns)
                b = address(context, builder, target, t, j, part, to_columns)
                align = part.dtype.itemsize
                new, old = builder.load(a, align=align), builder.load(b, align=align)
                builder.store(builder.select(wanted, new, old), b, align=align)
            return context.get_dummy_value()

        return types.void(source, types.intp, target, types.intp, types.boolean), code

    return move


def _runs(fields: list[Field]) -> list[list[Field]]:
    """Split fields into runs of 4, 2 or 1 that lie side by side and are of one size: vectors of a record."""
    runs: list[list[Field]] = []
    for part in fields:
        last = runs[-1][-1] if runs else None
        size = part.dtype.itemsize
        beside = last and (last.offset + size, last.dtype.itemsize) == (part.offset, size)
        if beside and len(runs[-1]) < 4:
            runs[-1].append(part)
        else:
            runs.append([part])
    for k, run in enumerate(runs):
        if len(run) == 3:
            runs[k : k + 1] = [run[:2], run[2:]]
    return runs


def transposer(fields: list[Field], to_columns: bool) -> Any:
    """Return the intrinsic `move(records, i, columns, lane)`: copies these fields of GROUP records or to them.

    Written out as vector loads, shuffles and stores: left to itself LLVM takes gather instructions, which are slower
    than scalar code on many machines.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    i32 = ir.IntType(32)

    def shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(i32, len(lanes)), [i32(lane) for lane in lanes])
        return builder.shuffle_vector(a, b, mask)

    def joined(builder: Any, vectors: list[Any]) -> Any:
        while len(vectors) > 1:
            width = vectors[0].type.count
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [shuffled(builder, a, b, list(range(2 * width))) for a, b in pairs]
        return vectors[0]

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
            for run in _runs(fields):
                width, size = len(run), run[0].dtype.itemsize
                number = ir.IntType(8 * size)

                def place(start: Any, index: Any, stride: int, offset: int, count: int, number: Any = number) -> Any:
                    at = builder.add(builder.mul(index, word(stride)), word(offset))
                    return builder.bitcast(builder.gep(start, [at]), ir.VectorType(number, count).as_pointer())

                indices = [builder.add(i, word(k)) for k in range(GROUP)]
                rows = [place(base, index, records.dtype.size, run[0].offset, width) for index in indices]
                tops = [place(memory, lane, size, part.column, GROUP) for part in run]
                if to_columns:
                    whole = joined(builder, [builder.load(row, align=size) for row in rows])
                    for k, top in enumerate(tops):
                        column = shuffled(builder, whole, whole, list(range(k, width * GROUP, width)))
                        builder.store(column, top, align=size)
                else:
                    whole = joined(builder, [builder.load(top, align=size) for top in tops])
                    order = [k * GROUP + world for world in range(GROUP) for k in range(width)]
                    mixed = shuffled(builder, whole, whole, order)
                    for k, row in enumerate(rows):
                        picked = shuffled(builder, mixed, mixed, list(range(k * width, (k + 1) * width)))
                        builder.store(picked, row, align=size)
            return context.get_dummy_value()

        return types.void(records, types.intp, columns, types.intp), code

    return move
