"""The process that loads entrants for `code_loading`.

It reads the names of the entrants from standard input, forks once for each, and writes a line of JSON for each.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.parent_process import end_with_parent
from rl_lab.core.untrusted import parse_json
from rl_lab.tournament.code_loading import LONGEST_LOAD, MOST_BYTES
from rl_lab.tournament.containment import end_group
from rl_lab.tournament.entrant_guard import fault_of
from rl_lab.tournament.functions import load_source  # imported here, so that the forked processes need not import it
from rl_lab.tournament.signal_filter import spare_watchers


def main() -> None:
    """Load the objects that standard input names, one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, with which this process ends
    end_with_parent()
    task = json.loads(sys.stdin.buffer.read())
    sys.path[:] = task["path"]
    answers = os.dup(1)
    os.dup2(2, 1)  # the output of a module must not mix with the answers on stdout
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for spec in task["specs"]:
        line = (json.dumps(_load_in_fork(spec, answers)) + "\n").encode()
        while line:
            line = line[os.write(answers, line) :]


def _load_in_fork(spec: str, answers: int) -> dict[str, Any]:
    """Return the answer about one object: its `file`, or an `error` of one line.

    answers: the file descriptor of all answers, which the object must not write to.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.close(answers)  # the object that is loaded must not answer for others
        os.setpgid(0, 0)
        end_with_parent()
        spare_watchers()
        with open(os.devnull, "w") as nothing:  # it is imported again where it plays, and what it prints is kept there
            for descriptor in (1, 2):
                os.dup2(nothing.fileno(), descriptor)
        signal.alarm(int(LONGEST_LOAD) + 5)  # ends the process even where no other process waits for it any more
        _load_and_exit(spec, writer)
    os.close(writer)
    try:
        text, is_late = _read_output(reader, child)
    finally:
        end_group(child)
        os.close(reader)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(ValueError):
        answer = parse_json(text)
        if isinstance(answer, dict) and (isinstance(answer.get("error"), str) or isinstance(answer.get("file"), str)):
            return answer
    status = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    reason = f"it takes longer than {LONGEST_LOAD:g} s" if is_late else f"its process ended: {status}"
    return {"error": f"cannot load {spec}: {reason}"}


def _read_output(reader: int, child: int) -> tuple[bytes, bool]:
    """Return the output of the process, and whether it has taken too long."""
    text, latest = b"", time.monotonic() + LONGEST_LOAD
    while not text.endswith(b"\n") and len(text) < MOST_BYTES:
        if select.select([reader], [], [], 0.1)[0]:
            piece = os.read(reader, 2**12)
            if not piece:
                break
            text += piece
        elif time.monotonic() > latest:
            return text, True
        elif os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break  # a process that it has started holds the pipe open
    return text, False


def _load_and_exit(spec: str, writer: int) -> None:
    """Load an object, write the answer, and end this process; every exception of the code becomes an `error`."""
    process, answer = os.getpid(), b""
    try:
        try:
            answer = json.dumps({"file": str(load_source(spec))}).encode()
        except UsageError as error:
            answer = json.dumps({"error": one_line(error)}).encode()
        except BaseException as error:
            answer = json.dumps({"error": f"cannot load {spec}: {fault_of(error)[1]}"}).encode()
    finally:
        if os.getpid() == process:
            os.write(writer, answer[: MOST_BYTES - 1] + b"\n")
        os._exit(0)


if __name__ == "__main__":
    main()
