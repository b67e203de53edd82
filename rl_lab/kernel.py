"""Kernels: scalar Python functions that the engine compiles, and that stay plain Python under a debugger.

`@kernel` only marks a function. `link` builds its compiled twin: the same code object over globals in which every
kernel it calls is compiled too and field types are numpy's. The functions in the author's file are never touched.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import numpy as np

from .record import _FieldType, f4

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__rl_lab_kernel__"


def kernel(function: F) -> F:
    """Mark a scalar function for compilation. It must not allocate, raise, close over variables or use np.random."""
    if not isinstance(function, FunctionType) or function.__closure__:
        raise TypeError(f"{where(function)}: a kernel must be a plain function without closed-over variables")
    setattr(function, _MARK, True)
    return function


def is_kernel(value: Any) -> bool:
    """Say whether `value` was marked with `@kernel`."""
    return isinstance(value, FunctionType) and hasattr(value, _MARK)


def where(function: Any) -> str:
    """Return 'file:line name' of a function, for error messages."""
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno} {function.__name__}" if code else repr(function)


def _code_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _code_names(const)


def globals_used(function: FunctionType) -> dict[str, Any]:
    """Return the globals that a function names, by name."""
    return {n: function.__globals__[n] for n in _code_names(function.__code__) if n in function.__globals__}


def reached(function: Any) -> set[FunctionType]:
    """Return a kernel and every kernel that it calls, directly or not."""
    found, waiting = set(), [function]
    while waiting:
        if (each := waiting.pop()) not in found:
            found.add(each)
            waiting += [value for value in globals_used(each).values() if is_kernel(value)]
    return found


def link(function: Any, compiler: Callable[[FunctionType], Any], done: dict[Any, Any] | None = None) -> Any:
    """Return the compiled twin of a kernel and, through `done`, of every kernel it reaches, each compiled once."""
    done = {} if done is None else done
    if function not in done:
        if not is_kernel(function):
            raise TypeError(f"{where(function)}: decorate it with @kernel")
        namespace = dict(function.__globals__)
        twin = FunctionType(function.__code__, namespace, function.__name__, function.__defaults__)
        done[function] = compiler(twin)
        for name, value in globals_used(function).items():
            if is_kernel(value):
                namespace[name] = link(value, compiler, done)
            elif value is f4 or isinstance(value, _FieldType):
                namespace[name] = np.dtype(value.code).type
            elif isinstance(value, f4):
                namespace[name] = np.float32(value)
            elif isinstance(value, FunctionType) and not value.__module__.startswith("numba"):
                raise TypeError(f"{where(value)}: called from kernel {function.__name__}; decorate it with @kernel")
    return done[function]


def fingerprint(*parts: Any) -> str:
    """Return a hash of everything compiled code depends on: kernels (with all they reach), constants, dtypes, text."""
    digest, seen = hashlib.sha256(), set()

    def code(value: CodeType) -> None:
        digest.update(value.co_code)
        digest.update(repr((value.co_names, value.co_varnames, value.co_argcount)).encode())
        for const in value.co_consts:
            add(const)

    def add(value: Any) -> None:
        digest.update(type(value).__name__.encode())
        if isinstance(value, CodeType):
            code(value)
        elif is_kernel(value):
            if value not in seen:
                seen.add(value)
                digest.update(value.__module__.encode())  # machine code on disk names the modules it was made from
                code(value.__code__)
                add(value.__defaults__)
                for name, used in sorted(globals_used(value).items()):
                    digest.update(name.encode())
                    add(used)
        elif isinstance(value, ModuleType):
            # What a kernel reads through a module is only found by compiling, so the module's whole text counts.
            if value not in (math, np) and getattr(value, "__file__", None):
                digest.update(Path(str(value.__file__)).read_bytes())
            digest.update(value.__name__.encode())
        elif isinstance(value, np.ndarray):
            digest.update(repr((value.dtype, value.shape)).encode() + value.tobytes())
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif isinstance(value, _FieldType):
            digest.update(repr((value.code, value.field_shape)).encode())
        else:
            digest.update(repr(value).encode())

    for part in (sys.version, *parts):
        add(part)
    return digest.hexdigest()[:20]
