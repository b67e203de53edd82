"""This module runs a tournament: it plays the matches of its schedule that its ledger lacks.

`run_tournament` is the entry point, for `rl-lab tournament`, `resume` and `compare`. It locks the tournament's folder,
starts the workers, sends them tasks in blocks, appends their matches to the ledger as they come, and ends the workers.
So a tournament that is killed at any moment can be resumed.
"""

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
from rl_lab.tournament.workers import InProcessWorkers, ProcessPool, Workers

_MAX_BLOCK_SIZE = 2048  # tasks in a block
_MIN_BLOCKS_PER_WORKER = 8  # so that all workers finish at about the same time


@dataclass(frozen=True)
class TournamentOutcome:
    """The matches of a tournament so far, and the effort of this run."""

    tournament: Tournament
    matches: list[Match]
    total: int  # number of matches of the whole schedule
    num_played: int  # number of matches played in this run
    seconds: float  # duration of this run


def run_tournament(
    tournament: Tournament,
    *,
    workers: int | RayWorkers = 1,
    poll: Callable[[], None] | None = None,
    progress: Progress | None = None,
    next_tasks: Callable[[Mapping[str, Match]], list[Task]] | None = None,
) -> TournamentOutcome:
    """Play the missing matches of a tournament, and return all of its matches.

    Args:
        tournament: the tournament, whose ledger is extended.
        workers: number of processes, at least 1, or workers on a Ray cluster. With 1, the matches are played in this
            process, unless entrants are user code, which always runs in another process because it may end its process.
        poll: a function that is called regularly and may raise, to interrupt the tournament.
        progress: where to show progress.
        next_tasks: returns the tasks to play next for the matches so far by id, and [] at the end; by default
            `Schedule.missing`.

    Raises:
        UsageError: an entrant has changed or cannot play this world.
        LedgerError: as in `Ledger`.
        WorkerError: as in `ProcessPool`.
        WorkFailed: as in `JobPool`.
    """
    poll, schedule = poll or (lambda: None), tournament.make_schedule()
    next_tasks = schedule.missing if next_tasks is None else next_tasks
    if changed := changed_entrants(tournament):
        raise UsageError(
            f"{changed[0]} has changed since this tournament began; begin another: rl-lab tournament WORLD ..."
        )
    with Ledger(tournament.ledger) as ledger, rare_full_collections():
        num_before, begin = len(ledger.matches), time.monotonic()
        tasks = next_tasks(ledger.matches)
        pool: Workers | None = None
        if progress is not None:
            progress.begin(num_before, schedule.total)
        try:
            while tasks:
                if pool is None:
                    pool = _start_workers(tournament, workers, poll)
                    begin = time.monotonic()  # the time to start workers does not count
                for matches in pool.submit(_blocks(tasks, pool.count)):
                    ledger.add(matches)
                    if progress is not None:
                        progress.show(len(ledger.matches), None, {})
                tasks = next_tasks(ledger.matches)
        finally:
            if pool is not None:
                pool.close()
            if progress is not None:
                progress.end()
        matches = [ledger.matches[key] for key in sorted(ledger.matches)]
        return TournamentOutcome(
            tournament, matches, schedule.total, len(matches) - num_before, time.monotonic() - begin
        )


def _start_workers(tournament: Tournament, workers: int | RayWorkers, poll: Callable[[], None]) -> Workers:
    """Return workers that are ready to play; `run_tournament` describes which."""
    setup, log = tournament.setup(), tournament.path / entrant_output.LOG_NAME
    if workers == 1 and not tournament.code:
        return InProcessWorkers(setup, poll)
    MatchEngine(setup, load_code=False)  # raises UsageError before any process is started
    if isinstance(workers, int):
        return ProcessPool(setup, workers, poll, log=log)
    require("workers=ray")  # the module imports Ray
    from rl_lab.tournament.ray_pool import RayPool

    return RayPool(setup, workers, poll, log=log)


def _blocks(tasks: list[Task], num_workers: int) -> Iterator[list[Task]]:
    """Yield the tasks in blocks, each of which is sent to one worker at once."""
    size = _MAX_BLOCK_SIZE
    if num_workers > 1:
        size = min(max(len(tasks) // (_MIN_BLOCKS_PER_WORKER * num_workers), 1), _MAX_BLOCK_SIZE)
    for first in range(0, len(tasks), size):
        yield tasks[first : first + size]
