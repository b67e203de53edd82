"""The rules for a world's kernels that their source shows: what they receive, write and return.

`violations` is what `rl-lab check` reports, and what the first start of a world's new version refuses: one line a
mistake, with file, line and what to write instead. It costs milliseconds and compiles nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gymnasium.spaces import Discrete

from rl_lab.core.errors import nearest, one_line
from rl_lab.core.kernel import is_kernel
from rl_lab.engine.kernel_source import KernelSource, kernel_sources
from rl_lab.engine.kernel_syntax import assigned, body, resolved, root, wrong_syntax

if TYPE_CHECKING:
    from rl_lab.core.world import World

_ENGINE_FIELDS = {"t": "the engine counts steps in State.t", "rng_key": "the random stream is rl_lab.core.rng's"}
_ENGINE_FIELDS["rng_counter"] = _ENGINE_FIELDS["rng_key"]
_HOW_TO_WRITE = {"out": "out[0] = ...", "mask": "mask[k] = 1", "rewards": "rewards[a] = ..."}


@dataclass(frozen=True, order=True)
class Violation:
    """One mistake: where it is, in which kernel, and what to write instead."""

    file: str
    line: int
    kernel: str
    message: str

    def __str__(self) -> str:
        return one_line(
            f"{self.file}:{self.line} {self.kernel}: {self.message}; what kernels may do is in CONTRIBUTING.md"
        )


def violations(world: World) -> list[Violation]:
    """Return the mistakes in the source of a world's kernels, in order, at most one a line."""
    by_line: dict[tuple[str, int], Violation] = {}
    for kernel in kernel_sources(world):
        for line, message in _mistakes(kernel):
            file = kernel.function.__code__.co_filename
            by_line.setdefault((file, line), Violation(file, line, kernel.function.__name__, message))
    return sorted(by_line.values())


def _mistakes(kernel: KernelSource) -> Iterator[tuple[int, str]]:
    """Yield the line of each mistake, and what to write instead."""
    if kernel.role:
        yield from _check_parameters(kernel)
        yield from _check_returns(kernel)
    for node in body(kernel.definition):
        for target, value in assigned(node):
            yield from _check_write(kernel, node, target, value)
        yield from _check_read(kernel, node)
    yield from wrong_syntax(kernel.function, kernel.definition)


def _check_parameters(kernel: KernelSource) -> Iterator[tuple[int, str]]:
    """Compare the order of the parameters with World's, where annotations or usual names show another."""
    names = list(kernel.parameter_kinds)
    wanted = list(kernel.parameter_kinds.values())
    usual = {"s": "state", "state": "state", "p": "params", "params": "params", "action": "action"}
    usual |= {"actions": "actions", "out": "out", "mask": "mask", "rewards": "rewards", "agent": "agent"}
    classes = {kernel.world.State: "state", kernel.world.Params: "params"}
    for name, kind in kernel.parameter_kinds.items():
        annotation = kernel.function.__annotations__.get(name)
        annotation = kernel.function.__globals__.get(annotation) if isinstance(annotation, str) else annotation
        expected = classes.get(annotation) if isinstance(annotation, type) else usual.get(name, "")
        expected = "actions" if expected == "action" and kind == "actions" else expected
        if name == "self" or (expected and expected != kind and expected in wanted):
            order = ", ".join({"state": "s", "params": "p", "actions": "action"}.get(k, k) for k in wanted)
            yield kernel.definition.lineno, f"({', '.join(names)}): its parameters are ({order}), in this order"
            return


def _check_returns(kernel: KernelSource) -> Iterator[tuple[int, str]]:
    single_agent = len(kernel.world.agents) == 1
    for node in body(kernel.definition):
        if isinstance(node, ast.Return):
            value = node.value
            empty = value is None or (isinstance(value, ast.Constant) and value.value is None)
            if kernel.role == "step":
                message = (
                    _wrong_reward_and_terminated(kernel, value) if single_agent else _wrong_terminated(kernel, value)
                )
            elif kernel.role in ("expert", "novice") and isinstance(kernel.world.action, Discrete):
                several = isinstance(value, ast.Tuple | ast.List)
                message = "returns the number of one action: return int(...)" if empty or several else ""
            else:
                message = "" if empty else _RETURNS_NOTHING[kernel.role]
            if message:
                yield node.lineno, message
    needed = kernel.role == "step" or (kernel.role != "reset" and isinstance(kernel.world.action, Discrete))
    if needed and kernel.role in ("step", "expert", "novice") and not _always_returns(kernel.definition.body):
        pair = "return reward, terminated" if single_agent else "return terminated"
        wanted = pair if kernel.role == "step" else "return action"
        yield kernel.definition.body[-1].lineno, f"ends without a return on some way through: end with `{wanted}`"


def _wrong_reward_and_terminated(kernel: KernelSource, value: ast.expr | None) -> str:
    pair = "step returns (reward, terminated): "
    if value is None or isinstance(value, ast.Constant | ast.Dict | ast.List | ast.Compare | ast.JoinedStr):
        return f"{pair}write `return reward, terminated`"
    if not isinstance(value, ast.Tuple):
        return ""  # another kernel's result, say: playing shows it
    kinds = [kernel.kind(part) for part in value.elts]
    if len(kinds) != 2:
        there = "observations are written by observe, horizon truncates, and what is measured is a Log"
        return f"{pair}{len(kinds)} values are returned; {there}"
    if kinds[0] == "bool" and kinds[1] in ("float", "int"):
        return f"{pair}here terminated comes first: write `return reward, terminated`"
    if kinds[1] in ("float", "text", "none"):
        return f"{pair}terminated is True or False, not {ast.unparse(value.elts[1])}"
    reward, ended = value.elts
    several = [part for part in (reward, ended) if isinstance(part, ast.Tuple) or kernel.is_array(part)]
    if kinds[0] in ("text", "none") or reward in several:
        return f"{pair}reward is a number, not {ast.unparse(reward)}{', which is several' if several else ''}"
    if several:
        return f"{pair}terminated is True or False, not {ast.unparse(ended)}, which is several"
    return ""


def _wrong_terminated(kernel: KernelSource, value: ast.expr | None) -> str:
    end = "step of several agents returns terminated alone"
    if isinstance(value, ast.Tuple | ast.List | ast.Dict) or value is None:
        return f"{end}: rewards are written, rewards[a] = ..., and horizon truncates"
    if kernel.kind(value) in ("float", "text", "none"):
        return f"{end}, True or False, not {ast.unparse(value)}"
    return ""


def _check_write(
    kernel: KernelSource, node: ast.AST, target: ast.expr, value: ast.expr | None
) -> Iterator[tuple[int, str]]:
    name, line = root(target), target.lineno
    kind = kernel.parameter_kinds.get(name, "")
    if isinstance(target, ast.Name):
        if kind in ("state", "params", *_HOW_TO_WRITE):
            write = _HOW_TO_WRITE.get(kind, f"{name}.field = ...")
            yield line, f"gives {name} another meaning and writes nothing: write `{write}`"
    elif kind == "params":
        yield line, f"writes {ast.unparse(target)}: Params are the user's and stay as they are; keep it in State"
    elif kind in ("action", "actions"):
        yield line, f"writes {ast.unparse(target)}: actions are the agent's; copy the number to a variable first"
    elif kind == "state":
        yield from _check_state_write(kernel, node, target, value)


def _check_state_write(
    kernel: KernelSource, node: ast.AST, target: ast.expr, value: ast.expr | None
) -> Iterator[tuple[int, str]]:
    line, dtype, shown = target.lineno, kernel.dtype(target), ast.unparse(target)
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.attr in _ENGINE_FIELDS:
        yield line, f"writes {shown}: {_ENGINE_FIELDS[target.attr]}; leave it alone"
    if dtype is None:
        return
    if dtype.shape and isinstance(value, ast.Constant | ast.Tuple | ast.BinOp | ast.UnaryOp):
        yield line, f"{shown} is an array {list(dtype.shape)}: write its elements, {shown}[0] = ..."
    kind = "none" if value is None else kernel.kind(value)
    divided = isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div)
    if dtype.kind in "iu" and not dtype.shape and (kind == "float" or divided):
        code = f"{dtype.kind}{dtype.itemsize}"
        yield line, f"{shown} is {code}, so a fraction is lost: declare the field f4, or write int(...)"
    if kind in ("none", "text") and value is not None:
        yield line, f"{shown} holds a number, not {ast.unparse(value)}: -1, say, for what is not there"


def _check_read(kernel: KernelSource, node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Attribute):
        dtype = kernel.dtype(node.value)
        if dtype is not None and dtype.names is not None and node.attr not in dtype.names:
            shown = ast.unparse(node)
            yield node.lineno, f"{shown}: no field {node.attr!r}; {nearest(node.attr, dtype.names)}"
    elif isinstance(node, ast.Subscript):
        yield from _check_index(kernel, node)
    elif isinstance(node, ast.Call):
        if (called := resolved(kernel.function, node.func)) in kernel.callers and is_kernel(called):
            through = "" if called is kernel.function else f", through {kernel.function.__name__}"
            yield (
                node.lineno,
                f"{called.__name__} calls itself{through}: write a loop, which cannot overflow the stack",
            )
    elif isinstance(node, ast.BinOp | ast.Compare):
        operands = [node.left, *([node.right] if isinstance(node, ast.BinOp) else node.comparators)]
        for operand in operands:
            if kernel.is_array(operand):
                shown = ast.unparse(operand)
                yield (
                    node.lineno,
                    f"{shown} is an array: use its elements, one by one; a new one would be allocated",
                )


def _check_index(kernel: KernelSource, node: ast.Subscript) -> Iterator[tuple[int, str]]:
    kind = kernel.parameter_kinds.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""
    if kind in ("action", "agent") and isinstance(node.value, ast.Name):
        yield node.lineno, f"{node.value.id} is one int: write {node.value.id} instead of {ast.unparse(node)}"
    shape = kernel.world.observation.shape if kind == "out" else (kernel.world.mask_size,) if kind == "mask" else None
    dtype = kernel.dtype(node.value)
    if dtype is not None and dtype.names is None:
        shape = dtype.shape
        if not shape:
            yield node.lineno, f"{ast.unparse(node.value)} is one number: declare the field with a shape, f4[3]"
            return
    indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for index in indices:
        if kernel.kind(index) == "float":
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


_RETURNS_NOTHING = {
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
