"""Removes what a Ray leaves behind, when the process that started or joined it is gone, however it ended.

Run as a program by `cluster`: the argument is a temporary folder, and the end of standard input says that the starting
process has ended or has closed the cluster. It needs the standard library only.

A line of standard input may name the socket of the Ray node that the process has joined. Ray ends the process without
a word when that node ends; this process says so, unless another line says that the cluster was closed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

GRACE = 1.0  # seconds in which Ray's processes may end by themselves, as their parent has
CLOSED = "closed"
_TITLE = b"ray::"  # the beginning of the titles of Ray's processes
LIMIT = 10.0  # seconds after which what is left stays


def processes_of(folder: str) -> list[int]:
    """Return the other processes whose command line or environment names the folder, and Ray's with a file in it open.

    Ray's workers and agents overwrite the first two by their titles. The process that uses Ray has logs there, too.
    """
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        with contextlib.suppress(OSError):  # it has ended since
            for file in os.scandir(process / "fd") if words.startswith(_TITLE) else ():
                with contextlib.suppress(OSError):  # it has been closed since
                    words += b"\0" + os.fsencode(os.readlink(file.path))
        if folder.encode() in words:
            processes.append(int(process.name))
    return processes


def is_alive(path: str) -> bool:
    """Return whether a process listens at this socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(path) == 0


def main(folder: str) -> None:
    """Wait for the end of standard input; then end the folder's processes and remove it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lines = sys.stdin.read().splitlines()
    if lines and lines[-1] != CLOSED and not is_alive(lines[0]):
        reason = "the Ray node of this machine has ended, and Ray has ended this process with it"
        how = "a run can be resumed from its last checkpoint, a tournament from its ledger"
        print(f"rl-lab: {reason}; {how}", file=sys.stderr, flush=True)
    limit = time.monotonic() + LIMIT
    time.sleep(GRACE if processes_of(folder) else 0.0)
    while time.monotonic() < limit:
        remaining = processes_of(folder)
        for process in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        if not remaining and not os.path.exists(folder):
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1])
