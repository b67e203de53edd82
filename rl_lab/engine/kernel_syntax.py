"""This module lists what the source of a kernel may not contain: statements, values and calls.

Kernels are scalar code: they do not allocate, raise, print, or hold state of their own. numba accepts some of that,
refuses some with messages that an author does not understand, and does something else than Python with the rest. So the
source is checked, and each message says what to write instead.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
from collections.abc import Iterator
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from rl_lab.core.errors import nearest
from rl_lab.core.kernel import is_kernel, source_location
from rl_lab.core.record import FieldType, Record, f4
from rl_lab.engine.syntax_tree import assignments, body_nodes, parameter_names, resolve_global, root_variable

_DRAW_FROM_RNG = (
    "draw from the world's own stream: integers(s, n), uniform(s, low, high) or normal(s) of rl_lab.core.rng"
)
_KEEP_IN_STATE = "what lasts longer than a call is a field of State"
_REFUSED_SYNTAX: dict[str, str] = {  # by the name of the class in `ast`; what to write instead
    "Assert": "assert: a kernel cannot raise; give the field bounded(...), which rl-lab check and saved states obey",
    "Raise": "raise: a kernel cannot raise; end the episode, or rule the action out by an action_mask or a space",
    "Try": "try: a kernel cannot catch errors; ask with `if` before",
    "TryStar": "try: a kernel cannot catch errors; ask with `if` before",
    "With": "with: a kernel opens nothing",
    "Import": "import in a kernel: import at the top of the file",
    "ImportFrom": "import in a kernel: import at the top of the file",
    "Global": f"global: {_KEEP_IN_STATE}",
    "Nonlocal": f"nonlocal: {_KEEP_IN_STATE}",
    "FunctionDef": "a function inside a kernel: write it at the top level, marked @kernel",
    "ClassDef": "a class inside a kernel: fields belong to State",
    "Lambda": "lambda: write a function at the top level, marked @kernel",
    "Delete": "del: a kernel has nothing to delete",
    "Yield": "yield: a kernel returns once",
    "YieldFrom": "yield: a kernel returns once",
    "Await": "await: a kernel runs in one go",
    "JoinedStr": "an f-string: kernels have no text; use numbers",
    "Dict": "a dict: allocated at each call; use numbers, a field of State, or f8 fields of a Log for what is measured",
    "Set": "a set: allocated at each call; compare with `==` and `or`, or keep u1 flags in State",
    "List": "a list: allocated at each call; use a tuple (1, 2), or an array field of State such as f4[8]",
    "ListComp": "a list comprehension: allocated at each call; write a for loop over numbers",
    "DictComp": "a dict comprehension: allocated at each call; write a for loop over numbers",
    "SetComp": "a set comprehension: allocated at each call; write a for loop over numbers",
    "GeneratorExp": "a generator: write a for loop over numbers",
    "Starred": "a starred expression: write its elements one by one",
    "Match": "match: write if and elif",
}
_REFUSED_BUILTINS = {
    "print": "print: a kernel runs millions of times a second; look at states with Batch(world, 1, plain=True)",
    "isinstance": "isinstance: every variable keeps one type; compare numbers",
    "sum": "sum(...): write a for loop that adds",
    "any": "any(...): write a for loop, or `or`",
    "all": "all(...): write a for loop, or `and`",
    "sorted": "sorted(...): allocates; keep what is sorted in a field of State and sort it by a loop",
    "list": _REFUSED_SYNTAX["List"],
    "dict": _REFUSED_SYNTAX["Dict"],
    "set": _REFUSED_SYNTAX["Set"],
    "str": "str: kernels have no text; use numbers",
    "super": "super: a kernel is a function and no method",
}
_ALLOWED_BUILTINS = frozenset(
    "abs bool divmod enumerate float int len max min pow range reversed round tuple zip".split()
)
_NUMPY_ADVICE = {
    "clip": "np.clip: write min(max(x, low), high)",
    "where": "np.where: write `a if condition else b`",
    "sum": "np.sum: write a for loop that adds",
    "prod": "np.prod: write a for loop that multiplies",
    "mean": "np.mean: write a for loop that adds, and divide",
    "argmax": "np.argmax: write a for loop that keeps the best",
    "argmin": "np.argmin: write a for loop that keeps the best",
    "linalg": "np.linalg: write it with math.sqrt and sums",
    "maximum": "np.maximum: write max(a, b)",
    "minimum": "np.minimum: write min(a, b)",
}
_ALLOCATING = frozenset(
    "append arange array asarray atleast_1d column_stack concatenate copy diff dot empty empty_like eye flatnonzero "
    "flip frombuffer full full_like hstack linspace matmul meshgrid nonzero ones ones_like outer pad repeat reshape "
    "roll sort argsort stack tile unique vstack zeros zeros_like cumsum max min any all array_equal median std var "
    "norm delete insert split squeeze ravel transpose".split()
)


def syntax_violations(function: FunctionType, definition: ast.FunctionDef) -> Iterator[tuple[int, str]]:
    """Yield line and message for every statement, value or call that a kernel may not have."""
    local = set(parameter_names(definition)) | {
        n.id for n in body_nodes(definition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    for node in body_nodes(definition):
        line = getattr(node, "lineno", definition.lineno)
        unpacks = isinstance(node, ast.List) and isinstance(node.ctx, ast.Store)
        if not unpacks and (message := _REFUSED_SYNTAX.get(type(node).__name__)):
            yield line, message
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield line, f"the text {node.value!r}: kernels have no text; use numbers, named at the top of the file"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in local:
            if message := _wrong_global(function, node.id, local):
                yield line, message
        elif isinstance(node, ast.Call) and (message := _wrong_call(function, node, local)):
            yield line, message
        for target, _ in assignments(node):
            name = root_variable(target)
            if name and name not in local and not isinstance(target, ast.Name):
                yield line, f"writes to {name}, which is global: {_KEEP_IN_STATE}"


def _wrong_global(function: FunctionType, name: str, local: set[str]) -> str:
    """Return what is wrong with a global name that a kernel reads, or an empty text."""
    if name == "self":
        return "self: a kernel is a function; the state is s, the parameters are p"
    if name not in function.__globals__ and not hasattr(builtins, name):
        return (
            f"name {name!r} is not defined; {nearest(name, local | {n for n in function.__globals__ if n[0] != '_'})}"
        )
    value = function.__globals__.get(name)
    if isinstance(value, list | dict | set | bytearray):
        value_type = type(value).__name__
        return f"{name} is a global {value_type}: compiled code keeps what it was; make it a tuple, or a field of State"
    if isinstance(value, str):
        return f"{name} is text: kernels have no text; use numbers"
    if name in function.__globals__ and not _is_readable(value):
        what = "a class" if isinstance(value, type) else f"an object of the class {type(value).__name__}"
        return f"{name} is {what}: kernels read numbers, tuples and arrays; write SIZE = 10 at the top of the file"
    return ""


def _is_readable(value: Any) -> bool:
    """Return True for a global that compiled code can use, or whose use another rule refuses with better words."""
    if isinstance(value, type):
        return issubclass(value, Enum | Record | np.generic) or value is f4 or value.__module__ == "builtins"
    scalars = (bool, int, float, np.generic, FieldType, Enum)
    return isinstance(value, (*scalars, tuple, np.ndarray, np.dtype, ModuleType)) or value is None or callable(value)


def _wrong_call(function: FunctionType, node: ast.Call, local: set[str]) -> str:
    """Return what is wrong with a call in a kernel, or an empty text."""
    callee, first = node.func, root_variable(node.func)
    if isinstance(callee, ast.Name) and callee.id in local:
        return ""
    inner = callee.value if isinstance(callee, ast.Attribute) else None  # of super().reset(): super()
    if isinstance(inner, ast.Call) and (message := _wrong_call(function, inner, local)):
        return message
    owner = resolve_global(function, callee.value) if isinstance(callee, ast.Attribute) else None
    if isinstance(callee, ast.Attribute) and (not first or first in local or not isinstance(owner, ModuleType)):
        outer = resolve_global(function, callee.value.value) if isinstance(callee.value, ast.Attribute) else None
        if first and first not in local and outer is None and first not in function.__globals__:
            return ""  # `_wrong_global` reports the undefined name
        return (
            f"{ast.unparse(callee)}(...): numbers, records and arrays have no methods in a kernel; write it as a loop"
        )
    text, value = ast.unparse(callee), resolve_global(function, callee)
    if isinstance(owner, ModuleType) and isinstance(callee, ast.Attribute):
        if "random" in owner.__name__.split("."):
            return f"{text}: {_DRAW_FROM_RNG}"
        if owner is np or owner.__name__.startswith("numpy"):
            return _wrong_numpy(owner.__name__, text, callee.attr)
        if not hasattr(owner, callee.attr):
            return f"{owner.__name__} has no {callee.attr!r}; {nearest(callee.attr, dir(owner))}"
    return _wrong_function(function.__name__, text, value, node)


def _wrong_numpy(owner: str, text: str, name: str) -> str:
    """Return what to write instead of a function of numpy, or an empty text for one that kernels may call."""
    if "linalg" in owner or name in _NUMPY_ADVICE:
        return _NUMPY_ADVICE["linalg" if "linalg" in owner else name]
    if "." not in owner and not hasattr(np, name):
        return f"numpy has no {name!r}; {nearest(name, dir(np))}"
    if name in _ALLOCATING:
        return f"{text}: makes an array at each call; write numbers into out, or into an array field of State"
    return ""


def _wrong_function(caller: str, text: str, value: Any, node: ast.Call) -> str:
    """Return what is wrong with calling this object, or an empty text."""
    name = str(getattr(value, "__name__", ""))
    if is_kernel(value):
        return _wrong_arguments(text, value, node)
    if value is f4 or isinstance(value, FieldType) or (isinstance(value, type) and issubclass(value, np.generic)):
        return ""
    module = str(getattr(value, "__module__", ""))
    if module == "builtins" and getattr(builtins, name, None) is value:
        if name in _ALLOWED_BUILTINS:
            return ""
        return _REFUSED_BUILTINS.get(name, f"{text}(...): kernels call @kernel functions, math and rl_lab.core.rng")
    if value is None or module.startswith("numba") or isinstance(value, np.ufunc):
        return ""
    if module == "random" or module.startswith("numpy.random") or type(value).__module__.startswith("numpy.random"):
        return f"{text}: {_DRAW_FROM_RNG}"
    if isinstance(value, FunctionType) and not module.startswith("numpy"):
        return f"{text} is no kernel: put @kernel above it, at {source_location(value)}: called from kernel {caller}"
    if getattr(math, name, None) is value:
        return ""
    if module.startswith("numpy") and callable(value):
        return _wrong_numpy(module, text, name)
    return f"{text}(...): kernels call @kernel functions, math and rl_lab.core.rng" if callable(value) else ""


def _wrong_arguments(text: str, value: Any, node: ast.Call) -> str:
    """Return what is wrong with the arguments of a call of another kernel, or an empty text."""
    signature = inspect.signature(value)
    names = list(signature.parameters)
    try:
        signature.bind(*node.args, **{word.arg: word for word in node.keywords if word.arg})
    except TypeError as error:
        return f"{text}({', '.join(names)}): {error}"
    drawing = value.__module__ == "rl_lab.core.rng" and names[:1] == ["s"]
    if drawing and node.args and isinstance(node.args[0], ast.Constant | ast.BinOp | ast.UnaryOp):
        return f"{text}({', '.join(names)}): the State comes first"
    return ""
