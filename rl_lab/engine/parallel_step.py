"""This module steps a batch on several threads, which numba starts once and keeps waiting between steps.

`step_parallel` sets numba's number of threads for the process where it differs. A process forked from one with threads
steps on one thread, because the threads are not in the child.
"""

from __future__ import annotations

import os
import sys
from functools import cache

from rl_lab.core.world import Array
from rl_lab.engine import compiler

# Not empty in a process forked from one that had threads. Its own copy of them is dead, and GNU OpenMP would end the
# process, so its batches step on one thread.
_FORKED_FROM_THREADED: list[bool] = []


def step_parallel(address: int, outcomes: Array, threads: int) -> int:
    """Step the batch whose header lies at `address`; return the outcome. `outcomes`, int64 [threads], is scratch."""
    if _FORKED_FROM_THREADED:
        return int(compiler.dispatch().step_serial(address))
    import numba

    _start_threads()
    num_threads = min(threads, numba.config.NUMBA_NUM_THREADS)
    if numba.get_num_threads() != num_threads:  # asking is quicker than setting
        numba.set_num_threads(num_threads)
    return int(compiler.dispatch().step_parallel(address, outcomes))


@cache
def _start_threads() -> None:
    """Let numba start its threads, once, and leave torch's number of threads as it is: both set that of one OpenMP."""
    import numba

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _FORKED_FROM_THREADED.append(True))
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    numba.get_num_threads()
    if torch:
        torch.set_num_threads(before)
