"""These tests check when threads are used, with invented times of steps: where quicker, not elsewhere, tried again."""

from __future__ import annotations

from rl_lab.engine.thread_tuner import MIN_PARALLEL_SECONDS, ThreadTuner


class Clock:
    """A machine on which a serial and a threaded step take so long, and other work between steps as long as `rest`."""

    def __init__(self, serial: float, threaded: float, rest: float = 0.0) -> None:
        self.serial, self.threaded, self.rest, self.now, self.pace = serial, threaded, rest, 100.0, ThreadTuner()

    def steps(self, count: int) -> float:
        """Take steps; return the share that was threaded."""
        threaded = 0
        for _ in range(count):
            seconds = self.threaded if self.pace.threaded else self.serial
            threaded += self.pace.threaded
            self.now += self.rest + seconds
            if not self.pace.is_final:
                self.pace.record(self.now, seconds)
        return threaded / count


def test_short_steps_stay_serial_for_good() -> None:
    clock = Clock(0.9 * MIN_PARALLEL_SECONDS, 0.1 * MIN_PARALLEL_SECONDS)
    assert clock.steps(1000) == 0 and clock.pace.is_final


def test_threads_are_used_where_they_are_quicker() -> None:
    clock = Clock(1e-3, 0.6e-3)
    clock.steps(24)
    assert clock.steps(1000) == 1.0


def test_threads_are_left_where_they_are_slower_and_seldom_tried_again() -> None:
    clock = Clock(1e-4, 2e-2)
    assert clock.steps(200) < 0.05
    assert clock.steps(1_000_000) < 0.001
    assert clock.now < 100 + 1.1 * 1_000_200 * 1e-4


def test_threads_are_left_when_the_machine_gets_busy_and_taken_up_when_it_is_free() -> None:
    clock = Clock(1e-3, 0.6e-3)
    clock.steps(200)
    clock.threaded = 3e-2
    clock.steps(10)
    assert not clock.pace.threaded
    clock.steps(20_000)
    clock.threaded = 0.6e-3
    clock.steps(40_000)  # the longest pause has passed
    assert clock.steps(1000) > 0.9


def test_a_few_slow_steps_are_forgiven() -> None:
    clock = Clock(1e-3, 0.6e-3)
    clock.steps(100)
    for _ in range(50):
        clock.threaded = 5e-3
        clock.steps(1)
        clock.threaded = 0.6e-3
        clock.steps(9)
    assert clock.pace.threaded


def test_threads_are_left_alone_where_steps_are_a_small_part_of_the_work() -> None:
    training = Clock(1e-4, 0.6e-4, rest=5e-3)
    assert training.steps(100_000) == 0.0


def test_threads_follow_the_work() -> None:
    clock = Clock(1e-3, 0.6e-3)
    clock.steps(1000)
    clock.rest = 2e-2  # an agent begins to learn between steps
    clock.steps(1000)
    assert not clock.pace.threaded
    clock.rest = 0.0
    clock.steps(100_000)
    assert clock.pace.threaded
