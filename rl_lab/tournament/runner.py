"""Run a tournament: play the matches of its schedule that its ledger lacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rl_lab.core.errors import UsageError
from rl_lab.core.garbage_collection import rare_full_collections
from rl_lab.core.progress import Progress
from rl_lab.learners.rllib.ray_workers import RayWorkers
from rl_lab.learners.rllib.requirement import require
from rl_lab.tournament import entrant_output
from rl_lab.tournament.ledger import Ledger, Match
from rl_lab.tournament.matches import MatchEngine
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.store import Tournament, changed_entrants
from rl_lab.tournament.workers import InProcess, ProcessPool, Workers

_MAX_BLOCK = 2048  # tasks in a block
_BLOCKS_PER_WORKER = 8  # at least, so that all workers finish at about the same time


@dataclass(frozen=True)
class Outcome:
    """The matches of a tournament so far, and the effort of this run."""

    tournament: Tournament
    matches: list[Match]
    total: int  # number of matches of the whole schedule
    played: int  # number of matches played in this run
    seconds: float  # duration of this run


def run_tournament(
    tournament: Tournament,
    *,
    workers: int | RayWorkers = 1,
    poll: Callable[[], None] | None = None,
    progress: Progress | None = None,
    missing: Callable[[Mapping[str, Match]], list[Task]] | None = None,
) -> Outcome:
    """Play the missing matches of a tournament, and return all of its matches.

    Args:
        tournament: the tournament, whose ledger is extended.
        workers: number of processes, at least 1, or workers on a Ray cluster. With 1, the matches are played in this
            process, unless entrants are user code, which always runs in another process because it may end its process.
        poll: a function that is called regularly and may raise.
        progress: where to show progress.
        missing: returns the tasks to play next for the matches so far by id, and [] at the end; by default
            `Schedule.missing`.

    Raises:
        UsageError: an entrant has changed or cannot play this world.
        LedgerError: as in `Ledger`.
        WorkerError: as in `ProcessPool`.
        WorkFailed: as in `JobPool`.
    """
    poll, schedule = poll or (lambda: None), tournament.make_schedule()
    missing = schedule.missing if missing is None else missing
    if changed := changed_entrants(tournament):
        raise UsageError(
            f"{changed[0]} has changed since this tournament began; begin another: rl-lab tournament WORLD ..."
        )
    with Ledger(tournament.ledger) as ledger, rare_full_collections():
        before, begin = len(ledger.matches), time.monotonic()
        tasks = missing(ledger.matches)
        pool: Workers | None = None
        if progress is not None:
            progress.begin(before, schedule.total)
        try:
            while tasks:
                if pool is None:
                    pool = _workers(tournament, workers, poll)
                    begin = time.monotonic()
                for matches in pool.submit(_blocks(tasks, pool.count)):
                    ledger.add(matches)
                    if progress is not None:
                        progress.show(len(ledger.matches), None, {})
                tasks = missing(ledger.matches)
        finally:
            if pool is not None:
                pool.close()
            if progress is not None:
                progress.end()
        matches = [ledger.matches[key] for key in sorted(ledger.matches)]
        return Outcome(tournament, matches, schedule.total, len(matches) - before, time.monotonic() - begin)


def _workers(tournament: Tournament, workers: int | RayWorkers, poll: Callable[[], None]) -> Workers:
    setup, log = tournament.setup(), tournament.path / entrant_output.NAME
    if workers == 1 and not tournament.code:
        return InProcess(setup, poll)
    MatchEngine(setup, code=False)  # raises UsageError before any process is started
    if isinstance(workers, int):
        return ProcessPool(setup, workers, poll, log=log)
    require("workers=ray")  # the module imports Ray
    from rl_lab.tournament.ray_pool import RayPool

    return RayPool(setup, workers, poll, log=log)


def _blocks(tasks: list[Task], workers: int) -> Iterator[list[Task]]:
    size = _MAX_BLOCK if workers == 1 else min(max(len(tasks) // (_BLOCKS_PER_WORKER * workers), 1), _MAX_BLOCK)
    for first in range(0, len(tasks), size):
        yield tasks[first : first + size]
