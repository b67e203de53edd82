"""Matches played apart: each in a process of its own, forked for it, so that an entrant that ends it ends no other."""

from __future__ import annotations

import mmap
import os
import select
import signal
import time
from typing import Any

import numpy as np

from .asking import Mark, Wrong, late_after
from .ledger import Match, parse
from .play import Hall
from .schedule import Task

GONE = "its process ended"  # how the reason of such a fault begins
_TRIES = 3


class ApartError(OSError):
    """A match could not be played even by itself."""


def play_apart(hall: Hall, task: Task) -> Match:
    """Return the match. Whoever was being asked when its process ended has crashed; the rest is played up to there.

    A second process, which knows of the call not to make, says how the match stood. Raises ApartError.
    """
    values: Any = np.frombuffer(mmap.mmap(-1, 24), np.float64)  # shared with the processes forked from here
    doom = None
    for _ in range(_TRIES):
        values[:] = 0.0
        outcome = _forked(hall, task, values, doom)
        if isinstance(outcome, Match):
            return outcome
        if not values[2]:
            break
        doom = int(values[2]), outcome
    raise ApartError(f"match {task.id} ends every process that plays it, each time elsewhere")


def _forked(hall: Hall, task: Task, values: Any, doom: tuple[int, Wrong] | None) -> Match | Wrong:
    """Return the match as a process of its own plays it, or why that process came to an end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            hall.mark = Mark(values, doom)
            (played,) = hall.play([task])
            data = played.match.line().encode() + b"\n"
            while data:
                data = data[os.write(writer, data) :]
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    text, late = b"", False
    try:
        while True:
            if select.select([reader], [], [], 0.1)[0]:
                piece = os.read(reader, 2**16)
                if not piece:
                    break
                text += piece
            elif 0 < values[0] < time.monotonic():
                late = True
                os.kill(child, signal.SIGKILL)
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    if text.endswith(b"\n"):
        return parse(text)
    if late:
        return late_after(hall.setup.timeout)
    code = os.waitstatus_to_exitcode(status)
    return "crash", f"{GONE}: {f'exit status {code}' if code >= 0 else signal.Signals(-code).name}"
