"""This module checks the rules for a world's kernels that their source shows: what they receive, write and return.

`violations` is what `rl-lab check` reports, and what the first start of a new version of a world refuses: one line for
each mistake, with file, line and what to write instead. It takes milliseconds, compiles nothing and writes nothing.
Each `_check` function yields (line, message); each `_wrong` function returns a message, or "" if there is no mistake.
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
from rl_lab.engine.kernel_syntax import syntax_violations
from rl_lab.engine.syntax_tree import assignments, body_nodes, resolve_global, root_variable

if TYPE_CHECKING:
    from rl_lab.core.world import World

_ENGINE_FIELDS = {"t": "the engine counts steps in State.t", "rng_key": "the random stream is rl_lab.core.rng's"}
_ENGINE_FIELDS["rng_counter"] = _ENGINE_FIELDS["rng_key"]
_MUST_RETURN_NOTHING = {
    "reset": "reset returns nothing: it fills s, and observe(s, p, out) writes what agents see",
    "observe": "observe returns nothing: it writes into out, out[0] = ...",
    "action_mask": "action_mask returns nothing: it writes mask[k] = 1 where action k may be taken",
    "rotate_seats": "rotate_seats returns nothing: it changes s",
    "expert": "the script of a Box returns nothing: it writes action[0] = ...",
    "novice": "the script of a Box returns nothing: it writes action[0] = ...",
}
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
    if kernel.kernel_name:
        yield from _check_parameters(kernel)
        yield from _check_returns(kernel)
    for node in body_nodes(kernel.definition):
        for target, value in assignments(node):
            yield from _check_write(kernel, node, target, value)
        yield from _check_read(kernel, node)
    yield from syntax_violations(kernel.function, kernel.definition)


def _check_parameters(kernel: KernelSource) -> Iterator[tuple[int, str]]:
    """Compare the order of the parameters with World's, where annotations or usual names show another order."""
    names = list(kernel.parameter_kinds)
    expected_order = list(kernel.parameter_kinds.values())
    usual_kinds = {"s": "state", "state": "state", "p": "params", "params": "params", "action": "action"}
    usual_kinds |= {"actions": "actions", "out": "out", "mask": "mask", "rewards": "rewards", "agent": "agent"}
    classes = {kernel.world.State: "state", kernel.world.Params: "params"}
    for name, kind in kernel.parameter_kinds.items():
        annotation = kernel.function.__annotations__.get(name)
        annotation = kernel.function.__globals__.get(annotation) if isinstance(annotation, str) else annotation
        expected = classes.get(annotation) if isinstance(annotation, type) else usual_kinds.get(name, "")
        expected = "actions" if expected == "action" and kind == "actions" else expected
        if name == "self" or (expected and expected != kind and expected in expected_order):
            order = ", ".join({"state": "s", "params": "p", "actions": "action"}.get(k, k) for k in expected_order)
            yield kernel.definition.lineno, f"({', '.join(names)}): its parameters are ({order}), in this order"
            return


def _check_returns(kernel: KernelSource) -> Iterator[tuple[int, str]]:
    """Check what the kernel returns, and that it does on every path."""
    single_agent = len(kernel.world.agents) == 1
    returns_action = kernel.kernel_name in ("expert", "novice") and isinstance(kernel.world.action, Discrete)
    for node in body_nodes(kernel.definition):
        if isinstance(node, ast.Return):
            value = node.value
            empty = value is None or (isinstance(value, ast.Constant) and value.value is None)
            if kernel.kernel_name == "step":
                message = (
                    _wrong_reward_and_terminated(kernel, value) if single_agent else _wrong_terminated(kernel, value)
                )
            elif returns_action:
                several = isinstance(value, ast.Tuple | ast.List)
                message = "returns the number of one action: return int(...)" if empty or several else ""
            else:
                message = "" if empty else _MUST_RETURN_NOTHING[kernel.kernel_name]
            if message:
                yield node.lineno, message
    must_return = kernel.kernel_name == "step" or returns_action
    if must_return and not _always_returns(kernel.definition.body):
        pair = "return reward, terminated" if single_agent else "return terminated"
        statement = pair if kernel.kernel_name == "step" else "return action"
        line = kernel.definition.body[-1].lineno
        yield line, f"ends without a return on some way through: end with `{statement}`"


def _wrong_reward_and_terminated(kernel: KernelSource, value: ast.expr | None) -> str:
    """Return what is wrong with the value that a single agent's step returns."""
    rule = "step returns (reward, terminated): "
    if value is None or isinstance(value, ast.Constant | ast.Dict | ast.List | ast.Compare | ast.JoinedStr):
        return f"{rule}write `return reward, terminated`"
    if not isinstance(value, ast.Tuple):
        return ""  # such as another kernel's result: a mistake appears when the world is played
    value_types = [kernel.value_type(part) for part in value.elts]
    if len(value_types) != 2:
        hint = "observations are written by observe, horizon truncates, and what is measured is a Log"
        return f"{rule}{len(value_types)} values are returned; {hint}"
    if value_types[0] == "bool" and value_types[1] in ("float", "int"):
        return f"{rule}here terminated comes first: write `return reward, terminated`"
    if value_types[1] in ("float", "text", "none"):
        return f"{rule}terminated is True or False, not {ast.unparse(value.elts[1])}"
    reward, ended = value.elts
    several = [part for part in (reward, ended) if isinstance(part, ast.Tuple) or kernel.is_array(part)]
    if value_types[0] in ("text", "none") or reward in several:
        return f"{rule}reward is a number, not {ast.unparse(reward)}{', which is several' if several else ''}"
    if several:
        return f"{rule}terminated is True or False, not {ast.unparse(ended)}, which is several"
    return ""


def _wrong_terminated(kernel: KernelSource, value: ast.expr | None) -> str:
    """Return what is wrong with the value that a step of several agents returns."""
    rule = "step of several agents returns terminated alone"
    if isinstance(value, ast.Tuple | ast.List | ast.Dict) or value is None:
        return f"{rule}: rewards are written, rewards[a] = ..., and horizon truncates"
    if kernel.value_type(value) in ("float", "text", "none"):
        return f"{rule}, True or False, not {ast.unparse(value)}"
    return ""


def _check_write(
    kernel: KernelSource, node: ast.AST, target: ast.expr, value: ast.expr | None
) -> Iterator[tuple[int, str]]:
    """Check an assignment to a parameter, or to a part of one."""
    name, line = root_variable(target), target.lineno
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
    """Check an assignment to a field of State: its type and shape, and that the field is not the engine's."""
    line, dtype, target_text = target.lineno, kernel.dtype(target), ast.unparse(target)
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.attr in _ENGINE_FIELDS:
        yield line, f"writes {target_text}: {_ENGINE_FIELDS[target.attr]}; leave it alone"
    if dtype is None:
        return
    if dtype.shape and isinstance(value, ast.Constant | ast.Tuple | ast.BinOp | ast.UnaryOp):
        yield line, f"{target_text} is an array {list(dtype.shape)}: write its elements, {target_text}[0] = ..."
    kind = "none" if value is None else kernel.value_type(value)
    divided = isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div)
    if dtype.kind in "iu" and not dtype.shape and (kind == "float" or divided):
        code = f"{dtype.kind}{dtype.itemsize}"
        yield line, f"{target_text} is {code}, so a fraction is lost: declare the field f4, or write int(...)"
    if kind in ("none", "text") and value is not None:
        yield line, f"{target_text} holds a number, not {ast.unparse(value)}: -1, say, for what is not there"


def _check_read(kernel: KernelSource, node: ast.AST) -> Iterator[tuple[int, str]]:
    """Check fields that do not exist, indices, kernels that call themselves, and arithmetic on whole arrays."""
    if isinstance(node, ast.Attribute):
        dtype = kernel.dtype(node.value)
        if dtype is not None and dtype.names is not None and node.attr not in dtype.names:
            target_text = ast.unparse(node)
            yield node.lineno, f"{target_text}: no field {node.attr!r}; {nearest(node.attr, dtype.names)}"
    elif isinstance(node, ast.Subscript):
        yield from _check_index(kernel, node)
    elif isinstance(node, ast.Call):
        if (called := resolve_global(kernel.function, node.func)) in kernel.callers and is_kernel(called):
            call_path = "" if called is kernel.function else f", through {kernel.function.__name__}"
            yield (
                node.lineno,
                f"{called.__name__} calls itself{call_path}: write a loop, which cannot overflow the stack",
            )
    elif isinstance(node, ast.BinOp | ast.Compare):
        operands = [node.left, *([node.right] if isinstance(node, ast.BinOp) else node.comparators)]
        for operand in operands:
            if kernel.is_array(operand):
                target_text = ast.unparse(operand)
                yield (
                    node.lineno,
                    f"{target_text} is an array: use its elements, one by one; a new one would be allocated",
                )


def _check_index(kernel: KernelSource, node: ast.Subscript) -> Iterator[tuple[int, str]]:
    """Check the type, the number and the range of the indices of an expression."""
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
        if kernel.value_type(index) == "float":
            yield node.lineno, f"index {ast.unparse(index)} is a fraction: write int(...), or divide by //"
    if shape is None:
        return
    if len(indices) > len(shape):
        target_text = ast.unparse(node.value)
        yield node.lineno, f"{target_text} has shape {list(shape)}: {len(indices)} indices are too many"
        return
    for index, size in zip(indices, shape, strict=False):
        if isinstance(index, ast.Constant) and isinstance(index.value, int) and index.value >= size:
            target_text = ast.unparse(node.value)
            yield node.lineno, f"index {index.value} is not in 0 to {size - 1}: {target_text} has shape {list(shape)}"


def _always_returns(statements: list[ast.stmt]) -> bool:
    """Return True if every path through these statements returns."""
    last = statements[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and _always_returns(last.body) and _always_returns(last.orelse)
    if isinstance(last, ast.While):  # one that goes on for ever can only be left by a return, or by a break
        return isinstance(last.test, ast.Constant) and bool(last.test.value) and not _has_break(last.body)
    return isinstance(last, ast.Return | ast.Raise | ast.Try | ast.With | ast.Match)


def _has_break(statements: list[ast.stmt]) -> bool:
    """Return True if one of the statements in a loop's body, nested ones included, is a `break` of this loop."""
    for statement in statements:
        nested = list(getattr(statement, "orelse", []))  # the `else` of a loop inside belongs to this loop
        if not isinstance(statement, ast.For | ast.While):
            nested += getattr(statement, "body", [])
        if isinstance(statement, ast.Break) or _has_break(nested):
            return True
    return False
