"""How a learner of a league stands, in numbers for metrics."""

from __future__ import annotations

from ..seated import Seated
from ..world import Array
from .selection import WinTable


def report(view: Seated, table: WinTable, learner: int, names: list[str], results: Array) -> dict[str, float]:
    """Return its chances to beat those it has met, and its score in each of the world's roles: a draw is half a win.

    `names` are those of the first players, learners and anchors; of who was frozen there are the mean and the least.
    `results`, int [players, roles, 3], are the last iteration's.
    """
    rates, met = table.win_rates(learner), table.games[learner].sum(axis=1) > 0
    found = {f"win_rate/{name}": float(rates[k]) for k, name in enumerate(names) if met[k]}
    learners = len(table.games)
    if len(pool := rates[learners:][met[learners:]]):
        found |= {"win_rate/pool": float(pool.mean()), "win_rate/least": float(pool.min())}
    for seats, ends in zip(view.roles, results.sum(axis=0), strict=True):
        if ends.sum():
            name = view.batch.world.agents[seats[0]]
            found[f"score/{name}"] = float((ends[2] + ends[1] / 2) / ends.sum())
    return found
