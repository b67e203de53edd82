"""Tests of a run's folder: how it is created, its files, when checkpoints are written, and metrics after a resume.

The last part tests how a command's argument RUN is resolved: a path, or the beginning of a name of a run in runs/.
"""

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

TINY_TRAINING = (
    "budget=1024 worlds=4 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu "
    "evaluation.episodes=3 evaluation.selections=2 evaluation.selection_episodes=1 checkpoint.steps=256"
).split()


def tiny_scenario(folder: Path, *overrides: str) -> Scenario:
    return dataclasses.replace(compose("cartpole", [*TINY_TRAINING, "video=false", *overrides]), run_dir=str(folder))


def train(scenario: Scenario) -> trainer.TrainingResult:
    return trainer.train(scenario, ["rl-lab", "train", "cartpole"], Progress(quiet=True))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> trainer.TrainingResult:
    return train(tiny_scenario(tmp_path_factory.mktemp("run") / "run", "video=true", "checkpoint.keep_last=2"))


def parse_strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# --- Files of a run


def test_a_run_has_exactly_the_documented_files(result: trainer.TrainingResult) -> None:
    plan = [
        r"run\.json",
        r"config\.yaml",
        r"metrics\.jsonl",
        r"selections\.jsonl",
        r"events\.out\.tfevents\..*",
        r"(checkpoints|agent)/step-\d{9}/(manifest\.json|state\.json|[a-z-]+\.safetensors)",
        r"evaluations/\d+/(episodes\.jsonl|summary\.json)",
        r"videos/(best|median|worst)\.(mp4|safetensors)",
    ]
    files = [str(f.relative_to(result.run.path)) for f in result.run.path.rglob("*") if f.is_file()]
    assert [file for file in files if not any(re.fullmatch(entry, file) for entry in plan)] == []
    assert [entry for entry in plan if not any(re.fullmatch(entry, file) for file in files)] == []
    assert not [f for f in result.run.path.rglob("*") if f.is_dir() and not any(f.iterdir())]


def test_run_json_has_scenario_time_command_versions_and_host(result: trainer.TrainingResult) -> None:
    record = parse_strict_json((result.run.path / "run.json").read_text())
    assert set(record) == {
        *("scenario", "world", "agent", "seed", "settings", "started", "command", "git_commit", "versions", "host")
    }
    assert (record["scenario"], record["world"], record["agent"], record["seed"]) == ("cartpole", "cartpole", "ppo", 0)
    assert record["settings"]["agent.n_steps"] == "64" and "seed" not in record["settings"]
    assert record["command"] == ["rl-lab", "train", "cartpole"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", record["started"])
    assert record["git_commit"] is None or re.fullmatch("[0-9a-f]{40}", record["git_commit"])
    assert {"python", "numpy", "numba", "torch", "rl-lab", "gymnasium", "stable-baselines3"} <= set(record["versions"])
    assert record["versions"]["numpy"] == np.__version__
    assert record["host"]["cores"] == os.cpu_count()


def test_config_yaml_reads_back_as_the_same_scenario(result: trainer.TrainingResult) -> None:
    assert result.run.scenario() == dataclasses.replace(result.scenario, run_dir=None)


def test_metrics_are_strict_json_in_order_of_steps(result: trainer.TrainingResult) -> None:
    text = result.run.metrics.read_text()
    assert text.endswith("\n")
    lines = [parse_strict_json(line) for line in text.splitlines()]
    assert [line["step"] for line in lines] == [256, 512, 768, 1024]
    for line in lines:
        assert {"rollout/return", "rollout/length", "train/loss"} <= set(line)
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in line.values())


def test_metrics_are_the_same_for_every_run_of_a_seed(result: trainer.TrainingResult, tmp_path: Path) -> None:
    second_result = train(tiny_scenario(tmp_path / "again"))
    assert second_result.run.metrics.read_bytes() == result.run.metrics.read_bytes()


def test_tensorboard_events_have_all_metrics_and_times(result: trainer.TrainingResult) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(result.run.path))
    events.Reload()
    lines = [parse_strict_json(line) for line in result.run.metrics.read_text().splitlines()]
    tags = set(events.Tags()["scalars"])
    assert tags == {key for line in lines for key in line if key != "step"} | {
        *("time/seconds", "time/steps_per_second", "selection/return", "selection/length"),
        *("rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/time_elapsed"),
        *("eval/mean_reward", "eval/mean_ep_length"),
    }
    for key in ("rollout/return", "train/loss"):
        scalars = [(e.step, np.float32(e.value)) for e in events.Scalars(key)]
        assert scalars == [(line["step"], np.float32(line[key])) for line in lines]
    seconds = [e.value for e in events.Scalars("time/seconds")]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_the_evaluation_lies_in_the_folder_of_its_agents_step(result: trainer.TrainingResult) -> None:
    best_agent = checkpoint.latest(result.run.agent)[0]
    assert best_agent is not None
    folder = result.run.evaluation(best_agent.step)
    assert parse_strict_json((folder / "summary.json").read_text()) == json.loads(json.dumps(result.summary))
    episodes = [parse_strict_json(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [e["index"] for e in episodes] == [0, 1, 2]
    assert np.mean([e["return"] for e in episodes]) == result.summary["mean_return"]
    assert result.run.summary() == json.loads(json.dumps(result.summary))


def test_the_videos_are_best_median_and_worst(result: trainer.TrainingResult) -> None:
    assert {name: path.name for name, path in result.videos.items()} == {
        name: f"{name}.mp4" for name in ("best", "median", "worst")
    }
    assert all(path.stat().st_size > 1000 for path in result.videos.values())


# --- Checkpoints


def test_checkpoints_by_steps_come_after_each_interval_and_old_ones_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_steps, save = [], checkpoint.save

    def recording_save(folder: Path, step: int, *arguments: Any, **named: Any) -> Path:
        if Path(folder).name == "checkpoints":
            saved_steps.append(step)
        return save(folder, step, *arguments, **named)

    monkeypatch.setattr(checkpoint, "save", recording_save)
    run = train(tiny_scenario(tmp_path / "run", "budget=2048", "checkpoint.steps=500", "checkpoint.keep_last=2")).run
    assert saved_steps == [512, 1024, 1536, 2048]  # the first rollout's end after each 500
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-000001536", "step-000002048"]
    assert len(list(run.agent.iterdir())) == 1


class _LearnerOnClock:
    """A learner that learns nothing; each iteration makes 1000 steps and takes 0.7 s on the clock of the test."""

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
def test_checkpoints_by_time_take_less_than_a_hundredth_of_the_time(
    cost: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the default interval and for any cost of one checkpoint; the first and the last one are not counted."""
    from rl_lab.adapters import make

    clock, save_times = _Clock(), []
    learner = _LearnerOnClock(clock)

    def save(folder: Path, step: int, *arguments: Any, **named: Any) -> Path:
        if Path(folder).name == "checkpoints":
            save_times.append(clock.now)
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
    assert len(save_times) > 5
    assert (len(save_times) - 2) * cost < 0.01 * elapsed
    gaps = np.diff(save_times[:-1])
    assert gaps.min() >= scenario.checkpoint.seconds
    # A checkpoint comes at the end of the iteration in which it is due: it may be late by the 0.7 s of an iteration,
    # and twice as much is allowed.
    assert gaps.max() < max(scenario.checkpoint.seconds, 100 * cost) + cost + 2 * 0.7, "and no rarer than that asks for"


# --- Metrics after a resume


def test_after_a_resume_metrics_are_cut_at_the_checkpoint(tmp_path: Path) -> None:
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
    assert [parse_strict_json(line) for line in run.metrics.read_text().splitlines()] == [
        {"step": 1, "a": 1.0},
        {"step": 2, "a": 2.5},
    ]
    assert resumed.size == run.metrics.stat().st_size


def test_after_a_resume_later_events_are_dropped(tmp_path: Path) -> None:
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
def test_a_value_that_is_not_finite_writes_no_part_of_a_line(value: float, tmp_path: Path) -> None:
    metrics = Metrics(Run(tmp_path))
    with pytest.raises(ValueError):
        metrics.write(1, {"a": value}, {})
    assert metrics.size == 0
    metrics.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


# --- Creating the folder


def test_a_run_dir_with_other_files_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty") as error:
        create(tiny_scenario(tmp_path), [])
    assert "resume" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_dir_that_is_a_run_is_refused_with_the_resume_command(result: trainer.TrainingResult) -> None:
    before = sorted(result.run.path.rglob("*"))
    with pytest.raises(RunError, match=f"rl-lab resume {re.escape(str(result.run.path))}"):
        create(result.scenario, [])
    assert sorted(result.run.path.rglob("*")) == before


def test_a_run_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError):
        create(tiny_scenario(tmp_path / "run"), [])
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_dir_that_is_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert create(tiny_scenario(tmp_path), []).path == tmp_path


@pytest.mark.parametrize("path", ["file/run", "/proc/run", "x" * 300, "a\0b", "loop/run"])
def test_a_run_dir_that_cannot_be_made_is_refused_in_one_line(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(RunError) as error:
        create(tiny_scenario(tmp_path / path), [])
    assert len(str(error.value).splitlines()) == 1
    assert "run_dir" in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop"]


def test_runs_that_start_in_the_same_second_have_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rl_lab.experiments.run_dir.time.strftime", lambda form: "20260102-030405")
    scenario = compose("cartpole", ["agent.gamma=0.5", "seed=7"])
    names = [create(scenario, []).path.name for _ in range(3)]
    stem = "cartpole-ppo-gamma_0.5-s7-20260102-030405"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
    assert all((tmp_path / "runs" / name / "run.json").is_file() for name in names)


# --- Finding a run


@pytest.fixture
def three_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Make three runs, the oldest first and the last one in a sweep's folder, and a folder that is no run."""
    monkeypatch.chdir(tmp_path)
    paths = [Path("runs", name) for name in ("cartpole-ppo-s0-1", "cartpole-dqn-s0-2", "sweep/000-cartpole-ppo-s1")]
    for age, path in enumerate(paths):
        create(tiny_scenario(path), [])
        os.utime(path / "run.json", (age, age))
    Path("runs", "other").mkdir()
    return paths


def test_list_runs_returns_the_oldest_first(three_runs: list[Path]) -> None:
    assert [run.path for run in list_runs()] == three_runs
    os.utime(three_runs[0] / "run.json", (9, 9))
    assert [run.path for run in list_runs()][-1] == three_runs[0]


def test_find_without_any_runs_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list_runs() == []
    with pytest.raises(RunError, match="there is none"):
        find("cartpole")


@pytest.mark.parametrize(
    "name, index",
    [
        ("runs/cartpole-ppo-s0-1", 0),
        ("runs/cartpole-ppo-s0-1/", 0),
        ("cartpole-ppo-s0-1", 0),
        ("cartpole-p", 0),
        ("000", 2),
    ],
)
def test_find_accepts_a_path_and_the_beginning_of_a_name(name: str, index: int, three_runs: list[Path]) -> None:
    assert find(name).path == three_runs[index]


def test_an_ambiguous_beginning_of_a_name_is_refused_with_the_candidates(three_runs: list[Path]) -> None:
    with pytest.raises(UsageError) as error:
        find("cartpole")
    assert str(error.value) == f"cartpole is ambiguous: it may be {three_runs[0]}, {three_runs[1]}"


def test_a_complete_name_is_not_ambiguous_where_another_name_begins_with_it(three_runs: list[Path]) -> None:
    create(tiny_scenario(Path("runs", "cartpole-ppo-s0-1-2")), [])
    assert find("cartpole-ppo-s0-1").path == three_runs[0]


@pytest.mark.parametrize(
    "name, message",
    [
        ("runs/cartpole-ppo-s0-2", "did you mean 'runs/cartpole-"),
        ("cartpole-poo-s0-1", "did you mean 'runs/cartpole-ppo-s0-1'?"),
        ("runs/other", "is not a run"),
        ("nothing-like-it", "no run nothing-like-it"),
        ("x" * 300, "no run"),
        ("a\0b", "no run"),
    ],
)
def test_a_name_that_is_no_run_is_refused_in_one_line(name: str, message: str, three_runs: list[Path]) -> None:
    with pytest.raises(RunError) as error:
        find(name)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[", "null", "[1, 2]", "[" * 5000, '{"mean_return": 1'])
def test_a_damaged_summary_is_refused(text: str, tmp_path: Path) -> None:
    folder = Run(tmp_path).evaluation(3)
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(text)
    with pytest.raises(RunError, match=r"3/summary\.json is damaged: "):
        Run(tmp_path).summary()


def test_the_newest_summary_is_returned(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.summary() is None
    for step, age in ((5, 20), (10, 10)):
        run.evaluation(step).mkdir(parents=True)
        (run.evaluation(step) / "summary.json").write_text(json.dumps({"mean_return": float(step)}))
        os.utime(run.evaluation(step) / "summary.json", (age, age))
    assert run.summary() == {"mean_return": 5.0}
