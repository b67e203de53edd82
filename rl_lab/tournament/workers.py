"""Play matches in this process or in several worker processes, behind one interface."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any, Protocol

from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.parent_process import end_with_parent
from rl_lab.core.world import Array
from rl_lab.tournament.containment import MARK, contain, end_group, end_marked, let_crashes_tell_their_signal, new_mark
from rl_lab.tournament.entrant_calls import DEADLINE, GROUP, NUM_VALUES, Watchdog
from rl_lab.tournament.isolation import PROCESS_EXITED, play_isolated
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.matches import MatchEngine, MatchSetup
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.session import MatchResult

_SAFE_PATH = "PYTHONSAFEPATH"
_RESULT_INTERVAL = 0.5  # seconds between two results of a worker
_TRIES = 3  # number of processes, for each worker, that may end without a result before WorkerError


class WorkerError(OSError):
    """The workers cannot continue; the message is one line."""


class Workers(Protocol):
    """The interface of workers, which play matches."""

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """Yield the matches of all tasks, in lists and in any order."""

    def close(self) -> None:
        """Release all resources."""


class InProcess:
    """Plays matches in this process; `poll` is called between steps, and may raise."""

    def __init__(self, setup: MatchSetup, poll: Callable[[], None]) -> None:
        self._engine, self._poll = MatchEngine(setup), poll
        self._engine.warm()

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """See `Workers`."""
        for block in blocks:
            for results in _play_block(self._engine, block, self._poll):
                yield [result.match for result in results]

    def close(self) -> None:
        """Do nothing: this process holds no resources."""


def _play_block(engine: MatchEngine, block: list[Task], poll: Callable[[], None] | None) -> Iterator[list[MatchResult]]:
    """Yield the results of a block in lists, at regular intervals and before an exception is raised."""
    results, since = [], time.monotonic()
    try:
        for result in engine.play(block, poll=poll):
            results.append(result)
            if time.monotonic() - since > _RESULT_INTERVAL:
                yield results
                results, since = [], time.monotonic()
    except Exception:
        yield results
        raise
    yield results


class _Worker:
    """A worker process with its unfinished tasks."""

    def __init__(self, setup: MatchSetup, actions: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.shared = context.RawArray("d", NUM_VALUES)  # the values of a `Watchdog`
        self.environment_mark = new_mark()  # the value of `containment.MARK` in the process
        self.connection, child_connection = context.Pipe()
        self.process = context.Process(target=_work, args=(child_connection, setup, self.shared, actions), daemon=False)
        with _reproducible_environment(self.environment_mark):
            self.process.start()
        child_connection.close()
        self.tasks: dict[str, Task] = {}
        self.isolated = False  # whether each of the tasks is played in a process of its own

    def send(self, tasks: list[Task], isolated: bool) -> None:
        self.tasks, self.isolated = {task.id: task for task in tasks}, isolated
        with suppress(OSError):  # the process has ended, which `submit` notices
            self.connection.send((tasks, isolated))

    def has_ended(self) -> bool:
        """Return whether the process has ended. It is not reaped, so no other process has its id before `end`."""
        try:
            return self._wait_status() is not None
        except ChildProcessError:  # multiprocessing has reaped it, as it does whenever it starts another process
            return True

    def _wait_status(self) -> Any:
        return os.waitid(os.P_PID, self.process.pid or 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def kill(self) -> None:
        """Kill the process and what entrants have started in it, unless another process may have its id by now."""
        if self.shared[GROUP]:
            end_group(int(self.shared[GROUP]))
        with suppress(ChildProcessError):
            self._wait_status()
            end_group(self.process.pid or 0)
        end_marked(self.environment_mark)

    def end(self) -> None:
        """Kill and reap the process, and what entrants have started in it."""
        self.kill()
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


@contextmanager
def _reproducible_environment(mark: str) -> Iterator[None]:
    """Set the environment in which a worker process starts, with this value of `containment.MARK`.

    All workers hash strings in the same way, because an entrant may iterate over a set of strings. They import nothing
    from the current folder while they start, because a file there may have the name of a module of Python.
    """
    variables = {"PYTHONHASHSEED": "0", _SAFE_PATH: "1"}
    before = {name: os.environ.get(name) for name in (*variables, MARK)}
    os.environ.update(variables)
    try:
        resource_tracker.ensure_running()  # started without the mark, because all of this program uses it
        os.environ[MARK] = mark
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class ProcessPool:
    """Plays matches in `count` processes. A process that ends, or hangs and cannot be stopped, is replaced.

    The unfinished tasks of such a process are played again, each match in a process of its own. An entrant whose call
    ends that process has crashed. From then on, all matches of that entrant are played in processes of their own.

    With `actions`, `play` yields the actions of those matches that were not played in processes of their own.
    """

    def __init__(self, setup: MatchSetup, count: int, poll: Callable[[], None], *, actions: bool = False) -> None:
        self._setup, self._poll, self._actions = setup, poll, actions
        self._workers = [_Worker(setup, actions) for _ in range(count)]
        self._suspects: set[str] = set()  # entrants whose matches are played in processes of their own

    def submit(self, blocks: Iterable[list[Task]]) -> Iterator[list[Match]]:
        """See `Workers`; raises as `play` does."""
        for results in self.play(blocks):
            yield [match for match, _ in results]

    def play(self, blocks: Iterable[list[Task]]) -> Iterator[list[tuple[Match, Array | None]]]:
        """Yield the matches of all tasks with their actions, which are None where they are not known.

        Raises WorkerError where a worker reports an error, or where every new process ends.
        """
        source, retries = iter(blocks), deque[tuple[list[Task], bool]]()
        consecutive_crashes = 0
        while True:
            for worker in self._workers:
                if not worker.tasks and (block := self._next(source, retries)):
                    worker.send(*block)
            busy = [worker for worker in self._workers if worker.tasks]
            if not busy:
                return
            self._poll()
            multiprocessing.connection.wait([worker.connection for worker in busy], _RESULT_INTERVAL)
            for worker in busy:
                has_ended = worker.has_ended()  # what an entrant has started may hold the pipe open
                try:
                    while worker.tasks and worker.connection.poll():
                        if results := self._receive(worker):
                            consecutive_crashes = 0
                            yield results
                    lost = has_ended or 0 < worker.shared[DEADLINE] < time.monotonic()
                except (EOFError, OSError) as error:
                    if isinstance(error, WorkerError):
                        raise
                    lost = True
                if lost and worker.tasks:
                    consecutive_crashes += 1
                    if consecutive_crashes > _TRIES * len(self._workers):
                        raise WorkerError(
                            f"{consecutive_crashes} worker processes died one after the other, without any result"
                        )
                    retries.append(([*worker.tasks.values()], True))
                    self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        """Replace a worker by a new process."""
        worker.end()
        for other in self._workers:
            if other is not worker and other.has_ended():
                other.kill()  # before the start of the next process, with which multiprocessing reaps this one
        self._workers[self._workers.index(worker)] = _Worker(self._setup, self._actions)

    def _next(self, source: Iterator[list[Task]], retries: deque[tuple[list[Task], bool]]) -> Any:
        """Return the next tasks and whether to isolate each of them, or None at the end."""
        if retries:
            return retries.popleft()
        for block in source:
            suspect = [task for task in block if self._suspects.intersection(task.pairing)]
            if suspect:
                retries.append((suspect, True))
                block = [task for task in block if not self._suspects.intersection(task.pairing)]
            if block:
                return block, False
            return retries.popleft()
        return None

    def _receive(self, worker: _Worker) -> list[tuple[Match, Array | None]]:
        """Return the matches of a worker's message. Raises WorkerError or UsageError where it reports one."""
        kind, content = worker.connection.recv()
        if kind == "failed":
            raise WorkerError(content)
        if kind == "wrong":
            raise UsageError(content)
        results = [(match, actions) for match, actions in content if worker.tasks.pop(match.id, None)]
        if worker.isolated:
            faults = [match.fault for match, _ in results if match.fault]
            self._suspects |= {f.entrant for f in faults if f.kind == "timeout" or f.reason.startswith(PROCESS_EXITED)}
        return results

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.end()


def play_again(setup: MatchSetup, tasks: Sequence[Task]) -> list[tuple[Match, Array | None]]:
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
                for some in pool.play([missing]):
                    results |= {match.id: (match, actions) for match, actions in some}
            finally:
                pool.close()
    return [results[task.id] for task in tasks]


def _lacks_actions(match: Match, actions: Array | None) -> bool:
    return actions is None and match.fault is None


def _work(connection: Any, setup: MatchSetup, shared: Any, actions: bool) -> None:
    """Play the tasks that arrive on the connection until it is closed; this is the main function of a worker.

    The worker sends the matches, with their actions where `actions` is True.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    os.environ.pop(_SAFE_PATH, None)  # a program that an entrant starts can import from its own folder
    end_with_parent()
    os.dup2(2, 1)  # the output of entrants must not mix with the command's answer on stdout
    has_code = any(each.kind == "function" for each in setup.entrants)
    if has_code:
        contain()
    try:
        engine: MatchEngine | None = None
        while True:
            tasks, isolated = connection.recv()
            if engine is None:
                engine = MatchEngine(setup, watchdog=Watchdog(shared, disposable=True))
                engine.warm()
                if has_code:
                    let_crashes_tell_their_signal()
            if isolated:
                for task in tasks:
                    match = play_isolated(engine, task, lambda group: shared.__setitem__(GROUP, group))
                    connection.send(("some", [(match, None)]))
            else:
                for results in _play_block(engine, tasks, None):
                    connection.send(("some", [(each.match, each.actions if actions else None) for each in results]))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UsageError as error:
        connection.send(("wrong", str(error)))
    except Exception as error:
        if has_code and isinstance(error, MemoryError | RecursionError):
            os._exit(1)  # an entrant may have caused it, so the matches are played again in processes of their own
        try:
            connection.send(("failed", one_line(f"{type(error).__name__}: {error}")))
        except Exception:  # an entrant has replaced Python's own functions, with which the process could not even end
            os._exit(1)
