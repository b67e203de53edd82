"""These tests check that TimeLimit ends code that takes too long, and nothing else."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from rl_lab.core.time_limit import TimeIsUp, TimeLimit


def work(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_a_block_that_is_fast_enough_is_not_ended() -> None:
    reached = []
    with TimeLimit(0.5):  # a busy machine does not stop this process for so long in an empty block
        pass
    work(0.7)
    with TimeLimit(5.0):
        work(0.3)
        reached.append(True)
    assert reached


def test_many_blocks_share_one_thread() -> None:
    before = threading.active_count()
    for _ in range(200):
        with TimeLimit(5.0), TimeLimit(9.0):
            pass
    assert threading.active_count() <= before + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_limits_too() -> None:
    with TimeLimit(5.0):
        child = os.fork()
        if child == 0:
            try:
                with TimeLimit(0.05):
                    work(5)
            except TimeIsUp:
                os._exit(3)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_a_slow_block_is_ended_once() -> None:
    limit = TimeLimit(0.05)
    with pytest.raises(TimeIsUp) as caught, limit:
        work(5)
    assert limit.raised(caught.value)
    work(1.2)


def test_code_that_catches_it_is_ended_by_the_next_one() -> None:
    with pytest.raises(TimeIsUp), TimeLimit(0.05):
        try:
            work(5)
        except BaseException:
            work(5)


@pytest.mark.parametrize(("outer_seconds", "inner_seconds"), [(0.05, 5.0), (5.0, 0.05)])
def test_nested_blocks_know_whose_limit_it_was(outer_seconds: float, inner_seconds: float) -> None:
    outer, inner = TimeLimit(outer_seconds), TimeLimit(inner_seconds)
    with pytest.raises(TimeIsUp) as caught, outer, inner:
        work(9)
    assert outer.raised(caught.value) == (outer_seconds < inner_seconds)
    assert inner.raised(caught.value) == (inner_seconds < outer_seconds)


class Slow:
    """An object whose deletion takes longer than the limit, and cannot propagate an exception."""

    def __del__(self) -> None:
        work(0.5)


class Broken:
    """An object whose deletion fails by itself."""

    def __del__(self) -> None:
        raise ValueError("mine")


def test_a_deletion_that_is_ended_prints_nothing_and_the_block_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(str(unraisable.exc_value)))
    before = sys.unraisablehook
    with pytest.raises(TimeIsUp), TimeLimit(0.05):
        Slow()
        Broken()
        work(5)
    assert reported == ["mine"]
    assert sys.unraisablehook is before
