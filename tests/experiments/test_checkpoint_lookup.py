"""Tests of names of trained agents: RUN, RUN@STEP and folders mean the same in every command, and have one hash."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rl_lab.cli import main
from rl_lab.core import checkpoint
from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import EnvSpec
from rl_lab.engine import world_registry
from rl_lab.experiments.agent_loading import load_agent
from rl_lab.experiments.checkpoint_lookup import locate
from rl_lab.experiments.compose import compose
from rl_lab.experiments.frozen_agent import FrozenAgentRef
from rl_lab.experiments.run_dir import Run
from rl_lab.experiments.scenario_yaml import ScenarioError
from rl_lab.tournament.entrants import parse_entrants

TRAIN = ["train", "catch", "budget=1024", "video=false", "evaluation.episodes=2", "evaluation.selection_episodes=2"]
GAME = "tic_tac_toe worlds=4 budget=256 video=false evaluation.episodes=2 evaluation.selection_episodes=2".split()
GAME += "agent.n_steps=16 agent.batch_size=16 agent.n_epochs=1 agent.net_arch=[8] device=cpu".split()


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert main([*TRAIN, "checkpoint.steps=512", f"run_dir={folder / 'runs/mine'}"]) == 0
    return folder


@pytest.fixture(scope="module")
def run_of_two_policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("games")
    policies = ["opponent=null", "policies={world: [x], world_a: [o]}", "agent.normalize_observations=true"]
    assert main(["train", *GAME, *policies, "checkpoint.steps=128", f"run_dir={folder / 'runs/two'}"]) == 0
    return folder


@pytest.fixture
def in_folder_of_two_policies(run_of_two_policies: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(run_of_two_policies)
    return run_of_two_policies


@pytest.fixture
def world(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> EnvSpec:
    monkeypatch.chdir(trained_run)
    return world_registry.load("catch")


def evaluated_step(capsys: pytest.CaptureFixture[str], target: str) -> int:
    capsys.readouterr()
    assert main(["evaluate", target, "evaluation.episodes=2", "--json"]) == 0
    return int(Path(json.loads(capsys.readouterr().out.splitlines()[-1])["out"]).name)


def evaluation_of(capsys: pytest.CaptureFixture[str], target: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", target, "evaluation.episodes=20", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    return {key: value for key, value in summary.items() if "seconds" not in key and key != "out"}


def test_run_at_step_names_the_checkpoint_of_that_step(world: EnvSpec, capsys: pytest.CaptureFixture[str]) -> None:
    saved_steps = sorted(int(path.name[5:]) for path in Path("runs/mine/checkpoints").glob("step-*"))
    assert len(saved_steps) > 1
    for step in saved_steps:
        folder = f"runs/mine/checkpoints/step-{step:09d}"
        for target in (f"mine@{step}", f"runs/mine@{step}", folder):
            assert evaluated_step(capsys, target) == step
            assert locate(target).name == f"mine@{step}"
            assert [entrant.name for entrant in parse_entrants([target, "random"], world)] == [f"mine@{step}", "random"]
    assert main(["evaluate", "mine@7"]) == 2
    assert f"no checkpoint at step 7; there is {saved_steps[0]}" in capsys.readouterr().err
    with pytest.raises(UsageError, match="@7 is another one"):
        locate(f"runs/mine/checkpoints/step-{saved_steps[0]:09d}@7")


def test_a_checkpoint_can_be_watched_and_exported(
    world: EnvSpec, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["watch", "mine@512", "--episodes", "1", "--out", str(tmp_path), "--json"]) == 0
    (video,) = json.loads(capsys.readouterr().out.splitlines()[-1])["videos"]
    assert Path(video).is_file()
    assert main(["export", "mine@512", str(tmp_path / "agent.zip"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == 512


def test_a_run_and_a_checkpoint_can_be_opponents_by_name(
    in_folder_of_two_policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("two@128", "two", "tw", "runs/two@128"):
        opponent = compose("tic_tac_toe", [f"opponent={text}"]).opponent
        assert opponent is not None and opponent["path"] == text and len(opponent["sha256"]) == 64
    assert main(["train", *GAME, "opponent=two@128", "run_dir=against"]) == 0
    assert main(["evaluate", "against", "opponent=two", "evaluation.episodes=2"]) == 0
    untrained = compose("tic_tac_toe", ["opponent=random"]).opponent
    assert untrained is not None and untrained["name"] == "random"
    with pytest.raises(ScenarioError, match="no agent 'tow'"):
        compose("tic_tac_toe", ["opponent=tow"])


@pytest.mark.parametrize("text", ["mine@", "runs/mine@", "runs/mine/checkpoints@"])
def test_an_empty_step_is_refused(text: str, world: EnvSpec) -> None:
    with pytest.raises(UsageError, match=f"{text} names no step"):
        locate(text)


def test_a_step_may_have_leading_zeros_and_is_otherwise_digits_only(world: EnvSpec) -> None:
    folder = "runs/mine/checkpoints/step-000000512"
    for text in ("mine@512", "mine@0512", "mine@000000512", folder, f"{folder}@512", f"{folder}@0512"):
        location = locate(text)
        assert location.name == "mine@512" and location.folder == Path(folder)
    for step in ("9" * 5000, "\u00b2", "\u0665\u0661\u0662", "-1", "5.12e2", " 512"):
        for text in (f"mine@{step}", f"{folder}@{step}"):
            with pytest.raises(UsageError, match="no checkpoint at step|is another one"):
                locate(text)


def test_folders_of_checkpoints_have_the_name_of_their_run(world: EnvSpec) -> None:
    for folder in ("agent", "checkpoints"):
        assert locate(f"runs/mine/{folder}").name == "mine"
    assert locate("runs/mine/checkpoints@512").name == "mine@512"


def test_an_agent_has_the_same_hash_by_all_its_names(world: EnvSpec) -> None:
    """The best agent lies in the run's agent/ and, as a part of a whole state, in checkpoints/."""
    (best_agent,) = Path("runs/mine/agent").glob("step-*")
    step = int(best_agent.name[5:])
    checkpoint_folder = f"runs/mine/checkpoints/{best_agent.name}"
    names = ["mine", "runs/mine", str(Path("runs/mine").absolute()), f"mine@{step}", checkpoint_folder]
    agents = {FrozenAgentRef(name).with_content_hash().sha256 for name in names}
    assert len(agents) == 1
    entrants = [parse_entrants([f"a={name}", "random"], world)[0].hash for name in names]
    assert len(set(entrants)) == 1
    modes = [parse_entrants([f"a=mine:sample={mode}", "random"], world)[0].hash for mode in ("true", "false")]
    assert modes[0] != modes[1] and entrants[0] in modes
    another_checkpoint = next(
        path for path in Path("runs/mine/checkpoints").glob("step-*") if path.name != best_agent.name
    )
    assert FrozenAgentRef(str(another_checkpoint)).with_content_hash().sha256 not in agents


def test_an_agent_with_normalised_observations_has_the_same_hash_in_both_folders(
    in_folder_of_two_policies: Path,
) -> None:
    hashes = set()
    (best_agent,) = Path("runs/two/agent").glob("step-*")
    for folder in ("agent", "checkpoints"):
        hashes.add(FrozenAgentRef(f"runs/two/{folder}/{best_agent.name}").with_content_hash().sha256)
    assert len(hashes) == 1


# --- Several policies in one checkpoint


def test_a_checkpoint_of_several_policies_plays_as_the_best_agent(
    in_folder_of_two_policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (best_agent,) = Path("runs/two/agent").glob("step-*")
    agent = evaluation_of(capsys, str(best_agent))
    assert evaluation_of(capsys, f"runs/two/checkpoints/{best_agent.name}") == agent
    assert evaluated_step(capsys, "two@128") == 128


@pytest.mark.parametrize("name", ["world", "world_a"])
def test_the_hash_covers_the_parameters_of_every_policy(
    name: str, in_folder_of_two_policies: Path, tmp_path: Path
) -> None:
    shutil.copytree("runs/two", tmp_path / "runs/two")
    before = FrozenAgentRef(str(tmp_path / "runs/two")).with_content_hash().sha256
    (best_agent,) = (tmp_path / "runs/two/agent").glob("step-*")
    loaded = checkpoint.load(best_agent)
    next(iter(loaded.tensors[f"{name}.policy"].values()))[...] += 1
    checkpoint.save(best_agent.parent, loaded.step, loaded.tensors, loaded.state, keep_last=1)
    assert FrozenAgentRef(str(tmp_path / "runs/two")).with_content_hash().sha256 != before


def test_a_damaged_whole_state_is_refused(in_folder_of_two_policies: Path, tmp_path: Path) -> None:
    shutil.copytree("runs/two", tmp_path / "runs/two")
    folder = tmp_path / "runs/two/checkpoints/step-000000128"
    loaded = checkpoint.load(folder)
    for change in ({"learner": []}, {"training": {}}, {"training": {"kept": {"state": 3}}}, {"learner": {"world": {}}}):
        checkpoint.save(folder.parent, 128, loaded.tensors, loaded.state | change, keep_last=9)
        with pytest.raises(UsageError, match="does not fit this scenario"):
            load_agent(folder, Run(tmp_path / "runs/two").scenario())


def test_a_checkpoint_has_the_mode_by_which_its_best_agent_was_selected(world: EnvSpec, tmp_path: Path) -> None:
    shutil.copytree("runs/mine", tmp_path / "mine")
    folder = max((tmp_path / "mine/checkpoints").glob("step-*"))
    for selected in (False, True):
        loaded = checkpoint.load(folder)
        loaded.state["training"]["kept"]["state"]["deterministic"] = selected
        checkpoint.save(folder.parent, loaded.step, loaded.tensors, loaded.state, keep_last=9)
        agent: Any = load_agent(folder, Run(tmp_path / "mine").scenario())[0]
        assert agent.selected_deterministic is selected
