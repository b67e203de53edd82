"""This module writes one line when a command compiles for long, because half a minute of silence looks like a hang.

A command calls `enable` or `written_by`; `compile_pause` calls a `Notice` around each compilation. The module's
variables are the state: whether the line is still to be written, by what, and whether anything was compiled.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TEXT = "compiling, about half a minute; later runs use the cached code"
DELAY = 3.0  # seconds of compiling before the line is written
is_enabled = False
has_compiled = False  # since the last `enable`


def _print(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


_write: Callable[[str], None] = _print


def enable(write: Callable[[str], None] | None = None) -> None:
    """Have the line written once in this process: by `write`, or without it on stderr, if that is a terminal."""
    global has_compiled
    has_compiled = False
    _set(write is not None or sys.stderr.isatty(), write or _print)


@contextmanager
def written_by(write: Callable[[str], None]) -> Iterator[None]:
    """Have the line written by `write` while the block runs."""
    before = is_enabled, _write
    enable(write)
    try:
        yield
    finally:
        _set(*before)


def _set(enabled: bool, write: Callable[[str], None]) -> None:
    global is_enabled, _write
    is_enabled, _write = enabled, write


class Notice:
    """Measures how long compilations take, and writes the line if one still runs after `DELAY` seconds."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._compiles = False

    def begin(self) -> None:
        """Note that a compilation has begun which is no part of another."""
        global has_compiled
        self._compiles = has_compiled = True
        if is_enabled and self._timer is None:
            self._timer = threading.Timer(DELAY, self._write_line)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Note that it has ended."""
        self._compiles = False

    def _write_line(self) -> None:
        global is_enabled
        self._timer = None  # the next compilation starts another one
        if is_enabled and self._compiles:
            is_enabled = False
            _write(TEXT)
