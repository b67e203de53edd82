"""Threads that run one compiled function together.

numba's functions release Python's lock, so that they run at the same time. `WorkerPool` starts its threads at the first
run and keeps them; a learner has one pool. Beside them, a run only allocates the counters of its barrier.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from rl_lab.core.stop_flag import check_flag
from rl_lab.core.world import Array

# Parts of a minibatch and of the parameters: up to this many threads share the work; with fewer, the parts and so the
# sums keep the same bits.
NUM_SHARDS = 4
MIN_SHARD_ROWS = 32  # of a minibatch's part
# Counters of a barrier, see `templates/barrier.py`: bytes from its address, a cache line apart.
ARRIVED, ROUND, ABORTED = 0, 64, 128


def available_threads() -> int:
    """Return how many threads can share a learner's work: the cores that this process may use, at most NUM_SHARDS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, NUM_SHARDS)


class WorkerPool:
    """Up to `threads` threads, the caller among them. They wait for each other as `templates/barrier.py` says."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None  # of all threads but the caller
        self._process = 0  # the process that has these threads: a fork has none
        self._compiled: set[Any] = set()  # functions

    def run(self, num_threads: int, function: Any, *arguments: Any) -> list[Any]:
        """Call `function(rank, num_threads, barrier, *arguments)` in each thread; return the results by rank.

        `rank` is the number of the thread, 0 for the caller. `barrier` is the address of the barrier's counters.

        An error in one thread is raised after the others have stopped, so that no memory is in use any more. Raises
        KeyboardInterrupt if the user has interrupted compiled code.
        """
        counters = np.zeros(64, np.int64)  # of this run alone, so that a late thread of the last run changes nothing
        shared_arguments = (num_threads, counters.ctypes.data, *arguments)
        if num_threads == 1:
            results = [function(0, *shared_arguments)]
            check_flag()
            return results
        if function not in self._compiled:  # in this thread: an interrupt would leave another one compiling
            function.compile(tuple(map(function.typeof_pyval, (0, *shared_arguments))))
            self._compiled.add(function)
        futures: list[Future[Any]] = []
        try:
            for rank in range(1, num_threads):
                futures.append(self._executor().submit(_run_rank, function, rank, shared_arguments, counters))
            caller_result = function(0, *shared_arguments)
            results = [caller_result, *(future.result() for future in futures)]
            check_flag()
            return results
        except BaseException:  # the other threads may wait for this one
            counters[ABORTED // 8] = 1  # in int64, from an offset in bytes
            raise
        finally:
            wait(futures)

    def _executor(self) -> ThreadPoolExecutor:
        """Return the other threads, which are started at the first call in this process."""
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self.threads - 1, "learner"), os.getpid()
        return self._pool


def _run_rank(function: Any, rank: int, shared_arguments: tuple[Any, ...], counters: Array) -> Any:
    """Run a function as one of the threads; if it raises, release those that wait for it."""
    try:
        return function(rank, *shared_arguments)
    except BaseException:
        counters[ABORTED // 8] = 1  # in int64, from an offset in bytes
        raise
