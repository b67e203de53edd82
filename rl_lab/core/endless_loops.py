"""This module limits the iterations of `while` loops in kernels: a loop that never ends raises an error with its line.

Compiled code cannot be interrupted, so an endless `while` loop would block its process for ever. The compiled copy of
a kernel counts the iterations of its `while` loops. The author's own function is not changed.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import CodeType, FunctionType
from typing import Any

COMPILED_LOOP_LIMIT = 10**8  # iterations of one loop, each time it is entered: about a second of compiled code
PLAIN_LOOP_LIMIT = 10**5  # the same limit in plain Python: about a second, too
_ERROR_NAME, _COUNTER_PREFIX = "LoopError__", "rounds__"


class LoopError(Exception):
    """A loop in a kernel does not end; the message names its file and line."""


def limit_loops(function: FunctionType, limit: int = COMPILED_LOOP_LIMIT) -> tuple[CodeType, dict[str, Any]]:
    """Return code whose `while` loops raise LoopError after `limit` iterations, and the globals that it needs.

    A function without such a loop, or whose source file is missing or has changed, keeps its own code.
    """
    try:
        source = textwrap.dedent(inspect.getsource(function))
        if "while" not in source:
            return function.__code__, {}
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return function.__code__, {}
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        return function.__code__, {}
    definition.decorator_list = []
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    recompiled = _function_code(tree, function)
    if recompiled is None or recompiled.co_code != function.__code__.co_code:  # the file has changed since the import
        return function.__code__, {}
    counter = _LoopCounter(function, limit)
    counter.visit(tree)
    limited_code = _function_code(ast.fix_missing_locations(tree), function)
    if not counter.loops or limited_code is None:
        return function.__code__, {}
    return limited_code, {_ERROR_NAME: LoopError}


def _function_code(tree: ast.Module, function: FunctionType) -> CodeType | None:
    """Return the code of a module's function of the same name and flags."""
    flags = function.__code__.co_flags & 0x1FF0000  # the flags of `from __future__ import ...`
    module = compile(tree, function.__code__.co_filename, "exec", flags=flags, dont_inherit=True)
    codes = (each for each in module.co_consts if isinstance(each, CodeType) and each.co_name == function.__name__)
    return next(codes, None)


class _LoopCounter(ast.NodeTransformer):
    """A transformer that adds an iteration counter to each `while` loop."""

    def __init__(self, function: FunctionType, limit: int) -> None:
        self.function, self.limit, self.loops = function, limit, 0

    def visit_While(self, loop: ast.While) -> Any:
        self.generic_visit(loop)
        if _clears_bits(loop):
            return loop
        self.loops += 1
        name, line = f"{_COUNTER_PREFIX}{self.loops}", loop.lineno
        location = f"{self.function.__code__.co_filename}:{line} {self.function.__name__}"
        message = f"{location}: this loop has run {self.limit:,} iterations and does not end"
        source = f"{name} += 1\nif {name} > {self.limit}:\n    raise {_ERROR_NAME}({message!r})"
        initialization = ast.parse(f"{name} = 0").body
        check = ast.parse(source).body
        for statement in (*initialization, *check):
            for node in ast.walk(statement):
                if isinstance(node, ast.stmt | ast.expr):
                    node.lineno = node.end_lineno = line
        loop.body = [*check, *loop.body]
        return [*initialization, loop]


def _clears_bits(loop: ast.While) -> bool:
    """Return True for `while x: x &= x - 1; ...`: it ends after 64 iterations, and LLVM recognizes the idiom."""
    if not isinstance(loop.test, ast.Name):
        return False
    name = loop.test.id
    return any(ast.unparse(statement) == f"{name} &= {name} - 1" for statement in loop.body)
