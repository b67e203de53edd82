"""Work that is divided among workers on a Ray cluster of two nodes, some of which are killed: as without a cluster."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra rllib")

from support.commands import run_command
from support.ray_clusters import cluster_of, workers_of
from support.runs import reproducible_content
from support.time_limits import within
from support.walk_world import WALK

from rl_lab.cli import main
from rl_lab.learners.rllib import job_pool
from rl_lab.learners.rllib.ray_workers import RayWorkers
from rl_lab.tournament.ledger import read
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.store import create, load

SILENT = 6.0  # seconds without a heartbeat after which a worker is given up here
LEAST_SILENCE = SILENT - 3.0  # the last heartbeat was read up to two seconds before the worker stopped
ENTRANTS = ["random", "scripted", "mcts:simulations=400"]
BOTS = """
import os
import time

def slow(observation, action_mask):
    print("thinking")
    time.sleep(0.02)
    return int(action_mask.argmax())

def leaves(observation, action_mask):
    return os._exit(7) if action_mask.sum() < 6 else int(action_mask.argmax())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with cluster_of(2) as (made, _):
        yield made


class Killer:
    """Kills one worker as soon as `is_due`; `killed` is its process then, 0 before."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.killed = cluster, 0

    def kill(self, is_due: bool) -> None:
        if is_due and not self.killed:
            self.killed, *_ = workers_of(self.cluster)
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.parametrize("words", [ENTRANTS, ["bots.py:slow", "bots.py:leaves"]])
def test_a_tournament_has_the_ledger_of_a_local_one(
    words: list[str], cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed in the middle; in the second case each worker plays in a contained process of its own."""
    monkeypatch.chdir(tmp_path)
    Path("bots.py").write_text(BOTS)
    here, there = (create(words, "tic_tac_toe", {}, pairs=12, path=Path(name)) for name in ("here", "there"))
    expected = run_tournament(here).matches
    killer = Killer(cluster)
    run_tournament(
        there,
        workers=RayWorkers(2, cluster.address),
        poll=lambda: killer.kill(there.ledger.stat().st_size > 0),
    )
    assert killer.killed
    assert sorted(read(there.ledger), key=lambda match: match.id) == expected
    assert "bots.py:slow" not in words or "thinking" in Path("there/entrants.log").read_text()


def test_a_stopped_worker_holds_nothing_up(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that SIGSTOP has stopped in the middle of a block neither ends nor answers; another one plays it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_pool, "_SILENT", SILENT)
    words = ["mcts:simulations=6000", "mcts:simulations=5000", "random"]
    here, there = (create(words, "tic_tac_toe", {}, pairs=12, path=Path(name)) for name in ("here", "there"))
    expected = run_tournament(here).matches
    with worker_stopped_at_work(cluster) as stopped:
        run_tournament(there, workers=RayWorkers(2, cluster.address))
    process, stopped_at = stopped[0]
    assert time.monotonic() - stopped_at > LEAST_SILENCE
    assert sorted(read(there.ledger), key=lambda match: match.id) == expected
    with within(10):
        while Path(f"/proc/{process}/exe").exists():
            time.sleep(0.1)


def test_an_evaluation_goes_on_without_a_stopped_worker(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_pool, "_SILENT", SILENT)
    words = "mcts world=tic_tac_toe opponent=scripted evaluation.episodes=64 agent.simulations=30000".split()
    run_command("evaluate", *words, "--out", "here")
    with worker_stopped_at_work(cluster) as stopped:
        run_command("evaluate", *words, "--out", "there", "workers=ray:2", f"cluster={cluster.address}")
    assert time.monotonic() - stopped[0][1] > LEAST_SILENCE
    for file in ("episodes.jsonl", "summary.json"):
        assert Path("there", file).read_bytes() == Path("here", file).read_bytes()


@contextmanager
def worker_stopped_at_work(cluster: Any) -> Iterator[list[tuple[int, float]]]:
    """Stop a worker as soon as its title, which Ray sets, says that it plays; yield a list for its process and when."""
    stopped: list[tuple[int, float]] = []

    def stop() -> None:
        limit = time.monotonic() + 120
        while not (working := [each for each in workers_of(cluster) if b".perform" in title_of(each)]):
            assert time.monotonic() < limit
            time.sleep(0.02)
        os.kill(working[0], signal.SIGSTOP)
        stopped.append((working[0], time.monotonic()))

    thread = threading.Thread(target=stop)
    thread.start()
    yield stopped
    thread.join()


def title_of(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def test_an_interrupted_tournament_goes_on(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bots.py").write_text(BOTS)
    made = create(["bots.py:slow", "random"], "tic_tac_toe", {}, pairs=12, path=Path("stopped"))

    def stop() -> None:
        if made.ledger.stat().st_size:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tournament(made, workers=RayWorkers(None, cluster.address), poll=stop)
    assert 0 < len(read(made.ledger)) < 24
    assert main(["tournament", "resume", "stopped", "--code", "--workers", "ray", "--cluster", cluster.address]) == 0
    whole = create(["bots.py:slow", "random"], "tic_tac_toe", {}, pairs=12, path=Path("whole"))
    assert sorted(read(load("stopped").ledger), key=lambda match: match.id) == run_tournament(whole).matches


def test_an_evaluation_has_the_bits_of_a_local_one(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trained agent in a world of the user's own: greedily, by parts, and sampled, which cannot be divided."""
    monkeypatch.chdir(tmp_path)
    Path("walk.py").write_text(WALK)
    run_command("train", "walk.py", *"agent=ppo budget=256 video=false evaluation.episodes=2 run_dir=walked".split())
    words = {
        "walked": ["walked", "evaluation.episodes=150"],
        "search": "mcts world=tic_tac_toe opponent=scripted evaluation.episodes=40 agent.simulations=50".split(),
    }
    for name, command in words.items():
        run_command("evaluate", *command, "--out", f"{name}-here")
        run_command("evaluate", *command, "--out", f"{name}-there", "workers=ray:2", f"cluster={cluster.address}")
        for file in ("episodes.jsonl", "summary.json"):
            assert Path(f"{name}-there/{file}").read_bytes() == Path(f"{name}-here/{file}").read_bytes()


def test_a_sweep_has_the_run_folders_of_a_local_one(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Workers are killed, and their trainings start again; a combination that is refused does not end the others."""
    monkeypatch.chdir(tmp_path)
    Path("walk.py").write_text(WALK)
    words = "walk.py seed=0,1 agent.gamma=0.9,7 budget=3000 video=false evaluation.episodes=2 --json".split()
    results = []
    for place, more in {"here": [], "there": ["workers=ray", f"cluster={cluster.address}"]}.items():
        killer = threading.Thread(target=kill_when_there, args=[cluster, Path(place)])
        killer.start() if more else None
        assert main(["train", "-m", *words, f"run_dir={place}", *more]) == 1
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    here, there = ({path.name: path for path in Path(place).iterdir()} for place in ("here", "there"))
    assert list(sorted(here)) == list(sorted(there)) and len(here) == 2
    for name, path in here.items():
        assert reproducible_content(there[name]) == reproducible_content(path)
        assert (there[name] / "config.yaml").read_text() == (path / "config.yaml").read_text()
    assert results[0]["table"] == results[1]["table"] and results[0]["failed"] == results[1]["failed"]
    assert main(["resume", str(there[name])]) == 0


def kill_when_there(cluster: Any, place: Path) -> None:
    """Kill all workers as soon as a run has a folder, which is made when its training is sent."""
    limit = time.monotonic() + 120
    while not any(place.glob("*/run.json")):
        assert time.monotonic() < limit
        time.sleep(0.05)
    for worker in workers_of(cluster):
        os.kill(worker, signal.SIGKILL)
