"""Chooses between the serial and the threaded loop by measuring both, again and again: other programs come and go.

Threads wait for each other at every step. On idle cores that halves the time of a long step; on cores that other
programs are using, a step can take a hundred times as long as the serial one. And a thread that waits for the next step
spins: where stepping is a small part of the work, as in training, it would burn a core to save next to nothing.
"""

from __future__ import annotations

import statistics

MIN_PARALLEL_SECONDS = 12e-6  # seconds a step: below it, waking threads costs more than they can save
MIN_STEP_FRACTION = 0.3  # of the time that passes: where steps take less of it, threads are left alone
_FIRST, _AGAIN = 24, 5  # serial steps timed; the first few of all load machine code and warm caches
_THREADED = 8  # threaded ones, of which the first two do not count
_SLOW, _MAX_SLOW_STEPS = 1.3, 3.0  # a threaded step this much slower than a serial one is a strike
_SOONEST, _LATEST = 2.0, 30.0  # seconds until threads are tried again
_LOOK = 256  # threaded steps between looks at the share


class ThreadTuner:
    """Says before each step whether it is to be threaded, and is told afterwards how long it took."""

    def __init__(self) -> None:
        self.threaded = self.settled = False  # settled: serial for good, no need to ask or tell any more
        self._times: list[float] = []
        self._needed = _FIRST
        self._serial = 0.0  # seconds of a serial step
        self._strikes = 0.0
        self._pause, self._retry = _SOONEST, 0.0
        self._trying = True
        self._since, self._stepping, self._steps = 0.0, 0.0, 0  # of the share's window

    def record(self, now: float, seconds: float) -> None:
        """Take note of a step that ended now and took so long."""
        if not self._trying and not self.threaded:
            if now >= self._retry:
                self._trying, self._times, self._needed = True, [], _AGAIN
                self._begin_share(now)
            return
        if self._steps == 0 and self._since == 0.0:
            self._begin_share(now - seconds)
        self._stepping, self._steps = self._stepping + seconds, self._steps + 1
        if self.threaded:
            self._record_threaded(now, seconds)
            return
        self._times.append(seconds)
        if len(self._times) == self._needed:
            self._serial = statistics.median(self._times)
            self.settled = self._serial <= MIN_PARALLEL_SECONDS
            self._times = []
            if not self.settled and self._share(now) < MIN_STEP_FRACTION:
                self._give_up(now)
            else:
                self.threaded = not self.settled

    def _record_threaded(self, now: float, seconds: float) -> None:
        if self._trying:
            self._times.append(seconds)
            counted = self._times[2:]
            hopeless = len(counted) >= 3 and min(counted) > _SLOW * self._serial
            if hopeless or (len(self._times) == _THREADED and statistics.median(counted) > self._serial):
                self._give_up(now)
            elif len(self._times) == _THREADED:
                self._trying, self._strikes, self._pause = False, 0.0, _SOONEST
                self._begin_share(now)
            return
        slow = seconds > _SLOW * self._serial
        self._strikes = self._strikes + 1 if slow else max(self._strikes - 0.25, 0.0)
        if self._strikes >= _MAX_SLOW_STEPS:
            self._give_up(now)
        elif self._steps >= _LOOK:
            if (
                self._share(now) < MIN_STEP_FRACTION / 2
            ):  # shorter steps are a smaller share: threads do not rule themselves out
                self._give_up(now)
            self._begin_share(now)

    def _begin_share(self, now: float) -> None:
        self._since, self._stepping, self._steps = now, 0.0, 0

    def _share(self, now: float) -> float:
        return self._stepping / max(now - self._since, 1e-9)

    def _give_up(self, now: float) -> None:
        self.threaded = self._trying = False
        self._retry, self._pause = now + self._pause, min(2 * self._pause, _LATEST)
