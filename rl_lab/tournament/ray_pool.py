"""This module plays the matches of a tournament on a Ray cluster.

`runner` makes a `RayPool` for `--workers ray`. It opens the cluster, sends each worker the packed setup, and closes the
cluster at the end. In a worker's process, a `_MatchPerformer` plays the tasks that are sent to it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.learners.rllib.job_pool import JobPool, session_folder
from rl_lab.learners.rllib.ray_workers import RayWorkers
from rl_lab.tournament import entrant_output
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.matches import MatchSetup
from rl_lab.tournament.packed_setup import PackedSetup, pack_setup
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.workers import InProcessWorkers, ProcessPool


class RayPool:
    """Plays matches on a Ray cluster, see `workers.Workers`. The matches of a worker that dies are played by another.

    Where entrants are user code, each worker plays in a contained process of its own, as a `ProcessPool` does. What
    they print is written to the file `log`.

    Raises as `RayWorkers.open`.
    """

    def __init__(self, setup: MatchSetup, workers: RayWorkers, poll: Callable[[], None], *, log: Path) -> None:
        performer = _MatchPerformer(pack_setup(setup))
        cluster, self.count = workers.open()
        self._pool, self._log = JobPool(cluster, performer, count=self.count, poll=poll), log

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """See `Workers`; raises as `JobPool.run`."""
        for matches, printed in self._pool.run(blocks):
            if printed:
                entrant_output.append(self._log, printed)
            yield matches

    def close(self) -> None:
        """End the workers and close the cluster."""
        self._pool.close()


@dataclass
class _MatchPerformer:
    """Plays matches in the process of a worker; the `job_pool.JobPool` calls its methods there."""

    packed: PackedSetup

    def begin(self) -> None:
        """Load the world and the entrants; where entrants are user code, in another process with a log of its own."""
        setup = self.packed.unpack()
        self._folder: Any = None  # of the log
        self._workers: InProcessWorkers | ProcessPool
        if self.packed.functions:
            self._folder = tempfile.TemporaryDirectory(dir=session_folder())
            self._log = Path(self._folder.name) / entrant_output.LOG_NAME
            self._workers = ProcessPool(setup, 1, _no_poll, log=self._log)
        else:
            self._workers = InProcessWorkers(setup, _no_poll)

    def perform(self, tasks: Sequence[Task]) -> Iterator[tuple[list[int], tuple[list[Match], bytes]]]:
        """Yield the positions of tasks, with their matches and what entrants have printed meanwhile."""
        positions = {task.id: position for position, task in enumerate(tasks)}
        for matches in self._workers.submit([list(tasks)]):
            yield [positions[match.id] for match in matches], (matches, self._printed())
        if isinstance(self._workers, ProcessPool):
            self._workers.drain()
        yield [], ([], self._printed())

    def _printed(self) -> bytes:
        """Return what has been written to the log since the last call, and delete it."""
        if self._folder is None or not self._log.exists():
            return b""
        text = self._log.read_bytes()
        self._log.unlink()
        return text


def _no_poll() -> None:
    """Do nothing between steps: Ctrl-C reaches the user's process, which ends the workers."""
