"""Tests of `rl-lab pretrain levels`, and of trainings on levels from a file, as a user types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pygame
import pytest

from rl_lab.adapters import level_files, make
from rl_lab.cli import main
from rl_lab.core import checkpoint
from rl_lab.engine import world_registry
from rl_lab.evaluation.level_checks import examine, own_levels
from rl_lab.experiments import run_dir
from rl_lab.experiments.compose import compose
from rl_lab.experiments.scenario_yaml import ScenarioError

WORLD = world_registry.load("keys_and_doors")
PRETRAIN = ["pretrain", "levels", "world=keys_and_doors", "data=few.json", "validation=0", "epochs=4"]
PRETRAIN += ["width=8", "layers=1", "heads=1", "samples=40"]


@pytest.fixture(autouse=True)
def work_in_tmp_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    level_files.write(tmp_path / "few.json", WORLD, own_levels(WORLD, 3, seed=1))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit status and the output of a command."""
    capsys.readouterr()
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def reproducible_bytes(run: Path) -> dict[str, bytes]:
    """Return what must be equal of two runs: metrics, levels and the tensors of the last checkpoint."""
    last, errors = checkpoint.latest(run / "checkpoints")
    assert last is not None and not errors
    files = {path.name: path.read_bytes() for path in (run / "metrics.jsonl", *(run / "levels").iterdir())}
    tensors = {f"{part}.{name}": a.tobytes() for part, each in last.tensors.items() for name, a in each.items()}
    return files | tensors


def test_a_model_makes_levels_and_a_run_that_was_stopped_makes_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, *PRETRAIN, "run_dir=model", "--json")
    result = json.loads(out.splitlines()[-1])
    assert status == 0 and result["levels"]["made"] == 40 and result["levels"]["playable"] < 0.1
    assert json.loads(Path("model/levels/card.json").read_text())["levels"] == result["levels"]
    learned = level_files.read(Path("model/levels/training.json"), WORLD)
    assert (np.unique(learned, axis=0) == np.unique(own_levels(WORLD, 3, seed=1), axis=0)).all()
    picture = pygame.image.load("model/levels.png")
    assert picture.get_width() > 10 * picture.get_height()
    before = reproducible_bytes(Path("model"))
    for path in sorted(Path("model/checkpoints").iterdir())[-1:]:
        shutil.rmtree(path)
    shutil.rmtree("model/levels")
    status, out, _ = run(capsys, "resume", "model")
    assert status == 0 and "playable" in out and reproducible_bytes(Path("model")) == before


def test_a_run_on_levels_of_a_file_needs_the_file_no_longer() -> None:
    grids = level_files.read(Path("few.json"), WORLD)
    words = ["world.params.level_grids=few.json", "run_dir=run"]
    created = run_dir.create(compose("keys_and_doors", words), [])
    Path("few.json").unlink()
    scenario = created.scenario()
    assert scenario.params["level_grids"] == level_files.pack(WORLD, grids)
    record = make.parameters(WORLD, scenario.params)[0]
    assert record["num_level_grids"] == 3 and (record["level_grids"][:3] == grids).all()
    own = compose(str(created.path / "config.yaml"), ["world.params.level_grids=0"])
    assert make.parameters(WORLD, own.params)[0]["num_level_grids"] == 0
    with pytest.raises(ScenarioError, match="few.json: No such file"):
        compose("keys_and_doors", words)


def test_the_figures_of_levels_that_were_made() -> None:
    grids = own_levels(WORLD, 20, seed=2)
    known, new = grids[:10], grids[10:]
    closed = new[0].copy()
    closed[closed == 7] = 1  # the first door is a wall ...
    closed[np.flatnonzero(closed == 0)[0]] = 7  # ... and somewhere else
    no_exit = np.where(new[1] == 3, 0, new[1]).astype(np.uint8)
    made = examine(WORLD, known, np.concatenate([known[:2], new, new[:4], closed[None], no_exit[None], no_exit[None]]))
    expected = {"made": 19, "valid": 17 / 19, "playable": 16 / 19, "distinct": 12 / 16, "novel": 10 / 12, "written": 10}
    assert {name: made.figures[name] for name in expected} == pytest.approx(expected)
    assert (made.grids == new).all() and (made.failures == closed).all()
    same = examine(WORLD, known, known)
    assert (
        same.figures["expert_steps_distance"]
        == same.figures["symbols_distance"]
        == 0
        < made.figures["symbols_distance"]
    )
    nothing = examine(WORLD, known, no_exit[None])
    assert nothing.figures["playable"] == nothing.figures["written"] == len(nothing.grids) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["world=cartpole"], "cartpole declares no levels"),
        ([], "say whose levels are to be learned: world=NAME"),
        (["world=keys_and_door"], "keys_and_doors"),
        (["world=keys_and_doors", "sampels=3"], "pretrain levels has no key 'sampels'; did you mean 'samples'"),
        (["world=keys_and_doors", "heads=5"], "heads=5 does not divide width=48"),
        (["world=keys_and_doors", "temperature=0"], "temperature=0"),
        (["world=keys_and_doors", "samples=x"], "samples"),
        (["world=keys_and_doors", "data=missing.json"], "missing.json: No such file or directory"),
        (["world=keys_and_doors", "data=few.json", "levels=9"], "levels= counts the world's own levels"),
        (["world=keys_and_doors", "data=few.json"], "validation=0.1: 3 levels are too few to be divided"),
    ],
)
def test_settings_that_are_wrong_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    status, _, err = run(capsys, "pretrain", "levels", *words)
    assert status == 2 and message in err and err.count("\n") == 1


def test_other_levels_than_at_the_start_are_not_learned_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *PRETRAIN, "run_dir=model", "epochs=1")[0] == 0
    level_files.write(Path("few.json"), WORLD, own_levels(WORLD, 3, seed=2))
    status, _, err = run(capsys, "resume", "model")
    assert status == 2 and "few.json has other data than at the start" in err
