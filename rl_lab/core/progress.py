"""This module shows the progress of long work in one line: steps, rate, time left, return, share of each phase.

It writes to stderr, or to another stream.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

_COLUMNS = 80  # the width of a terminal that does not report one
_EVERY_TERMINAL, _EVERY_FILE = 0.2, 5.0  # seconds between lines


class Progress:
    """A progress display on stderr: it rewrites one line on a terminal, and writes new lines elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, unit: str = "steps") -> None:
        self.unit = unit
        self.stream = sys.stderr if stream is None else stream
        self.quiet, self.live = quiet, self.stream.isatty()
        self._line_length = 0

    def begin(self, steps: int, budget: int) -> None:
        """Start at `steps` of `budget` steps."""
        self._first, self._budget = steps, budget
        self._begin = self._last_update = time.perf_counter()

    def rate(self, steps: int) -> float:
        """Return the steps per second since `begin`."""
        return (steps - self._first) / max(time.perf_counter() - self._begin, 1e-9)

    def show(self, steps: int, mean_return: float | None, spent: dict[str, float]) -> None:
        """Write the line if the last update is long enough ago; `spent` is the seconds of each phase."""
        now = time.perf_counter()
        if self.quiet or now - self._last_update < (_EVERY_TERMINAL if self.live else _EVERY_FILE):
            return
        self._last_update = now
        rate = self.rate(steps)
        total = sum(spent.values()) or 1.0
        shares = "  ".join(f"{name} {100 * seconds / total:.0f}%" for name, seconds in spent.items())
        score = "-" if mean_return is None else f"{mean_return:.1f}"
        parts = [f"{steps:>11,} / {self._budget:,} {self.unit}"]
        if rate:  # before the first steps that are timed, nothing is known of those to come
            parts += [f"{rate:>8,.0f}/s", f"{_format_duration(max(self._budget - steps, 0) / rate)} left"]
        self._write_line([*parts, f"return {score}", f"[{shares}]"] if spent else parts)

    def note(self, text: str) -> None:
        """Write a permanent line."""
        if not self.quiet:
            self._clear()
            print(f"  {text}", file=self.stream, flush=True)

    def end(self) -> None:
        """Remove the line from a terminal."""
        self._clear()

    def _write_line(self, parts: list[str]) -> None:
        """Write the parts side by side; on a terminal, omit the last ones that do not fit."""
        if self.live:
            line = _fit_to_width(parts, self._width())
            self.stream.write("\r" + line.ljust(min(self._line_length, self._width())))
            self._line_length = len(line)
        else:
            self.stream.write("  ".join(parts) + "\n")
        self.stream.flush()

    def _width(self) -> int:
        """Return the longest line that the terminal shows without wrapping."""
        try:
            columns = os.get_terminal_size(self.stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return (columns or _COLUMNS) - 1

    def _clear(self) -> None:
        if self.live and self._line_length:
            self.stream.write("\r" + " " * min(self._line_length, self._width()) + "\r")
            self._line_length = 0


def _fit_to_width(parts: list[str], width: int) -> str:
    """Return the parts as one line of at most `width` characters: padding is removed first, then the last parts."""
    if len("  ".join(parts)) > width:
        parts = [part.strip() for part in parts]
    while len(parts) > 1 and len("  ".join(parts)) > width:
        parts = parts[:-1]
    return "  ".join(parts)[:width]


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
