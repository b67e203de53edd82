"""Tests of the processes that run entrants' code: in reports and replays, when it is loaded, and what it starts.

Every process that an entrant has started must be killed at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from support.time_limits import within

from rl_lab import cli
from rl_lab.core.errors import UsageError
from rl_lab.tournament.code_loading import load_in_subprocess, source_file

# This bot plays honestly until there is a file "evil", whose code it then executes. So it can play a tournament first
# and misbehave when a report or a replay plays its games again.
BOT = """
import os, signal
from pathlib import Path

def bot(observation, legal):
    if os.path.exists("evil"):
        exec(Path("evil").read_text())
    return int(legal.nonzero()[0][0])
"""
ENDS = ("os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "while True: pass", "raise SystemExit(3)")
HELPER = """
import os, subprocess, sys, ctypes
ORPHAN = "import subprocess, sys; subprocess.Popen(['sleep', '<seconds>'], start_new_session=True)"

def session(observation, legal):
    subprocess.Popen(["sleep", "<seconds>"], start_new_session=True)
    return int(legal.nonzero()[0][0])

def orphan(observation, legal):
    subprocess.run([sys.executable, "-c", ORPHAN])
    return int(legal.nonzero()[0][0])

def forks(observation, legal):
    libc = ctypes.CDLL(None)
    if libc.fork() == 0:
        os.setsid()
        if libc.fork() == 0:
            os.execvp("sleep", ["sleep", "<seconds>"])
        os._exit(0)
    return int(legal.nonzero()[0][0])

def many(observation, legal):
    for _ in range(80):
        forks(observation, legal)
    return int(legal.nonzero()[0][0])
"""
AT_IMPORT = """
import subprocess
subprocess.Popen(["sleep", "<seconds>"], start_new_session=True)
def bot(observation, legal): return 0
"""

# How long the processes sleep that these tests start, in place of <seconds>. No other process of the suite sleeps for
# exactly this time.
SLEEP_SECONDS = f"470.{os.getpid():07d}"


def marked_sleepers() -> set[str]:
    """Return the processes that sleep for SLEEP_SECONDS."""
    pids = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", SLEEP_SECONDS.encode()]:
                pids.add(folder.name)
        except OSError:
            continue
    return pids


def check_no_sleepers_left() -> None:
    """Fail unless all marked sleepers end within five seconds."""
    with within(5):
        while marked_sleepers():
            time.sleep(0.05)


def play_tournament(folder: Path, monkeypatch: pytest.MonkeyPatch, *, entrants: list[str], options: list[str]) -> int:
    """Play a tournament of these entrants and `random` in this folder; return the exit status of the command."""
    monkeypatch.chdir(folder)
    (folder / "bots.py").write_text(BOT)
    (folder / "helpers.py").write_text(HELPER.replace("<seconds>", SLEEP_SECONDS))
    return cli.main(["tournament", "tic_tac_toe", *entrants, "random", "--dir", "t", *options])


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tournament of an honest bot, which tests copy."""
    folder = tmp_path_factory.mktemp("played")
    with pytest.MonkeyPatch.context() as patch:
        options = ["--pairs", "1", "--timeout", "0.2"]
        assert play_tournament(folder, patch, entrants=["a=bots.py:bot", "scripted"], options=options) == 0
    return folder


@pytest.fixture
def copy_of_played(played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of `played`, which is the current folder."""
    folder = shutil.copytree(played, tmp_path / "copy")
    monkeypatch.chdir(folder)
    return folder


def test_a_report_shows_all_games_of_an_honest_bot(copy_of_played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tournament", "report", "t", "--code", "--json"]) == 0
    # Three entrants make three pairings of two games each: "a" plays in 4 games, the other two entrants meet in 2.
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["watchable"] == 6


@pytest.mark.parametrize("end", ENDS)
def test_code_that_ends_or_hangs_in_a_report_costs_its_games_only(
    end: str, copy_of_played: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy_of_played / "evil").write_text(end)
    assert cli.main(["tournament", "report", "t", "--code", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["watchable"] == 2
    assert report["missing"] == ["4 games came out differently when they were played again"]
    match = json.loads((copy_of_played / "t/matches.jsonl").read_text().splitlines()[0])
    assert "a" in match["pairing"]
    assert cli.main(["tournament", "replay", "t", match["id"], "--code"]) == 1
    assert "came out differently" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes cannot be seen here")
@pytest.mark.parametrize("kind", ["session", "orphan", "forks"])
def test_what_entrants_start_outside_of_their_group_ends_with_the_tournament(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert play_tournament(tmp_path, monkeypatch, entrants=[f"a=helpers.py:{kind}"], options=["--pairs", "1"]) == 0
    check_no_sleepers_left()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes cannot be seen here")
def test_orphans_count_among_what_an_entrant_may_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--pairs", "1", "--timeout", "20"]
    assert play_tournament(tmp_path, monkeypatch, entrants=["a=helpers.py:many"], options=options) == 0
    matches = [json.loads(line) for line in (tmp_path / "t/matches.jsonl").read_text().splitlines()]
    assert [match["fault"]["entrant"] for match in matches] == ["a", "a"]
    assert all("started more than" in match["fault"]["reason"] for match in matches)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes cannot be seen here")
def test_what_an_import_starts_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "imported.py").write_text(AT_IMPORT.replace("<seconds>", SLEEP_SECONDS))
    load_in_subprocess([f"{tmp_path}/imported.py:bot"])
    check_no_sleepers_left()


FORGER = """
import os
import shutil
import time
for number in range(3, 64):
    try:
        os.write(number, b'{"file": "/etc/passwd"}\\n' * 2)
    except OSError:
        pass
def bot(observation, legal): return 0
"""


def test_a_bot_cannot_forge_the_loading_result_of_another(tmp_path: Path) -> None:
    """The process that loads a bot reports the bot's source file through a pipe, as one line of JSON.

    This bot writes forged results into all open descriptors of its process: only it is refused.
    """
    (tmp_path / "forger.py").write_text(FORGER)
    (tmp_path / "good.py").write_text("def bot(observation, legal): return 0\n")
    # If the forged lines came among the results of all bots, the message would be "its process ended with status 0",
    # because the number of lines would be wrong.
    with pytest.raises(UsageError, match=r"forger\.py:bot: its process ended: "):
        load_in_subprocess([f"{tmp_path}/forger.py:bot", f"{tmp_path}/good.py:bot"])
    assert source_file(f"{tmp_path}/good.py:bot") == tmp_path / "good.py"
