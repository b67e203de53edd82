"""Threads that run one compiled function together."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from rl_lab.core.interrupts import check_flag
from rl_lab.core.world import Array
from rl_lab.learners.compiled import network


def available() -> int:
    """Return how many threads can share a learner's work: the cores that this process may use, SHARDS at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, network.SHARDS)


class WorkerPool:
    """Up to `threads` threads, the caller among them. They wait for each other in `templates/barrier.py`."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0  # the process that has these threads: a fork has none
        self._compiled: set[Any] = set()

    def run(self, ranks: int, function: Any, *arguments: Any) -> list[Any]:
        """Return the results of `function(rank, ranks, team, *arguments)` in `ranks` threads, by rank.

        An error in one thread is raised after the others have stopped, so that no memory is in use any more. Raises
        KeyboardInterrupt if the user has interrupted compiled code.
        """
        counters = np.zeros(64, np.int64)  # of this run alone, so that a late thread of the last run changes nothing
        shared_arguments = (ranks, counters.ctypes.data, *arguments)
        if ranks == 1:
            results = [function(0, *shared_arguments)]
            check_flag()
            return results
        if function not in self._compiled:  # by this thread, or an interrupt would leave another one compiling
            function.compile(tuple(map(function.typeof_pyval, (0, *shared_arguments))))
            self._compiled.add(function)
        futures: list[Future[Any]] = []
        try:
            for rank in range(1, ranks):
                futures.append(self._executor().submit(_run_rank, function, rank, shared_arguments, counters))
            own = function(0, *shared_arguments)
            results = [own, *(future.result() for future in futures)]
            check_flag()
            return results
        except BaseException:  # the other threads may wait for this one
            counters[network.ABORTED // 8] = 1
            raise
        finally:
            wait(futures)

    def _executor(self) -> ThreadPoolExecutor:
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self.threads - 1, "learner"), os.getpid()
        return self._pool


def _run_rank(function: Any, rank: int, shared_arguments: tuple[Any, ...], counters: Array) -> Any:
    """Run a function as one of the threads; if it raises, release those that wait for it."""
    try:
        return function(rank, *shared_arguments)
    except BaseException:
        counters[network.ABORTED // 8] = 1
        raise
