"""Threads that run one compiled function together."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import plan


def available() -> int:
    """Return how many threads can share a learner's work: the cores that this process may use, SHARDS at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, plan.SHARDS)


class Team:
    """Up to `threads` threads, the caller among them. They wait for each other in `team.meet`."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._counters = np.zeros(64, np.int64)
        self._pool: ThreadPoolExecutor | None = None

    def run(self, ranks: int, function: Any, *arguments: Any) -> list[Any]:
        """Return what `function(rank, ranks, team, *arguments)` returns to each of so many threads."""
        self._counters[:] = 0
        given = (ranks, self._counters.ctypes.data, *arguments)
        if ranks == 1:
            return [function(0, *given)]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, "learner")
        others = [self._pool.submit(self._help, function, rank, given) for rank in range(1, ranks)]
        try:
            own = function(0, *given)
        except BaseException:  # an interrupt, before this thread got to where the others wait
            self._call_off()
            raise
        return [own, *(other.result() for other in others)]

    def _help(self, function: Any, rank: int, given: tuple[Any, ...]) -> Any:
        try:
            return function(rank, *given)
        except BaseException:
            self._call_off()
            raise

    def _call_off(self) -> None:
        self._counters[plan.CALLED_OFF // 8] = 1
