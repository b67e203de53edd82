"""How threads that run one function together wait for each other.

Not imported as it stands: see `kernels.py`. A team is an address of three counters, a cache line apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_lab.fast.plan import ARRIVED, CALLED_OFF, ROUND

if TYPE_CHECKING:
    from rl_lab.compiler import outlined

    add_at: Any
    read_at: Any
    give_way: Any

PATIENCE = 4000  # looks at a counter before another thread of this machine may have the core: some microseconds


@outlined
def call_off(team: Any) -> None:
    """Keep nobody waiting: from now on `meet` returns False."""
    add_at(team + CALLED_OFF, 1)


@outlined
def meet(ranks: Any, team: Any) -> Any:
    """Wait until so many threads have come here; return False where the work is called off."""
    if ranks == 1:
        return True
    now = read_at(team + ROUND)
    if add_at(team + ARRIVED, 1) == ranks - 1:
        add_at(team + ARRIVED, -ranks)
        add_at(team + ROUND, 1)
        return True
    looks = 0
    while read_at(team + ROUND) == now:
        if read_at(team + CALLED_OFF) != 0:
            return False
        looks += 1
        if looks > PATIENCE:
            give_way()
    return True
