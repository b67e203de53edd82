"""This module reads the syntax trees of kernels: where they are, and what their names, statements and targets are.

`kernel_syntax`, `kernel_rules`, `kernel_source` and `vectorization` use it. It keeps the trees that it has parsed.
"""

from __future__ import annotations

import ast
import builtins
import linecache
from collections.abc import Iterator
from functools import cache
from types import FunctionType, ModuleType
from typing import Any


@cache
def _parse_functions(filename: str, text: str) -> dict[int, ast.FunctionDef]:
    """Return the functions of a file by the line at which their code objects begin, that of the first decorator."""
    try:
        tree = ast.parse(text, filename)
    except SyntaxError:
        return {}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {min([node.lineno, *(d.lineno for d in node.decorator_list)]): node for node in functions}


def function_definition(function: FunctionType) -> ast.FunctionDef | None:
    """Return the syntax tree of a function's definition, or None where its file is not there."""
    code = function.__code__
    result = _parse_functions(code.co_filename, "".join(linecache.getlines(code.co_filename))).get(code.co_firstlineno)
    return result if result is not None and result.name == function.__name__ else None


def root_variable(node: ast.AST) -> str:
    """Return the variable that an expression like `s.x[0].y` begins with, or ""."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """Yield (target, value) for each variable, field or element that a statement assigns, one for each of a tuple.

    `value` is None where no single expression gives it (for loops, unpacking); of `x += y` it is y.
    """
    pairs: list[tuple[Any, Any]] = []
    if isinstance(node, ast.Assign):
        pairs = [(target, node.value) for target in node.targets]
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
        pairs = [(node.target, node.value)]
    elif isinstance(node, ast.For):
        pairs = [(node.target, None)]
    while pairs:
        target, value = pairs.pop()
        if isinstance(target, ast.Tuple | ast.List):
            same = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
            pairs += zip(target.elts, value.elts if same else [None] * len(target.elts), strict=True)
        else:
            yield target, value


def resolve_global(function: FunctionType, node: ast.AST) -> Any:
    """Return what a dotted name of a kernel's globals means, or None."""
    if isinstance(node, ast.Name):
        return function.__globals__.get(node.id, getattr(builtins, node.id, None))
    if isinstance(node, ast.Attribute):
        owner = resolve_global(function, node.value)
        return getattr(owner, node.attr, None) if isinstance(owner, ModuleType) else None
    return None


@cache
def body_nodes(definition: ast.FunctionDef) -> tuple[ast.AST, ...]:
    """Return every node of a function's body, but for its docstring and annotations."""
    skipped, result = 0, []
    if definition.body and isinstance(definition.body[0], ast.Expr):
        skipped = isinstance(definition.body[0].value, ast.Constant)
    pending: list[ast.AST] = list(definition.body[skipped:])
    while pending:
        node = pending.pop()
        result.append(node)
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.JoinedStr):
            pending += [
                child
                for name, value in ast.iter_fields(node)
                if name != "annotation"
                for child in (value if isinstance(value, list) else [value])
                if isinstance(child, ast.AST)
            ]
    return tuple(result)


def parameter_names(definition: ast.FunctionDef) -> list[str]:
    """Return the names of a function's parameters, in order."""
    arguments = definition.args
    more = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *more)]
