"""This module plays matches in this process (`InProcessWorkers`) or in several worker processes (`ProcessPool`).

`runner` uses them behind one interface, `Workers`; `ray_pool` has a third implementation. A `ProcessPool` starts, kills
and replaces processes (`worker`), and writes what entrants print to a file. It keeps a tournament going whatever an
entrant's code does to the process that it runs in.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rl_lab.core.errors import UsageError
from rl_lab.core.world import Array
from rl_lab.tournament.call_record import DEADLINE
from rl_lab.tournament.isolation import PROCESS_EXITED
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.matches import MatchEngine, MatchSetup
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.worker import FAILURE, INVALID_INPUT, RESULT_INTERVAL, WorkerProcess, play_block

_MAX_CRASHES_PER_WORKER = 3  # processes that may end one after the other, without any result, before WorkerError


class WorkerError(OSError):
    """The workers cannot continue; the message is one line."""


class Workers(Protocol):
    """The interface of workers, which play matches."""

    count: int  # number of processes that play matches

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """Yield the matches of all tasks, in lists and in any order."""

    def close(self) -> None:
        """Release all resources."""


class InProcessWorkers:
    """Plays matches in this process; `poll` is called between steps, and may raise."""

    def __init__(self, setup: MatchSetup, poll: Callable[[], None]) -> None:
        self.count = 1
        self._engine, self._poll = MatchEngine(setup), poll
        self._engine.compile_ahead()

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """See `Workers`."""
        for block in blocks:
            for results in play_block(self._engine, block, self._poll):
                yield [result.match for result in results]

    def close(self) -> None:
        """Do nothing: this process holds no resources."""


class ProcessPool:
    """Plays matches in `count` processes. A process that ends, or hangs and cannot be stopped, is replaced.

    The unfinished tasks of such a process are played again, each match in a process of its own. An entrant whose call
    ends that process has crashed. From then on, all matches of that entrant are played in processes of their own.

    With `actions`, `play` yields the actions of those matches that were not played in processes of their own. What
    entrants print is written to the file `log`, if that is not None.
    """

    def __init__(
        self,
        setup: MatchSetup,
        count: int,
        poll: Callable[[], None],
        *,
        actions: bool = False,
        log: Path | None = None,
    ) -> None:
        self.count = count
        self._setup, self._poll, self._actions, self._log = setup, poll, actions, log
        self._workers = [WorkerProcess(setup, actions, log) for _ in range(count)]
        self._isolated_entrants: set[str] = set()  # whose matches are played in processes of their own

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """See `Workers`; raises as `play` does."""
        for results in self.play(blocks):
            yield [match for match, _ in results]

    def play(self, blocks: Iterable[list[Task]]) -> Iterator[list[tuple[Match, Array | None]]]:
        """Yield the matches of all tasks with their actions, which are None where they are not known.

        Raises WorkerError where a worker reports an error, or where every new process ends.
        """
        source = iter(blocks)
        retries = deque[tuple[list[Task], bool]]()  # tasks to play before others, and whether to isolate each of them
        consecutive_crashes = 0
        while True:
            # Give every idle worker its next tasks.
            for worker in self._workers:
                if not worker.tasks and (block := self._next_block(source, retries)):
                    worker.send(*block)
            busy_workers = [worker for worker in self._workers if worker.tasks]
            if not busy_workers:
                return
            self._poll()
            # Wait for messages and for what entrants print.
            outputs = [worker.output.reader for worker in busy_workers if worker.output is not None]
            connections = [worker.connection for worker in busy_workers]
            multiprocessing.connection.wait([*connections, *outputs], RESULT_INTERVAL)
            for worker in busy_workers:
                if worker.output is not None:
                    worker.output.drain()
                # Asked before the messages are read, because a worker may end after its last message. A closed pipe
                # alone does not show the end: what an entrant has started may hold the pipe open.
                has_ended = worker.has_ended()
                try:
                    while worker.tasks and worker.connection.poll():
                        if results := self._receive(worker):
                            consecutive_crashes = 0
                            yield results
                    is_lost = has_ended or 0 < worker.shared[DEADLINE] < time.monotonic()
                except (EOFError, OSError) as error:
                    if isinstance(error, WorkerError):
                        raise
                    is_lost = True
                # A worker that has ended, or whose entrant exceeds the deadline of its call, is replaced.
                if is_lost and worker.tasks:
                    consecutive_crashes += 1
                    if consecutive_crashes > _MAX_CRASHES_PER_WORKER * len(self._workers):
                        raise WorkerError(
                            f"{consecutive_crashes} worker processes died one after the other, without any result"
                        )
                    retries.append(([*worker.tasks.values()], True))
                    self._replace(worker)

    def _replace(self, worker: WorkerProcess) -> None:
        """Replace a worker by a new process."""
        worker.end()
        for other in self._workers:
            if other is not worker and other.has_ended():
                other.kill()  # before the start of the next process, with which multiprocessing reaps this one
        self._workers[self._workers.index(worker)] = WorkerProcess(self._setup, self._actions, self._log)

    def _next_block(self, source: Iterator[list[Task]], retries: deque[tuple[list[Task], bool]]) -> Any:
        """Return the next tasks and whether to isolate each of them, or None at the end.

        Tasks of a block with an entrant that is to be isolated are moved to `retries`.
        """
        if retries:
            return retries.popleft()
        for block in source:
            to_isolate = [task for task in block if self._isolated_entrants.intersection(task.pairing)]
            if to_isolate:
                retries.append((to_isolate, True))
                block = [task for task in block if not self._isolated_entrants.intersection(task.pairing)]
            if block:
                return block, False
            return retries.popleft()
        return None

    def _receive(self, worker: WorkerProcess) -> list[tuple[Match, Array | None]]:
        """Return the matches of a worker's next message, which are removed from its tasks.

        Where they were isolated, entrants that have ended or stopped their process are isolated from now on. Raises
        WorkerError or UsageError where the message reports one.
        """
        kind, content = worker.connection.recv()
        if kind == FAILURE:
            raise WorkerError(content)
        if kind == INVALID_INPUT:
            raise UsageError(content)
        results = [(match, actions) for match, actions in content if worker.tasks.pop(match.id, None)]
        if worker.isolated:
            faults = [match.fault for match, _ in results if match.fault]
            ended_process = [f for f in faults if f.kind == "timeout" or f.reason.startswith(PROCESS_EXITED)]
            self._isolated_entrants |= {fault.entrant for fault in ended_process}
        return results

    def drain(self) -> None:
        """Write to the log what entrants have printed so far."""
        for worker in self._workers:
            if worker.output is not None:
                worker.output.drain()

    def close(self) -> None:
        """Kill the processes, and what entrants have started in them."""
        for worker in self._workers:
            worker.end()


def replay_in_process(setup: MatchSetup, tasks: Sequence[Task]) -> list[tuple[Match, Array | None]]:
    """Play matches in another process and return them with their actions.

    The actions are None where an entrant has ended that process twice, or where a match was played in a process of its
    own both times.

    Raises:
        UsageError: an entrant cannot be loaded.
        WorkerError: as `ProcessPool.play`.
    """
    results: dict[str, tuple[Match, Array | None]] = {}
    for _ in range(2):
        missing = [task for task in tasks if task.id not in results or _lacks_actions(*results[task.id])]
        if missing:
            pool = ProcessPool(setup, 1, lambda: None, actions=True)
            try:
                for batch in pool.play([missing]):
                    results |= {match.id: (match, actions) for match, actions in batch}
            finally:
                pool.close()
    return [results[task.id] for task in tasks]


def _lacks_actions(match: Match, actions: Array | None) -> bool:
    """Return whether a match has to be played again to get its actions; forfeits need none."""
    return actions is None and match.fault is None
