"""What the source of a world's kernels says: which parameter is what, and of which kind the expressions are."""

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
from rl_lab.engine.kernel_syntax import assigned, body, parameters, resolved, source

if TYPE_CHECKING:
    from rl_lab.core.world import World

_LAB = ("rl_lab.core.rng", "rl_lab.core.trig")
_ARRAYS = ("actions", "out", "mask", "rewards")  # kinds of parameters


@dataclass(frozen=True)
class KernelSource:
    """A kernel's source, with what its parameters are: state, params, action, actions, out, mask, rewards or agent.

    `role` is what World calls the kernel, "" for kernels that others call; `callers` are these, the
    outermost first, and the kernel itself.
    """

    world: World
    function: FunctionType
    definition: ast.FunctionDef
    parameter_kinds: dict[str, str]
    role: str = ""
    callers: tuple[FunctionType, ...] = ()
    local_kinds: dict[str, set[str]] = field(default_factory=dict)  # kinds of what is assigned to local variables

    def __post_init__(self) -> None:
        for node in body(self.definition):
            for target, value in assigned(node):
                if isinstance(target, ast.Name):
                    divided = isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div)
                    kind = "float" if divided else "" if value is None else self.kind(value)
                    self.local_kinds.setdefault(target.id, set()).add(kind)

    def kind(self, node: ast.AST) -> str:
        """Return bool, int, float, none, text or "" for what an expression is, "" where that is not plain to see."""
        match node:
            case ast.Constant(value=value):
                names = {bool: "bool", int: "int", float: "float", type(None): "none", str: "text"}
                return names.get(type(value), "")
            case ast.Compare() | ast.UnaryOp(op=ast.Not()):
                return "bool"
            case ast.UnaryOp(operand=operand):
                return self.kind(operand)
            case ast.BoolOp(values=values):
                kinds = {self.kind(value) for value in values}
                return kinds.pop() if len(kinds) == 1 else ""
            case ast.BinOp(left=left, op=op, right=right):
                kinds = {self.kind(left), self.kind(right)}
                return "float" if isinstance(op, ast.Div) or "float" in kinds else "int" if kinds == {"int"} else ""
            case ast.IfExp(body=one, orelse=other):
                kinds = {self.kind(one), self.kind(other)}
                return kinds.pop() if len(kinds) == 1 else "float" if kinds == {"int", "float"} else ""
            case ast.Name(id=name) if name in self.local_kinds and name not in self.parameter_kinds:
                kinds = self.local_kinds[name]
                return next(iter(kinds)) if len(kinds) == 1 else ""
            case ast.Call(func=function):
                return self._kind_of_call(resolved(self.function, function))
        dtype = self.dtype(node)
        return "" if dtype is None or dtype.shape else {"f": "float", "i": "int", "u": "int"}.get(dtype.kind, "")

    def _kind_of_call(self, value: Any) -> str:
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
    box, several = not isinstance(world.action, Discrete), len(world.agents) > 1
    one = "actions" if box or (several and not world.current_player_field) else "action"
    agent, script = ["agent"] * several, ["actions"] * box
    roles = {
        "reset": ["state", "params"],
        "step": ["state", one, "params", *["rewards"] * several],
        "observe": ["state", *agent, "params", "out"],
        "action_mask": ["state", *agent, "params", "mask"],
        "rotate_seats": ["state", "params"],
    }
    roles |= dict.fromkeys(("expert", "novice"), ["state", *agent, "params", *script])
    waiting: list[tuple[Any, list[str], str, tuple[FunctionType, ...]]] = [
        (getattr(world, role), kinds, role, ()) for role, kinds in roles.items() if getattr(world, role) is not None
    ]
    seen = set()
    while waiting:
        function, kinds, role, callers = waiting.pop(0)
        definition = source(function)
        if definition is None or function.__module__ in _LAB or (function, tuple(kinds)) in seen:
            continue
        seen.add((function, tuple(kinds)))
        names = parameters(definition)
        parameter_kinds = dict(zip(names, kinds, strict=False))
        if role in ("expert", "novice"):  # these fill it
            parameter_kinds = {name: "filled" if kind == "actions" else kind for name, kind in parameter_kinds.items()}
        kernel = KernelSource(world, function, definition, parameter_kinds, role, (*callers, function))
        yield kernel
        for node in body(definition):
            called = resolved(function, node.func) if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and is_kernel(called) and called not in kernel.callers:
                argument_kinds = [parameter_kinds.get(a.id, "") if isinstance(a, ast.Name) else "" for a in node.args]
                waiting.append((called, argument_kinds, "", kernel.callers))
