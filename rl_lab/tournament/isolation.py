"""Play a match in a process of its own, so that an entrant that ends its process does not end another match."""

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
from rl_lab.tournament.call_record import CALLS, DEADLINE, IN_CALL, NUM_VALUES, CallRecord, CallTape
from rl_lab.tournament.containment import adopt, children, end_adopted, end_group
from rl_lab.tournament.entrant_calls import timeout_fault_of
from rl_lab.tournament.entrant_guard import CLOSED, LONGEST_REASON, MOST_CHILDREN, TOO_MANY, EntrantFault
from rl_lab.tournament.ledger import Match, parse
from rl_lab.tournament.matches import MatchEngine
from rl_lab.tournament.schedule import Task
from rl_lab.tournament.signal_filter import spare_watchers

PROCESS_EXITED = "its process ended"  # the beginning of the reason of such a fault
_TRIES = 3
_EXIT_SECONDS = 1.0  # from when a process has closed its output until it has ended
_MOST_BYTES = 2**20  # limit of a process's output; a match is far shorter
# The first byte of what a process sends; a match itself is a JSON object.
_FAILED = b"!"  # precedes the reason why a match cannot be played
_RAISED = b"?"  # precedes a `_RaisedError` as JSON
_FAULTS_OF_MEMORY = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}  # exit codes of crashed code


class IsolationError(OSError):
    """A match could not be played even in a process of its own."""


@dataclass(frozen=True)
class _RaisedError:
    """An exception that was raised outside of entrants' calls, after the first of them.

    It is a mistake of rl_lab, or the consequence of what an entrant has done to the process.
    """

    error: str  # its class, its place and its message
    outcomes: dict[str, Any]  # of the entrants' calls, as a `CallTape` records them


def play_isolated(engine: MatchEngine, task: Task, set_group: Callable[[int], None] = lambda group: None) -> Match:
    """Play a match in a forked process, and return it.

    Where the process ends during or after a call of an entrant, that entrant has crashed. The match is then played
    again up to that call, which is skipped. An exception outside of the entrants' calls is a mistake of rl_lab if it is
    raised again where the same answers are replayed without the entrants' code; otherwise the entrant that was called
    last has caused it. `set_group` is called with the process group that contains what entrants start, and with 0 when
    the match is over and the group has been killed.

    Raises:
        IsolationError: every process ended, or the world or rl_lab itself failed, which is no entrant's fault.
    """
    values: Any = np.frombuffer(mmap.mmap(-1, 8 * NUM_VALUES), np.float64)  # shared with the forked processes
    crash_at_call = None
    for _ in range(_TRIES):
        values[:] = 0.0
        call_record = CallRecord(values, crash_at_call, disposable=True, tape=CallTape(recorded={}))
        outcome = _play_in_fork(engine, task, call_record, set_group)
        if isinstance(outcome, Match):
            return outcome
        calls = int(values[CALLS])
        if isinstance(outcome, _RaisedError):
            values[:] = 0.0
            call_record = CallRecord(values, crash_at_call, disposable=True, tape=CallTape(replayed=outcome.outcomes))
            _play_in_fork(engine, task, call_record, set_group)  # raises IsolationError for a mistake of rl_lab
            outcome = "crash", f"{PROCESS_EXITED}: what it did caused {outcome.error}"[:LONGEST_REASON]
        if not calls:
            raise IsolationError(f"match {task.id}: before any entrant was called, {outcome[1]}")
        if crash_at_call is not None and crash_at_call[0] == calls:
            raise IsolationError(f"match {task.id}: without the last entrant's call as well, {outcome[1]}")
        crash_at_call = calls, outcome
    raise IsolationError(f"match {task.id} ends every process that plays it, each time in another call")


def _play_in_fork(
    engine: MatchEngine, task: Task, call_record: CallRecord, set_group: Callable[[int], None]
) -> Match | EntrantFault | _RaisedError:
    """Return the match that a forked process plays, the error that was raised in it, or the fault that ended it."""
    reader, writer = os.pipe()
    earlier = children(at_once=True)  # processes that entrants started when they were imported
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            os.setpgid(0, 0)
            end_with_parent()
            spare_watchers()
            adopt()
            call_record.exit_if_replaced(writer)
            data = _play(engine, task, call_record) + b"\n"
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
        end_group(child)
        os.close(reader)
        set_group(0)  # before the child is reaped, because its id may then be given to another process
        _, status = os.waitpid(child, 0)
        end_adopted(earlier)
    return fault or _outcome(task, text, status, in_call=bool(call_record.values[IN_CALL]))


def _outcome(task: Task, text: bytes, status: int, *, in_call: bool) -> Match | EntrantFault | _RaisedError:
    """Return the match or the error in a process's output, or the fault that its output and wait status indicate.

    `in_call` is whether the process has ended during a call of an entrant.
    """
    if len(text) >= _MOST_BYTES:
        return "crash", f"{PROCESS_EXITED}: it sent more than {_MOST_BYTES:,} bytes"
    if text.startswith(_FAILED) and text.endswith(b"\n"):
        raise IsolationError(text[1:].decode(errors="replace").strip())
    if text.endswith(b"\n"):
        try:
            if text.startswith(_RAISED):
                return _raised_error(text.removeprefix(_RAISED))
            match = parse(text)
        except ValueError as error:
            return "crash", f"{PROCESS_EXITED}: what it sent {error}"
        return match if match.id == task.id else ("crash", f"{PROCESS_EXITED}: it sent another match")
    code = os.waitstatus_to_exitcode(status)
    if code == CLOSED:
        return "crash", f"{PROCESS_EXITED}: it had closed files that are not its own"
    if code == TOO_MANY:
        return "crash", f"{PROCESS_EXITED}: it had started more than {MOST_CHILDREN} others"
    reason = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    if code in _FAULTS_OF_MEMORY and not in_call:
        reason += ", after its call: caused by what it had done, or by a mistake in a kernel of the world"
    return "crash", f"{PROCESS_EXITED}: {reason}"


def _raised_error(text: bytes) -> _RaisedError:
    """Return the error that a process has sent. Raises ValueError for other text."""
    content = checked_type(parse_json(text), "an error", dict)
    return _RaisedError(
        one_line(checked_type(content.get("error"), "error", str)),
        checked_type(content.get("outcomes"), "outcomes", dict),
    )


def _play(engine: MatchEngine, task: Task, call_record: CallRecord) -> bytes:
    """Play the match, and return its line, an error of the world or of rl_lab after `_FAILED`, or one after `_RAISED`.

    The traceback of a mistake in rl_lab is printed. MemoryError and RecursionError, which entrants can cause, end this
    process.
    """
    engine.call_record = call_record
    try:
        (result,) = engine.play([task])
    except (MemoryError, RecursionError):
        raise
    except WorkFailed as error:
        return _FAILED + one_line(error).encode()
    except Exception as error:
        if call_record.tape.replayed is None and call_record.number:
            content = {"error": _describe(error), "outcomes": call_record.tape.recorded}
            return _RAISED + json.dumps(content).encode()
        traceback.print_exc()
        return _FAILED + _describe(error).encode()
    return result.match.line().encode()


def _describe(error: Exception) -> str:
    """Return the class of an error, the file and line where it was raised, and its message, as one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return one_line(f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}")


def _read_output(engine: MatchEngine, reader: int, child: int, values: Any) -> tuple[bytes, EntrantFault | None]:
    """Return the output of the process, and the fault of a call that exceeds its deadline or stops the process."""
    text, has_exited, events = b"", False, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    while not text.endswith(b"\n") and len(text) < _MOST_BYTES:
        if select.select([reader], [], [], 0.0 if has_exited else 0.1)[0]:
            piece = os.read(reader, 2**16)
            if not piece:
                _wait_for_exit(child)  # its status is the reason
                break
            text += piece
        elif has_exited:
            break  # a process that the entrant has started holds the pipe open
        elif 0 < values[DEADLINE] < time.monotonic():
            return text, timeout_fault_of(engine.setup.timeout)
        elif (event := os.waitid(os.P_PID, child, events)) is not None:
            if event.si_code == os.CLD_STOPPED:
                return text, ("crash", f"{PROCESS_EXITED}: it was stopped by {signal.Signals(event.si_status).name}")
            has_exited = True
    return text, None


def _wait_for_exit(child: int) -> None:
    """Wait until a child has ended, without reaping it, or for `_EXIT_SECONDS`."""
    until = time.monotonic() + _EXIT_SECONDS
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < until:
        time.sleep(1e-3)
