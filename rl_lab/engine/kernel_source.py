"""This module reads the source of a world's kernels: what each parameter is, and the types of its expressions.

`kernel_sources` yields a `KernelSource` for each kernel; `kernel_rules` looks for mistakes in it. Nothing is executed
or written.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.core.kernel import is_kernel
from rl_lab.core.record import FieldType, f4
from rl_lab.engine.syntax_tree import assignments, body_nodes, function_definition, parameter_names, resolve_global

if TYPE_CHECKING:
    from rl_lab.core.world import World

_LAB = ("rl_lab.core.rng", "rl_lab.core.trig")
_ARRAYS = ("actions", "out", "mask", "rewards")  # kinds of parameters, see `KernelSource.parameter_kinds`


@dataclass(frozen=True)
class KernelSource:
    """A kernel's source, with what its parameters are: state, params, action, actions, out, mask, rewards or agent.

    `kernel_name` is World's keyword for the kernel, such as "step", and "" for kernels that others call. `callers` are
    the kernels through which it is called, the outermost first, and the kernel itself.
    """

    world: World
    function: FunctionType
    definition: ast.FunctionDef
    parameter_kinds: dict[str, str]
    kernel_name: str = ""
    callers: tuple[FunctionType, ...] = ()
    local_types: dict[str, set[str]] = field(default_factory=dict)  # types of what is assigned to local variables

    def __post_init__(self) -> None:
        for node in body_nodes(self.definition):
            for target, value in assignments(node):
                if isinstance(target, ast.Name):
                    divided = isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div)
                    value_type = "float" if divided else "" if value is None else self.value_type(value)
                    self.local_types.setdefault(target.id, set()).add(value_type)

    def value_type(self, node: ast.AST) -> str:
        """Return bool, int, float, none or text for the type of an expression, "" where the source does not show it."""
        match node:
            case ast.Constant(value=value):
                names = {bool: "bool", int: "int", float: "float", type(None): "none", str: "text"}
                return names.get(type(value), "")
            case ast.Compare() | ast.UnaryOp(op=ast.Not()):
                return "bool"
            case ast.UnaryOp(operand=operand):
                return self.value_type(operand)
            case ast.BoolOp(values=values):
                types = {self.value_type(value) for value in values}
                return types.pop() if len(types) == 1 else ""
            case ast.BinOp(left=left, op=op, right=right):
                types = {self.value_type(left), self.value_type(right)}
                return "float" if isinstance(op, ast.Div) or "float" in types else "int" if types == {"int"} else ""
            case ast.IfExp(body=one, orelse=other):
                types = {self.value_type(one), self.value_type(other)}
                return types.pop() if len(types) == 1 else "float" if types == {"int", "float"} else ""
            case ast.Name(id=name) if name in self.local_types and name not in self.parameter_kinds:
                types = self.local_types[name]
                return next(iter(types)) if len(types) == 1 else ""
            case ast.Call(func=function):
                return self._call_type(resolve_global(self.function, function))
        dtype = self.dtype(node)
        return "" if dtype is None or dtype.shape else {"f": "float", "i": "int", "u": "int"}.get(dtype.kind, "")

    def _call_type(self, value: Any) -> str:
        if value is float or value is f4 or (isinstance(value, FieldType) and value.code[0] == "f"):
            return "float"
        return "bool" if value is bool else "int" if value in (int, len) or isinstance(value, FieldType) else ""

    def dtype(self, node: ast.AST) -> np.dtype[Any] | None:
        """Return the type of a field of State or Params that an expression names, or of an element of it."""
        match node:
            case ast.Name(id=name):
                record = {"state": self.world.State, "params": self.world.Params}.get(
                    self.parameter_kinds.get(name, "")
                )
                return None if record is None else record.dtype
            case ast.Attribute(value=owner, attr=name):
                dtype = self.dtype(owner)
                return dtype[name] if dtype is not None and name in (dtype.names or ()) else None
            case ast.Subscript(value=owner, slice=index):
                dtype = self.dtype(owner)
                indices = index.elts if isinstance(index, ast.Tuple) else [index]
                slices = any(isinstance(i, ast.Slice) for i in indices)
                return None if dtype is None or slices or len(indices) != len(dtype.shape) else dtype.base
        return None

    def is_array(self, node: ast.expr) -> bool:
        """Return whether an expression is an array and not one of its elements."""
        if isinstance(node, ast.Name):
            return self.parameter_kinds.get(node.id) in _ARRAYS
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            return self.is_array(node.value)
        dtype = self.dtype(node)
        return dtype is not None and bool(dtype.shape)


def kernel_sources(world: World) -> Iterator[KernelSource]:
    """Yield the world's kernels and those that they call, each with what its parameters are."""
    has_box_actions, several = not isinstance(world.action, Discrete), len(world.agents) > 1
    action_kind = "actions" if has_box_actions or (several and not world.current_player_field) else "action"
    agent, script = ["agent"] * several, ["actions"] * has_box_actions
    kinds_by_kernel = {
        "reset": ["state", "params"],
        "step": ["state", action_kind, "params", *["rewards"] * several],
        "observe": ["state", *agent, "params", "out"],
        "action_mask": ["state", *agent, "params", "mask"],
        "rotate_seats": ["state", "params"],
    }
    kinds_by_kernel |= dict.fromkeys(("expert", "novice"), ["state", *agent, "params", *script])
    pending: list[tuple[Any, list[str], str, tuple[FunctionType, ...]]] = [
        (getattr(world, kernel_name), kinds, kernel_name, ())
        for kernel_name, kinds in kinds_by_kernel.items()
        if getattr(world, kernel_name) is not None
    ]
    visited = set()
    while pending:
        function, kinds, kernel_name, callers = pending.pop(0)
        definition = function_definition(function)
        if definition is None or function.__module__ in _LAB or (function, tuple(kinds)) in visited:
            continue
        visited.add((function, tuple(kinds)))
        names = parameter_names(definition)
        parameter_kinds = dict(zip(names, kinds, strict=False))
        if kernel_name in ("expert", "novice"):  # the kernel writes its `action`, so it is no action to read
            parameter_kinds = {name: "filled" if kind == "actions" else kind for name, kind in parameter_kinds.items()}
        kernel = KernelSource(world, function, definition, parameter_kinds, kernel_name, (*callers, function))
        yield kernel
        for node in body_nodes(definition):
            called = resolve_global(function, node.func) if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and is_kernel(called) and called not in kernel.callers:
                argument_kinds = [parameter_kinds.get(a.id, "") if isinstance(a, ast.Name) else "" for a in node.args]
                pending.append((called, argument_kinds, "", kernel.callers))
