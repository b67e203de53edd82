"""Python functions as entrants: the only kind that runs code, and only where the user names it on the command line."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..batch import Worlds
from ..check_env import load
from ..names import UsageError
from ..world import Array

SPEC = re.compile(r"([\w./-]+\.py|\w+(\.\w+)*):[A-Za-z_]\w*")


class FunctionAgent:
    """Asks `function(observation, legal)` for one action at a time.

    observation has the shape of the seat's own space; legal is uint8 [actions], 1 where an action may be taken, or None
    in worlds where all may. Answers come back as they are: whether they are actions is looked at outside.
    """

    def __init__(self, name: str, function: Any) -> None:
        self.name, self.function = name, function

    def attend(self, worlds: Worlds) -> None:
        """Note the spaces of the seats."""
        self._spaces, self._actions = worlds.world.observation_spaces, worlds.world.action_spaces

    def answer(self, observation: Array, legal: Array | None, seat: int) -> Any:
        """Return what the function says, given copies, so that nothing it does to them matters."""
        shape = self._spaces[seat].shape
        own = observation[: shape[0]] if len(shape) == 1 else observation
        count = int(getattr(self._actions[seat], "n", 0))
        return self.function(own.copy(), None if legal is None else legal[:count].copy())

    def act(self, observations: Array, **asked: Any) -> tuple[Array, Any]:
        """Return the answers to many rows, int64 [B] or float32 [B, k]."""
        legal, rows = asked.get("legal"), asked.get("rows")
        seats = np.arange(len(observations)) if rows is None else rows
        given = [
            self.answer(row, None if legal is None else legal[k], int(seats[k]) % len(self._spaces))
            for k, row in enumerate(observations)
        ]
        return np.asarray(given), None


def make(name: str, spec: str) -> Any:
    """Return the agent of `module:callable` or `file.py:callable`. Raises UsageError, one line, where there is none.

    What has a method `act` is an `agent.Agent` (of a class, one is made); anything else is called for every move.
    """
    found = _load(spec)
    if hasattr(found, "act"):
        with _guarded(spec):
            found = found() if isinstance(found, type) else found
        return found
    return FunctionAgent(name, found)


def content(spec: str) -> bytes:
    """Return the bytes of the source file of what `spec` names; of its module's where it is no function or class."""
    found = _load(spec)
    if not callable(found) and not hasattr(found, "act"):
        raise UsageError(f"{spec} is no function and has no method act")
    file = None
    for each in (found, type(found)):
        with contextlib.suppress(TypeError):  # it is no function or class, or one that is written in C
            file = file or inspect.getsourcefile(each)
    if file is None or not Path(file).is_file():
        raise UsageError(f"{spec} has no source file, so nobody could tell whether it has changed")
    return Path(file).read_bytes()


def digest(spec: str) -> str:
    """Return the sha256 of the source file and the name in it."""
    return hashlib.sha256(spec.rpartition(":")[2].encode() + b"\0" + content(spec)).hexdigest()


def _load(spec: str) -> Any:
    with _guarded(spec):
        return load(spec)


@contextlib.contextmanager
def _guarded(spec: str) -> Any:
    """Turn whatever a user's module does at import into one line, and keep its prints off stdout."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"cannot load {spec}: {type(error).__name__}: {error}") from None
