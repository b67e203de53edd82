"""This module says in one line that a command compiles: half a minute of silence looks like a hang."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TEXT = "compiling, about half a minute; later runs use the cached code"
PATIENCE = 3.0  # seconds of compiling without a word
is_wanted = has_compiled = False


def _print(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


_say: Callable[[str], None] = _print


def want(say: Callable[[str], None] | None = None) -> None:
    """Let this process say once that it compiles, if that takes long: by `say`, or on stderr if that is a terminal."""
    global has_compiled
    has_compiled = False
    _set(say is not None or sys.stderr.isatty(), say or _print)


@contextmanager
def told_by(say: Callable[[str], None]) -> Iterator[None]:
    """Have it said by `say` while the block runs."""
    before = is_wanted, _say
    want(say)
    try:
        yield
    finally:
        _set(*before)


def _set(wanted: bool, say: Callable[[str], None]) -> None:
    global is_wanted, _say
    is_wanted, _say = wanted, say


class Notice:
    """Waits with a compilation, and writes the line if one still runs after `PATIENCE` seconds."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._compiles = False

    def begin(self) -> None:
        """Note that a compilation has begun which is no part of another."""
        global has_compiled
        self._compiles = has_compiled = True
        if is_wanted and self._timer is None:
            self._timer = threading.Timer(PATIENCE, self._tell)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Note that it has ended."""
        self._compiles = False

    def _tell(self) -> None:
        global is_wanted
        self._timer = None  # where it was short, the next one begins anew
        if is_wanted and self._compiles:
            is_wanted = False
            _say(TEXT)
