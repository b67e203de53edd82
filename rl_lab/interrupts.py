"""Ctrl-C and SIGTERM, noticed where a run can be left in order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import Run


GRACE = 1.5  # seconds that an iteration has to end in after a signal: all must be over within 5
AGAIN = 1.0  # seconds until it is told once more: what is raised in a compiler's callback is printed and lost


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; `code` is the exit status, 130 or 143, `run` what can be resumed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.given_up = False  # in the middle of an iteration, which is done again after the checkpoint before it
        self.run: Run | None = None


class Interrupts:
    """Turns SIGINT and SIGTERM into a flag that is looked at between iterations; a second one ends at once."""

    def __init__(self) -> None:
        self.code = 0
        self._giving_up = self._inside = False
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Interrupts:
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        if self._timer is not None:  # gone for good: its signal would meet a handler that is not ours
            self._timer.cancel()
            self._timer.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._giving_up:
            self._giving_up = False
            if self._inside:
                self._give_up_in(AGAIN)
                raise KeyboardInterrupt  # an Exception would be taken for a failed compilation by numba
            return
        if self.code:
            os._exit(128 + number)
        self.code = 128 + number
        self._give_up_in(GRACE)

    def _give_up_in(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def _give_up(self) -> None:
        self._giving_up = True
        # A real signal: `_thread.interrupt_main` wakes nobody who waits for a lock, as who waits for a compiler does.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """Give up what runs inside, with Interrupted, where it goes on for `GRACE` seconds after a signal.

        A first iteration compiles for longer than that, and the library's own learner can take longer too. What it
        worked on is half done then, and not to be saved.
        """
        self._inside = True
        try:
            yield
        except KeyboardInterrupt:
            self._inside = False  # or it would be told again in here
            stop = Interrupted(self.code)
            stop.given_up = True
            raise stop from None
        finally:
            self._inside = False

    def check(self, *_: Any) -> None:
        """Raise Interrupted once a signal has come; takes any arguments so that it can serve as a progress callback."""
        if self.code:
            raise Interrupted(self.code)
