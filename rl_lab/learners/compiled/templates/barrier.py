"""How threads that run one function together wait for each other.

A template, executed by `build`: see `engine/template_context.py`.
A team is an address of three counters, a cache line apart.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import ABORTED, ARRIVED, ROUND
from rl_lab.learners.compiled.primitives import primitives

internal = decorators().internal
add_at, read_at, yield_cpu = primitives().add_at, primitives().read_at, primitives().yield_cpu
SPINS = 4000  # reads of a counter, some microseconds, before the core is yielded to other threads


@internal
def barrier_abort(team: Any) -> None:
    """Release all threads that wait: from now on `barrier_wait` returns False."""
    add_at(team + ABORTED, 1)


@internal
def barrier_stopped(team: Any, flag: Any) -> Any:
    """Return whether the flag at this address says that the user interrupts the work; if so, release all threads."""
    if read_at(flag) == 0:
        return False
    barrier_abort(team)
    return True


@internal
def barrier_wait(ranks: Any, team: Any) -> Any:
    """Wait until `ranks` threads have called this function; return False if the barrier is aborted."""
    if ranks == 1:
        return True
    current_round = read_at(team + ROUND)
    if add_at(team + ARRIVED, 1) == ranks - 1:
        add_at(team + ARRIVED, -ranks)
        add_at(team + ROUND, 1)
        return True
    spins = 0
    while read_at(team + ROUND) == current_round:
        if read_at(team + ABORTED) != 0:
            return False
        spins += 1
        if spins > SPINS:
            yield_cpu()
    return True
