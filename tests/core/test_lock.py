"""These tests check that a run, a tournament and a sweep have one writer at a time, also after a crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support import programs
from support.time_limits import within

from rl_lab.cli import main
from rl_lab.core import lock
from rl_lab.core.files import clear, partial
from rl_lab.core.lock import InUseError, create_new_folder, lock_folder

TINY = (
    "budget=256 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false threads=1 "
    "evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1 checkpoint.steps=128"
).split()
HOLD = """
import os, sys, time
from pathlib import Path
from rl_lab.core.lock import lock_folder
with lock_folder(Path(sys.argv[1]), "run x"):
    {inside}
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def start_holder(folder: Path, inside: str = "pass") -> Iterator[int]:
    """Another process that has the lock of a folder, until it is killed."""
    script = textwrap.dedent(HOLD).format(inside=inside)
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.kill()


def start_process(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rl_lab.cli", *words]
    return programs.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# The lock


def test_a_second_process_is_told_who_has_it_and_a_dead_one_has_it_no_more(work_folder: Path) -> None:
    expected = r"^run y is under way: process {} on \S+ since 20\S+ is at work on it$"
    with start_holder(work_folder) as pid, pytest.raises(InUseError, match=expected.format(pid)):
        lock_folder(work_folder, "run y").__enter__()
    assert (work_folder / lock.NAME).exists()  # nothing was cleaned up
    with lock_folder(work_folder, "run y"):
        pass
    assert list(work_folder.iterdir()) == []


def test_one_process_does_not_have_it_twice(work_folder: Path) -> None:
    with lock_folder(work_folder, "a"), pytest.raises(InUseError, match=f"b is under way: process {os.getpid()} "):
        lock_folder(work_folder, "b").__enter__()
    with lock_folder(work_folder, "a"):
        pass


@pytest.mark.parametrize("inside", ["os.fork() or time.sleep(200)", "os.posix_spawn('/bin/sleep', ['s', '200'], {})"])
def test_children_do_not_keep_it(inside: str, work_folder: Path) -> None:
    with start_holder(work_folder, inside) as pid, pytest.raises(InUseError, match=f"process {pid} "):
        lock_folder(work_folder, "run y").__enter__()
    # The child lives on. It closes its copy of the lock as soon as it runs, which is soon.
    with within(10):
        while True:
            with suppress(InUseError), lock_folder(work_folder, "run y"):
                assert (work_folder / lock.NAME).exists()
                break
            time.sleep(0.01)
    assert list(work_folder.iterdir()) == []


def test_a_folder_that_was_made_again_keeps_its_new_lock(work_folder: Path) -> None:
    """The folder was removed under its owner, and another process is at work in one of that name."""
    folder = work_folder / "run"
    folder.mkdir()
    with ExitStack() as stack:
        with lock_folder(folder, "run x"):
            shutil.rmtree(folder)
            folder.mkdir()
            pid = stack.enter_context(start_holder(folder))
        with pytest.raises(InUseError, match=f"run y is under way: process {pid} "):
            lock_folder(folder, "run y").__enter__()


def test_a_forked_child_does_not_give_it_up(work_folder: Path) -> None:
    with lock_folder(work_folder, "run x"):
        child = os.fork()
        if child == 0:
            try:
                sys.exit(0)  # unwinds to here and no further
            except SystemExit:
                os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(InUseError):
            lock_folder(work_folder, "run y").__enter__()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_a_lock_that_is_no_file_is_refused_and_left(make: object, work_folder: Path) -> None:
    make(work_folder / lock.NAME)  # type: ignore[operator]
    with pytest.raises((ValueError, OSError)):
        lock_folder(work_folder, "run x").__enter__()
    assert os.path.lexists(work_folder / lock.NAME)


def test_many_at_once_have_it_one_after_the_other(work_folder: Path) -> None:
    inside, most, done = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, done
        while True:
            try:
                with lock_folder(work_folder, "x"):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0.001)
                    inside -= 1
                    done += 1
                    return
            except InUseError:
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == (1, 30)


def test_fresh_names_are_given_once(work_folder: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(create_new_folder(work_folder / "runs", "a"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in found} == {"a", *(f"a-{k}" for k in range(2, 21))}


# What is locked


@pytest.fixture
def run(work_folder: Path) -> Iterator[Path]:
    """A run whose checkpoint of the end is gone."""
    assert main(["train", "catch", *TINY, "run_dir=run", "--json"]) == 0
    last = max((work_folder / "run" / "checkpoints").iterdir())
    last.rename(work_folder / "last")
    yield work_folder / "run"


def test_a_run_under_way_is_neither_resumed_nor_begun_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    with start_holder(run) as pid:
        capsys.readouterr()
        for words in (["resume", "run"], ["resume", "run", "--json"], ["train", "-m", "catch", *TINY, "run_dir=run"]):
            assert main(words) == 2
            out, err = capsys.readouterr()
            assert out == "" and len(err.splitlines()) == 1, err
            assert f"is under way: process {pid} on " in err
        assert main(["train", "catch", *TINY, "run_dir=run"]) == 2
        assert (run / "metrics.jsonl").read_bytes() == before
    assert main(["resume", "run", "--json"]) == 0
    assert not (run / lock.NAME).exists()


def test_several_resumes_at_once_are_one(run: Path) -> None:
    outcomes = [(p, *p.communicate(timeout=120)) for p in [start_process("resume", "run", "--json") for _ in range(3)]]
    codes = sorted(process.returncode for process, *_ in outcomes)
    lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(set(lines))
    assert 0 in codes and set(codes) <= {0, 2}
    assert all("under way" in err for process, _, err in outcomes if process.returncode == 2)


@pytest.mark.parametrize("place", [[], ["run_dir=runs/same"]])
def test_several_trainings_at_once_do_not_share_a_folder(place: list[str], work_folder: Path) -> None:
    outcomes = [
        (p, *p.communicate(timeout=200))
        for p in [start_process("train", "catch", *TINY, *place, "--json") for _ in range(4)]
    ]
    done = [json.loads(out.splitlines()[-1])["run_dir"] for p, out, _ in outcomes if p.returncode == 0]
    assert len(done) == len(set(done)) == (1 if place else 4), [err for *_, err in outcomes]
    for process, _, err in outcomes:
        assert process.returncode == 0 or (process.returncode == 2 and len(err.strip().splitlines()) == 1), err
    for folder in done:
        steps = [json.loads(line)["step"] for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
        assert steps == [128, 256]


def test_a_tournament_under_way_is_not_resumed(work_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tournament", "tic_tac_toe", "random", "scripted", "--pairs", "2", "--dir", "t", "--json"]
    assert main(words) == 0
    with start_holder(work_folder / "t") as pid:
        capsys.readouterr()
        assert main(["tournament", "resume", "t"]) == 2
        assert f"tournament t is under way: process {pid} on " in capsys.readouterr().err
    assert main(["tournament", "resume", "t", "--json"]) == 0


def test_tournaments_of_one_second_have_folders_of_their_own(work_folder: Path) -> None:
    words = ["tournament", "tic_tac_toe", "random", "scripted", "--pairs", "2", "--json"]
    outcomes = [(p, *p.communicate(timeout=120)) for p in [start_process(*words) for _ in range(3)]]
    assert [p.returncode for p, *_ in outcomes] == [0] * 3, [err for *_, err in outcomes]
    folders = list((work_folder / "runs" / "tournaments").iterdir())
    assert len(folders) == 3
    assert {len((folder / "matches.jsonl").read_text().splitlines()) for folder in folders} == {4}


# A start that was cut


def test_a_start_that_was_cut_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (run / "config.yaml").read_bytes()
    for name in ("resumed", "again"):
        Path(name).mkdir()
        Path(name, "config.yaml").write_bytes(config)
    assert main(["evaluate", "resumed"]) == 2
    assert "rl-lab resume resumed" in capsys.readouterr().err
    assert main(["resume", "resumed", "--json"]) == 0
    assert main(["train", "catch", *TINY, "run_dir=again", "--json"]) == 0
    for name in ("resumed", "again"):
        assert json.loads(Path(name, "run.json").read_text())["world"] == "catch"
        assert Path(name, "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


def test_another_file_in_the_way_is_left(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("world: cartpole\n")
    assert main(["train", "catch", *TINY, "run_dir=mine"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert Path("mine/config.yaml").read_text() == "world: cartpole\n" and len(list(Path("mine").iterdir())) == 1


@pytest.mark.parametrize("entry", ["config.yaml", "run.json"])
def test_killed_while_it_begins(entry: str, work_folder: Path) -> None:
    """At the very write, and then begun again: by the same command, and by resume."""
    script = f"""
        import os, sys
        from pathlib import Path
        from rl_lab.cli import main
        replace = Path.replace
        def kill(self, target):
            if target.name == {entry!r}:
                os.kill(os.getpid(), 9)
            return replace(self, target)
        Path.replace = kill
        main(sys.argv[1:])
    """
    words = ["train", "catch", *TINY, "run_dir=run"]
    done = programs.run([sys.executable, "-c", textwrap.dedent(script), *words], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert main([*words, "--json"] if entry == "config.yaml" else ["resume", "run", "--json"]) == 0
    assert not [path for path in work_folder.rglob("*") if path.name.endswith(".partial") or path.name == lock.NAME]


# Unfinished files


def test_what_a_dead_writer_left_is_cleared_and_a_live_ones_is_not(work_folder: Path) -> None:
    (work_folder / "best.mp4.0123abcd.partial").write_text("half")
    (work_folder / "mine.partial").write_text("somebody's own")
    with partial(work_folder / "worst.mp4") as live:
        clear(work_folder)
        assert sorted(p.name for p in work_folder.iterdir()) == sorted(["mine.partial", live.name])
    assert [p.name for p in work_folder.iterdir()] == ["mine.partial"]
    clear(work_folder / "missing")


def test_resume_clears_what_a_killed_film_left(run: Path) -> None:
    (run / "videos").mkdir(exist_ok=True)
    for folder in (run, run / "videos", run / "evaluations" / "256"):
        (folder / "x.mp4.0123abcd.partial").write_text("half")
    assert main(["resume", "run", "--json"]) == 0
    assert not list(run.rglob("*.partial"))


def test_the_next_film_clears_what_a_killed_one_left(run: Path) -> None:
    script = """
        import os, sys
        from rl_lab.rendering.video_writer import Mp4Writer
        from rl_lab.cli import main
        write = Mp4Writer.write
        def kill(self, frame):
            write(self, frame)
            if self.frames == 5:
                os.kill(os.getpid(), 9)
        Mp4Writer.write = kill
        main(["watch", "run", "--file"])
    """
    done = programs.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL and list(run.glob("videos/*.partial"))
    time.sleep(0.5)  # ffmpeg, an orphan, ends by itself
    assert main(["watch", "run", "--file", "--json"]) == 0
    assert not list(run.rglob("*.partial")) and list(run.glob("videos/*.mp4"))
