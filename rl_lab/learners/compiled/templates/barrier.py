"""A barrier: the threads that run one compiled function together wait for each other.

A template, executed by `build`: see `engine/template_context.py`. `barrier` is the address of three int64 counters that
`thread_pool.WorkerPool.run` makes for each run, at ARRIVED, ROUND and ABORTED bytes from it. They lie in different
cache lines, so that a thread that reads one is not slowed down by writes to another. Nothing else is written. A waiting
thread spins, that is, it reads a counter again and again, because a wait takes microseconds only.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.thread_pool import ABORTED, ARRIVED, ROUND

internal = decorators().internal
atomic_add, atomic_load, yield_cpu = primitives().atomic_add, primitives().atomic_load, primitives().yield_cpu
SPINS = 4000  # reads of a counter, some microseconds, before the core is yielded to other threads


@internal
def barrier_wait(num_threads: Any, barrier: Any) -> Any:
    """Wait until `num_threads` threads have called this function; return False if the barrier is aborted."""
    if num_threads == 1:
        return True
    current_round = atomic_load(barrier + ROUND)
    if atomic_add(barrier + ARRIVED, 1) == num_threads - 1:  # this thread is the last one: it releases the others
        atomic_add(barrier + ARRIVED, -num_threads)
        atomic_add(barrier + ROUND, 1)
        return True
    spins = 0
    while atomic_load(barrier + ROUND) == current_round:
        if atomic_load(barrier + ABORTED) != 0:
            return False
        spins += 1
        if spins > SPINS:
            yield_cpu()
    return True


@internal
def barrier_abort(barrier: Any) -> None:
    """Release all threads that wait: from now on `barrier_wait` returns False to those that would have to wait."""
    atomic_add(barrier + ABORTED, 1)


@internal
def abort_if_interrupted(barrier: Any, stop_flag: Any) -> Any:
    """Abort the barrier if the int64 at address `stop_flag` says that the user interrupts the work; return whether."""
    if atomic_load(stop_flag) == 0:
        return False
    barrier_abort(barrier)
    return True
