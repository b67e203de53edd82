"""This module plays a match in a forked process, so that an entrant that ends its process loses that match alone.

A worker process calls `play_isolated` for matches that were lost when another worker process died, and for those of
entrants that have ended a process before. The forked process sends one line through a pipe: the match, or an error
after a prefix. This process watches it, kills it and all that it has started, and decides which entrant is at fault.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.errors import WorkFailed, one_line
from rl_lab.core.parent_process import end_with_parent
from rl_lab.core.untrusted import checked_type, parse_json
from rl_lab.tournament.call_record import CALLS, DEADLINE, IN_CALL, NUM_VALUES, CallOutcomes, CallRecord
from rl_lab.tournament.containment import become_subreaper, child_pids, kill_adopted_children, kill_group
from rl_lab.tournament.entrant_calls import make_timeout_fault
from rl_lab.tournament.entrant_guard import (
    EXIT_OUTPUT_REPLACED,
    EXIT_TOO_MANY_CHILDREN,
    MAX_CHILDREN,
    MAX_REASON_LENGTH,
    EntrantFault,
)
from rl_lab.tournament.ledger import Match, parse
from rl_lab.tournament.matches import MatchEngine
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.signal_filter import protect_parent_from_signals

PROCESS_EXITED = "its process ended"  # the beginning of the reason of such a fault
_MAX_TRIES = 3  # processes in which a match is played, before it is given up
_EXIT_SECONDS = 1.0  # to wait for the end of a process that has closed its output
_MAX_OUTPUT_BYTES = 2**20  # of a process; a match is far shorter
# The first byte of what a process sends; a match itself is a JSON object.
_FAILURE_PREFIX = b"!"  # precedes the reason why a match cannot be played
_EXCEPTION_PREFIX = b"?"  # precedes an `_ExceptionReport` as JSON
_CRASH_STATUSES = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}  # exit codes of crashed code


class IsolationError(OSError):
    """A match could not be played even in a process of its own."""


@dataclass(frozen=True)
class _ExceptionReport:
    """An exception that was raised outside of entrants' calls, after the first of them.

    It is a mistake of rl_lab, or the consequence of what an entrant has done to the process.
    """

    error: str  # its class, its place and its message
    outcomes: dict[str, Any]  # of the entrants' calls, as a `CallOutcomes` records them


def play_isolated(engine: MatchEngine, task: Task, set_group: Callable[[int], None] = lambda group: None) -> Match:
    """Play a match in a forked process, and return it.

    - Where the process ends during or after a call of an entrant, that entrant has crashed. The match is played again
      in a new process, in which that call is skipped, so that the entrant forfeits.
    - An exception outside of the entrants' calls may be a mistake of rl_lab, or the consequence of what an entrant has
      done to its process. The match is replayed with the recorded answers and without the entrants' code. If the
      exception is raised again, it is rl_lab's; otherwise the entrant that was called last has caused it.

    `set_group` is called with the process group of the forked process, and with 0 when the group has been killed.

    Raises:
        IsolationError: every process ended, or the world or rl_lab itself failed, which is no entrant's fault.
    """
    values: Any = np.frombuffer(mmap.mmap(-1, 8 * NUM_VALUES), np.float64)  # shared with the forked processes
    crash_at_call = None
    for _ in range(_MAX_TRIES):
        values[:] = 0.0
        call_record = CallRecord(values, crash_at_call, disposable=True, outcomes=CallOutcomes(recorded={}))
        outcome = _play_in_fork(engine, task, call_record, set_group)
        if isinstance(outcome, Match):
            return outcome
        calls = int(values[CALLS])
        if isinstance(outcome, _ExceptionReport):
            values[:] = 0.0
            call_record = CallRecord(
                values, crash_at_call, disposable=True, outcomes=CallOutcomes(replayed=outcome.outcomes)
            )
            _play_in_fork(engine, task, call_record, set_group)  # raises IsolationError for a mistake of rl_lab
            outcome = "crash", f"{PROCESS_EXITED}: what it did caused {outcome.error}"[:MAX_REASON_LENGTH]
        if not calls:
            raise IsolationError(f"match {task.id}: before any entrant was called, {outcome[1]}")
        if crash_at_call is not None and crash_at_call[0] == calls:
            raise IsolationError(f"match {task.id}: without the last entrant's call as well, {outcome[1]}")
        crash_at_call = calls, outcome
    raise IsolationError(f"match {task.id} ends every process that plays it, each time in another call")


def _play_in_fork(
    engine: MatchEngine, task: Task, call_record: CallRecord, set_group: Callable[[int], None]
) -> Match | EntrantFault | _ExceptionReport:
    """Return the match that a forked process plays, the error that was raised in it, or the fault that ended it."""
    reader, writer = os.pipe()
    children_before = child_pids(force_scan=True)  # processes that entrants started when they were imported
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            os.setpgid(0, 0)
            end_with_parent()
            protect_parent_from_signals()
            become_subreaper()
            call_record.exit_if_replaced(writer)
            data = _play_and_encode(engine, task, call_record) + b"\n"
            while data:
                data = data[os.write(writer, data) :]
            status = 0
        finally:
            os._exit(status)
    set_group(child)
    os.close(writer)
    try:
        text, fault = _read_output(engine, reader, child, call_record.values)
    finally:
        kill_group(child)
        os.close(reader)
        set_group(0)  # before the child is reaped, because its id may then be given to another process
        _, status = os.waitpid(child, 0)
        kill_adopted_children(children_before)
    return fault or _parse_output(task, text, status, in_call=bool(call_record.values[IN_CALL]))


def _parse_output(task: Task, text: bytes, status: int, *, in_call: bool) -> Match | EntrantFault | _ExceptionReport:
    """Return the match or the error in a process's output, or the fault that its output and wait status indicate.

    `in_call` is whether the process has ended during a call of an entrant. Raises IsolationError for a failure that no
    entrant has caused.
    """
    if len(text) >= _MAX_OUTPUT_BYTES:
        return "crash", f"{PROCESS_EXITED}: it sent more than {_MAX_OUTPUT_BYTES:,} bytes"
    if text.startswith(_FAILURE_PREFIX) and text.endswith(b"\n"):
        raise IsolationError(text[1:].decode(errors="replace").strip())
    if text.endswith(b"\n"):
        try:
            if text.startswith(_EXCEPTION_PREFIX):
                return _parse_exception_report(text.removeprefix(_EXCEPTION_PREFIX))
            match = parse(text)
        except ValueError as error:
            return "crash", f"{PROCESS_EXITED}: what it sent {error}"
        return match if match.id == task.id else ("crash", f"{PROCESS_EXITED}: it sent another match")
    code = os.waitstatus_to_exitcode(status)
    if code == EXIT_OUTPUT_REPLACED:
        return "crash", f"{PROCESS_EXITED}: it had closed files that are not its own"
    if code == EXIT_TOO_MANY_CHILDREN:
        return "crash", f"{PROCESS_EXITED}: it had started more than {MAX_CHILDREN} others"
    reason = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    if code in _CRASH_STATUSES and not in_call:
        reason += ", after its call: caused by what it had done, or by a mistake in a kernel of the world"
    return "crash", f"{PROCESS_EXITED}: {reason}"


def _parse_exception_report(text: bytes) -> _ExceptionReport:
    """Return the report that a process has sent. Raises ValueError for other text."""
    content = checked_type(parse_json(text), "an error", dict)
    return _ExceptionReport(
        one_line(checked_type(content.get("error"), "error", str)),
        checked_type(content.get("outcomes"), "outcomes", dict),
    )


def _play_and_encode(engine: MatchEngine, task: Task, call_record: CallRecord) -> bytes:
    """Play the match in this process, and return the bytes to send: its line in the ledger, or an error.

    An error of the world or of rl_lab follows `_FAILURE_PREFIX`; an exception that an entrant may have caused follows
    `_EXCEPTION_PREFIX`. The traceback of a mistake in rl_lab is printed. MemoryError and RecursionError, which entrants
    can cause, are raised and end this process.
    """
    engine.call_record = call_record
    try:
        (result,) = engine.play([task])
    except (MemoryError, RecursionError):
        raise
    except WorkFailed as error:
        return _FAILURE_PREFIX + one_line(error).encode()
    except Exception as error:
        if call_record.outcomes.replayed is None and call_record.number:
            content = {"error": _describe(error), "outcomes": call_record.outcomes.recorded}
            return _EXCEPTION_PREFIX + json.dumps(content).encode()
        traceback.print_exc()
        return _FAILURE_PREFIX + _describe(error).encode()
    return result.match.line().encode()


def _describe(error: Exception) -> str:
    """Return the class of an error, the file and line where it was raised, and its message, as one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return one_line(f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}")


def _read_output(engine: MatchEngine, reader: int, child: int, values: Any) -> tuple[bytes, EntrantFault | None]:
    """Return the output of the process, and the fault of a call that exceeds its deadline or stops the process.

    `values` are those of the `CallRecord` in shared memory. The process is not reaped (WNOWAIT), so that its id stays
    its own until its group has been killed.
    """
    text, has_exited, events = b"", False, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    while not text.endswith(b"\n") and len(text) < _MAX_OUTPUT_BYTES:
        if select.select([reader], [], [], 0.0 if has_exited else 0.1)[0]:
            chunk = os.read(reader, 2**16)
            if not chunk:
                _wait_for_exit(child)  # its exit status becomes the reason of the fault
                break
            text += chunk
        elif has_exited:
            break  # a process that the entrant has started holds the pipe open
        elif 0 < values[DEADLINE] < time.monotonic():
            return text, make_timeout_fault(engine.setup.timeout)
        elif (event := os.waitid(os.P_PID, child, events)) is not None:
            if event.si_code == os.CLD_STOPPED:
                return text, ("crash", f"{PROCESS_EXITED}: it was stopped by {signal.Signals(event.si_status).name}")
            has_exited = True
    return text, None


def _wait_for_exit(child: int) -> None:
    """Wait until a child has ended, without reaping it, or for `_EXIT_SECONDS`."""
    deadline = time.monotonic() + _EXIT_SECONDS
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < deadline:
        time.sleep(1e-3)
