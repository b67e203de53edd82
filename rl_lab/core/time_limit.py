"""This module ends Python code that takes too long, such as a function in a user's file that never returns.

`with TimeLimit(seconds):` raises `TimeIsUp` in the thread of the block, from a thread that watches the time. While
TimeIsUp is raised, sys.unraisablehook is replaced.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

_INTERVAL = 1.0  # seconds until TimeIsUp is raised once more, because some code may have caught it
_MAX_RAISES = 10  # of one limit, because TimeIsUp may come before the first line of `__exit__`


class TimeIsUp(BaseException):
    """Code has reached its time limit; it is no Exception, so that the code itself is unlikely to catch it."""


class TimeLimit:
    """A context manager that raises TimeIsUp in this thread where its block takes longer than `seconds`.

    Blocks can be nested: `raised(error)` says whether a TimeIsUp is of this limit or of another one. Compiled code is
    not interrupted.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.due, self.thread = seconds, 0.0, 0
        self.is_finished, self.raises = False, 0
        self._error: type[TimeIsUp] | None = None
        self._outer_hook: Any = None  # of unraisable exceptions, replaced once TimeIsUp is raised

    def raised(self, error: BaseException) -> bool:
        """Return True if this limit has raised the error."""
        return self._error is not None and isinstance(error, self._error)

    def expire(self) -> None:
        """Raise TimeIsUp in the thread of the block."""
        if self._error is None:
            # Python raises an exception in another thread by its class, so each limit has a class of its own.
            self._error = type("TimeIsUp", (TimeIsUp,), {"__module__": __name__})
            self._outer_hook, sys.unraisablehook = sys.unraisablehook, self._drop
        self.raises, self.due = self.raises + 1, time.monotonic() + _INTERVAL
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), ctypes.py_object(self._error))

    def _drop(self, unraisable: Any) -> None:
        """Print nothing of a TimeIsUp that came in a `__del__` or a weakref's callback: another one follows."""
        if not self.raised(unraisable.exc_value):
            self._outer_hook(unraisable)

    def __enter__(self) -> TimeLimit:
        self.thread, self.due = threading.get_ident(), time.monotonic() + self.seconds
        _watcher.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_finished = True  # first of all, because TimeIsUp may come during the other lines
        _watcher.remove(self)
        if sys.unraisablehook == self._drop:
            sys.unraisablehook = self._outer_hook


class _Watcher:
    """A thread that waits for the earliest of the limits, so that entering a block starts no thread of its own."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)  # the thread is not in the child

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._limits: list[TimeLimit] = []
        self._wake_time = (
            0.0  # when the thread wakes by itself; infinite while it waits for a limit; 0 before it starts
        )

    def add(self, limit: TimeLimit) -> None:
        with self._changed:
            self._limits.append(limit)
            if self._wake_time == 0.0:
                threading.Thread(target=self._watch, args=(self._changed,), name="time limits", daemon=True).start()
            elif limit.due < self._wake_time:
                self._changed.notify()
            else:
                return
            self._wake_time = limit.due

    def remove(self, limit: TimeLimit) -> None:
        with self._changed:  # after this, the thread raises nothing for the limit
            self._limits = [each for each in self._limits if each is not limit]

    def _watch(self, changed: threading.Condition) -> None:
        with changed:
            while True:
                now = time.monotonic()
                for limit in self._limits:
                    if limit.due <= now and not limit.is_finished:
                        limit.expire()
                self._limits = [each for each in self._limits if each.raises < _MAX_RAISES and not each.is_finished]
                self._wake_time = min((limit.due for limit in self._limits), default=threading.TIMEOUT_MAX + now)
                changed.wait(max(min(self._wake_time - now, threading.TIMEOUT_MAX), 0.0))


_watcher = _Watcher()
