"""`run` and `Popen` like those of subprocess, but faster: they fork programs from a process that has imported all.

That process is `warm_start.py`; it is started once for a pytest process and has imported torch, numba and the lab,
which saves three seconds for each program. `Popen` forks only where the program does the same as in a new interpreter,
see `can_fork`, and is subprocess.Popen otherwise.

Tests use subprocess itself where a new interpreter is their subject: tests of import times and warnings, of closed
streams and of a shell's, of options and variables that the interpreter or a library reads when it starts, of the first
start, which compiles, of crashes and of forks. Where two processes must have the same bits, one of them is new, too,
because all that are forked from one process have the same hash seed.
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

# Beginnings of the names of environment variables that are read only once, when a process or a library starts.
READ_AT_START = ("PYTHON", "NUMBA", "OMP", "OPENBLAS", "MKL", "KMP", "TORCH", "LD_", "LC_", "LANG")
HANDLED = {"PYTHONPATH", "PYTHONHASHSEED"}  # variables that `warm_start.py` sets for each program
SET_BY_TORCH = {"TORCHINDUCTOR_CACHE_DIR"}  # in this process, when a test has imported torch's compiler
UNSUPPORTED = ("preexec_fn", "pass_fds", "shell")  # arguments of Popen
ENVIRONMENT = dict(os.environ)


class Server:
    """The process `warm_start.py`, which forks programs, and the socket to it. There is one for each hash seed."""

    def __init__(self, hash_seed: str | None) -> None:
        self.control, child_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, str(Path(__file__).with_name("warm_start.py")), str(child_socket.fileno())]
        env = ENVIRONMENT | ({"PYTHONHASHSEED": hash_seed} if hash_seed else {})
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(words, pass_fds=[child_socket.fileno()], stdin=quiet, cwd="/", env=env)
        child_socket.close()
        atexit.register(self.close)

    def request(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> Any:
        """Send a message and file descriptors, and return the answer."""
        socket.send_fds(self.control, [json.dumps(message).encode()], descriptors)
        answer = self.control.recv(1 << 16)
        assert answer, "the process that starts programs has ended"
        return json.loads(answer)

    def close(self) -> None:
        self.control.close()
        self.process.wait()


server = cache(Server)  # by hash seed


class Popen(subprocess.Popen[Any]):
    """A program that the server has forked or, where that would make a difference, an ordinary subprocess.Popen.

    It overrides three private methods of subprocess.Popen: how a child is started, polled and waited for.
    """

    forked = False

    def _execute_child(self, *arguments: Any) -> None:
        execute_child: Any = subprocess.Popen._execute_child
        by_name = inspect.signature(execute_child).bind(self, *arguments).arguments
        if not can_fork(by_name):
            execute_child(self, *arguments)
            return
        streams = [by_name["p2cread"], by_name["c2pwrite"], by_name["errwrite"]]
        message = {
            "words": [os.fspath(word) for word in by_name["args"][1:]],
            "env": dict(by_name["env"] or os.environ),
            "cwd": os.path.abspath(by_name["cwd"] or "."),
            "session": by_name["start_new_session"],
        }
        self.server = server(message["env"].get("PYTHONHASHSEED"))
        self.pid = self.server.request(message, tuple(n if fd == -1 else fd for n, fd in enumerate(streams)))
        self.forked = self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(by_name[end] for end in ends))

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
            pid, status = self.server.request({"wait": self.pid})
            if pid or wait_flags & os.WNOHANG:
                break
            time.sleep(0.01)
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)
        return pid, status


def can_fork(arguments: dict[str, Any]) -> bool:
    """Return whether a program with these arguments of Popen does the same forked as in a new interpreter."""
    words, env = arguments["args"], dict(arguments["env"] or os.environ)
    if not isinstance(words, list) or words[0] != sys.executable or any(arguments[name] for name in UNSUPPORTED):
        return False
    first = words[2] if words[1] == "-P" else words[1]
    changed = {name for name, _ in env.items() ^ ENVIRONMENT.items()} - HANDLED - SET_BY_TORCH
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
