"""Who plays: this process, or several. A cluster could take their place: all it needs is `submit`."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from ..interrupts import Interrupted
from ..names import UsageError, one_line
from .apart import GONE, play_apart
from .asking import Mark
from .ledger import Match
from .play import Hall, Setup
from .schedule import Task

_EVERY = 0.5  # seconds between results
_TRIES = 3  # processes that may end without a result before it is given up


class WorkerError(OSError):
    """Workers cannot go on; the message is one line."""


class Workers(Protocol):
    """Plays matches, somewhere."""

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """Yield the matches of all tasks, some at a time and in any order."""

    def close(self) -> None:
        """Let go of what is held."""


class Here:
    """Plays in this process; `look` is called between steps, and may raise."""

    def __init__(self, setup: Setup, look: Callable[[], None]) -> None:
        self.hall, self.look = Hall(setup), look
        self.hall.warm()

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """See `Workers`."""
        for block in blocks:
            yield from _in_time(self.hall, block, self.look)

    def close(self) -> None:
        """Nothing is held."""


def _in_time(hall: Hall, block: list[Task], look: Callable[[], None] | None) -> Iterator[list[Match]]:
    """Yield a block's matches every now and then, and those at hand before an interruption."""
    done, since = [], time.monotonic()
    try:
        for played in hall.play(block, look=look):
            done.append(played.match)
            if time.monotonic() - since > _EVERY:
                yield done
                done, since = [], time.monotonic()
    except Interrupted:
        yield done
        raise
    yield done


class _Worker:
    """A process, what it was given, and what of it is not done."""

    def __init__(self, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self.mark = context.RawArray("d", 3)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, setup, self.mark), daemon=False)
        self.process.start()
        theirs.close()
        self.tasks: dict[str, Task] = {}
        self.apart = False

    def give(self, tasks: list[Task], apart: bool) -> None:
        self.tasks, self.apart = {task.id: task for task in tasks}, apart
        with suppress(OSError):  # it is dead, which is noticed when it is listened to
            self.connection.send((tasks, apart))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


class Processes:
    """Plays in `count` processes. One that dies, or hangs where it cannot be stopped, is replaced by a fresh one.

    The block it was at is then played match by match, each apart from the others, and whoever was being asked when one
    ended has crashed. From then on that entrant's matches are all played so.
    """

    def __init__(self, setup: Setup, count: int, look: Callable[[], None]) -> None:
        self.setup, self.look = setup, look
        self.workers = [_Worker(setup) for _ in range(count)]
        self.suspects: set[str] = set()

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """See `Workers`. Raises WorkerError where a worker says that it cannot go on, or dies at every start."""
        source, again = iter(blocks), deque[tuple[list[Task], bool]]()
        barren = 0
        while True:
            for worker in self.workers:
                if not worker.tasks and (block := self._next(source, again)):
                    worker.give(*block)
            busy = [worker for worker in self.workers if worker.tasks]
            if not busy:
                return
            self.look()
            multiprocessing.connection.wait([worker.connection for worker in busy], _EVERY)
            for worker in busy:
                try:
                    while worker.tasks and worker.connection.poll():
                        if done := self._heard(worker):
                            barren = 0
                            yield done
                    lost = 0 < worker.mark[0] < time.monotonic()
                except (EOFError, OSError) as error:
                    if isinstance(error, WorkerError):
                        raise
                    lost = True
                if lost and worker.tasks:
                    barren += 1
                    if barren > _TRIES * len(self.workers):
                        raise WorkerError(f"{barren} worker processes died one after the other, without any result")
                    again.append(([*worker.tasks.values()], True))
                    worker.end()
                    self.workers[self.workers.index(worker)] = _Worker(self.setup)

    def _next(self, source: Iterator[list[Task]], again: deque[tuple[list[Task], bool]]) -> Any:
        """Return what to give out next: tasks, and whether to play them apart; None when there is nothing."""
        if again:
            return again.popleft()
        for block in source:
            doubtful = [task for task in block if self.suspects.intersection(task.pairing)]
            if doubtful:
                again.append((doubtful, True))
                block = [task for task in block if not self.suspects.intersection(task.pairing)]
            if block:
                return block, False
            return again.popleft()
        return None

    def _heard(self, worker: _Worker) -> list[Match]:
        kind, said = worker.connection.recv()
        if kind == "failed":
            raise WorkerError(said)
        if kind == "wrong":
            raise UsageError(said)
        done = [match for match in said if worker.tasks.pop(match.id, None)]
        if worker.apart:
            faults = [match.fault for match in done if match.fault]
            self.suspects |= {f.entrant for f in faults if f.kind == "timeout" or f.reason.startswith(GONE)}
        return done

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.end()


def _work(connection: Any, setup: Setup, mark: Any) -> None:
    """Play what comes until nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    os.dup2(2, 1)  # what entrants print is not the command's answer
    try:
        hall: Hall | None = None
        while True:
            tasks, apart = connection.recv()
            if hall is None:
                hall = Hall(setup)
                hall.warm()
            hall.mark = Mark(mark)
            if apart:
                for task in tasks:
                    connection.send(("some", [play_apart(hall, task)]))
            else:
                for done in _in_time(hall, tasks, None):
                    connection.send(("some", done))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UsageError as error:
        connection.send(("wrong", str(error)))
    except Exception as error:
        connection.send(("failed", one_line(f"{type(error).__name__}: {error}")))
