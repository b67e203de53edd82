"""`rl-lab pretrain tree`, and what it has made as an agent of the lab: as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_lab.cli import main
from rl_lab.core import checkpoint
from rl_lab.learners.pretraining import tree_files

SMALL = ["iterations=2", "rollout_episodes=8", "rollout_steps=3000", "evaluation.episodes=5"]
SMALL += ["evaluation.selection_episodes=5"]
CARTPOLE = ["pretrain", "tree", "teacher=scripted", "world=cartpole", *SMALL]
GAME = ["pretrain", "tree", "teacher=minimax", "world=tic_tac_toe", "noise=0.4", *SMALL]


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit status and the output of a command."""
    capsys.readouterr()
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def result(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return the JSON of a command that must succeed."""
    status, out, err = run(capsys, *words, "--json")
    assert status == 0, err
    node: dict[str, Any] = json.loads(out.splitlines()[-1])
    return node


def test_distil_evaluate_and_resume(capsys: pytest.CaptureFixture[str]) -> None:
    made = result(capsys, *CARTPOLE, "run_dir=made", "max_depth=4", "feature_names=[place,speed,angle,spin]")
    assert made["depth"] <= 4 and made["leaves"] <= 16 and made["mean_return"] > 150  # random play gets 22
    evaluated = result(capsys, "evaluate", "made", "evaluation.episodes=5")
    assert evaluated["mean_return"] == made["mean_return"]
    rules = Path("made/tree/rules.md").read_text()
    assert "It imitates scripted: depth" in rules and ("angle" in rules or "spin" in rules) and "x[" not in rules
    tree, about = tree_files.load(Path("made")), json.loads(Path("made/tree/tree.json").read_text())["about"]
    assert tree_files.sha256(tree) == made["sha256"] and about["teacher"]["name"] == "scripted"

    same = result(capsys, *CARTPOLE, "run_dir=same", "max_depth=4", "feature_names=[place,speed,angle,spin]")
    other = result(capsys, *CARTPOLE, "run_dir=other", "max_depth=4", "seed=1")
    assert made["sha256"] == same["sha256"] != other["sha256"]

    files = {path: path.read_bytes() for path in [*Path("made/tree").iterdir(), Path("made/metrics.jsonl")]}
    shutil.rmtree("made/tree")
    shutil.rmtree("made/agent")
    status, out, _ = run(capsys, "resume", "made")
    assert status == 0 and "rules  made/tree/rules.md" in out
    assert files == {path: path.read_bytes() for path in files}
    assert result(capsys, "evaluate", "made", "evaluation.episodes=5")["mean_return"] == made["mean_return"]


def test_the_tree_of_a_game_plays_tournaments_and_is_an_opponent(capsys: pytest.CaptureFixture[str]) -> None:
    made = result(capsys, *GAME, "run_dir=made", "max_depth=12")
    assert made["opponent"] == "random"  # of the world's scenario; the masks forbid all that is taken
    assert "else" in Path("made/tree/rules.md").read_text()
    words = ["tournament", "tic_tac_toe", "made", "random", "--pairs", "4", "--dir", "matches", "--workers", "1"]
    status, _, err = run(capsys, *words)
    assert status == 0, err
    small = ["budget=512", "worlds=8", "video=false", "agent.n_steps=16", "agent.batch_size=64", "run_dir=learner"]
    small += ["evaluation.episodes=4", "evaluation.selections=1", "evaluation.selection_episodes=4"]
    status, _, err = run(capsys, "train", "tic_tac_toe", "opponent=made", *small)
    assert status == 0, err
    again = result(capsys, "pretrain", "tree", "teacher=made", *SMALL, "run_dir=copy", "max_depth=12")
    assert again["world"] == "tic_tac_toe" and again["scores"]["agreement"] > 0.9


def test_continuous_actions(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "tree", "teacher=scripted", "world=mountain_car_continuous", *SMALL, "run_dir=made"]
    made = result(capsys, *words)
    assert made["scores"]["mean_squared_error"] < 0.1 and made["mean_return"] > 0  # doing nothing gets 0
    tree = tree_files.load(Path("made"))
    assert tree.action_kind == "continuous" and tree.act(np.zeros((3, 2), np.float32)).shape == (3, 1)
    assert "action [" in Path("made/tree/rules.md").read_text()


WRONG: dict[str, tuple[list[str], str]] = {
    "no teacher": (["world=cartpole"], "say which agent the tree is to imitate: teacher=RUN"),
    "no world": (["teacher=scripted"], "say which world scripted is to be imitated in: add world=NAME"),
    "teacher": (["teacher=scriptd", "world=cartpole"], "no agent 'scriptd'; did you mean 'scripted'?"),
    "untrained": (["teacher=ppo", "world=cartpole"], "teacher ppo would have to be trained first"),
    "no expert": (["teacher=minimax", "world=cartpole"], "teacher: "),
    "option": (["teacher=scripted", "world=cartpole", "teacher.strenght=novice"], "did you mean 'strength'?"),
    "missing run": (["teacher=runs/none", "world=cartpole"], "runs/none"),
    "world": (["teacher=scripted", "world=cartpol"], "did you mean 'cartpole'?"),
    "other world": (["teacher=made", "world=acrobot"], "made was trained in cartpole, not in acrobot"),
    "depth": (["teacher=scripted", "world=cartpole", "max_depth=0"], "max_depth=0: expected 1 to 64"),
    "leaves": (["teacher=scripted", "world=cartpole", "max_leaf_nodes=1"], "max_leaf_nodes=1: expected 2 to"),
    "noise": (["teacher=scripted", "world=cartpole", "noise=1.5"], "noise=1.5: expected 0 to 1"),
    "type": (["teacher=scripted", "world=cartpole", "iterations=many"], "iterations"),
    "key": (["teacher=scripted", "world=cartpole", "maxdepth=3"], "no key 'maxdepth'; did you mean 'max_depth'?"),
    "names": (["teacher=scripted", "world=cartpole", "feature_names=[a,b]"], "has 2 names; cartpole observes 4"),
    "no setting": (["teacher=scripted", "world=cartpole", "fast"], "'fast' is not a setting; write key=value"),
    "spaces": (["teacher=random", "world=simple_tag"], "a tree needs agents with the same spaces"),
    "folder": (["teacher=scripted", "world=cartpole", "run_dir=made"], "run_dir made is not empty"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "made"
    assert main([*CARTPOLE, f"run_dir={path}", "--json"]) == 0
    return path


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(capsys: pytest.CaptureFixture[str], trained: Path, name: str) -> None:
    shutil.copytree(trained, "made")
    words, expected = WRONG[name]
    status, _, err = run(capsys, "pretrain", "tree", *words)
    assert status == 2 and expected in err and err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_tree_is_not_trained_in_a_world(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "train", "cartpole", "agent=tree")
    assert status == 2 and "rl-lab pretrain tree teacher=RUN world=cartpole" in err and err.count("\n") == 1
    status, _, err = run(capsys, "pretrain", "tre", "data=demo")
    assert status == 2 and "did you mean 'tree'?" in err


def test_a_foreign_or_damaged_agent_is_one_line(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    shutil.copytree(trained, "made")
    (folder,) = Path("made/agent").iterdir()
    saved = checkpoint.load(folder)
    for name, change in {
        "beyond": {"left": np.full_like(saved.tensors["tree"]["left"], 10**6)},
        "size": {"values": np.zeros((len(saved.tensors["tree"]["values"]), 3))},
        "kind": {"threshold": saved.tensors["tree"]["threshold"].astype(np.float32)},
    }.items():
        checkpoint.save(Path("made/agent"), saved.step, {"tree": saved.tensors["tree"] | change}, saved.state)
        status, _, err = run(capsys, "evaluate", "made", "evaluation.episodes=1")
        assert status == 2 and "does not fit this scenario" in err and err.count("\n") == 1, name
    checkpoint.save(Path("made/agent"), saved.step, {"policy": saved.tensors["tree"]}, saved.state)
    assert run(capsys, "evaluate", "made", "evaluation.episodes=1")[0] == 2
    Path("made/distillation.json").write_text("{")
    status, _, err = run(capsys, "resume", "made")
    assert status == 2 and "distillation.json is damaged" in err and err.count("\n") == 1


@pytest.mark.parametrize("model", ["decision_tree", "hist_gradient_boosting"])
def test_a_teachers_folder_may_have_braces_in_its_name(
    capsys: pytest.CaptureFixture[str], trained: Path, model: str
) -> None:
    shutil.copytree(trained, "seed{1}")
    words = ["pretrain", "tree", "teacher=seed{1}", *SMALL, "iterations=1", "run_dir=copy", f"model={model}"]
    status, _, err = run(capsys, *words)
    assert status == 0, err
    assert "seed{1}: depth" in Path("copy/tree/rules.md").read_text()


def test_a_teacher_that_has_changed_is_not_imitated_further(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    shutil.copytree(trained, "made")
    result(capsys, "pretrain", "tree", "teacher=made", *SMALL, "iterations=1", "run_dir=copy")
    shutil.rmtree("made")
    result(capsys, *CARTPOLE, "seed=7", "run_dir=made")
    status, _, err = run(capsys, "resume", "copy")
    assert status == 2 and "made is not the agent that it was" in err and err.count("\n") == 1
