"""This module chooses between stepping a batch on one thread or on several, by measuring both repeatedly.

`Batch` has a ThreadTuner unless the caller sets the number of threads. It measures again and again because other
programs start and end.

Threads wait for each other at every step. On idle cores that halves the time of a long step; on cores that other
programs use, a step can take a hundred times as long as on one thread. And a thread that waits for the next step spins:
where stepping is a small part of the work, as in training, it would use a whole core to save next to nothing.
"""

from __future__ import annotations

import statistics

MIN_PARALLEL_SECONDS = 12e-6  # of a serial step: if it is shorter, waking threads costs more than they can save
MIN_STEP_FRACTION = 0.3  # of the time that passes: where steps take less of it, threads are not used
# Serial steps timed at first and before later trials; the very first ones load machine code and warm caches.
_FIRST_SERIAL_STEPS, _LATER_SERIAL_STEPS = 24, 5
_TRIAL_STEPS = 8  # threaded steps of a trial, of which the first two are not counted
_SLOW_FACTOR, _MAX_SLOW = 1.3, 3.0  # a threaded step is slow if it takes this much longer than a serial one
_MIN_PAUSE, _MAX_PAUSE = 2.0, 30.0  # seconds until threads are tried again
_WINDOW_STEPS = 256  # threaded steps after which the fraction of time spent in steps is checked


class ThreadTuner:
    """A ThreadTuner says before each step whether it is to be threaded, and is told afterwards how long it took.

    It times some serial steps, then tries threaded ones. If these are quicker, it stays threaded until several are
    slow; otherwise, and then, it returns to serial steps and tries again after a pause, which doubles with each
    failure.

    Attributes:
        threaded: True if the next step is to be threaded.
        is_final: True once serial steps are so short that threads can never help: no more calls are needed.
    """

    def __init__(self) -> None:
        self.threaded = self.is_final = False
        self._timed_steps: list[float] = []
        self._num_to_time = _FIRST_SERIAL_STEPS
        self._serial_seconds = 0.0  # seconds of a serial step
        self._num_slow = 0.0  # slow threaded steps lately
        self._pause, self._retry_time = _MIN_PAUSE, 0.0
        self._in_trial = True
        self._window_start, self._window_step_seconds, self._window_steps = (
            0.0,
            0.0,
            0,
        )  # steps, and seconds in them, since a time

    def record(self, now: float, seconds: float) -> None:
        """Record that a step, serial or threaded as `threaded` said, ended at `now` and took this many seconds."""
        if not self._in_trial and not self.threaded:
            if now >= self._retry_time:
                self._in_trial, self._timed_steps, self._num_to_time = True, [], _LATER_SERIAL_STEPS
                self._begin_window(now)
            return
        if self._window_steps == 0 and self._window_start == 0.0:
            self._begin_window(now - seconds)
        self._window_step_seconds, self._window_steps = self._window_step_seconds + seconds, self._window_steps + 1
        if self.threaded:
            self._record_threaded(now, seconds)
            return
        self._timed_steps.append(seconds)
        if len(self._timed_steps) == self._num_to_time:
            self._serial_seconds = statistics.median(self._timed_steps)
            self.is_final = self._serial_seconds <= MIN_PARALLEL_SECONDS
            self._timed_steps = []
            if not self.is_final and self._step_fraction(now) < MIN_STEP_FRACTION:
                self._return_to_serial(now)
            else:
                self.threaded = not self.is_final

    def _record_threaded(self, now: float, seconds: float) -> None:
        if self._in_trial:
            self._timed_steps.append(seconds)
            counted_steps = self._timed_steps[2:]
            is_hopeless = len(counted_steps) >= 3 and min(counted_steps) > _SLOW_FACTOR * self._serial_seconds
            if is_hopeless or (
                len(self._timed_steps) == _TRIAL_STEPS and statistics.median(counted_steps) > self._serial_seconds
            ):
                self._return_to_serial(now)
            elif len(self._timed_steps) == _TRIAL_STEPS:
                self._in_trial, self._num_slow, self._pause = False, 0.0, _MIN_PAUSE
                self._begin_window(now)
            return
        slow = seconds > _SLOW_FACTOR * self._serial_seconds
        self._num_slow = self._num_slow + 1 if slow else max(self._num_slow - 0.25, 0.0)
        if self._num_slow >= _MAX_SLOW:
            self._return_to_serial(now)
        elif self._window_steps >= _WINDOW_STEPS:
            # Threads make steps shorter, and so their fraction of the time: the limit is half of that for serial steps.
            if self._step_fraction(now) < MIN_STEP_FRACTION / 2:
                self._return_to_serial(now)
            self._begin_window(now)

    def _begin_window(self, now: float) -> None:
        self._window_start, self._window_step_seconds, self._window_steps = now, 0.0, 0

    def _step_fraction(self, now: float) -> float:
        return self._window_step_seconds / max(now - self._window_start, 1e-9)

    def _return_to_serial(self, now: float) -> None:
        self.threaded = self._in_trial = False
        self._retry_time, self._pause = now + self._pause, min(2 * self._pause, _MAX_PAUSE)
