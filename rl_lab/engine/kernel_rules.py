"""What a world's kernels must keep to, found in their source: what they receive, write and return.

`violations` is what `rl-lab check` reports, and what the first start of a world's new version refuses: one line a
mistake, with file, line and what to write instead. It costs milliseconds and compiles nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.core.errors import nearest, one_line
from rl_lab.core.kernel import is_kernel
from rl_lab.core.record import _FieldType, f4
from rl_lab.engine.kernel_syntax import assigned, body, parameters, resolved, root, source, wrong_syntax

if TYPE_CHECKING:
    from rl_lab.core.world import World

_LAB = ("rl_lab.core.rng", "rl_lab.core.trig")
_ENGINES = {"t": "the engine counts steps in State.t", "rng_key": "the random stream is rl_lab.core.rng's"}
_ENGINES["rng_counter"] = _ENGINES["rng_key"]
_ARRAYS = ("actions", "out", "mask", "rewards")
_PLAINLY = {"out": "out[0] = ...", "mask": "mask[k] = 1", "rewards": "rewards[a] = ..."}


@dataclass(frozen=True, order=True)
class Violation:
    """One mistake: where it is, in which kernel, and what to write instead."""

    file: str
    line: int
    kernel: str
    said: str

    def __str__(self) -> str:
        return one_line(
            f"{self.file}:{self.line} {self.kernel}: {self.said}; what kernels may do is in CONTRIBUTING.md"
        )


def violations(world: World) -> list[Violation]:
    """Return the mistakes in the source of a world's kernels, in order, at most one a line."""
    found: dict[tuple[str, int], Violation] = {}
    for look in _looks(world):
        for line, said in look.mistakes():
            file = look.function.__code__.co_filename
            found.setdefault((file, line), Violation(file, line, look.function.__name__, said))
    return sorted(found.values())


@dataclass(frozen=True)
class _Look:
    """A kernel with what its parameters are: state, params, action, actions, out, mask, rewards or agent.

    `role` is what World calls it, "" for kernels that others call.
    """

    world: World
    function: FunctionType
    source: ast.FunctionDef
    kinds: dict[str, str]
    role: str = ""
    calling: tuple[FunctionType, ...] = ()
    values: dict[str, set[str]] = field(default_factory=dict)  # kinds of what is assigned to local variables

    def mistakes(self) -> Iterator[tuple[int, str]]:
        for node in body(self.source):
            for target, value in assigned(node):
                if isinstance(target, ast.Name):
                    divided = isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div)
                    kind = "float" if divided else "" if value is None else self.kind(value)
                    self.values.setdefault(target.id, set()).add(kind)
        if self.role:
            yield from self._parameters()
            yield from self._returns()
        for node in body(self.source):
            for target, value in assigned(node):
                yield from self._write(node, target, value)
            yield from self._read(node)
        yield from wrong_syntax(self.function, self.source)

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
            case ast.Name(id=name) if name in self.values and name not in self.kinds:
                kinds = self.values[name]
                return next(iter(kinds)) if len(kinds) == 1 else ""
            case ast.Call(func=function):
                return self._kind_of_call(resolved(self.function, function))
        dtype = self._dtype(node)
        return "" if dtype is None or dtype.shape else {"f": "float", "i": "int", "u": "int"}.get(dtype.kind, "")

    def _kind_of_call(self, value: Any) -> str:
        if value is float or value is f4 or (isinstance(value, _FieldType) and value.code[0] == "f"):
            return "float"
        return "bool" if value is bool else "int" if value in (int, len) or isinstance(value, _FieldType) else ""

    def _dtype(self, node: ast.AST) -> np.dtype[Any] | None:
        """Return the type of a field of State or Params that an expression names, or of an element of it."""
        match node:
            case ast.Name(id=name):
                record = {"state": self.world.State, "params": self.world.Params}.get(self.kinds.get(name, ""))
                return None if record is None else record.dtype
            case ast.Attribute(value=owner, attr=name):
                dtype = self._dtype(owner)
                return dtype[name] if dtype is not None and name in (dtype.names or ()) else None
            case ast.Subscript(value=owner, slice=index):
                dtype = self._dtype(owner)
                indices = index.elts if isinstance(index, ast.Tuple) else [index]
                slices = any(isinstance(i, ast.Slice) for i in indices)
                return None if dtype is None or slices or len(indices) != len(dtype.shape) else dtype.base
        return None

    def _parameters(self) -> Iterator[tuple[int, str]]:
        """Compare the order of the parameters with World's, where annotations or usual names show another."""
        names = list(self.kinds)
        wanted = [kind for kind in self.kinds.values()]
        usual = {"s": "state", "state": "state", "p": "params", "params": "params", "action": "action"}
        usual |= {"actions": "actions", "out": "out", "mask": "mask", "rewards": "rewards", "agent": "agent"}
        classes = {self.world.State: "state", self.world.Params: "params"}
        for name, kind in self.kinds.items():
            said = self.function.__annotations__.get(name)
            said = self.function.__globals__.get(said) if isinstance(said, str) else said
            shown = classes.get(said) if isinstance(said, type) else usual.get(name, "")
            shown = "actions" if shown == "action" and kind == "actions" else shown
            if name == "self" or (shown and shown != kind and shown in wanted):
                order = ", ".join({"state": "s", "params": "p", "actions": "action"}.get(k, k) for k in wanted)
                yield self.source.lineno, f"({', '.join(names)}): its parameters are ({order}), in this order"
                return

    def _returns(self) -> Iterator[tuple[int, str]]:
        solo = len(self.world.agents) == 1
        for node in body(self.source):
            if isinstance(node, ast.Return):
                value = node.value
                empty = value is None or (isinstance(value, ast.Constant) and value.value is None)
                if self.role == "step":
                    said = (self._wrong_pair if solo else self._wrong_end)(value)
                elif self.role in ("expert", "novice") and isinstance(self.world.action, Discrete):
                    several = isinstance(value, ast.Tuple | ast.List)
                    said = "returns the number of one action: return int(...)" if empty or several else ""
                else:
                    said = "" if empty else _NOTHING[self.role]
                if said:
                    yield node.lineno, said
        needed = self.role == "step" or (self.role != "reset" and isinstance(self.world.action, Discrete))
        if needed and self.role in ("step", "expert", "novice") and not _always_returns(self.source.body):
            pair = "return reward, terminated" if solo else "return terminated"
            wanted = pair if self.role == "step" else "return action"
            yield self.source.body[-1].lineno, f"ends without a return on some way through: end with `{wanted}`"

    def _wrong_pair(self, value: ast.expr | None) -> str:
        pair = "step returns (reward, terminated): "
        if value is None or isinstance(value, ast.Constant | ast.Dict | ast.List | ast.Compare | ast.JoinedStr):
            return f"{pair}write `return reward, terminated`"
        if not isinstance(value, ast.Tuple):
            return ""  # another kernel's result, say: playing shows it
        kinds = [self.kind(part) for part in value.elts]
        if len(kinds) != 2:
            there = "observations are written by observe, horizon truncates, and what is measured is a Log"
            return f"{pair}{len(kinds)} values are returned; {there}"
        if kinds[0] == "bool" and kinds[1] in ("float", "int"):
            return f"{pair}here terminated comes first: write `return reward, terminated`"
        if kinds[1] in ("float", "text", "none"):
            return f"{pair}terminated is True or False, not {ast.unparse(value.elts[1])}"
        reward, ended = value.elts
        several = [part for part in (reward, ended) if isinstance(part, ast.Tuple) or self._is_array(part)]
        if kinds[0] in ("text", "none") or reward in several:
            return f"{pair}reward is a number, not {ast.unparse(reward)}{', which is several' if several else ''}"
        if several:
            return f"{pair}terminated is True or False, not {ast.unparse(ended)}, which is several"
        return ""

    def _wrong_end(self, value: ast.expr | None) -> str:
        end = "step of several agents returns terminated alone"
        if isinstance(value, ast.Tuple | ast.List | ast.Dict) or value is None:
            return f"{end}: rewards are written, rewards[a] = ..., and horizon truncates"
        if self.kind(value) in ("float", "text", "none"):
            return f"{end}, True or False, not {ast.unparse(value)}"
        return ""

    def _write(self, node: ast.AST, target: ast.expr, value: ast.expr | None) -> Iterator[tuple[int, str]]:
        name, line = root(target), target.lineno
        kind = self.kinds.get(name, "")
        if isinstance(target, ast.Name):
            if kind in ("state", "params", *_PLAINLY):
                write = _PLAINLY.get(kind, f"{name}.field = ...")
                yield line, f"gives {name} another meaning and writes nothing: write `{write}`"
        elif kind == "params":
            yield line, f"writes {ast.unparse(target)}: Params are the user's and stay as they are; keep it in State"
        elif kind in ("action", "actions"):
            yield line, f"writes {ast.unparse(target)}: actions are the agent's; copy the number to a variable first"
        elif kind == "state":
            yield from self._write_state(node, target, value)

    def _write_state(self, node: ast.AST, target: ast.expr, value: ast.expr | None) -> Iterator[tuple[int, str]]:
        line, dtype, shown = target.lineno, self._dtype(target), ast.unparse(target)
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.attr in _ENGINES:
            yield line, f"writes {shown}: {_ENGINES[target.attr]}; leave it alone"
        if dtype is None:
            return
        if dtype.shape and isinstance(value, ast.Constant | ast.Tuple | ast.BinOp | ast.UnaryOp):
            yield line, f"{shown} is an array {list(dtype.shape)}: write its elements, {shown}[0] = ..."
        kind = "none" if value is None else self.kind(value)
        divided = isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div)
        if dtype.kind in "iu" and not dtype.shape and (kind == "float" or divided):
            code = f"{dtype.kind}{dtype.itemsize}"
            yield line, f"{shown} is {code}, so a fraction is lost: declare the field f4, or write int(...)"
        if kind in ("none", "text") and value is not None:
            yield line, f"{shown} holds a number, not {ast.unparse(value)}: -1, say, for what is not there"

    def _read(self, node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Attribute):
            dtype = self._dtype(node.value)
            if dtype is not None and dtype.names is not None and node.attr not in dtype.names:
                shown = ast.unparse(node)
                yield node.lineno, f"{shown}: no field {node.attr!r}; {nearest(node.attr, dtype.names)}"
        elif isinstance(node, ast.Subscript):
            yield from self._index(node)
        elif isinstance(node, ast.Call):
            if (called := resolved(self.function, node.func)) in self.calling and is_kernel(called):
                through = "" if called is self.function else f", through {self.function.__name__}"
                yield (
                    node.lineno,
                    f"{called.__name__} calls itself{through}: write a loop, which cannot overflow the stack",
                )
        elif isinstance(node, ast.BinOp | ast.Compare):
            operands = [node.left, *([node.right] if isinstance(node, ast.BinOp) else node.comparators)]
            for operand in operands:
                if self._is_array(operand):
                    shown = ast.unparse(operand)
                    yield (
                        node.lineno,
                        f"{shown} is an array: use its elements, one by one; a new one would be allocated",
                    )

    def _is_array(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return self.kinds.get(node.id) in _ARRAYS
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            return self._is_array(node.value)
        dtype = self._dtype(node)
        return dtype is not None and bool(dtype.shape)

    def _index(self, node: ast.Subscript) -> Iterator[tuple[int, str]]:
        kind = self.kinds.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""
        if kind in ("action", "agent") and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id} is one int: write {node.value.id} instead of {ast.unparse(node)}"
        shape = self.world.observation.shape if kind == "out" else (self.world.mask_size,) if kind == "mask" else None
        dtype = self._dtype(node.value)
        if dtype is not None and dtype.names is None:
            shape = dtype.shape
            if not shape:
                yield node.lineno, f"{ast.unparse(node.value)} is one number: declare the field with a shape, f4[3]"
                return
        indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for index in indices:
            if self.kind(index) == "float":
                yield node.lineno, f"index {ast.unparse(index)} is a fraction: write int(...), or divide by //"
        if shape is None:
            return
        if len(indices) > len(shape):
            shown = ast.unparse(node.value)
            yield node.lineno, f"{shown} has shape {list(shape)}: {len(indices)} indices are too many"
            return
        for index, size in zip(indices, shape, strict=False):
            if isinstance(index, ast.Constant) and isinstance(index.value, int) and index.value >= size:
                shown = ast.unparse(node.value)
                yield node.lineno, f"index {index.value} is not in 0 to {size - 1}: {shown} has shape {list(shape)}"


_NOTHING = {
    "reset": "reset returns nothing: it fills s, and observe(s, p, out) writes what agents see",
    "observe": "observe returns nothing: it writes into out, out[0] = ...",
    "action_mask": "action_mask returns nothing: it writes mask[k] = 1 where action k may be taken",
    "rotate_seats": "rotate_seats returns nothing: it changes s",
    "expert": "the script of a Box returns nothing: it writes action[0] = ...",
    "novice": "the script of a Box returns nothing: it writes action[0] = ...",
}


def _always_returns(statements: list[ast.stmt]) -> bool:
    last = statements[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and _always_returns(last.body) and _always_returns(last.orelse)
    if isinstance(last, ast.While):
        return isinstance(last.test, ast.Constant)
    return isinstance(last, ast.Return | ast.Raise | ast.Try | ast.With | ast.Match)


def _looks(world: World) -> Iterator[_Look]:
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
        function, kinds, role, calling = waiting.pop(0)
        definition = source(function)
        if definition is None or function.__module__ in _LAB or (function, tuple(kinds)) in seen:
            continue
        seen.add((function, tuple(kinds)))
        names = parameters(definition)
        known = dict(zip(names, kinds, strict=False))
        if role in ("expert", "novice"):  # these fill it
            known = {name: "filled" if kind == "actions" else kind for name, kind in known.items()}
        look = _Look(world, function, definition, known, role, (*calling, function))
        yield look
        for node in body(definition):
            called = resolved(function, node.func) if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and is_kernel(called) and called not in look.calling:
                given = [known.get(a.id, "") if isinstance(a, ast.Name) else "" for a in node.args]
                waiting.append((called, given, "", look.calling))
