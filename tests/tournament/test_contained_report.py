"""Tests that reports and replays run entrants' code in another process, and that processes of entrants are killed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from rl_lab import cli
from rl_lab.core.errors import UsageError
from rl_lab.tournament.code_loading import load_in_subprocess, source_file

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
ORPHAN = "import subprocess, sys; subprocess.Popen(['sleep', 'SECONDS'], start_new_session=True)"

def session(observation, legal):
    subprocess.Popen(["sleep", "SECONDS"], start_new_session=True)
    return int(legal.nonzero()[0][0])

def orphan(observation, legal):
    subprocess.run([sys.executable, "-c", ORPHAN])
    return int(legal.nonzero()[0][0])

def forks(observation, legal):
    libc = ctypes.CDLL(None)
    if libc.fork() == 0:
        os.setsid()
        if libc.fork() == 0:
            os.execvp("sleep", ["sleep", "SECONDS"])
        os._exit(0)
    return int(legal.nonzero()[0][0])

def many(observation, legal):
    for _ in range(80):
        forks(observation, legal)
    return int(legal.nonzero()[0][0])
"""
AT_IMPORT = """
import subprocess
subprocess.Popen(["sleep", "SECONDS"], start_new_session=True)
def bot(observation, legal): return 0
"""


# How long the processes sleep that the tests of this process start: a number that no other process of the suite sleeps.
SECONDS = f"47.{os.getpid():07d}"


def marked_sleepers() -> set[str]:
    """Return the processes that sleep for this number of seconds."""
    pids = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", SECONDS.encode()]:
                pids.add(folder.name)
        except OSError:
            continue
    return pids


def check_none_sleeps() -> None:
    """Fail unless all of them end within five seconds."""
    deadline = time.monotonic() + 5
    while left := marked_sleepers():
        assert time.monotonic() < deadline, f"what was started goes on: {left}"
        time.sleep(0.05)


def begin(folder: Path, monkeypatch: pytest.MonkeyPatch, *, entrants: list[str], options: list[str]) -> int:
    """Play a small tournament in this folder."""
    monkeypatch.chdir(folder)
    (folder / "bots.py").write_text(BOT)
    (folder / "helpers.py").write_text(HELPER.replace("SECONDS", SECONDS))
    return cli.main(["tournament", "tic_tac_toe", *entrants, "random", "--dir", "t", *options])


@pytest.mark.parametrize("end", ENDS)
def test_code_that_ends_or_hangs_in_a_report_costs_its_games_only(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entrants = ["a=bots.py:bot", "scripted"]
    assert begin(tmp_path, monkeypatch, entrants=entrants, options=["--pairs", "1", "--timeout", "0.2"]) == 0
    capsys.readouterr()
    assert cli.main(["tournament", "report", "t", "--code", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["watchable"] == 6
    (tmp_path / "evil").write_text(end)
    assert cli.main(["tournament", "report", "t", "--code", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["watchable"] == 2
    assert report["missing"] == ["4 games came out differently when they were played again"]
    match = json.loads((tmp_path / "t/matches.jsonl").read_text().splitlines()[0])
    assert "a" in match["pairing"]
    assert cli.main(["tournament", "replay", "t", match["id"], "--code"]) == 1
    assert "came out differently" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes cannot be seen here")
@pytest.mark.parametrize("kind", ["session", "orphan", "forks"])
def test_what_entrants_start_outside_of_their_group_ends_with_the_tournament(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert begin(tmp_path, monkeypatch, entrants=[f"a=helpers.py:{kind}"], options=["--pairs", "1"]) == 0
    check_none_sleeps()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes cannot be seen here")
def test_orphans_count_among_what_an_entrant_may_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--pairs", "1", "--timeout", "20"]
    assert begin(tmp_path, monkeypatch, entrants=["a=helpers.py:many"], options=options) == 0
    matches = [json.loads(line) for line in (tmp_path / "t/matches.jsonl").read_text().splitlines()]
    assert [match["fault"]["entrant"] for match in matches] == ["a", "a"]
    assert all("started more than" in match["fault"]["reason"] for match in matches)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes cannot be seen here")
def test_what_an_import_starts_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "imported.py").write_text(AT_IMPORT.replace("SECONDS", SECONDS))
    load_in_subprocess([f"{tmp_path}/imported.py:bot"])
    check_none_sleeps()


WRITES = """
import os
for number in range(3, 64):
    try:
        os.write(number, b'{"file": "/etc/passwd"}\\n' * 2)
    except OSError:
        pass
def bot(observation, legal): return 0
"""


def test_what_is_loaded_answers_for_itself_alone(tmp_path: Path) -> None:
    """It writes into every file that its process has open, and cannot be loaded; the answer about another is right."""
    (tmp_path / "writes.py").write_text(WRITES)
    (tmp_path / "good.py").write_text("def bot(observation, legal): return 0\n")
    # With lines in the answers of all objects, it would end "with status 0", because the number of lines is wrong.
    with pytest.raises(UsageError, match=r"writes\.py:bot: its process ended: "):
        load_in_subprocess([f"{tmp_path}/writes.py:bot", f"{tmp_path}/good.py:bot"])
    assert source_file(f"{tmp_path}/good.py:bot") == tmp_path / "good.py"
