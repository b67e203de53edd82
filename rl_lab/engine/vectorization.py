"""This module decides which worlds are stepped a block at a time by vector instructions, and which fields take part.

LLVM turns a loop over worlds into vector instructions only if its body does not loop, call the C library, divide with
remainder or compute an index. So the source of a world's step and observe, and of the kernels that they call, is
checked for these. `templates/simd_step` uses the plan; nothing is written.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.core.kernel import is_kernel, reachable_kernels
from rl_lab.engine.syntax_tree import body_nodes, function_definition, resolve_global

if TYPE_CHECKING:
    from rl_lab.core.world import World

BLOCK = 64  # worlds stepped at a time: their columns stay in the nearest cache
TRANSPOSE_TILE = 16  # records turned into columns, or back, at once
_MAX_OBSERVATION_SIZE = 16  # of an observation, to be written by columns
_MATH_INSTRUCTIONS = {"sqrt", "fabs", "floor", "ceil", "trunc", "copysign"}  # of math, no calls once compiled
_LIBM = {name for name, value in vars(math).items() if callable(value)} - _MATH_INSTRUCTIONS
_LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SLOW_OPERATORS = {ast.Mod: "%", ast.FloorDiv: "//", ast.Pow: "**"}  # calls, or instructions that vectors do not have


@dataclass(frozen=True)
class ColumnField:
    """A number in a record: its offset in the record, and its column's offset in a structure of arrays, in bytes."""

    offset: int
    column_offset: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class VectorizationPlan:
    """The fields that a world's step and observe use."""

    state: list[ColumnField]
    written: list[ColumnField]  # of those, what a step may change
    params: list[ColumnField]


def vectorization_plan(world: World) -> VectorizationPlan | None:
    """Return the fields to move when many worlds are stepped at a time; None for worlds that are stepped one by one."""
    plan = _analyze(world)
    return plan if isinstance(plan, VectorizationPlan) else None


def why_not_vectorized(world: World) -> str:
    """Return the reason why a world is stepped one by one, such as "a loop at line 52", or ""."""
    reason = _analyze(world)
    return reason if isinstance(reason, str) else ""


def padded_capacity(world: World, n: int) -> int:
    """Return the number of worlds for which a batch's arrays need memory: whole blocks, where blocks are stepped."""
    return -(-n // BLOCK) * BLOCK if vectorization_plan(world) else n


def columns_bytes(fields: list[ColumnField]) -> int:
    """Return the bytes that the columns of these fields take, each BLOCK numbers of up to 8 bytes."""
    return 8 * BLOCK * max(len(fields), 1)


@cache
def _analyze(world: World) -> VectorizationPlan | str:
    """Return the plan, or the reason why there is none."""
    if len(world.agents) > 1:
        return f"{len(world.agents)} agents"
    if world.has_action_mask:
        return "an action mask"
    if (numbers := int(np.prod(world.observation.shape))) > _MAX_OBSERVATION_SIZE:
        return f"an observation of {numbers} numbers, more than {_MAX_OBSERVATION_SIZE}"
    kernels = sorted(reachable_kernels(world.step) | reachable_kernels(world.observe), key=_source_order_key(world))
    nodes: list[ast.AST] = []
    for function in kernels:
        definition = function_definition(function)
        if definition is None:
            return f"the source of {function.__name__} is not there"
        if obstacle := next(_obstacles(function, definition), None):
            line, what = obstacle
            file = function.__code__.co_filename
            where = "" if file == world.step.__code__.co_filename else f" of {Path(file).name}"
            return f"{what} at line {line}{where}"
        nodes += body_nodes(definition)
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    read_names = {node.attr for node in attributes} | {"t"}
    written_names = {node.attr for node in attributes if isinstance(node.ctx, ast.Store)} | {"t"}
    state, params = _select_fields(world.State.dtype, read_names), _select_fields(world.Params.dtype, read_names)
    if isinstance(state, str) or isinstance(params, str):
        return f"the field {state if isinstance(state, str) else params} is an array"
    written = [field for name, field in state if name in written_names]
    return VectorizationPlan([field for _, field in state], written, [field for _, field in params])


def _source_order_key(world: World) -> Any:
    """Return a key that sorts kernels: those of the world's own file first, then by their lines."""
    own = world.step.__code__.co_filename

    def key(function: FunctionType) -> tuple[bool, str, int]:
        code = function.__code__
        return code.co_filename != own, code.co_filename, code.co_firstlineno

    return key


def _obstacles(function: FunctionType, definition: ast.FunctionDef) -> Iterator[tuple[int, str]]:
    """Yield line and what it is, in the order of lines, for everything in a kernel that vectors cannot do."""
    for node in sorted(
        body_nodes(definition), key=lambda node: (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))
    ):
        line = getattr(node, "lineno", definition.lineno)
        if isinstance(node, _LOOPS):
            yield line, "a loop"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _SLOW_OPERATORS and not _is_literal(node):
            yield line, f"the operator {_SLOW_OPERATORS[type(node.op)]}"
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
            yield line, f"an element that changes in place, {ast.unparse(node.target)},"
        elif isinstance(node, ast.Subscript) and not _is_integer(node.slice):
            yield line, f"a computed index, {ast.unparse(node)},"
        elif isinstance(node, ast.Call) and (called := _forbidden_call(function, node)):
            yield line, f"a call of {called}"


def _forbidden_call(function: FunctionType, node: ast.Call) -> str:
    """Return the name of a called function that vectors do not allow, or "".

    These are the C library's, and getattr and setattr, which use fields that the source does not name.
    """
    value = resolve_global(function, node.func)
    names = {getattr(value, "__name__", ""), ast.unparse(node.func).rpartition(".")[2]}
    hidden = names & {"getattr", "setattr"}
    return ast.unparse(node.func) if hidden or (names & _LIBM and not is_kernel(value)) else ""


def _is_literal(node: ast.AST) -> bool:
    """Say whether an expression consists of literals: Python computes it once, when it reads the file."""
    if isinstance(node, ast.BinOp):
        return _is_literal(node.left) and _is_literal(node.right)
    return _is_literal(node.operand) if isinstance(node, ast.UnaryOp) else isinstance(node, ast.Constant)


def _is_integer(node: ast.AST) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node
    return isinstance(inner, ast.Constant) and isinstance(inner.value, int)


def _select_fields(dtype: np.dtype[Any], read_names: set[str]) -> list[tuple[str, ColumnField]] | str:
    """Return the named numbers of a record with its nested ones, or the name of one that is an array."""
    selected, column_offset = [], 0
    for name, field_dtype, offset in _leaves(dtype):
        if name in read_names:
            if field_dtype.shape:
                return name
            selected.append((name, ColumnField(offset, column_offset, field_dtype)))
            column_offset += 8 * BLOCK
    return selected


def _leaves(dtype: np.dtype[Any], base: int = 0) -> list[tuple[str, np.dtype[Any], int]]:
    leaves = []
    for name, (field_dtype, offset, *_) in (dtype.fields or {}).items():
        inside = _leaves(field_dtype, base + offset)
        leaves += inside or [(name, field_dtype, base + offset)]
    return leaves
