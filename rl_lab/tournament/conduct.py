"""Conducting a tournament: from its ledger as it is to the end of its schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..names import UsageError
from ..progress import Progress
from .folder import Tournament, changed
from .ledger import Ledger, Match
from .play import Hall
from .schedule import Task
from .workers import Here, Processes, Workers

_LARGEST = 2048  # tasks of a block
_MANY = 8  # blocks a worker gets, at least, so that all are done at about the same time


@dataclass(frozen=True)
class Outcome:
    """Where a tournament stands, and what it took this time."""

    tournament: Tournament
    matches: list[Match]
    total: int  # matches of the whole schedule
    played: int  # this time
    seconds: float


def conduct(
    tournament: Tournament,
    *,
    workers: int = 1,
    look: Callable[[], None] | None = None,
    progress: Progress | None = None,
    missing: Callable[[Mapping[str, Match]], list[Task]] | None = None,
) -> Outcome:
    """Play what is missing, in this process or in `workers` (at least 1) others.

    `look` is called now and then, and may raise. `missing` says what is to be played next, given the matches by id so
    far, and [] when that is enough; by default the tournament's schedule does. Entrants that are code are always played
    in another process, which they may end. Raises UsageError for entrants that have changed or cannot play this world,
    LedgerError as `Ledger`, WorkerError as `Processes`.
    """
    look, plan = look or (lambda: None), tournament.plan()
    missing = plan.missing if missing is None else missing
    if news := changed(tournament):
        raise UsageError(
            f"{news[0]} has changed since this tournament began; begin another: rl-lab tournament WORLD ..."
        )
    with Ledger(tournament.ledger) as ledger:
        before, begin = len(ledger.matches), time.monotonic()
        tasks = missing(ledger.matches)
        team: Workers | None = None
        if progress is not None:
            progress.begin(before, plan.total)
        try:
            while tasks:
                if team is None:
                    team = _team(tournament, workers, look)
                    begin = time.monotonic()
                for matches in team.submit(_blocks(tasks, workers)):
                    ledger.add(matches)
                    if progress is not None:
                        progress.show(len(ledger.matches), None, {})
                tasks = missing(ledger.matches)
        finally:
            if team is not None:
                team.close()
            if progress is not None:
                progress.end()
        found = [ledger.matches[key] for key in sorted(ledger.matches)]
        return Outcome(tournament, found, plan.total, len(found) - before, time.monotonic() - begin)


def _team(tournament: Tournament, workers: int, look: Callable[[], None]) -> Workers:
    setup = tournament.setup()
    if workers == 1 and not tournament.code:
        return Here(setup, look)
    Hall(setup)  # so that a mistake is found before there are processes
    return Processes(setup, workers, look)


def _blocks(tasks: list[Task], workers: int) -> Iterator[list[Task]]:
    size = _LARGEST if workers == 1 else min(max(len(tasks) // (_MANY * workers), 1), _LARGEST)
    for first in range(0, len(tasks), size):
        yield tasks[first : first + size]
