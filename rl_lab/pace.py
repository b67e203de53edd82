"""Chooses between the serial and the threaded loop by measuring both, again and again: other programs come and go.

Threads wait for each other at every step. On idle cores that halves the time of a long step; on cores that somebody
else is using, a step can take a hundred times as long as the serial one.
"""

from __future__ import annotations

import statistics

WORTH = 12e-6  # seconds a step: below it, waking threads costs more than they can save
_FIRST, _AGAIN = 24, 5  # serial steps timed; the first few of all load machine code and warm caches
_THREADED = 8  # threaded ones, of which the first two do not count
_SLOW, _STRIKES = 1.3, 3.0  # a threaded step this much slower than a serial one is a strike
_SOONEST, _LATEST = 2.0, 30.0  # seconds until threads are tried again


class Pace:
    """Says before each step whether it is to be threaded, and is told afterwards how long it took."""

    def __init__(self) -> None:
        self.threaded = self.settled = False  # settled: serial for good, no need to ask or tell any more
        self._times: list[float] = []
        self._needed = _FIRST
        self._serial = 0.0  # seconds of a serial step
        self._strikes = 0.0
        self._pause, self._retry = _SOONEST, 0.0
        self._trying = True

    def tell(self, now: float, seconds: float) -> None:
        """Take note of a step that ended now and took so long."""
        if not self._trying:
            if self.threaded:
                slow = seconds > _SLOW * self._serial
                self._strikes = self._strikes + 1 if slow else max(self._strikes - 0.25, 0.0)
                if self._strikes >= _STRIKES:
                    self._give_up(now)
            elif now >= self._retry:
                self._trying, self._times, self._needed = True, [], _AGAIN
            return
        self._times.append(seconds)
        if self.threaded:
            counted = self._times[2:]
            hopeless = len(counted) >= 3 and min(counted) > _SLOW * self._serial
            if hopeless or (len(self._times) == _THREADED and statistics.median(counted) > self._serial):
                self._give_up(now)
            elif len(self._times) == _THREADED:
                self._trying, self._strikes, self._pause = False, 0.0, _SOONEST
        elif len(self._times) == self._needed:
            self._serial = statistics.median(self._times)
            self.threaded, self._times = self._serial > WORTH, []
            self.settled = not self.threaded

    def _give_up(self, now: float) -> None:
        self.threaded = self._trying = False
        self._retry, self._pause = now + self._pause, min(2 * self._pause, _LATEST)
