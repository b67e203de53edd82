"""This module marks and compiles kernels: scalar Python functions that also run as plain Python under a debugger.

`@kernel` only marks a function. `compile_kernel_graph` makes its compiled copy: the same code object over other
globals, in which the kernels that it calls are compiled too and field types are numpy's. The author's functions are not
changed. `fingerprint` hashes everything that machine code depends on, as the name under which it is kept.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import numpy as np

from rl_lab.core.endless_loops import COMPILED_LOOP_LIMIT, PLAIN_LOOP_LIMIT, limit_loops
from rl_lab.core.record import FieldType, f4

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__rl_lab_kernel__"


def kernel(function: F) -> F:
    """Mark a scalar function for compilation. It must not allocate, raise, close over variables or use np.random."""
    if not isinstance(function, FunctionType) or function.__closure__:
        raise TypeError(f"{source_location(function)}: a kernel must be a plain function without closed-over variables")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{source_location(function)}: a kernel runs in one go: write `def`, not `async def`")
    setattr(function, _MARK, True)
    return function


def is_kernel(value: Any) -> bool:
    """Return True if `value` was marked with `@kernel`."""
    return isinstance(value, FunctionType) and hasattr(value, _MARK)


def source_location(function: Any) -> str:
    """Return 'file:line name' of a function, for error messages.

    For an object that wraps a function, such as a static method, it is that of the function inside.
    """
    for inside in ("__wrapped__", "py_func", "func"):  # a static method's, numba's, a partial's
        function = getattr(function, inside, function)
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno} {function.__name__}" if code else repr(function)


def _code_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _code_names(const)


def globals_used(function: FunctionType) -> dict[str, Any]:
    """Return the globals that a function's code refers to, by name."""
    return {n: function.__globals__[n] for n in _code_names(function.__code__) if n in function.__globals__}


def reachable_kernels(function: Any) -> set[FunctionType]:
    """Return a kernel and every kernel that it calls, directly or not."""
    kernels, pending = set(), [function]
    while pending:
        if (each := pending.pop()) not in kernels:
            kernels.add(each)
            pending += [value for value in globals_used(each).values() if is_kernel(value)]
    return kernels


def compile_kernel_graph(
    function: Any, compiler: Callable[[FunctionType], Any], copies: dict[Any, Any] | None = None, module: str = ""
) -> Any:
    """Return the compiled copy of a kernel, which calls the compiled copies of the kernels that the kernel calls.

    `copies` maps kernels to their compiled copies. Those that it has are used, and those that are made are added to it,
    so with one dictionary for several calls each kernel is compiled once. `compiler` makes the compiled function of a
    plain one. The `while` loops of the copies raise LoopError after COMPILED_LOOP_LIMIT iterations. numba writes the
    name of a function's module into its machine code, and imports that module when it loads the code: for the copies
    this is `module`, or with "" the kernel's own.

    Raises:
        TypeError: it calls a function that is not marked with `@kernel`.
    """
    copies = {} if copies is None else copies
    if function not in copies:
        if not is_kernel(function):
            raise TypeError(f"{source_location(function)}: decorate it with @kernel")
        code, needed = limit_loops(function, COMPILED_LOOP_LIMIT)
        namespace = {**function.__globals__, **needed, **({"__name__": module} if module else {})}
        plain_copy = FunctionType(code, namespace, function.__name__, function.__defaults__)
        # This comes before its callees, so that a kernel that calls itself finds its copy. numba compiles, and reads
        # the namespace, only at the first call.
        copies[function] = compiler(plain_copy)
        for name, value in globals_used(function).items():
            if is_kernel(value):
                namespace[name] = compile_kernel_graph(value, compiler, copies, module)
            elif value is f4 or isinstance(value, FieldType):
                namespace[name] = np.dtype(value.code).type
            elif isinstance(value, f4):
                namespace[name] = np.float32(value)
            elif isinstance(value, FunctionType) and not value.__module__.startswith("numba"):
                raise TypeError(
                    f"{source_location(value)}: called from kernel {function.__name__}; decorate it with @kernel"
                )
    return copies[function]


def loop_limited_copy(function: Any, copies: dict[Any, Any]) -> Any:
    """Return a plain-Python copy of a kernel in which it and the kernels that it calls have limited `while` loops.

    The kernel itself is returned where there is no such loop. `copies` maps kernels to such copies. Those that it has
    are used, and those that are made are added to it.
    """
    if function not in copies:
        code, needed = limit_loops(function, PLAIN_LOOP_LIMIT)
        namespace = {**function.__globals__, **needed}
        copies[function] = kernel(FunctionType(code, namespace, function.__name__, function.__defaults__))
        callees = {name: value for name, value in globals_used(function).items() if is_kernel(value)}
        copied_callees = {name: loop_limited_copy(value, copies) for name, value in callees.items()}
        namespace |= copied_callees
        if code is function.__code__ and copied_callees == callees:
            copies[function] = function  # there is no loop to limit, in the kernel or its callees
    return copies[function]


def fingerprint(*parts: Any, with_modules: bool = True) -> str:
    """Return a hash of everything compiled code depends on: kernels and their callees, constants, dtypes, text.

    It includes the names of the kernels' modules, unless `with_modules` is False.
    """
    digest, visited = hashlib.sha256(), set()

    def add_code(value: CodeType) -> None:
        digest.update(value.co_code)
        digest.update(repr((value.co_names, value.co_varnames, value.co_argcount)).encode())
        for const in value.co_consts:
            add(const)

    def add(value: Any) -> None:
        digest.update(type(value).__name__.encode())
        if isinstance(value, CodeType):
            add_code(value)
        elif is_kernel(value):
            if value not in visited:
                visited.add(value)
                if with_modules:
                    digest.update(value.__module__.encode())
                add_code(value.__code__)
                add(value.__defaults__)
                for name, used in sorted(globals_used(value).items()):
                    digest.update(name.encode())
                    add(used)
        elif isinstance(value, ModuleType):
            # Only compilation shows what a kernel reads through a module, so the module's whole text is hashed.
            if value not in (math, np) and getattr(value, "__file__", None):
                digest.update(Path(str(value.__file__)).read_bytes())
            digest.update(value.__name__.encode())
        elif isinstance(value, np.ndarray):
            digest.update(repr((value.dtype, value.shape)).encode() + value.tobytes())
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif isinstance(value, FieldType):
            digest.update(repr((value.code, value.field_shape)).encode())
        else:
            digest.update(repr(value).encode())

    for part in (sys.version, *parts):
        add(part)
    return digest.hexdigest()[:20]
