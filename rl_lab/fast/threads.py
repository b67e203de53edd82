"""Threads that run one compiled function together."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from ..world import Array
from . import plan


def available() -> int:
    """Return how many threads can share a learner's work: the cores that this process may use, SHARDS at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, plan.SHARDS)


class Team:
    """Up to `threads` threads, the caller among them. They wait for each other in `team.meet`."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0  # whose threads these are: a fork has none
        self._compiled: set[Any] = set()

    def run(self, ranks: int, function: Any, *arguments: Any) -> list[Any]:
        """Return what `function(rank, ranks, team, *arguments)` returns to each of so many threads.

        An error or an interrupt in one of them is raised once the others have stopped: no memory is in use any more.
        """
        counters = np.zeros(64, np.int64)  # of this run alone: who is late for the last one disturbs nobody
        given = (ranks, counters.ctypes.data, *arguments)
        if ranks == 1:
            return [function(0, *given)]
        if function not in self._compiled:  # by this thread, or an interrupt would leave another one compiling
            function.compile(tuple(map(function.typeof_pyval, (0, *given))))
            self._compiled.add(function)
        others: list[Future[Any]] = []
        try:
            for rank in range(1, ranks):
                others.append(self._helpers().submit(_help, function, rank, given, counters))
            own = function(0, *given)
            return [own, *(other.result() for other in others)]
        except BaseException:  # where the others wait, this thread may never come
            counters[plan.CALLED_OFF // 8] = 1
            raise
        finally:
            wait(others)

    def _helpers(self) -> ThreadPoolExecutor:
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self.threads - 1, "learner"), os.getpid()
        return self._pool


def _help(function: Any, rank: int, given: tuple[Any, ...], counters: Array) -> Any:
    try:
        return function(rank, *given)
    except BaseException:
        counters[plan.CALLED_OFF // 8] = 1
        raise
