"""Tests that no process that loads or plays entrants is left behind, and that no unrelated process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import programs
from support.time_limits import within

from rl_lab.cli import main
from rl_lab.tournament import worker
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.store import create

SLOW = """
import os, time
open("loading", "w").write(f"{os.getppid()} {os.getpid()}")
time.sleep(60)
def bot(observation, legal): return 0
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_entrants_load_leaves_no_process_and_no_traceback(number: int, tmp_path: Path) -> None:
    """As Ctrl-C in a terminal, which tells the whole process group."""
    (tmp_path / "slow.py").write_text(SLOW)
    words = [sys.executable, "-m", "rl_lab.cli", "tournament", "tic_tac_toe", "x=slow.py:bot", "random"]
    with programs.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as command:
        deadline = time.monotonic() + 100
        while not (pids := (tmp_path / "loading").read_text() if (tmp_path / "loading").exists() else ""):
            assert command.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(command.pid, number)
        else:
            command.send_signal(number)
        with within(20):
            _, output = command.communicate(timeout=100)
    assert command.returncode == 128 + number, output
    assert "Traceback" not in output
    with within(5):  # no process is left behind
        while any(is_alive(int(pid)) for pid in pids.split()):
            time.sleep(0.05)


def test_only_numbers_that_are_still_a_workers_own_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's number is its own until it is reaped; both workers die before either is looked at."""
    own, killed, started = worker.kill_group, list[int](), list[int]()

    def record_kill(leader: int) -> None:
        if leader in started:
            os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises for one that is reaped
            killed.append(leader)
        own(leader)

    begin = worker.WorkerProcess.__init__

    def record_worker(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        started.append(self.process.pid)

    dead: list[int] = []

    def kill_one_worker() -> None:
        if not dead:
            dead.extend(started)
            for pid in dead:
                os.kill(pid, signal.SIGKILL)
            while any(is_alive(pid) for pid in dead):
                time.sleep(0.01)

    monkeypatch.setattr(worker.WorkerProcess, "__init__", record_worker)
    monkeypatch.setattr(worker, "kill_group", record_kill)
    tournament = create(["minimax:depth=1", "random"], "tic_tac_toe", {}, path=tmp_path / "t", pairs=4, seed=5)
    matches = run_tournament(tournament, workers=2, poll=kill_one_worker).matches
    assert len(matches) == 8 and not any(match.fault for match in matches)
    assert len(dead) == 2 and len(started) == 4 and set(killed) == set(started)


STUCK = """from rl_lab.core.world import Array, World, kernel
from support.nim import NIM, Nim, NimParams


@kernel
def action_mask(s: Nim, agent: int, p: NimParams, mask: Array) -> None:
    for k in range(3):
        mask[k] = 1 if k + 1 <= s.heap and not (agent == 1 and s.heap == 4) else 0


world = World(**NIM | {"action_mask": action_mask, "perfect_information": True})
"""


def test_a_mistake_of_the_world_that_a_process_of_matches_meets_is_the_same_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stuck.py").write_text(STUCK)
    Path("bots.py").write_text("def first(observation, legal):\n    return int(legal.nonzero()[0][0])\n")
    assert main(["tournament", "stuck.py", "random", "bots.py:first", "--pairs", "20", "--dir", "t"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"rl-lab: nim: stuck: second has to act at step \d+ and has no legal action", last)
