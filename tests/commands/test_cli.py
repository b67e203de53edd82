"""The command line: what each verb prints and leaves, and that every mistake is one line and changes nothing."""

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

TINY = (
    "budget=256 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false "
    "evaluation.episodes=3 evaluation.selections=1 evaluation.selection_episodes=1"
).split()
EVALUATION = {"mean_return", "iqm_return", "ci95", "episodes", "mean_length", "agent", "world"}


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object that is all of stdout."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        assert self.status == 0, self.err
        assert self.out.count("\n") == 1 and self.out.endswith("\n")
        parsed = json.loads(self.out, parse_constant=refuse)
        assert isinstance(parsed, dict)
        return parsed

    def expect_refusal(self, status: int = 2) -> str:
        """The one line of an error, after which nothing else was said."""
        assert self.status == status, self.err
        assert self.out == ""
        assert self.err.endswith("\n") and len(self.err.splitlines()) == 1
        line = self.err.removesuffix("\n")
        assert line.isprintable()
        return line


Call = Callable[..., Outcome]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "cartpole", *TINY, f"run_dir={folder}", "--json"]) == 0
    return folder


@pytest.fixture
def run(trained: Path, here: Path) -> Path:
    """A copy of a finished run, to be changed at will."""
    shutil.copytree(trained, here / "run")
    return Path("run")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in ("out", "videos")}


# Train


def test_train_json(call: Call, here: Path) -> None:
    shown = call("train", "cartpole", *TINY, "run_dir=r", "--json").json
    assert EVALUATION | {"run_dir", "steps", "seconds", "steps_per_second"} <= set(shown)
    assert (shown["run_dir"], shown["steps"], shown["episodes"]) == ("r", 256, 3)
    assert (shown["agent"], shown["world"]) == ("ppo", "cartpole")
    assert shown["seconds"] > 0
    assert shown["steps_per_second"] == pytest.approx(shown["steps"] / shown["seconds"], rel=0.02)
    assert shown["ci95"][0] <= shown["mean_return"] <= shown["ci95"][1]
    (kept,) = (here / "r" / "evaluations").iterdir()
    summary = json.loads((kept / "summary.json").read_text())
    assert figures(shown) | summary == figures(shown)


def test_train_says_what_came_of_it_and_what_to_type_next(call: Call) -> None:
    outcome = call("train", "cartpole", *TINY)
    assert outcome.status == 0
    (folder,) = Path("runs").iterdir()
    for said in (
        "mean return",
        "95% interval",
        "expected 475: NOT reached",
        f"rl-lab watch {folder}",
        str(folder / "agent"),
    ):
        assert said in outcome.out
    assert "selection at 256 steps" in outcome.err


def test_a_world_without_a_scenario_by_name_or_by_override(call: Call) -> None:
    assert call("train", "catch", *TINY, "run_dir=a", "--json").json["world"] == "catch"
    assert call("train", "world=catch", *TINY, "run_dir=b", "--json").json["world"] == "catch"


def test_a_file_of_ones_own(call: Call) -> None:
    Path("mine.yaml").write_text("defaults: [cartpole, _self_]\nname: mine\nagent: dqn\n")
    shown = call("train", "mine.yaml", *TINY[:2], *TINY[6:], "agent.train_freq=16", "--json").json
    assert (shown["agent"], shown["scenario"]) == ("dqn", "mine")
    assert shown["run_dir"].startswith("runs/mine-dqn-budget_256-worlds_2-")


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "cartpole", *TINY, "seed=3"],
        ["cartpole", "--json", *TINY, "seed=3"],
        ["cartpole", *TINY, "seed=3", "--json"],
        ["cartpole", *TINY[:4], "--json", *TINY[4:], "seed=3"],
        [TINY[0], "world=cartpole", "--json", *TINY[1:], "seed=3"],
    ],
)
def test_options_stand_anywhere(words: list[str], call: Call) -> None:
    shown = call("train", *words).json
    assert (shown["world"], shown["seed"], shown["steps"]) == ("cartpole", 3, 256)


def test_an_option_of_another_verb_is_refused(call: Call, here: Path) -> None:
    assert "--grid" in call("train", "cartpole", "--grid", "2").expect_refusal()
    assert tree(here) == {}


def test_several_seeds_make_a_table(call: Call) -> None:
    outcome = call("train", "cartpole", *TINY, "-m", "seed=0,1,2", "run_dir=sweep")
    assert outcome.status == 0
    folders = sorted(p.name for p in Path("sweep").iterdir())
    assert [(name[:16], name[-3:]) for name in folders] == [(f"00{s}-cartpole-ppo", f"-s{s}") for s in range(3)]
    lines = outcome.out.splitlines()
    assert len([line for line in lines if line.startswith("sweep/")]) == 3
    header, row = lines[-2:]
    assert header.split()[:3] == ["scenario", "agent", "seeds"]
    assert row.split()[:3] == ["cartpole", "ppo", "3"]


def test_several_seeds_as_json(call: Call) -> None:
    shown = call("train", "-m", "cartpole", *TINY, "seed=0,1,2", "agent.gamma=0.9,0.99", "--json").json
    runs, table = shown["runs"], shown["table"]
    assert [r["seed"] for r in runs] == [0, 0, 1, 1, 2, 2]
    assert len({r["run_dir"] for r in runs}) == 6
    assert [(row["scenario"], row["agent"], row["seeds"], row["warning"]) for row in table] == [
        ("cartpole", "ppo", 3, None)
    ] * 2
    for row, k in zip(table, (0, 1), strict=True):
        scores = [r["mean_return"] for r in runs[k::2]]
        assert row["mean"] == pytest.approx(np.mean(scores))
        assert row["ci95"] == pytest.approx(list(stats.across_seeds(scores)["ci95"]))


def test_two_seeds_are_too_few_and_it_says_so(call: Call) -> None:
    assert "note:" in call("train", "-m", "cartpole", *TINY, "seed=0,1").out


# Evaluate


def test_evaluate_is_trainings_own_measurement_and_repeats(call: Call, run: Path) -> None:
    (summary,) = run.glob("evaluations/*/summary.json")
    trainings = json.loads(summary.read_text())
    first, second = (call("evaluate", run, "--json").json for _ in range(2))
    assert set(first) >= EVALUATION
    assert first == second
    assert figures(first) == trainings
    assert first["out"] == str(summary.parent)


def test_evaluate_prints_a_table(call: Call, run: Path) -> None:
    outcome = call("evaluate", run)
    assert outcome.status == 0
    assert "mean return" in outcome.out and "saved" in outcome.out


def test_other_worlds_do_not_replace_the_runs_own_evaluation(call: Call, run: Path) -> None:
    before = tree(run)
    shown = call("evaluate", run, "world.params.gravity=20", "--json").json
    assert shown["params"]["gravity"] == 20
    assert shown["out"] is None
    assert call("evaluate", run, "evaluation.deterministic=false", "--json").json["out"] is None
    assert tree(run) == before


def test_evaluate_elsewhere(call: Call, run: Path, here: Path) -> None:
    before = tree(run)
    shown = call("evaluate", "--out", "o", run, "evaluation.episodes=5", "--json").json
    assert (shown["episodes"], shown["out"]) == (5, "o")
    assert len((here / "o" / "episodes.jsonl").read_text().splitlines()) == 5
    assert tree(run) == before


def test_a_checkpoint_folder_can_be_evaluated(call: Call, run: Path) -> None:
    (agent,) = (run / "agent").iterdir()
    assert figures(call("evaluate", agent, "--json").json) == figures(call("evaluate", run, "--json").json)


@pytest.mark.parametrize("agent", ["scripted", "random"])
def test_agents_that_need_no_training(agent: str, call: Call, here: Path) -> None:
    words = ("evaluate", agent, "world=catch", "evaluation.episodes=6", "--json")
    shown = call(*words).json
    assert set(shown) >= EVALUATION
    assert (shown["agent"], shown["episodes"]) == (agent, 6)
    assert shown == call(*words).json
    assert tree(here) == {}
    if agent == "scripted":
        assert shown["mean_return"] == 1.0


def test_a_run_by_the_beginning_of_its_name(call: Call) -> None:
    call("train", "cartpole", *TINY, "seed=1", "run_dir=runs/cartpole-s1")
    call("train", "cartpole", *TINY, "seed=2", "run_dir=runs/cartpole-s2")
    assert call("evaluate", "cartpole-s1", "--json").json["out"].startswith("runs/cartpole-s1/")
    assert "runs/cartpole-s1, runs/cartpole-s2" in call("evaluate", "cartpole").expect_refusal()


# Watch, list, resume, bench, doctor


def test_watch_makes_a_file(call: Call, run: Path) -> None:
    (video,) = call("watch", run, "--file", "--json").json["videos"]
    assert Path(video).parent == run / "videos" and Path(video).read_bytes()[4:8] == b"ftyp"


def test_watch_without_a_display_makes_a_file_by_itself(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    outcome = call("watch", "scripted", "world=catch", "--episodes", "2")
    assert outcome.status == 0
    films = outcome.out.split()
    assert len(films) == 2 and all(Path(film).read_bytes()[4:8] == b"ftyp" for film in films)


def test_watch_several_worlds_elsewhere(call: Call) -> None:
    (video,) = call("watch", "scripted", "world=catch", "--grid", "2", "--out", "o", "--json").json["videos"]
    assert Path(video).parent == Path("o") and Path(video).stat().st_size > 1000


@pytest.mark.parametrize("kind", ["worlds", "agents", "scenarios", "runs"])
def test_list_json_is_what_the_table_shows(kind: str, call: Call, trained: Path) -> None:
    shutil.copytree(trained, "runs/mine")
    items = call("list", kind, "--json").json["items"]
    assert items and all(isinstance(item["name"], str) for item in items)
    table = call("list", kind)
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
    assert throughput_cache.known() == {}
    measured = throughput_cache.measure("pond")
    assert throughput_cache.known() == {"pond": measured}
    world.write_text("depth = 2")
    assert throughput_cache.known() == {}


def test_list_runs_where_there_are_none(call: Call) -> None:
    assert call("list", "runs", "--json").json == {"items": []}
    assert "rl-lab train" in call("list", "runs").out


def test_resume_of_a_finished_run_ends_where_it_ended(call: Call, run: Path) -> None:
    before = json.loads(next(run.glob("evaluations/*/summary.json")).read_text())
    shown = call("resume", run, "--json").json
    assert {key: shown[key] for key in before} == before
    assert shown["steps"] == 256


def test_resume_of_a_run_that_never_began(call: Call, run: Path) -> None:
    words = call("train", "cartpole", *TINY, "run_dir=other", "--json").json
    for folder in ("checkpoints", "agent", "evaluations"):
        shutil.rmtree(run / folder)
    shown = call("resume", run, "--json").json
    assert shown["mean_return"] == words["mean_return"]
    assert tree(run / "agent") == tree(Path("other/agent"))


def test_bench_json(call: Call) -> None:
    words = "bench env cartpole --worlds 64 --rounds 2 --seconds 0.01 --vs gymnasium --json".split()
    rows = call(*words).json["rows"]
    assert [row["what"] for row in rows] == ["rl_lab engine", "rl_lab", "gymnasium"]
    for row in rows:
        assert {"what", "kind", "conditions", "steps_per_second"} <= set(row)
        assert row["kind"] == "env" and "64 worlds" in row["conditions"]
        for spread in filter(None, (row["steps_per_second"], row.get("ratio"))):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert "ratio" in rows[-1]


def test_bench_prints_a_table(call: Call) -> None:
    outcome = call(*"bench env catch --worlds 8 --rounds 1 --seconds 0.01".split())
    assert outcome.status == 0 and "rl_lab engine" in outcome.out


def test_doctor_json(call: Call) -> None:
    shown = call("doctor", "--json").json
    assert shown["ok"] is True
    assert {"python", "packages", "compiler", "cache", "torch", "video", "runs"} <= {c["name"] for c in shown["checks"]}
    for check in shown["checks"]:
        assert check["status"] in ("ok", "note", "fail")
        assert bool(check["advice"]) == (check["status"] != "ok")


def test_doctor_says_what_to_do_and_fails(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_version", lambda: 1 / 0)
    outcome = call("doctor")
    assert outcome.status == 1
    assert "ZeroDivisionError" in outcome.out and "->" in outcome.out


# Foreign worlds, through the same commands


def test_a_foreign_world_trains_evaluates_films_and_resumes(call: Call) -> None:
    shown = call("train", "gym:CartPole-v1", *TINY, "run_dir=r", "--json").json
    assert shown["world"] == "gym:CartPole-v1"
    evaluated = call("evaluate", "r", "--json").json
    assert evaluated["mean_return"] == shown["mean_return"]
    (video,) = call("watch", "r", "--file", "--json").json["videos"]
    assert Path(video).read_bytes()[4:8] == b"ftyp"
    assert call("resume", "r", "--json").json["mean_return"] == shown["mean_return"]
    random = call("evaluate", "random", "world=gym:CartPole-v1", "evaluation.episodes=2", "--json").json
    assert random["episodes"] == 2


# Mistakes of the user: status 2, one line, nothing written


@pytest.mark.parametrize(
    "words, said",
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
def test_a_mistake_is_one_line_and_changes_nothing(words: str, said: str, call: Call, run: Path) -> None:
    Path("empty").mkdir()
    Path("broken.yaml").write_text("seed: [1\n")
    for name in ("untrained", "spoilt"):
        shutil.copytree(run, name)
    shutil.rmtree("untrained/agent")
    Path("spoilt/config.yaml").write_bytes(b"\x80\x04world: cartpole")
    before = tree(Path())
    given = words.split()
    if given[:1] == ["train"] and len(given) > 1 and "run_dir" not in words:
        given += ["run_dir=new"]
    assert said in call(*given).expect_refusal()
    assert tree(Path()) == before
    assert not Path("new").exists()


@pytest.mark.parametrize("words", ["train cartpol", "train cartpole agent=random", "evaluate nowhere", "list wolds"])
def test_a_mistake_is_one_line_with_json_too(words: str, call: Call, here: Path) -> None:
    call(*words.split(), "--json").expect_refusal()
    assert tree(here) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize(
    "verb", [["train", "cartpole", "run_dir=new"], ["evaluate", "run"], ["watch", "run", "--file"]]
)
def test_cuda_where_there_is_none(verb: list[str], call: Call, run: Path) -> None:
    before = tree(run)
    assert "device=auto" in call(*verb, "device=cuda").expect_refusal()
    assert tree(run) == before and not Path("new").exists()


def test_a_control_character_does_not_reach_the_terminal(call: Call, run: Path) -> None:
    Path("mine.yaml").write_text('world: catch\n"\\e[2Jx": 1\n')
    call("train", "mine.yaml").expect_refusal()
    call("evaluate", "\x1b[2J").expect_refusal()
    call("train", "cartpole", "seed='\x1b[2J'").expect_refusal()


# Damage: status 1, the file and the reason


@pytest.mark.parametrize("verb", [["evaluate"], ["watch", "--file"]])
@pytest.mark.parametrize(
    "damage, said",
    [
        ("policy.safetensors", "policy.safetensors: does not match its manifest"),
        ("state.json", "state.json: does not match its manifest"),
        ("manifest.json", "manifest"),
        ("truncate", "policy.safetensors: is truncated"),
        ("remove", "policy.safetensors: is missing"),
        ("add", "extra.safetensors"),
    ],
)
def test_a_damaged_agent_is_named(verb: list[str], damage: str, said: str, call: Call, run: Path) -> None:
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
    line = call(*verb, run).expect_refusal(1)
    assert said in line and agent.name in line


def test_an_agent_that_is_not_there_is_said_so(call: Call, run: Path) -> None:
    shutil.rmtree(run / "agent")
    assert "train it first" in call("evaluate", run).err


class NanWorld(gymnasium.Env[Any, Any]):
    """Goes wrong in the second copy that is made, in a step of its own."""

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
def test_what_is_not_a_number_stops_training_and_is_not_saved(field: str, nan_world: str, call: Call) -> None:
    words = [w for w in TINY if not w.startswith("agent")] + "agent.n_steps=16 agent.batch_size=32".split()
    words += [f"+world.params.field={field}", "+world.params.wrong=37", "checkpoint.steps=32", "run_dir=r", "--json"]
    assert f"non-finite {field} in world 1 at step" in call("train", nan_world, *words).expect_refusal(1)
    steps = sorted(int(path.name[5:]) for path in Path("r/checkpoints").iterdir())
    assert steps == [32, 64]  # the 37th step of 2 worlds is in the third rollout
    found, refused = checkpoint.latest(Path("r/checkpoints"))
    assert found is not None and refused == [] and found.step == 64
    for arrays in found.tensors.values():
        for array in arrays.values():
            assert array.dtype.kind != "f" or np.isfinite(array).all()
    assert len(Path("r/metrics.jsonl").read_text().splitlines()) == 2


def test_what_is_not_a_number_stops_a_measurement(nan_world: str, call: Call, here: Path) -> None:
    words = (
        "evaluate",
        "random",
        f"world={nan_world}",
        "+world.params.field=reward",
        "+world.params.wrong=5",
        "--json",
    )
    assert "non-finite reward in world 0 at step 5" in call(*words).expect_refusal(
        1
    )  # the first copy is only looked at
    line = call("evaluate", "random", "world=cartpole", "world.params.force=1e38", "--json").expect_refusal(1)
    assert "non-finite observation in world" in line and "cartpole" in line
    assert tree(here) == {}


# A full disk


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """A file system of 768 KiB."""
    (here / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", here / "disk"], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield here / "disk"
    subprocess.run(["umount", here / "disk"], check=True)


def test_a_full_disk_leaves_the_last_good_checkpoint(small_disk: Path) -> None:
    folder = small_disk / "run"
    words = [*TINY[1:], "budget=2048", "checkpoint.steps=128", "checkpoint.keep_last=100", f"run_dir={folder}"]
    full = programs.run(rl_lab("train", "cartpole", *words, "--json"), capture_output=True, text=True)
    assert full.returncode == 1
    assert full.stdout == ""
    (line,) = full.stderr.splitlines()
    assert "No space left on device" in line
    assert "free space" in line and f"rl-lab resume {folder}" in line
    found, refused = checkpoint.latest(folder / "checkpoints")
    assert found is not None and refused == []
    assert f"step-{found.step:09d}" in line

    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    resumed = programs.run(rl_lab("resume", str(folder), "--json"), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == 2048


# As a program


def rl_lab(*words: str) -> list[str]:
    return [sys.executable, "-m", "rl_lab.cli", *words]


def test_as_a_program_stdout_has_the_json_and_nothing_else(here: Path) -> None:
    done = programs.run(rl_lab("train", "catch", *TINY, "--json"), capture_output=True, text=True)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1 and json.loads(done.stdout)["world"] == "catch"
    assert done.stderr == ""


def test_as_a_program_a_mistake_is_one_line(here: Path) -> None:
    done = programs.run(rl_lab("train", "cartpol"), capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert tree(here) == {}


def test_a_reader_that_has_seen_enough(here: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = programs.run(rl_lab("list", "worlds"), stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    # The hint about speeds may follow: the work goes on, and only what has no reader is lost.
    assert done.returncode == 0 and "rl-lab:" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["", "train", "evaluate", "watch", "resume", "list", "bench", "check", "doctor"])
def test_every_verb_explains_itself(verb: str, call: Call) -> None:
    outcome = call(*filter(None, [verb]), "--help")
    assert outcome.status == 0 and outcome.err == ""
    assert outcome.out.startswith("usage: rl-lab")
    assert len(outcome.out.splitlines()) > 5


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ((256, 20.0), "50,256 steps in 21.0 s: 20.0 s for the first 256, compiling included, then 50,000 steps/s"),
        ((256, 2.0), "50,256 steps in 21.0 s (2,393 steps/s)"),
        ((50_256, 21.0), "50,256 steps in 21.0 s (2,393 steps/s)"),
    ],
)
def test_what_a_first_start_compiles_is_not_taken_for_a_slow_training(first: tuple[int, float], said: str) -> None:
    result: Any = SimpleNamespace(steps=50_256, seconds=21.0, first_iteration=first)
    assert train.training_time(result) == said


def test_warnings_of_libraries_are_one_line_without_colours(tmp_path: Path) -> None:
    """A reset of the old kind, for one, is a mistake that Gymnasium warns of, and the lab reports."""
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
    *warned, said = done.stderr.splitlines()
    assert done.returncode == 1 and "unexpected keyword argument 'seed'" in said and "old.py" in said
    assert warned and all(line.startswith("rl-lab: warning: WARN: Current gymnasium version") for line in warned)
    assert "\x1b" not in done.stderr and "[33m" not in done.stderr
