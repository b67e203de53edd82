"""`rl-lab transfer-report` as a user types it: its arms, what it does not repeat, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.backbones import write_backbone, write_demonstrations

from rl_lab.cli import main
from rl_lab.core import interrupts
from rl_lab.datasets import cache
from rl_lab.datasets.dataset import open_dataset
from rl_lab.experiments import trainer
from rl_lab.learners.pretraining import folder
from rl_lab.transfer import arms

SMALL = [
    "budget=512",
    "worlds=4",
    "agent.n_steps=32",
    "agent.n_epochs=1",
    "agent.batch_size=64",
    "agent.compiled=false",
    "seeds=2",
]
SMALL += ["evaluation.selections=2", "evaluation.selection_episodes=2", "evaluation.episodes=2", "out=report"]
COMMAND = ["transfer-report", "cartpole", "backbone=bb", *SMALL]


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "root", lambda: tmp_path / "cache")
    write_backbone(Path("bb"), hidden=[8])


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit status and the output of a command."""
    capsys.readouterr()
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_all_arms_run_once_and_an_interrupted_report_continues(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_demonstrations(Path("demo"), episodes=10, length=20)
    words = [*COMMAND, "data=demo", "--json"]
    train, trained = trainer.train, []

    def counted(scenario: Any, *more: Any) -> Any:
        if len(trained) == 3:
            raise interrupts.Interrupted(130)
        trained.append(Path(scenario.run_dir).name)
        return train(scenario, *more)

    monkeypatch.setattr(trainer, "train", counted)
    status, out, err = run(capsys, *words)
    assert status == 130 and "the same command continues" in err and not out
    monkeypatch.setattr(
        trainer, "train", lambda scenario, *more: (trained.append(scenario.run_dir), train(scenario, *more))[1]
    )
    status, out, _ = run(capsys, *words)
    result = json.loads(out)
    assert status == 0 and len(trained) == 8  # none twice
    assert [arm["name"] for arm in result["arms"]] == ["scratch", "backbone", "random_frozen", "shuffled"]
    assert [t["steps"] for arm in result["arms"] for t in arm["trainings"]] == [[256, 512]] * 8
    assert result["cloning"]["episodes"] == 2
    assert json.loads(Path("report/report.json").read_text()) == result
    first = Path("report/index.html").read_bytes()

    status, out, _ = run(capsys, *words)
    assert status == 0 and len(trained) == 8 and json.loads(out) == result
    assert Path("report/index.html").read_bytes() == first


def test_an_interrupted_training_is_resumed_and_ends_with_the_same_curve(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*COMMAND, "seeds=1", "checkpoint.steps=128", "--json"]
    status, whole, _ = run(capsys, *words)
    assert status == 0
    place = Path("report/runs/backbone-s0")
    for folder_name in ("step-000000512", "step-000000384"):
        for file in (place / "checkpoints" / folder_name).iterdir():
            file.unlink()
    for file in place.glob("evaluations/*/summary.json"):
        file.unlink()
    monkeypatch.setattr(trainer, "train", lambda *more: pytest.fail("a training was repeated"))
    status, out, _ = run(capsys, *words)
    assert status == 0 and json.loads(out) == json.loads(whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transfer-report", "cartpole", "out=x"], "needs backbone=PATH"),
        (["transfer-report", "cartpole", "backbone=bb"], "needs out=DIR"),
        (["transfer-report", "cartpole", "backbone=none", "out=x"], "no backbone none"),
        (["transfer-report", "catch", "backbone=bb", "out=x"], "backbone bb observes"),
        ([*COMMAND, "seeds=0"], "seeds=0: expected"),
        ([*COMMAND, "seed=3"], "use seeds=N"),
        ([*COMMAND, "reference=high"], "reference=high: expected a number"),
        ([*COMMAND, "controls=false", "data=d"], "which controls=false leaves out"),
        ([*COMMAND, "reference=10", "floor=20"], "not above floor=20"),
        ([*COMMAND, "budgte=5"], "budget"),
        ([*COMMAND, "mode=thawed"], "mode='thawed'"),
        ([*COMMAND, "data=none"], "none"),
        ([*COMMAND, "loud"], "write key=value"),
        (["transfer-repotr", "cartpole"], "did you mean 'transfer-report'"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    capsys.readouterr()
    try:
        status = main(words)
    except SystemExit as stop:
        status = int(str(stop.code))
    err = capsys.readouterr().err
    assert status == 2 and message in err and len(err.splitlines()) == 1


def test_a_run_with_other_settings_is_not_taken_for_this_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMMAND, "seeds=1"]
    assert run(capsys, *words)[0] == 0
    status, _, err = run(capsys, *words, "agent.gamma=0.5")
    assert status == 2 and "choose another out=DIR" in err
    assert len(err.splitlines()) == 1


def test_shuffled_actions_are_the_same_actions_in_another_order_and_legal() -> None:
    data = open_dataset(write_demonstrations(Path("demo"), episodes=10, length=20))
    shuffled = arms.shuffled_actions(data)
    assert np.bincount(shuffled).tolist() == np.bincount(data.actions).tolist()
    assert (shuffled != data.actions).any()
    masks = np.eye(2, dtype=np.uint8)[data.actions]  # only the recorded action is legal
    assert (arms.shuffled_actions(dataclasses.replace(data, action_masks=masks)) == data.actions).all()


def test_random_trunks_differ_between_seeds_and_from_the_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *COMMAND)[0] == 0
    hashes = [
        folder.load(Path(path)).sha256 for path in ("report/backbones/random-s0", "report/backbones/random-s1", "bb")
    ]
    assert len(set(hashes)) == 3
