"""This module turns errors in foreign environments into one line that names the call and the place in their code."""

from __future__ import annotations

import importlib.util
import inspect
import linecache
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import gymnasium

from rl_lab.core.errors import UsageError, WorkFailed, one_line
from rl_lab.core.interrupts import is_interruption

_PACKAGE = str(Path(__file__).parents[1])
_MAX_MESSAGE = 300  # characters of an environment's own message
# These are looked up and not imported, because PettingZoo is slow to load and not every training needs it.
_GYMNASIUM, _PETTINGZOO = (
    str(Path(getattr(importlib.util.find_spec(name), "origin", None) or f"/no/{name}/here").parent)
    for name in ("gymnasium", "pettingzoo")
)
_CHECKER = f"{_GYMNASIUM}/utils/passive_env_checker.py"
_FORWARDING = ("wrappers/", "vector/", "utils/", "spaces/", "core.py", "logger.py", "envs/registration.py")
_FRAMEWORK = (
    _PACKAGE,
    *(f"{_GYMNASIUM}/{part}" for part in _FORWARDING),
    *(f"{_PETTINGZOO}/{part}" for part in ("utils/", "env_registry/")),
    "<frozen",
)
_STANDARD = tuple({sysconfig.get_path("stdlib"), str(Path(sysconfig.get_path("stdlib")).resolve())})
_INSTALLED = ("/site-packages/", "/dist-packages/")


class ForeignError(WorkFailed, RuntimeError):
    """A foreign environment raised an exception or returned an invalid value; the message is one line."""


class InvalidDataError(Exception):
    """A foreign call returned a value that its space or its interface does not allow; `calling` adds the place."""


class calling:  # noqa: N801 (a context manager that is used like a function)
    """A context manager that turns an exception of a foreign environment into ForeignError, with file and line.

        with calling("gym:CartPole-v1", "step", env):
            result = env.step(action)

    `env` is the environment, its class or its factory; its file is the first place to look for the error. Exceptions
    that are no mistake of the environment pass: interruptions, and those of a constructor that was called with wrong
    keyword arguments, whose names are `arguments`. This is a class and not a generator because it is entered at every
    step.
    """

    __slots__ = ("arguments", "call", "env", "world")

    def __init__(self, world: str, call: str, env: Any = None, arguments: Iterable[str] = ()) -> None:
        self.world, self.call, self.env, self.arguments = world, call, env, arguments

    def __enter__(self) -> None:
        """Do nothing before the call."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise ForeignError for an exception of the environment."""
        if error is None or isinstance(error, ForeignError) or is_interruption(error):
            return
        if self.call == "constructor" and _is_call_error(_origin(error), self.arguments):
            return
        raise ForeignError(one_line(_explain(self.world, self.call, _origin(error), self.env))) from error


def close(world: str, env: Any) -> None:
    """Close an environment; an exception becomes a warning, because the results are complete by then."""
    try:
        with calling(world, "close", env):
            env.close()
    except ForeignError as error:
        warnings.warn(str(error), stacklevel=2)


def _is_call_error(error: BaseException, arguments: Iterable[str]) -> bool:
    """Return True if a constructor failed because of an unknown id, package or keyword argument."""
    if isinstance(error, gymnasium.error.Error | ImportError | UsageError):
        return True
    if not isinstance(error, TypeError | ValueError) or _is_of_checker(error):
        return False
    return not _frames(error, None) or any(f"unexpected keyword argument {name!r}" in str(error) for name in arguments)


def _is_of_checker(error: BaseException) -> bool:
    """Return True if Gymnasium's own checker refused the environment, whatever its arguments."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(files) and files[-1] == _CHECKER


def _origin(error: BaseException) -> BaseException:
    """Return the environment's own error where Gymnasium's `make` has replaced it by another."""
    while error.__context__ is not None and _frames(error.__context__, None) and not _frames(error, None):
        error = error.__context__
    return error


def _explain(world: str, call: str, error: BaseException, env: Any) -> str:
    frames = _frames(error, env)
    location = f"{frames[-1][0]}:{frames[-1][1]} {frames[-1][2]}" if frames else location_of_method(env, call)
    suffix = f" ({location})" if location else ""
    message = _message(error)
    if isinstance(error, InvalidDataError):
        return f"{world}: {call} {message}{suffix}"
    if not message and frames:
        message = linecache.getline(*frames[-1][:2]).strip()
    return f"{world}: {call} raised {type(error).__name__}{': ' if message else ''}{message}{suffix}"


def _message(error: BaseException) -> str:
    try:
        return one_line(error)[:_MAX_MESSAGE]
    except Exception:  # the error's __str__ is code of the environment, too
        return "its message cannot be shown"


def _frames(error: BaseException, env: Any) -> list[tuple[str, int, str]]:
    """Return file, line and function of the frames in the environment author's code, the innermost last.

    The author's code lies outside of all libraries, or in the folder of the environment's file. If no frame does, the
    frames of all libraries are returned, except those that only forward calls.
    """
    folder = str(Path(_file_of(env)).parent) if _file_of(env) else ""
    ranked: list[list[tuple[str, int, str]]] = [[], []]
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if name.startswith(_FRAMEWORK):
            continue
        library = name.startswith(_STANDARD) or any(part in name for part in _INSTALLED)
        is_author = not library or (folder and name.startswith(folder))
        ranked[0 if is_author else 1].append((name, line, frame.f_code.co_name))
    return ranked[0] or ranked[1]


def _owner(env: Any) -> Any:
    """Return the environment's class, or the function or class that makes it."""
    if isinstance(env, str):  # an entry point in the form of Gymnasium's registry
        module, _, name = env.partition(":")
        return getattr(sys.modules.get(module), name, None)
    if inspect.isfunction(env) or inspect.isclass(env) or env is None:
        return env
    try:
        return type(env.unwrapped)
    except Exception:
        return type(env)


def _file_of(env: Any) -> str:
    try:
        path = inspect.getfile(_owner(env))
    except (TypeError, OSError):
        return ""
    return "" if path.startswith(_FRAMEWORK) else path


def location_of_method(env: Any, call: str) -> str:
    """Return "file:line name" of the method of an environment that was called, or "" where that is not known."""
    owner = _owner(env)
    function = getattr(owner, "__init__" if call == "constructor" else call, None) if inspect.isclass(owner) else owner
    code = getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None)
    if code is None or code.co_filename.startswith(_FRAMEWORK):
        return _file_of(env)
    return f"{code.co_filename}:{code.co_firstlineno} {code.co_name}"
