"""One line on long work: steps, rate, time left, return, and where the time goes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_PATIENCE = 3.0  # seconds without a word
_EVERY_TERMINAL, _EVERY_FILE = 0.2, 5.0  # seconds between lines


class Progress:
    """Writes to stderr: rewriting one line on a terminal, a new line every few seconds elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, unit: str = "steps") -> None:
        self.unit = unit
        self.stream = sys.stderr if stream is None else stream
        self.quiet, self.live = quiet, self.stream.isatty()
        self._drawn = 0

    def begin(self, steps: int, budget: int) -> None:
        """Start counting from these steps."""
        self._first, self._budget = steps, budget
        self._begin = self._shown = time.perf_counter()

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Write a line that stays if what runs inside takes longer than `_PATIENCE`."""
        timer = threading.Timer(_PATIENCE, self.note, [text])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def rate(self, steps: int) -> float:
        """Steps per second since `begin`."""
        return (steps - self._first) / max(time.perf_counter() - self._begin, 1e-9)

    def show(self, steps: int, mean_return: float | None, spent: dict[str, float]) -> None:
        """Draw the line, if it is time to; `spent` is seconds by what they went to."""
        now = time.perf_counter()
        if self.quiet or now - self._shown < (_EVERY_TERMINAL if self.live else _EVERY_FILE):
            return
        self._shown = now
        rate = self.rate(steps)
        left = max(self._budget - steps, 0) / rate if rate else 0.0
        total = sum(spent.values()) or 1.0
        shares = "  ".join(f"{name} {100 * seconds / total:.0f}%" for name, seconds in spent.items())
        score = "-" if mean_return is None else f"{mean_return:.1f}"
        trained = f"  return {score}  [{shares}]" if spent else ""
        self._draw(f"{steps:>11,} / {self._budget:,} {self.unit}  {rate:>8,.0f}/s  {_clock(left)} left{trained}")

    def note(self, text: str) -> None:
        """Write a line that stays."""
        if not self.quiet:
            self._clear()
            print(f"  {text}", file=self.stream, flush=True)

    def end(self) -> None:
        """Leave the line as it is and go to the next."""
        self._clear()

    def _draw(self, line: str) -> None:
        if self.live:
            self.stream.write("\r" + line.ljust(self._drawn))
            self._drawn = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def _clear(self) -> None:
        if self.live and self._drawn:
            self.stream.write("\r" + " " * self._drawn + "\r")
            self._drawn = 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
