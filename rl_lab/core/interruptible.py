"""This module ends a command at Ctrl-C, SIGTERM or SIGHUP with exit status 130, 143 or 129.

`interruptible` wraps the main function of the command line. It uses `interrupts` for the signals, and may end the
process.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rl_lab.core import interrupts
from rl_lab.core.interrupts import Interrupted, Interrupts, last_signal


def interruptible(main: Callable[..., int]) -> Callable[..., int]:
    """Return `main` wrapped so that a signal ends it; its exit status is then 130, 143 or 129.

    A call without arguments is the command for which the process was started, so the process ends soon after it. A
    call with arguments is part of another program, which continues.
    """

    @functools.wraps(main)
    def guarded(*arguments: Any) -> int:
        last_signal.clear()
        status, interrupts_guard = 128 + signal.SIGINT, Interrupts(ends_process=True)
        # The outer `suppress` catches what is raised while the handlers are installed or restored.
        stops = KeyboardInterrupt, Interrupted
        with suppress(*stops), interrupts_guard, suppress(*stops), interrupts_guard.abort_after(0.0):
            status = main(*arguments)
        status = interrupts_guard.code or status
        if last_signal and not arguments:
            threading.Thread(target=_end_soon, args=(status, last_signal[0]), daemon=True).start()
            atexit.register(_end, status)  # skips the interpreter's shutdown, which can take seconds
        return status

    return guarded


def _end_soon(status: int, began: float) -> None:
    """End the process before the deadline where threads that never return outlive its main thread."""
    threading.main_thread().join()
    time.sleep(max(began + interrupts.DEADLINE - time.monotonic(), 0.1))
    if began in last_signal:
        os._exit(status)


def _end(status: int) -> None:
    if not last_signal:  # another command has started since, or this is a forked child
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the stream is closed, or its reader has ended
            stream.flush()
    os._exit(status)
