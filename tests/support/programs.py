"""`run` and `Popen` as of subprocess, for programs of the lab, which start from a process that has imported all.

A start takes three seconds less. These tests use subprocess itself, because a fresh interpreter is their subject: those
of import times and warnings, of closed streams and a shell's, of options and variables that the interpreter or a
library reads when it starts, of the first start that compiles, of crashes and of forks; and where two processes must
agree to the bit, one of them is fresh, too: all that are forked from one process have the same hash seed.
"""

from __future__ import annotations

import atexit
import inspect
import json
import os
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

READ_AT_START = ("PYTHON", "NUMBA", "OMP", "OPENBLAS", "MKL", "KMP", "TORCH", "LD_", "LC_", "LANG")
FOLLOWED = {"PYTHONPATH", "PYTHONHASHSEED"}  # by the process that starts programs
SET_BY_TORCH = {"TORCHINDUCTOR_CACHE_DIR"}  # in this process, when some test has imported its compiler
UNUSUAL = ("preexec_fn", "pass_fds", "shell")
ENVIRONMENT = dict(os.environ)


class Server:
    """The process from which programs start; each hash seed that is asked for has its own."""

    def __init__(self, hash_seed: str | None) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, str(Path(__file__).with_name("warm_start.py")), str(theirs.fileno())]
        env = ENVIRONMENT | ({"PYTHONHASHSEED": hash_seed} if hash_seed else {})
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdin=quiet, cwd="/", env=env)
        theirs.close()
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], descriptors: tuple[int, ...] = ()) -> Any:
        socket.send_fds(self.control, [json.dumps(request).encode()], descriptors)
        answer = self.control.recv(1 << 16)
        assert answer, "the process that starts programs has ended"
        return json.loads(answer)

    def close(self) -> None:
        self.control.close()
        self.process.wait()


server = cache(Server)


class Popen(subprocess.Popen[Any]):
    """A program that was forked by the server, or an ordinary one where that would make a difference."""

    forked = False

    def _execute_child(self, *arguments: Any) -> None:
        begin: Any = subprocess.Popen._execute_child
        given = inspect.signature(begin).bind(self, *arguments).arguments
        if not can_fork(given):
            begin(self, *arguments)
            return
        streams = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        request = {
            "words": [os.fspath(word) for word in given["args"][1:]],
            "env": dict(given["env"] or os.environ),
            "cwd": os.path.abspath(given["cwd"] or "."),
            "session": given["start_new_session"],
        }
        self.server = server(request["env"].get("PYTHONHASHSEED"))
        self.pid = self.server.ask(request, tuple(n if fd == -1 else fd for n, fd in enumerate(streams)))
        self.forked = self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[end] for end in ends))

    def _internal_poll(self, _deadstate: int | None = None, **others: Any) -> int | None:
        if not self.forked:
            return super()._internal_poll(_deadstate, **others)
        if self.returncode is None:
            self._try_wait(os.WNOHANG)
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not self.forked:
            return super()._try_wait(wait_flags)
        while True:
            pid, status = self.server.ask({"wait": self.pid})
            if pid or wait_flags & os.WNOHANG:
                break
            time.sleep(0.01)
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)
        return pid, status


def can_fork(given: dict[str, Any]) -> bool:
    """Whether a program of which Popen was given this would do the same as in an interpreter of its own."""
    words, env = given["args"], dict(given["env"] or os.environ)
    if not isinstance(words, list) or words[0] != sys.executable or any(given[name] for name in UNUSUAL):
        return False
    first = words[2] if words[1] == "-P" else words[1]
    changed = {name for name, _ in env.items() ^ ENVIRONMENT.items()} - FOLLOWED - SET_BY_TORCH
    return (first in ("-c", "-m") or first.endswith(".py")) and not any(
        name.startswith(READ_AT_START) for name in changed
    )


def run(
    words: list[str],
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a program as subprocess.run does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(words, **options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(words, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done
