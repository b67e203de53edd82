"""This module has a worker process of a tournament: `WorkerProcess` for its parent, `_worker_main` inside it.

`workers.ProcessPool` starts workers, sends tasks through a pipe, and receives messages. A worker has one `MatchEngine`
and sends the matches of a block of tasks as they end. Where entrants are user code, the worker limits itself
(`containment`), cannot signal its parent (`signal_filter`), and prints into a pipe (`entrant_output`).
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError, WorkFailed, one_line
from rl_lab.core.parent_process import end_with_parent
from rl_lab.tournament.call_record import GROUP, NUM_VALUES, CallRecord
from rl_lab.tournament.containment import (
    MARK_VARIABLE,
    contain,
    kill_group,
    kill_marked,
    new_mark,
    restore_crash_signals,
)
from rl_lab.tournament.entrant_output import EntrantOutput, redirect
from rl_lab.tournament.isolation import play_isolated
from rl_lab.tournament.matches import MatchEngine, MatchSetup
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.session import MatchResult
from rl_lab.tournament.signal_filter import protect_parent_from_signals

_SAFE_PATH = "PYTHONSAFEPATH"  # environment variable; Python then imports nothing from the current folder
RESULT_INTERVAL = 0.5  # seconds between two messages of a worker
# The kinds of messages (kind, content) that a worker sends: RESULTS with a list of matches and their actions; and two
# errors with their text, after which the worker ends. INVALID_INPUT becomes UsageError, FAILURE becomes WorkerError.
RESULTS, INVALID_INPUT, FAILURE = "results", "invalid input", "failure"


def play_block(engine: MatchEngine, block: list[Task], poll: Callable[[], None] | None) -> Iterator[list[MatchResult]]:
    """Yield the results of a block in lists, at regular intervals and before an exception is raised."""
    results, since = [], time.monotonic()
    try:
        for result in engine.play(block, poll=poll):
            results.append(result)
            if time.monotonic() - since > RESULT_INTERVAL:
                yield results
                results, since = [], time.monotonic()
    except Exception:
        yield results
        raise
    yield results


class WorkerProcess:
    """A worker process with its unfinished tasks.

    `send_actions` is whether it sends the actions of matches. What entrants print is appended to the file `log`.

    Attributes: `tasks`, the unfinished tasks by id; `isolated`, whether each of them is played in a process of its own;
    `connection`, the pipe of messages; `shared`, the values of the worker's `CallRecord`; `output`, the pipe of what
    entrants print, None where none is user code.
    """

    def __init__(self, setup: MatchSetup, send_actions: bool, log: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        has_code = any(each.kind == "function" for each in setup.entrants)
        self.output = EntrantOutput(context, log) if has_code else None
        self.shared = context.RawArray("d", NUM_VALUES)  # the values of a `CallRecord`
        self.environment_mark = new_mark()  # the value of `containment.MARK_VARIABLE` in the process
        self.connection, child_connection = context.Pipe()
        writer = self.output and self.output.writer
        arguments = (child_connection, setup, self.shared, send_actions, writer)
        self.process = context.Process(target=_worker_main, args=arguments, daemon=False)
        with _reproducible_environment(self.environment_mark):
            self.process.start()
        child_connection.close()
        if writer is not None:
            writer.close()
        self.tasks: dict[str, Task] = {}
        self.isolated = False

    def send(self, tasks: list[Task], isolated: bool) -> None:
        """Have the process play these tasks."""
        self.tasks, self.isolated = {task.id: task for task in tasks}, isolated
        with suppress(OSError):  # the process has ended, which `submit` notices
            self.connection.send((tasks, isolated))

    def has_ended(self) -> bool:
        """Return whether the process has ended, or is stopped, which only an entrant's signal can do.

        It is not reaped, so no other process has its id before `end`.
        """
        try:
            return self._wait_status() is not None
        except ChildProcessError:  # multiprocessing has reaped it, as it does whenever it starts another process
            return True

    def _wait_status(self) -> Any:
        return os.waitid(os.P_PID, self.process.pid or 0, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)

    def kill(self) -> None:
        """Kill the process and what entrants have started in it, unless another process may have its id by now."""
        if self.shared[GROUP]:
            kill_group(int(self.shared[GROUP]))
        with suppress(ChildProcessError):
            self._wait_status()
            kill_group(self.process.pid or 0)
        kill_marked(self.environment_mark)

    def end(self) -> None:
        """Kill and reap the process, and what entrants have started in it."""
        self.kill()
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()
        if self.output is not None:
            self.output.close()


@contextmanager
def _reproducible_environment(mark: str) -> Iterator[None]:
    """Set the environment in which a worker process starts, with this value of `containment.MARK_VARIABLE`.

    All workers hash strings in the same way, because an entrant may iterate over a set of strings. They import nothing
    from the current folder while they start, because a file there may have the name of a module of Python.
    """
    variables = {"PYTHONHASHSEED": "0", _SAFE_PATH: "1"}
    before = {name: os.environ.get(name) for name in (*variables, MARK_VARIABLE)}
    os.environ.update(variables)
    try:
        resource_tracker.ensure_running()  # started without the mark, because all of this program uses it
        os.environ[MARK_VARIABLE] = mark
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _worker_main(connection: Any, setup: MatchSetup, shared: Any, send_actions: bool, output: Any) -> None:
    """Play the tasks that arrive on the connection until it is closed; this is the main function of a worker.

    A message that arrives is a list of tasks, and whether to play each of them in a process of its own. The worker
    sends the matches, with their actions where `send_actions` is True and None otherwise. `output` is the pipe for what
    entrants print, or None where none is user code.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    os.environ.pop(_SAFE_PATH, None)  # a program that an entrant starts can import from its own folder
    end_with_parent()
    os.dup2(2, 1)  # nothing may mix with the command's answer on stdout
    has_code = output is not None
    if has_code:
        contain()
        protect_parent_from_signals()
        redirect(output)
    try:
        engine: MatchEngine | None = None
        while True:
            tasks, isolated = connection.recv()
            if engine is None:
                engine = MatchEngine(setup, call_record=CallRecord(shared, disposable=True))
                engine.compile_ahead()
                if has_code:
                    restore_crash_signals()
            if isolated:
                for task in tasks:
                    match = play_isolated(engine, task, lambda group: shared.__setitem__(GROUP, group))
                    connection.send((RESULTS, [(match, None)]))
            else:
                for results in play_block(engine, tasks, None):
                    content = [(each.match, each.actions if send_actions else None) for each in results]
                    connection.send((RESULTS, content))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UsageError as error:
        connection.send((INVALID_INPUT, str(error)))
    except Exception as error:
        if has_code and isinstance(error, MemoryError | RecursionError):
            os._exit(1)  # an entrant may have caused it, so the matches are played again in processes of their own
        text = str(error) if isinstance(error, WorkFailed) else f"{type(error).__name__}: {error}"
        try:
            connection.send((FAILURE, one_line(text)))
        except Exception:  # an entrant has replaced Python's own functions, with which the process could not even end
            os._exit(1)
