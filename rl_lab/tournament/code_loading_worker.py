"""This module is the program of the process that loads entrants for `code_loading`.

It reads one JSON object from standard input: `path`, the import path, and `specs`, the entrants. For each of them it
forks a process, which loads the entrant and answers through a pipe, and writes one line of JSON to standard output:
{"file": ...} or {"error": ...}. A process that hangs is killed, with its process group.
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
from rl_lab.tournament.code_loading import MAX_ANSWER_BYTES, MAX_LOAD_SECONDS
from rl_lab.tournament.containment import kill_group
from rl_lab.tournament.entrant_guard import fault_from_exception
from rl_lab.tournament.functions import load_source  # imported here, so that the forked processes need not import it
from rl_lab.tournament.signal_filter import protect_parent_from_signals


def main() -> None:
    """Load the objects that standard input names, one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, with which this process ends
    end_with_parent()
    task = json.loads(sys.stdin.buffer.read())
    sys.path[:] = task["path"]
    answer_file = os.dup(1)
    os.dup2(2, 1)  # the output of a module must not mix with the answers on stdout
    with open(os.devnull) as null_device:
        os.dup2(null_device.fileno(), 0)
    for spec in task["specs"]:
        line = (json.dumps(_load_in_fork(spec, answer_file)) + "\n").encode()
        while line:
            line = line[os.write(answer_file, line) :]


def _load_in_fork(spec: str, answer_file: int) -> dict[str, Any]:
    """Return the answer about one object: its `file`, or an `error` of one line.

    `answer_file`, the file descriptor of all answers, is closed in the forked process: the object must not write to it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.close(answer_file)
        os.setpgid(0, 0)
        end_with_parent()
        protect_parent_from_signals()
        # What the object prints is dropped: it is imported again where it plays, and its output is kept there.
        with open(os.devnull, "w") as null_device:
            for descriptor in (1, 2):
                os.dup2(null_device.fileno(), descriptor)
        signal.alarm(int(MAX_LOAD_SECONDS) + 5)  # ends the process even where no other process waits for it any more
        _load_and_exit(spec, writer)
    os.close(writer)
    try:
        text, is_late = _read_output(reader, child)
    finally:
        kill_group(child)
        os.close(reader)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(ValueError):
        answer = parse_json(text)
        if isinstance(answer, dict) and (isinstance(answer.get("error"), str) or isinstance(answer.get("file"), str)):
            return answer
    status = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    reason = f"it takes longer than {MAX_LOAD_SECONDS:g} s" if is_late else f"its process ended: {status}"
    return {"error": f"cannot load {spec}: {reason}"}


def _read_output(reader: int, child: int) -> tuple[bytes, bool]:
    """Return the output of the process up to its first newline or its end, and whether it has taken too long."""
    text, deadline = b"", time.monotonic() + MAX_LOAD_SECONDS
    while not text.endswith(b"\n") and len(text) < MAX_ANSWER_BYTES:
        if select.select([reader], [], [], 0.1)[0]:
            chunk = os.read(reader, 2**12)
            if not chunk:
                break
            text += chunk
        elif time.monotonic() > deadline:
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
            answer = json.dumps({"error": f"cannot load {spec}: {fault_from_exception(error)[1]}"}).encode()
    finally:
        if os.getpid() == process:  # and not a process that the code has forked
            os.write(writer, answer[: MAX_ANSWER_BYTES - 1] + b"\n")
        os._exit(0)


if __name__ == "__main__":
    main()
