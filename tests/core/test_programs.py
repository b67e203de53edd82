"""These tests check the test suite's own way to start programs: from a process that has imported everything.

A program must do there what it does in a process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import programs

PROGRAMS = {
    "what it is given": "import os, sys; print(sys.argv, sys.path, os.getcwd(), sys.stdin.read()); sys.exit(7)",
    "what it is": "import __main__, os, sys; print(sorted(vars(__main__)), sys.stdout.encoding, os.environ['OWN'])",
    "its streams": "from sys import *; print([(f.errors, f.line_buffering, f.name) for f in (stdin, stdout, stderr)])",
    "its handlers": "import signal; print([signal.getsignal(n) for n in (2, 13, 15)])",
    "its end": "import atexit, sys; atexit.register(print, 'bye'); print('half', end=''); sys.exit('a message')",
    "an exception": "def f():\n    raise ValueError('no')\nf()",
    "its own signal": "import os; os.kill(os.getpid(), 9)",
    "an interrupt": "import signal; signal.raise_signal(signal.SIGINT)",
    "threads": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('last'))).start()",
    "processes": "import multiprocessing as m\nif __name__ == '__main__':\n    c = m.get_context('spawn')\n"
    "    p = c.Process(target=print, args=('x',)); p.start(); p.join(); print(p.exitcode)",
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_does_what_it_does_in_an_interpreter_of_its_own(what: str, tmp_path: Path) -> None:
    env = {**os.environ, "OWN": "x"}
    (tmp_path / "script.py").write_text(PROGRAMS[what])
    for how in (["-c", PROGRAMS[what]], ["-m", "script"], ["script.py"]):
        words = [sys.executable, *how, "a", "b"]
        theirs, ours = (
            run(words, env=env, cwd=tmp_path, input="in", capture_output=True, text=True, timeout=60)
            for run in (subprocess.run, programs.run)
        )
        assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
        assert [line for line in ours.stderr.splitlines() if "  File" not in line and "   " not in line] == [
            line for line in theirs.stderr.splitlines() if "  File" not in line and "   " not in line
        ]


def test_it_is_forked_and_can_be_sent_signals() -> None:
    words = [sys.executable, "-c", "import time; print('at work', flush=True); time.sleep(60)"]
    with programs.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.forked and process.stdout.readline() == "at work\n" and process.poll() is None
        assert os.getsid(process.pid) == process.pid
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def test_what_a_fork_would_not_follow_has_a_process_of_its_own() -> None:
    words = [sys.executable, "-c", ""]
    for env in ({**os.environ, "OMP_NUM_THREADS": "3"}, {**os.environ, "NUMBA_DISABLE_JIT": "1"}):
        with programs.Popen(words, env=env) as process:
            assert not process.forked
    with programs.Popen([sys.executable, "-W", "error", *words[1:]]) as process:
        assert not process.forked
