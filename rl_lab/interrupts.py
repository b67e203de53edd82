"""Ctrl-C and SIGTERM, noticed where a run can be left in order."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import Run


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; `code` is the exit status, 130 or 143, `run` what can be resumed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.run: Run | None = None


class Interrupts:
    """Turns SIGINT and SIGTERM into a flag that is looked at between iterations; a second one ends at once."""

    def __init__(self) -> None:
        self.code = 0

    def __enter__(self) -> Interrupts:
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.code:
            os._exit(128 + number)
        self.code = 128 + number

    def check(self, *_: Any) -> None:
        """Raise Interrupted once a signal has come; takes any arguments so that it can serve as a progress callback."""
        if self.code:
            raise Interrupted(self.code)
