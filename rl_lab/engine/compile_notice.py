"""This module says in one line on a terminal that a command compiles: half a minute of silence looks like a hang."""

from __future__ import annotations

import sys
import threading

TEXT = "compiling, about half a minute; later runs use the cached code"
PATIENCE = 3.0  # seconds of compiling without a word
is_wanted = False


def want() -> None:
    """Let this process say once that it compiles, if that takes long and a person can see it."""
    global is_wanted
    is_wanted = sys.stderr.isatty()


class Notice:
    """Waits with a compilation, and writes the line if one still runs after `PATIENCE` seconds."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._compiles = False

    def begin(self) -> None:
        """Note that a compilation has begun which is no part of another."""
        self._compiles = True
        if is_wanted and self._timer is None:
            self._timer = threading.Timer(PATIENCE, self._say)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Note that it has ended."""
        self._compiles = False

    def _say(self) -> None:
        global is_wanted
        self._timer = None  # where it was short, the next one begins anew
        if is_wanted and self._compiles:
            is_wanted = False
            print(f"  {TEXT}", file=sys.stderr, flush=True)
