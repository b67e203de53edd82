"""A run's folder: what is in it, how it is found again, and what keeping it safe costs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_lab.core import agent_registry, checkpoint
from rl_lab.core.agent import Rollout, StateDict
from rl_lab.core.errors import UsageError
from rl_lab.core.progress import Progress
from rl_lab.engine import world_registry
from rl_lab.experiments import trainer
from rl_lab.experiments.compose import compose
from rl_lab.experiments.run_dir import Run, create, find, list_runs
from rl_lab.experiments.run_record import RunError
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.training_metrics import Metrics

TINY = (
    "budget=1024 worlds=4 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu "
    "evaluation.episodes=3 evaluation.selections=2 evaluation.selection_episodes=1 checkpoint.steps=256"
).split()


def tiny(folder: Path, *overrides: str) -> Scenario:
    return dataclasses.replace(compose("cartpole", [*TINY, "video=false", *overrides]), run_dir=str(folder))


def train(scenario: Scenario) -> trainer.Result:
    return trainer.train(scenario, ["rl-lab", "train", "cartpole"], Progress(quiet=True))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> trainer.Result:
    return train(tiny(tmp_path_factory.mktemp("run") / "run", "video=true", "checkpoint.keep_last=2"))


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# What is in it


def test_every_file_is_one_of_the_houses_plan(result: trainer.Result) -> None:
    plan = [
        r"run\.json",
        r"config\.yaml",
        r"metrics\.jsonl",
        r"events\.out\.tfevents\..*",
        r"(checkpoints|agent)/step-\d{9}/(manifest\.json|state\.json|[a-z-]+\.safetensors)",
        r"evaluations/\d+/(episodes\.jsonl|summary\.json)",
        r"videos/(best|median|worst)\.(mp4|safetensors)",
    ]
    files = [str(f.relative_to(result.run.path)) for f in result.run.path.rglob("*") if f.is_file()]
    assert [file for file in files if not any(re.fullmatch(entry, file) for entry in plan)] == []
    assert [entry for entry in plan if not any(re.fullmatch(entry, file) for file in files)] == []
    assert not [f for f in result.run.path.rglob("*") if f.is_dir() and not any(f.iterdir())]


def test_run_json_says_what_when_and_where(result: trainer.Result) -> None:
    facts = strict((result.run.path / "run.json").read_text())
    assert set(facts) == {
        *("scenario", "world", "agent", "seed", "settings", "started", "command", "git_commit", "versions", "host")
    }
    assert (facts["scenario"], facts["world"], facts["agent"], facts["seed"]) == ("cartpole", "cartpole", "ppo", 0)
    assert facts["settings"]["agent.n_steps"] == "64" and "seed" not in facts["settings"]
    assert facts["command"] == ["rl-lab", "train", "cartpole"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", facts["started"])
    assert facts["git_commit"] is None or re.fullmatch("[0-9a-f]{40}", facts["git_commit"])
    assert {"python", "numpy", "numba", "torch", "rl-lab", "gymnasium", "stable-baselines3"} <= set(facts["versions"])
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["host"]["cores"] == os.cpu_count()


def test_config_yaml_is_the_scenario_again(result: trainer.Result) -> None:
    assert result.run.scenario() == dataclasses.replace(result.scenario, run_dir=None)


def test_metrics_are_strict_json_by_rising_step(result: trainer.Result) -> None:
    text = result.run.metrics.read_text()
    assert text.endswith("\n")
    lines = [strict(line) for line in text.splitlines()]
    assert [line["step"] for line in lines] == [256, 512, 768, 1024]
    for line in lines:
        assert {"rollout/return", "rollout/length", "train/loss"} <= set(line)
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in line.values())


def test_metrics_have_no_clock_in_them(result: trainer.Result, tmp_path: Path) -> None:
    again = train(tiny(tmp_path / "again"))
    assert again.run.metrics.read_bytes() == result.run.metrics.read_bytes()


def test_tensorboard_reads_the_events(result: trainer.Result) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(result.run.path))
    events.Reload()
    lines = [strict(line) for line in result.run.metrics.read_text().splitlines()]
    tags = set(events.Tags()["scalars"])
    assert tags == {key for line in lines for key in line if key != "step"} | {
        *("time/seconds", "time/steps_per_second", "selection/return", "selection/length"),
        *("rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/time_elapsed"),
        *("eval/mean_reward", "eval/mean_ep_length"),
    }
    for key in ("rollout/return", "train/loss"):
        told = [(e.step, np.float32(e.value)) for e in events.Scalars(key)]
        assert told == [(line["step"], np.float32(line[key])) for line in lines]
    seconds = [e.value for e in events.Scalars("time/seconds")]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_the_evaluation_is_kept_by_the_step_of_its_agent(result: trainer.Result) -> None:
    kept = checkpoint.latest(result.run.agent)[0]
    assert kept is not None
    folder = result.run.evaluation(kept.step)
    assert strict((folder / "summary.json").read_text()) == json.loads(json.dumps(result.summary))
    episodes = [strict(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [e["index"] for e in episodes] == [0, 1, 2]
    assert np.mean([e["return"] for e in episodes]) == result.summary["mean_return"]
    assert result.run.summary() == json.loads(json.dumps(result.summary))


def test_the_films_are_those_named(result: trainer.Result) -> None:
    assert {name: path.name for name, path in result.videos.items()} == {
        name: f"{name}.mp4" for name in ("best", "median", "worst")
    }
    assert all(path.stat().st_size > 1000 for path in result.videos.values())


# Checkpoints


def test_keep_last_and_the_cadence_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, save = [], checkpoint.save

    def spy(folder: Path, step: int, *arguments: Any, **named: Any) -> Path:
        if Path(folder).name == "checkpoints":
            saved.append(step)
        return save(folder, step, *arguments, **named)

    monkeypatch.setattr(checkpoint, "save", spy)
    run = train(tiny(tmp_path / "run", "budget=2048", "checkpoint.steps=500", "checkpoint.keep_last=2")).run
    assert saved == [512, 1024, 1536, 2048]  # the first rollout's end after each 500
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-000001536", "step-000002048"]
    assert len(list(run.agent.iterdir())) == 1


class _Learner:
    """Learns nothing, in no time of its own but on the test's clock."""

    backend = "not at all"
    rollout = Rollout(1000, "n_steps")

    def __init__(self, clock: _Clock) -> None:
        self.steps, self.seconds, self.clock = 0, {"env": 0.0, "infer": 0.0, "learn": 0.0}, clock

    def train_iteration(self) -> dict[str, float]:
        self.steps += 1000
        self.clock.now += 0.7
        return {"rollout/return": 0.0}

    def agent(self) -> Any:
        return agent_registry.load("random").make(
            agent_registry.load("random").Config(), world_registry.load("cartpole")
        )

    def save_agent(self) -> StateDict:
        return StateDict({"policy": {}}, {})

    def save(self) -> StateDict:
        return StateDict({"policy": {}}, {})

    def close(self) -> None:
        pass


class _Clock:
    now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize("cost", [0.004, 0.2, 3.0])
def test_checkpoints_take_less_than_a_hundredth_of_the_time(
    cost: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the default interval, whatever one costs, but for the very first and the one at the end."""
    from rl_lab.adapters import make

    clock, saved = _Clock(), []
    learner = _Learner(clock)

    def save(folder: Path, step: int, *arguments: Any, **named: Any) -> Path:
        if Path(folder).name == "checkpoints":
            saved.append(clock.now)
            clock.now += cost
        return Path(folder) / f"step-{step:09d}"

    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(trainer, "make_learner", lambda scenario: (learner, make.make("cartpole", 1)))
    monkeypatch.setattr(trainer, "load_agent", lambda path, scenario: (learner.agent(), learner.steps))
    scenario = compose("cartpole", ["budget=4_000_000", "evaluation.episodes=1", "evaluation.selections=0"])
    assert scenario.checkpoint == compose("catch").checkpoint, "this is about the default"
    begin = clock.now
    train(dataclasses.replace(scenario, run_dir=str(tmp_path / "run"), video=False))
    elapsed = clock.now - begin
    assert len(saved) > 5
    assert (len(saved) - 2) * cost < 0.01 * elapsed
    gaps = np.diff(saved[:-1])
    assert gaps.min() >= scenario.checkpoint.seconds
    assert gaps.max() < max(scenario.checkpoint.seconds, 100 * cost) + cost + 1.4, "and no rarer than that asks for"


# Going back


def test_metrics_are_taken_back_to_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    metrics = Metrics(run)
    metrics.write(1, {"a": 1.0}, {})
    size = metrics.size
    metrics.write(2, {"a": 2.0}, {})
    metrics.close()
    with run.metrics.open("a") as file:
        file.write('{"step": 3, "a"')  # torn by a crash
    resumed = Metrics(run, size=size, step=1)
    resumed.write(2, {"a": 2.5}, {})
    resumed.close()
    assert [strict(line) for line in run.metrics.read_text().splitlines()] == [
        {"step": 1, "a": 1.0},
        {"step": 2, "a": 2.5},
    ]
    assert resumed.size == run.metrics.stat().st_size


def test_events_of_a_future_that_is_played_again_are_dropped(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = Run(tmp_path)
    metrics = Metrics(run)
    for step in (1, 2, 3):
        metrics.write(step, {"a": float(step)}, {})
    metrics.close()
    # Event files are read in the order of their names, which begin with a second.
    (old,) = tmp_path.glob("events.*")
    old.rename(tmp_path / "events.out.tfevents.1.before")
    resumed = Metrics(run, size=0, step=1)
    resumed.write(2, {"a": 20.0}, {})
    resumed.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("a")] == [(1, 1.0), (2, 20.0)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_line_is_written_whole_or_not_at_all(value: float, tmp_path: Path) -> None:
    metrics = Metrics(Run(tmp_path))
    with pytest.raises(ValueError):
        metrics.write(1, {"a": value}, {})
    assert metrics.size == 0
    metrics.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


# Where it goes


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty") as caught:
        create(tiny(tmp_path), [])
    assert "resume" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_in_the_way_can_be_gone_on_with(result: trainer.Result) -> None:
    before = sorted(result.run.path.rglob("*"))
    with pytest.raises(RunError, match=f"rl-lab resume {re.escape(str(result.run.path))}"):
        create(dataclasses.replace(result.scenario), [])
    assert sorted(result.run.path.rglob("*")) == before


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError):
        create(tiny(tmp_path / "run"), [])
    assert (tmp_path / "run").read_text() == "mine"


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert create(tiny(tmp_path), []).path == tmp_path


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "x" * 300, "a\0b", "loop/run"])
def test_a_folder_that_cannot_be_made_is_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(RunError) as caught:
        create(tiny(tmp_path / place), [])
    assert len(str(caught.value).splitlines()) == 1
    assert "run_dir" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop"]


def test_runs_of_one_second_get_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rl_lab.experiments.run_dir.time.strftime", lambda form: "20260102-030405")
    scenario = compose("cartpole", ["agent.gamma=0.5", "seed=7"])
    names = [create(scenario, []).path.name for _ in range(3)]
    stem = "cartpole-ppo-gamma_0.5-s7-20260102-030405"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
    assert all((tmp_path / "runs" / name / "run.json").is_file() for name in names)


# Finding it again


@pytest.fixture
def three_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three runs, oldest first, the last in a sweep's folder, and things that are none."""
    monkeypatch.chdir(tmp_path)
    paths = [Path("runs", name) for name in ("cartpole-ppo-s0-1", "cartpole-dqn-s0-2", "sweep/000-cartpole-ppo-s1")]
    for age, path in enumerate(paths):
        create(tiny(path), [])
        os.utime(path / "run.json", (age, age))
    Path("runs", "other").mkdir()
    return paths


def test_every_run_oldest_first(three_runs: list[Path]) -> None:
    assert [run.path for run in list_runs()] == three_runs
    os.utime(three_runs[0] / "run.json", (9, 9))
    assert [run.path for run in list_runs()][-1] == three_runs[0]


def test_no_runs_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list_runs() == []
    with pytest.raises(RunError, match="there is none"):
        find("cartpole")


@pytest.mark.parametrize(
    "given, which",
    [
        ("runs/cartpole-ppo-s0-1", 0),
        ("runs/cartpole-ppo-s0-1/", 0),
        ("cartpole-ppo-s0-1", 0),
        ("cartpole-p", 0),
        ("000", 2),
    ],
)
def test_a_run_is_found(given: str, which: int, three_runs: list[Path]) -> None:
    assert find(given).path == three_runs[which]


def test_a_prefix_of_several_names_lists_them(three_runs: list[Path]) -> None:
    with pytest.raises(UsageError) as caught:
        find("cartpole")
    assert str(caught.value) == f"cartpole is ambiguous: it may be {three_runs[0]}, {three_runs[1]}"


def test_a_whole_name_is_not_ambiguous_though_another_goes_on(three_runs: list[Path]) -> None:
    create(tiny(Path("runs", "cartpole-ppo-s0-1-2")), [])
    assert find("cartpole-ppo-s0-1").path == three_runs[0]


@pytest.mark.parametrize(
    "given, said",
    [
        ("runs/cartpole-ppo-s0-2", "did you mean 'runs/cartpole-"),
        ("cartpole-poo-s0-1", "did you mean 'runs/cartpole-ppo-s0-1'?"),
        ("runs/other", "is not a run"),
        ("nothing-like-it", "no run nothing-like-it"),
        ("x" * 300, "no run"),
        ("a\0b", "no run"),
    ],
)
def test_what_is_no_run_is_one_line(given: str, said: str, three_runs: list[Path]) -> None:
    with pytest.raises(RunError) as caught:
        find(given)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[", "null", "[1, 2]", "[" * 5000, '{"mean_return": 1'])
def test_a_damaged_summary_is_told(text: str, tmp_path: Path) -> None:
    folder = Run(tmp_path).evaluation(3)
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(text)
    with pytest.raises(RunError, match=r"3/summary\.json is damaged: "):
        Run(tmp_path).summary()


def test_the_newest_summary_is_told(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.summary() is None
    for step, age in ((5, 20), (10, 10)):
        run.evaluation(step).mkdir(parents=True)
        (run.evaluation(step) / "summary.json").write_text(json.dumps({"mean_return": float(step)}))
        os.utime(run.evaluation(step) / "summary.json", (age, age))
    assert run.summary() == {"mean_return": 5.0}
