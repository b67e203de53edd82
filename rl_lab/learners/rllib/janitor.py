"""Removes what a private Ray leaves behind, when the process that started it is gone, however it ended.

Run as a program by `cluster`: the argument is Ray's temporary folder, and the end of standard input says that the
starting process has ended or has closed the cluster. It needs the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE = 1.0  # seconds in which Ray's processes may end by themselves, as their parent has
LIMIT = 10.0  # seconds after which what is left stays


def processes_of(folder: str) -> list[int]:
    """Return the processes whose command line or environment names the folder, except this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        if folder.encode() in words:
            found.append(int(process.name))
    return found


def main(folder: str) -> None:
    """Wait for the end of standard input; then end the folder's processes and remove it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    limit = time.monotonic() + LIMIT
    time.sleep(GRACE if processes_of(folder) else 0.0)
    while time.monotonic() < limit:
        left = processes_of(folder)
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        if not left and not os.path.exists(folder):
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1])
