"""`rl-lab pretrain dagger`, as a user types it: whose actions it learns, in which states, and how it is resumed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from rl_lab.cli import main
from rl_lab.core import agent_registry, checkpoint
from rl_lab.engine import world_registry
from rl_lab.evaluation.demonstrations import DemonstrationPlan, demonstrate

SMALL = ["rounds=3", "rollout_episodes=4", "rollout_steps=100", "epochs=4", "learning_rate=1e-2"]
SMALL += ["backbone.hidden=[16]", "evaluation.episodes=5"]
CARTPOLE = ["pretrain", "dagger", "teacher=scripted", "world=cartpole", *SMALL]


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit status and the output of a command."""
    capsys.readouterr()
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def decisions(path: str) -> dict[str, Any]:
    """Return the teacher's decisions in the checkpoint of a run."""
    saved, _ = checkpoint.latest(Path(path) / "checkpoints")
    assert saved is not None
    return saved.tensors["decisions"]


def test_a_clone_is_labelled_where_it_went_and_resumes_bit_for_bit(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *CARTPOLE, "run_dir=made", "--json")
    assert status == 0, err
    result, saved = json.loads(out.splitlines()[-1]), decisions("made")
    assert len(saved["sizes"]) == 3 and result["method"] == "dagger"
    card = json.loads(Path("made/backbone/card.json").read_text())
    assert card["data"]["steps"] == saved["sizes"].sum() == len(saved["actions"])
    evaluated = json.loads(run(capsys, "evaluate", "made", "evaluation.episodes=5", "--json")[1].splitlines()[-1])
    assert evaluated["mean_return"] == result["mean_return"]

    files = [Path("made/metrics.jsonl"), Path("made/backbone/model.safetensors")]
    before = {path: path.read_bytes() for path in files}
    shutil.rmtree("made/backbone")
    shutil.rmtree("made/agent")
    assert run(capsys, "resume", "made")[0] == 0
    assert before == {path: path.read_bytes() for path in files}
    shutil.rmtree("made/checkpoints")  # it was killed in the first round
    assert run(capsys, "resume", "made")[0] == 0
    assert before == {path: path.read_bytes() for path in files}

    words = ["cartpole", "backbone=made", "budget=64", "worlds=4", "agent.n_steps=16", "agent.batch_size=64"]
    words += ["video=false", "evaluation.episodes=2", "evaluation.selections=1", "evaluation.selection_episodes=2"]
    status, _, err = run(capsys, "train", *words, "run_dir=tuned", "agent.compiled=false")
    assert status == 0 and "finetune, parts trunk+policy" in err


def test_all_labels_are_the_teachers_and_later_states_the_learners(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *CARTPOLE, "run_dir=teacher", "epochs=1")[0] == 0
    # A run as a teacher can be asked about any state, as the scripted expert, which reads the world's state, cannot.
    words = [
        "pretrain",
        "dagger",
        "teacher=teacher",
        *SMALL,
        "run_dir=made",
        "rounds=2",
        "rollout_steps=2000",
        "seed=3",
    ]
    assert run(capsys, *words)[0] == 0
    saved = decisions("made")
    rows = 5  # the policy of the teacher is a small network of torch
    trunk = safetensors.numpy.load_file("teacher/backbone/model.safetensors")
    hidden = np.tanh(saved["observations"] @ trunk["trunk.layers.0.weight"].T + trunk["trunk.layers.0.bias"])
    logits = hidden @ trunk["policy.0.weight"].T + trunk["policy.0.bias"]
    is_clear = np.abs(logits[:, 0] - logits[:, 1]) > 1e-3
    assert is_clear.sum() > rows and np.array_equal(logits.argmax(axis=1)[is_clear], saved["actions"][is_clear])
    first, second = np.split(saved["observations"], np.cumsum(saved["sizes"])[:1])
    assert not np.array_equal(first[4:8], second[4:8])


def test_a_share_of_the_actions_is_the_teachers() -> None:
    plan = DemonstrationPlan("cartpole", {}, episodes=4, steps=2000, seed=5)
    world, module = world_registry.load("cartpole"), agent_registry.load("random")
    expert = agent_registry.load("scripted")
    teacher, player = expert.make(expert.Config(), world), module.make(module.Config(seed=3), world)
    # Random play ends after 22 steps, the expert's never.
    lengths = [
        len(demonstrate(dataclasses.replace(plan, teacher_share=share), teacher, player, 1).actions)
        for share in (0.0, 0.8, 1.0)
    ]
    assert lengths[0] < 400 < lengths[1] <= lengths[2] == 2000


WRONG: dict[str, tuple[list[str], str]] = {
    "no teacher": (["world=cartpole"], "say which agent is to be imitated: teacher=RUN"),
    "no world": (["teacher=scripted"], "say which world scripted is to be imitated in: add world=NAME"),
    "no expert": (["teacher=minimax", "world=cartpole"], "teacher: "),
    "data": (["teacher=scripted", "world=cartpole", "data=demo"], "pretrain dagger gathers its own data"),
    "share": (["teacher=scripted", "world=cartpole", "teacher_share=2"], "teacher_share=2.0: expected 0 to 1"),
    "key": (["teacher=scripted", "world=cartpole", "round=2"], "no key 'round'; did you mean 'rounds'?"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    words, expected = WRONG[name]
    status, _, err = run(capsys, "pretrain", "dagger", *words)
    assert status == 2 and expected in err and err.count("\n") == 1
    assert not Path("runs").exists()


def test_damaged_decisions_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *CARTPOLE, "run_dir=made", "rounds=2")[0] == 0
    saved, _ = checkpoint.latest(Path("made/checkpoints"))
    assert saved is not None
    wrong = saved.tensors["decisions"] | {"actions": saved.tensors["decisions"]["actions"] + 1}
    checkpoint.save(Path("made/checkpoints"), saved.step + 1, {"decisions": wrong}, saved.state, keep_last=1)
    status, _, err = run(capsys, "resume", "made")
    assert status == 2 and "actions are not all between 0 and 1" in err and err.count("\n") == 1
    Path("made/pretraining.json").write_text('{"format": "rl_lab.dagger"}')
    status, _, err = run(capsys, "resume", "made")
    assert status == 2 and "pretraining.json is damaged" in err and err.count("\n") == 1
