"""Tests of the commands of `rl-lab` as a user types them: their output, the files that they write, and their errors.

Most run in the process of the test, through the fixture `run_command`. A user's mistake must be reported in one line
with exit status 2, and must not change any file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from support import programs

from rl_lab.bench import throughput_cache
from rl_lab.cli import main
from rl_lab.commands import train
from rl_lab.core import agent_registry, checkpoint
from rl_lab.engine import world_registry
from rl_lab.evaluation import stats
from rl_lab.experiments import scenario_yaml

TINY_TRAINING = (
    "budget=256 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false "
    "evaluation.episodes=3 evaluation.selections=1 evaluation.selection_episodes=1"
).split()
EVALUATION = {"mean_return", "iqm_return", "ci95", "episodes", "mean_length", "agent", "world"}


class CommandResult(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON object that is all of stdout, of a command that succeeded."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        assert self.status == 0, self.err
        assert self.out.count("\n") == 1 and self.out.endswith("\n")
        parsed = json.loads(self.out, parse_constant=refuse)
        assert isinstance(parsed, dict)
        return parsed

    def expect_refusal(self, status: int = 2) -> str:
        """Check that the command failed with one line on stderr and nothing on stdout, and return that line."""
        assert self.status == status, self.err
        assert self.out == ""
        assert self.err.endswith("\n") and len(self.err.splitlines()) == 1
        line = self.err.removesuffix("\n")
        assert line.isprintable()
        return line


RunCommand = Callable[..., CommandResult]


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    def run(*words: object) -> CommandResult:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return CommandResult(status, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every test work in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "cartpole", *TINY_TRAINING, f"run_dir={folder}", "--json"]) == 0
    return folder


@pytest.fixture
def run(trained_run: Path, work_in_tmp_path: Path) -> Path:
    """Return the path of a copy of a finished run, which a test may change."""
    shutil.copytree(trained_run, work_in_tmp_path / "run")
    return Path("run")


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of all files in a folder, by path."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def without_paths(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of an evaluation's JSON except the paths of files."""
    return {key: value for key, value in summary.items() if key not in ("out", "videos")}


# --- train


def test_train_prints_its_result_as_json(run_command: RunCommand, work_in_tmp_path: Path) -> None:
    result = run_command("train", "cartpole", *TINY_TRAINING, "run_dir=r", "--json").json
    assert EVALUATION | {"run_dir", "steps", "seconds", "steps_per_second"} <= set(result)
    assert (result["run_dir"], result["steps"], result["episodes"]) == ("r", 256, 3)
    assert (result["agent"], result["world"]) == ("ppo", "cartpole")
    assert result["seconds"] > 0
    assert result["steps_per_second"] == pytest.approx(result["steps"] / result["seconds"], rel=0.02)
    assert result["ci95"][0] <= result["mean_return"] <= result["ci95"][1]
    (evaluation_folder,) = (work_in_tmp_path / "r" / "evaluations").iterdir()
    summary = json.loads((evaluation_folder / "summary.json").read_text())
    assert without_paths(result) | summary == without_paths(result)


def test_train_prints_its_result_and_the_next_commands(run_command: RunCommand) -> None:
    outcome = run_command("train", "cartpole", *TINY_TRAINING)
    assert outcome.status == 0
    (folder,) = Path("runs").iterdir()
    for message in (
        "mean return",
        "95% interval",
        "expected 475: NOT reached",
        f"rl-lab watch {folder}",
        str(folder / "agent"),
    ):
        assert message in outcome.out
    assert "selection at 256 steps" in outcome.err


def test_a_world_can_be_trained_by_its_name_or_by_an_override(run_command: RunCommand) -> None:
    assert run_command("train", "catch", *TINY_TRAINING, "run_dir=a", "--json").json["world"] == "catch"
    assert run_command("train", "world=catch", *TINY_TRAINING, "run_dir=b", "--json").json["world"] == "catch"


def test_a_users_scenario_file_can_be_trained(run_command: RunCommand) -> None:
    Path("mine.yaml").write_text("defaults: [cartpole, _self_]\nname: mine\nagent: dqn\n")
    result = run_command(
        "train", "mine.yaml", *TINY_TRAINING[:2], *TINY_TRAINING[6:], "agent.train_freq=16", "--json"
    ).json
    assert (result["agent"], result["scenario"]) == ("dqn", "mine")
    assert result["run_dir"].startswith("runs/mine-dqn-budget_256-worlds_2-")


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "cartpole", *TINY_TRAINING, "seed=3"],
        ["cartpole", "--json", *TINY_TRAINING, "seed=3"],
        ["cartpole", *TINY_TRAINING, "seed=3", "--json"],
        ["cartpole", *TINY_TRAINING[:4], "--json", *TINY_TRAINING[4:], "seed=3"],
        [TINY_TRAINING[0], "world=cartpole", "--json", *TINY_TRAINING[1:], "seed=3"],
    ],
)
def test_options_may_stand_before_between_and_after_overrides(words: list[str], run_command: RunCommand) -> None:
    result = run_command("train", *words).json
    assert (result["world"], result["seed"], result["steps"]) == ("cartpole", 3, 256)


def test_an_option_of_another_command_is_refused(run_command: RunCommand, work_in_tmp_path: Path) -> None:
    assert "--grid" in run_command("train", "cartpole", "--grid", "2").expect_refusal()
    assert files_of(work_in_tmp_path) == {}


def test_a_sweep_over_seeds_prints_a_table(run_command: RunCommand) -> None:
    outcome = run_command("train", "cartpole", *TINY_TRAINING, "-m", "seed=0,1,2", "run_dir=sweep")
    assert outcome.status == 0
    folders = sorted(p.name for p in Path("sweep").iterdir())
    assert [(name[:16], name[-3:]) for name in folders] == [(f"00{s}-cartpole-ppo", f"-s{s}") for s in range(3)]
    lines = outcome.out.splitlines()
    assert len([line for line in lines if line.startswith("sweep/")]) == 3
    header, row = lines[-2:]
    assert header.split()[:3] == ["scenario", "agent", "seeds"]
    assert row.split()[:3] == ["cartpole", "ppo", "3"]


def test_a_sweep_over_seeds_prints_json(run_command: RunCommand) -> None:
    result = run_command("train", "-m", "cartpole", *TINY_TRAINING, "seed=0,1,2", "agent.gamma=0.9,0.99", "--json").json
    runs, table = result["runs"], result["table"]
    assert [r["seed"] for r in runs] == [0, 0, 1, 1, 2, 2]
    assert len({r["run_dir"] for r in runs}) == 6
    assert [(row["scenario"], row["agent"], row["seeds"], row["warning"]) for row in table] == [
        ("cartpole", "ppo", 3, None)
    ] * 2
    for row, k in zip(table, (0, 1), strict=True):
        scores = [r["mean_return"] for r in runs[k::2]]
        assert row["mean"] == pytest.approx(np.mean(scores))
        assert row["ci95"] == pytest.approx(list(stats.across_seeds(scores)["ci95"]))


def test_a_sweep_over_two_seeds_prints_that_they_are_too_few(run_command: RunCommand) -> None:
    assert "note:" in run_command("train", "-m", "cartpole", *TINY_TRAINING, "seed=0,1").out


# --- evaluate


def test_evaluate_repeats_the_evaluation_of_training(run_command: RunCommand, run: Path) -> None:
    (summary,) = run.glob("evaluations/*/summary.json")
    trainings = json.loads(summary.read_text())
    first, second = (run_command("evaluate", run, "--json").json for _ in range(2))
    assert set(first) >= EVALUATION
    assert first == second
    assert without_paths(first) == trainings
    assert first["out"] == str(summary.parent)


def test_evaluate_prints_a_table(run_command: RunCommand, run: Path) -> None:
    outcome = run_command("evaluate", run)
    assert outcome.status == 0
    assert "mean return" in outcome.out and "saved" in outcome.out


def test_evaluate_with_other_parameters_does_not_replace_the_runs_evaluation(
    run_command: RunCommand, run: Path
) -> None:
    before = files_of(run)
    result = run_command("evaluate", run, "world.params.gravity=20", "--json").json
    assert result["params"]["gravity"] == 20
    assert result["out"] is None
    assert run_command("evaluate", run, "evaluation.deterministic=false", "--json").json["out"] is None
    assert files_of(run) == before


def test_evaluate_out_writes_into_another_folder(run_command: RunCommand, run: Path, work_in_tmp_path: Path) -> None:
    before = files_of(run)
    result = run_command("evaluate", "--out", "o", run, "evaluation.episodes=5", "--json").json
    assert (result["episodes"], result["out"]) == (5, "o")
    assert len((work_in_tmp_path / "o" / "episodes.jsonl").read_text().splitlines()) == 5
    assert files_of(run) == before


def test_a_checkpoint_folder_can_be_evaluated(run_command: RunCommand, run: Path) -> None:
    (agent,) = (run / "agent").iterdir()
    assert without_paths(run_command("evaluate", agent, "--json").json) == without_paths(
        run_command("evaluate", run, "--json").json
    )


@pytest.mark.parametrize("agent", ["scripted", "random"])
def test_evaluate_takes_agents_that_need_no_training(
    agent: str, run_command: RunCommand, work_in_tmp_path: Path
) -> None:
    words = ("evaluate", agent, "world=catch", "evaluation.episodes=6", "--json")
    result = run_command(*words).json
    assert set(result) >= EVALUATION
    assert (result["agent"], result["episodes"]) == (agent, 6)
    assert result == run_command(*words).json
    assert files_of(work_in_tmp_path) == {}
    if agent == "scripted":
        assert result["mean_return"] == 1.0


def test_a_run_can_be_named_by_the_beginning_of_its_name(run_command: RunCommand) -> None:
    run_command("train", "cartpole", *TINY_TRAINING, "seed=1", "run_dir=runs/cartpole-s1")
    run_command("train", "cartpole", *TINY_TRAINING, "seed=2", "run_dir=runs/cartpole-s2")
    assert run_command("evaluate", "cartpole-s1", "--json").json["out"].startswith("runs/cartpole-s1/")
    assert "runs/cartpole-s1, runs/cartpole-s2" in run_command("evaluate", "cartpole").expect_refusal()


# --- watch, list, resume, bench, doctor


def test_watch_file_writes_a_video_into_the_run(run_command: RunCommand, run: Path) -> None:
    (video,) = run_command("watch", run, "--file", "--json").json["videos"]
    assert Path(video).parent == run / "videos" and Path(video).read_bytes()[4:8] == b"ftyp"


def test_watch_without_a_display_writes_videos(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    outcome = run_command("watch", "scripted", "world=catch", "--episodes", "2")
    assert outcome.status == 0
    films = outcome.out.split()
    assert len(films) == 2 and all(Path(film).read_bytes()[4:8] == b"ftyp" for film in films)


def test_watch_grid_and_out_write_one_video_into_another_folder(run_command: RunCommand) -> None:
    (video,) = run_command("watch", "scripted", "world=catch", "--grid", "2", "--out", "o", "--json").json["videos"]
    assert Path(video).parent == Path("o") and Path(video).stat().st_size > 1000


@pytest.mark.parametrize("kind", ["worlds", "agents", "scenarios", "runs"])
def test_list_prints_the_same_as_table_and_as_json(kind: str, run_command: RunCommand, trained_run: Path) -> None:
    shutil.copytree(trained_run, "runs/mine")
    items = run_command("list", kind, "--json").json["items"]
    assert items and all(isinstance(item["name"], str) for item in items)
    table = run_command("list", kind)
    header, *rows = table.out.splitlines()
    assert table.status == 0 and len(rows) == len(items)
    for row, item in zip(rows, items, strict=True):
        assert set(item) == set(items[0])
        assert row.split()[0] == item["name"]
    for key in items[0]:
        assert key in header
    names = {
        "worlds": world_registry.names,
        "agents": agent_registry.names,
        "scenarios": scenario_yaml.names,
        "runs": lambda: ["runs/mine"],
    }[kind]()
    assert sorted({item["name"] for item in items}) == names


def test_an_edited_world_has_no_speed_until_it_is_measured(monkeypatch: Any, tmp_path: Path) -> None:
    catch = world_registry.load("catch")
    monkeypatch.setattr("rl_lab.envs.__path__", [str(tmp_path)])
    monkeypatch.setattr(throughput_cache, "compiler", SimpleNamespace(cache_folder=lambda: tmp_path))
    monkeypatch.setattr(world_registry, "load", lambda name: catch)
    world = tmp_path / "pond.py"
    monkeypatch.setattr(throughput_cache, "authored_files", lambda _: {str(world)})
    world.write_text("depth = 1")
    assert throughput_cache.valid_speeds() == {}
    measured = throughput_cache.measure("pond")
    assert throughput_cache.valid_speeds() == {"pond": measured}
    world.write_text("depth = 2")
    assert throughput_cache.valid_speeds() == {}


def test_list_runs_without_runs_names_the_train_command(run_command: RunCommand) -> None:
    assert run_command("list", "runs", "--json").json == {"items": []}
    assert "rl-lab train" in run_command("list", "runs").out


def test_resume_of_a_finished_run_prints_the_same_result(run_command: RunCommand, run: Path) -> None:
    before = json.loads(next(run.glob("evaluations/*/summary.json")).read_text())
    result = run_command("resume", run, "--json").json
    assert {key: result[key] for key in before} == before
    assert result["steps"] == 256


def test_resume_of_a_run_without_checkpoints_trains_it_from_the_start(run_command: RunCommand, run: Path) -> None:
    words = run_command("train", "cartpole", *TINY_TRAINING, "run_dir=other", "--json").json
    for folder in ("checkpoints", "agent", "evaluations"):
        shutil.rmtree(run / folder)
    result = run_command("resume", run, "--json").json
    assert result["mean_return"] == words["mean_return"]
    assert files_of(run / "agent") == files_of(Path("other/agent"))


def test_bench_env_prints_its_rows_as_json(run_command: RunCommand) -> None:
    words = "bench env cartpole --worlds 64 --rounds 2 --seconds 0.01 --vs gymnasium --json".split()
    rows = run_command(*words).json["rows"]
    assert [row["what"] for row in rows] == ["rl_lab engine", "rl_lab", "gymnasium"]
    for row in rows:
        assert {"what", "kind", "conditions", "steps_per_second"} <= set(row)
        assert row["kind"] == "env" and "64 worlds" in row["conditions"]
        for spread in filter(None, (row["steps_per_second"], row.get("ratio"))):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert "ratio" in rows[-1]


def test_bench_env_prints_a_table(run_command: RunCommand) -> None:
    outcome = run_command(*"bench env catch --worlds 8 --rounds 1 --seconds 0.01".split())
    assert outcome.status == 0 and "rl_lab engine" in outcome.out


def test_doctor_prints_its_checks_as_json(run_command: RunCommand) -> None:
    result = run_command("doctor", "--json").json
    assert result["ok"] is True
    assert {"python", "packages", "compiler", "cache", "torch", "video", "runs"} <= {
        c["name"] for c in result["checks"]
    }
    for check in result["checks"]:
        assert check["status"] in ("ok", "note", "fail")
        assert bool(check["advice"]) == (check["status"] != "ok")


def test_doctor_prints_advice_and_fails_where_a_check_fails(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_version", lambda: 1 / 0)
    outcome = run_command("doctor")
    assert outcome.status == 1
    assert "ZeroDivisionError" in outcome.out and "->" in outcome.out


# --- Third-party environments, through the same commands


def test_a_third_party_environment_trains_evaluates_films_and_resumes(run_command: RunCommand) -> None:
    result = run_command("train", "gym:CartPole-v1", *TINY_TRAINING, "run_dir=r", "--json").json
    assert result["world"] == "gym:CartPole-v1"
    evaluated = run_command("evaluate", "r", "--json").json
    assert evaluated["mean_return"] == result["mean_return"]
    (video,) = run_command("watch", "r", "--file", "--json").json["videos"]
    assert Path(video).read_bytes()[4:8] == b"ftyp"
    assert run_command("resume", "r", "--json").json["mean_return"] == result["mean_return"]
    random = run_command("evaluate", "random", "world=gym:CartPole-v1", "evaluation.episodes=2", "--json").json
    assert random["episodes"] == 2


# --- A user's mistakes: status 2, one line, nothing written


@pytest.mark.parametrize(
    "words, message",
    [
        ("train cartpol", "did you mean 'cartpole'?"),
        ("train nowhere.yaml", "nowhere.yaml"),
        ("train broken.yaml", "broken.yaml: line 2, column 1: "),
        ("train cartpole sed=1", "did you mean 'seed'?"),
        ("train cartpole agent.gama=1", "did you mean 'agent.gamma'?"),
        ("train cartpole seed=abc", "seed"),
        ("train cartpole seed=1,2", "add -m"),
        ("train cartpole seed", "key=value"),
        ("train cartpole agent=dqnn", "did you mean 'dqn'?"),
        ("train cartpole agent=random", "rl-lab evaluate random world=cartpole"),
        ("train pendulum agent=dqn", "discrete"),
        ("train gym:CartPole-v", "did you mean 'gym:CartPole-v1'?"),
        ("train gym:NoSuchThing-v0", "NoSuchThing"),
        ("train gym:", "gym:"),
        ("train gym:CartPole-v1 +world.params.nonsense=1", "nonsense"),
        ("train cartpole run_dir=run", "rl-lab resume run"),
        ("train cartpole run_dir=broken.yaml/x", "run_dir"),
        ("train cartpole agent.batch_size=63", "batch_size=63"),
        ("train cartpole agent.batch_size=0", "batch_size"),
        ("train cartpole agent.batch_size=-64", "batch_size"),
        ("train cartpole agent.n_epochs=0", "n_epochs"),
        ("train cartpole agent.learning_rate=-1", "learning"),
        ("train cartpole agent.learning_rate=nan", "learning"),
        ("train cartpole agent.gamma=nan", "gamma"),
        ("train cartpole agent.gamma=1.5", "gamma=1.5: expected 0 to 1"),
        ("train cartpole agent.gae_lambda=-0.1", "gae_lambda=-0.1: expected 0 to 1"),
        ("train cartpole agent=dqn agent.tau=2", "tau=2.0: expected 0 to 1"),
        ("train cartpole agent=dqn agent.exploration_final_eps=1.1", "exploration_final_eps=1.1: expected 0 to 1"),
        ("trian cartpole", "did you mean 'train'"),
        ("list world", "did you mean 'worlds'"),
        ("train", "required: SCENARIO;"),
        ("train cartpole agent.net_arch=[-1]", "net_arch"),
        ("train cartpole agent.net_arch=[0]", "net_arch"),
        ("train cartpole agent=dqn agent.batch_size=-1", "batch_size"),
        ("train cartpole agent=dqn agent.train_freq=0", "train_freq"),
        ("train cartpole agent=dqn agent.buffer_size=100000000000000", "buffer_size"),
        ("evaluate", "TARGET"),
        ("evaluate nowhere", "no run or agent 'nowhere'"),
        ("evaluate scriptd world=catch", "did you mean 'scripted'?"),
        ("evaluate scripted", "world=NAME"),
        ("evaluate ppo world=catch", "rl-lab train catch agent=ppo"),
        ("evaluate scripted world=cach", "did you mean 'catch'?"),
        ("evaluate scripted world=gym:CartPole-v1", "no expert"),
        ("evaluate random world=gym:NoSuchThing-v0", "NoSuchThing"),
        ("evaluate run sed=1", "did you mean 'seed'?"),
        ("evaluate run agent=dqn", "agent= cannot be changed"),
        ("evaluate run world=catch", "does not fit"),
        ("evaluate run agent.net_arch=[8]", "does not fit"),
        ("evaluate run evaluation.episodes=0", "evaluation.episodes"),
        ("evaluate run device=gpu", "did you mean 'cpu'?"),
        ("evaluate empty", "empty is not a run"),
        ("evaluate untrained", "train it first"),
        ("evaluate spoilt", "config.yaml"),
        ("watch nowhere", "no run or agent 'nowhere'"),
        ("watch run --grid 0", "--grid"),
        ("watch run --episodes 0", "--episodes"),
        ("watch run --grid two", "--grid"),
        ("watch spoilt --file", "config.yaml"),
        ("resume nowhere", "no run nowhere"),
        ("resume empty", "empty is not a run"),
        ("resume spoilt", "config.yaml"),
        ("list", "kind"),
        ("list wolds", "worlds"),
        ("bench env cartpol", "did you mean 'cartpole'?"),
        ("bench env cartpole --vs gymnasum", "did you mean 'gymnasium'?"),
        ("bench train cartpole --vs gymnasium", "sb3"),
        ("bench env catch --vs gymnasium", "catch"),
        ("bench env cartpole --worlds 0", "--worlds"),
        ("bench env cartpole --worlds 99999999", "worlds"),
        ("bench env cartpole --rounds 0", "--rounds"),
        ("bench env cartpole --seconds nan", "--seconds"),
        ("bench nothing cartpole", "env"),
        ("", "train"),
        ("train cartpole --jsn", "--jsn"),
    ],
)
def test_a_users_mistake_is_reported_in_one_line_and_changes_no_file(
    words: str, message: str, run_command: RunCommand, run: Path
) -> None:
    Path("empty").mkdir()
    Path("broken.yaml").write_text("seed: [1\n")
    for name in ("untrained", "spoilt"):
        shutil.copytree(run, name)
    shutil.rmtree("untrained/agent")
    Path("spoilt/config.yaml").write_bytes(b"\x80\x04world: cartpole")
    before = files_of(Path())
    arguments = words.split()
    if arguments[:1] == ["train"] and len(arguments) > 1 and "run_dir" not in words:
        arguments += ["run_dir=new"]
    assert message in run_command(*arguments).expect_refusal()
    assert files_of(Path()) == before
    assert not Path("new").exists()


@pytest.mark.parametrize("words", ["train cartpol", "train cartpole agent=random", "evaluate nowhere", "list wolds"])
def test_a_users_mistake_is_reported_in_one_line_with_json(
    words: str, run_command: RunCommand, work_in_tmp_path: Path
) -> None:
    run_command(*words.split(), "--json").expect_refusal()
    assert files_of(work_in_tmp_path) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize(
    "verb", [["train", "cartpole", "run_dir=new"], ["evaluate", "run"], ["watch", "run", "--file"]]
)
def test_device_cuda_is_refused_on_a_machine_without_cuda(verb: list[str], run_command: RunCommand, run: Path) -> None:
    before = files_of(run)
    assert "device=auto" in run_command(*verb, "device=cuda").expect_refusal()
    assert files_of(run) == before and not Path("new").exists()


def test_control_characters_are_not_printed_in_errors(run_command: RunCommand, run: Path) -> None:
    Path("mine.yaml").write_text('world: catch\n"\\e[2Jx": 1\n')
    run_command("train", "mine.yaml").expect_refusal()
    run_command("evaluate", "\x1b[2J").expect_refusal()
    run_command("train", "cartpole", "seed='\x1b[2J'").expect_refusal()


# --- Damaged files: status 1, the file and the reason


@pytest.mark.parametrize("verb", [["evaluate"], ["watch", "--file"]])
@pytest.mark.parametrize(
    "damage, message",
    [
        ("policy.safetensors", "policy.safetensors: does not match its manifest"),
        ("state.json", "state.json: does not match its manifest"),
        ("manifest.json", "manifest"),
        ("truncate", "policy.safetensors: is truncated"),
        ("remove", "policy.safetensors: is missing"),
        ("add", "extra.safetensors"),
    ],
)
def test_a_damaged_agent_is_refused_with_the_file_and_the_reason(
    verb: list[str], damage: str, message: str, run_command: RunCommand, run: Path
) -> None:
    (agent,) = (run / "agent").iterdir()
    policy = agent / "policy.safetensors"
    if damage == "truncate":
        os.truncate(policy, 100)
    elif damage == "remove":
        policy.unlink()
    elif damage == "add":
        shutil.copyfile(policy, agent / "extra.safetensors")
    else:
        data = bytearray((agent / damage).read_bytes())
        data[len(data) // 2] ^= 1
        (agent / damage).write_bytes(data)
    line = run_command(*verb, run).expect_refusal(1)
    assert message in line and agent.name in line


def test_a_run_without_an_agent_is_refused(run_command: RunCommand, run: Path) -> None:
    shutil.rmtree(run / "agent")
    assert "train it first" in run_command("evaluate", run).err


class NanWorld(gymnasium.Env[Any, Any]):
    """Returns a value that is not finite, in step number `wrong` of the second copy that is made.

    `field` says where: "observation" or "reward". The first copy is made only to read its spaces.
    """

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    made = 0

    def __init__(self, field: str, wrong: int) -> None:
        self.field, self.steps = field, 0
        self.wrong = wrong if NanWorld.made == 1 else -1
        NanWorld.made += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation, reward = np.zeros(3, np.float32), 1.0
        if self.steps == self.wrong and self.field == "observation":
            observation[1] = np.nan
        elif self.steps == self.wrong:
            reward = np.inf
        return observation, reward, self.steps % 10 == 0, False, {}


@pytest.fixture
def nan_world() -> Iterator[str]:
    NanWorld.made = 0
    gymnasium.register("RlLabTestNan-v0", entry_point=NanWorld, max_episode_steps=100, disable_env_checker=True)
    yield "gym:RlLabTestNan-v0"
    del gymnasium.registry["RlLabTestNan-v0"]


@pytest.mark.parametrize("field", ["observation", "reward"])
def test_a_value_that_is_not_finite_stops_training_and_is_not_saved(
    field: str, nan_world: str, run_command: RunCommand
) -> None:
    words = [w for w in TINY_TRAINING if not w.startswith("agent")] + "agent.n_steps=16 agent.batch_size=32".split()
    words += [f"+world.params.field={field}", "+world.params.wrong=37", "checkpoint.steps=32", "run_dir=r", "--json"]
    assert f"non-finite {field} in world 1 at step" in run_command("train", nan_world, *words).expect_refusal(1)
    steps = sorted(int(path.name[5:]) for path in Path("r/checkpoints").iterdir())
    assert steps == [32, 64]  # the 37th step of 2 worlds is in the third rollout
    newest, errors = checkpoint.latest(Path("r/checkpoints"))
    assert newest is not None and errors == [] and newest.step == 64
    for arrays in newest.tensors.values():
        for array in arrays.values():
            assert array.dtype.kind != "f" or np.isfinite(array).all()
    assert len(Path("r/metrics.jsonl").read_text().splitlines()) == 2


def test_a_value_that_is_not_finite_stops_an_evaluation(
    nan_world: str, run_command: RunCommand, work_in_tmp_path: Path
) -> None:
    words = (
        "evaluate",
        "random",
        f"world={nan_world}",
        "+world.params.field=reward",
        "+world.params.wrong=5",
        "--json",
    )
    assert "non-finite reward in world 0 at step 5" in run_command(*words).expect_refusal(
        1
    )  # the first copy is only looked at
    line = run_command("evaluate", "random", "world=cartpole", "world.params.force=1e38", "--json").expect_refusal(1)
    assert "non-finite observation in world" in line and "cartpole" in line
    assert files_of(work_in_tmp_path) == {}


# --- A full disk


@pytest.fixture
def small_disk(work_in_tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system of 768 KiB."""
    (work_in_tmp_path / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", work_in_tmp_path / "disk"], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield work_in_tmp_path / "disk"
    subprocess.run(["umount", work_in_tmp_path / "disk"], check=True)


def test_a_full_disk_leaves_the_last_good_checkpoint(small_disk: Path) -> None:
    folder = small_disk / "run"
    words = [*TINY_TRAINING[1:], "budget=2048", "checkpoint.steps=128", "checkpoint.keep_last=100", f"run_dir={folder}"]
    full = programs.run(rl_lab("train", "cartpole", *words, "--json"), capture_output=True, text=True)
    assert full.returncode == 1
    assert full.stdout == ""
    (line,) = full.stderr.splitlines()
    assert "No space left on device" in line
    assert "free space" in line and f"rl-lab resume {folder}" in line
    newest, errors = checkpoint.latest(folder / "checkpoints")
    assert newest is not None and errors == []
    assert f"step-{newest.step:09d}" in line

    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    resumed = programs.run(rl_lab("resume", str(folder), "--json"), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == 2048


# --- In a process of its own


def rl_lab(*words: str) -> list[str]:
    return [sys.executable, "-m", "rl_lab.cli", *words]


def test_with_json_a_process_prints_only_the_json_object(work_in_tmp_path: Path) -> None:
    done = programs.run(rl_lab("train", "catch", *TINY_TRAINING, "--json"), capture_output=True, text=True)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1 and json.loads(done.stdout)["world"] == "catch"
    assert done.stderr == ""


def test_in_a_process_a_mistake_is_one_line(work_in_tmp_path: Path) -> None:
    done = programs.run(rl_lab("train", "cartpol"), capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert files_of(work_in_tmp_path) == {}


def test_a_closed_pipe_behind_stdout_is_no_error(work_in_tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = programs.run(rl_lab("list", "worlds"), stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    # The command goes on without a reader; its hint about speeds may follow on stderr.
    assert done.returncode == 0 and "rl-lab:" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["", "train", "evaluate", "watch", "resume", "list", "bench", "check", "doctor"])
def test_every_command_has_help(verb: str, run_command: RunCommand) -> None:
    outcome = run_command(*filter(None, [verb]), "--help")
    assert outcome.status == 0 and outcome.err == ""
    assert outcome.out.startswith("usage: rl-lab")
    assert len(outcome.out.splitlines()) > 5


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ((256, 20.0), "50,256 steps in 21.0 s: 20.0 s for the first 256, compiling included, then 50,000 steps/s"),
        ((256, 2.0), "50,256 steps in 21.0 s (2,393 steps/s)"),
        ((50_256, 21.0), "50,256 steps in 21.0 s (2,393 steps/s)"),
    ],
)
def test_the_time_of_compilation_is_shown_apart_from_the_rate_of_training(
    first: tuple[int, float], message: str
) -> None:
    result: Any = SimpleNamespace(steps=50_256, seconds=21.0, first_iteration=first)
    assert train.training_time(result) == message


def test_warnings_of_libraries_are_one_line_without_colours(tmp_path: Path) -> None:
    """The environment's `reset` takes no seed: Gymnasium warns of that, and the lab reports it as an error."""
    file = tmp_path / "old.py"
    file.write_text(
        "import gymnasium, numpy\n\n\n"
        "class Old(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(0, 1, (2,))\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n\n"
        "    def reset(self):\n"
        "        return numpy.zeros(2, numpy.float32), {}\n"
    )
    words = [sys.executable, "-m", "rl_lab", "evaluate", "random", f"world={file}:Old", "evaluation.episodes=1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    *warned, message = done.stderr.splitlines()
    assert done.returncode == 1 and "unexpected keyword argument 'seed'" in message and "old.py" in message
    assert warned and all(line.startswith("rl-lab: warning: WARN: Current gymnasium version") for line in warned)
    assert "\x1b" not in done.stderr and "[33m" not in done.stderr
