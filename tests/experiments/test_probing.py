"""Tests of `rl-lab probe` as a user types it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.backbones import write_backbone, write_demonstrations
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.cli import main
from rl_lab.datasets import cache
from rl_lab.datasets.dataset import open_dataset
from rl_lab.learners.pretraining import folder


@pytest.fixture(autouse=True)
def work_in_tmp_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "root", lambda: tmp_path / "cache")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit status and the output of a command."""
    capsys.readouterr()
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_backbones_stand_beside_raw_observations_and_random_trunks(capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstrations(Path("demo"))
    write_backbone(Path("one"), hidden=[32])
    write_backbone(Path("two"), hidden=[32], heads=())
    status, out, _ = run(capsys, "probe", "one", "two", "data=demo", "rows=500", "out=scores/probe.json")
    assert status == 0
    result = json.loads(Path("scores/probe.json").read_text())
    scores = {each["name"]: each["scores"] for each in result["representations"]}
    assert list(scores) == ["constant", "raw observations", "random mlp", "one", "two"]
    assert list(scores["one"]) == ["reward", "log steps left", "action", "observation"]
    # The actions are decided by the sign of a sum of two numbers. Rewards are random.
    assert scores["raw observations"]["action"] > 0.95 > scores["constant"]["action"] + 0.3
    assert scores["raw observations"]["observation"] > 0.999 > scores["one"]["observation"] > 0.8
    assert scores["one"]["reward"] < 0.1
    assert scores["one"] == scores["two"]  # their trunks are equal
    assert result["rows"]["train"] == 500
    lines = out.splitlines()
    assert any(line.split()[:2] == ["raw", "observations"] for line in lines) and "scores/probe.json" in lines[-1]
    assert run(capsys, "probe", "one", "data=demo", "rows=500", "seed=1", "out=scores/probe.json")[0] == 0  # anew


def test_it_says_which_backbone_has_seen_the_validation_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstrations(Path("demo"), episodes=20)
    model = write_backbone(Path("b"), hidden=[8])
    card = {"data": {"sha256": open_dataset(Path("demo")).content_hash}, "settings": {"seed": 3, "validation": 0.2}}
    folder.save(Path("b"), model, card)
    status, out, _ = run(capsys, "probe", "b", "data=demo")
    assert status == 0 and "seed=3 and validation=0.2 have those of its pretraining" in out
    status, out, _ = run(capsys, "probe", "b", "data=demo", "seed=3", "validation=0.2")
    assert status == 0 and "note:" not in out


def test_earlier_pretrainings_count_where_the_trunk_learned(capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstrations(Path("demo"), episodes=20)
    small = ["data=demo", "epochs=1"]
    begins = ["pretrain", "selfpred", *small, "backbone.hidden=[8]", "validation=0.2", "seed=3", "run_dir=first"]
    assert run(capsys, *begins)[0] == 0
    assert run(capsys, "pretrain", "bc", *small, "backbone=first", "run_dir=second")[0] == 0
    assert run(capsys, "pretrain", "critic", *small, "backbone=second", "freeze_trunk=true", "run_dir=third")[0] == 0
    status, out, _ = run(capsys, "probe", "third", "data=demo")
    assert status == 0 and "third was pretrained more than once" in out
    clone = ["pretrain", "bc", *small, "backbone.hidden=[8]", "validation=0.2", "seed=3", "run_dir=clone"]
    assert run(capsys, *clone)[0] == 0
    frozen = ["pretrain", "critic", *small, "backbone=clone", "freeze_trunk=true", "run_dir=frozen"]
    assert run(capsys, *frozen)[0] == 0
    status, out, _ = run(capsys, "probe", "frozen", "data=demo", "seed=3", "validation=0.2")
    assert status == 0 and "note:" not in out  # the critic's other validation episodes are those of a frozen trunk


def write_report(path: Path, backbone: str, gain: float) -> None:
    """Write what a probe reads of a transfer report: the backbone is better by `gain` from the middle on."""
    band: dict[str, list[list[float]]] = {
        "scratch": [[0, 0.0, 0, 0], [50, 10.0, 0, 0], [100, 10.0, 0, 0]],
        "backbone": [[0, 0.0, 0, 0], [50, 10.0 + gain, 0, 0], [100, 10.0 + gain, 0, 0]],
    }
    arms: list[dict[str, Any]] = [{"name": name, "band": rows} for name, rows in band.items()]
    arms[1]["final_gap"] = {"iqm": gain}
    path.mkdir()
    sha256 = folder.load(Path(backbone)).sha256
    (path / "report.json").write_text(json.dumps({"arms": arms, "backbone": {"sha256": sha256}}))


def test_scores_are_correlated_with_measured_transfer(capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstrations(Path("demo"), episodes=20)
    names = ["narrow", "middle", "wide"]
    for name, width, gain in zip(names, (2, 3, 12), (1.0, 2.0, 3.0), strict=True):
        write_backbone(Path(name), hidden=[width])
        write_report(Path(f"report-{name}"), name, gain)
    reports = ",".join(f"report-{name}" for name in names)
    status, out, _ = run(capsys, "probe", *names, "data=demo", f"transfer={reports}", "--json")
    result = json.loads(out.splitlines()[-1])
    assert status == 0 and result["transfer"] == json.loads(Path("probe.json").read_text())["transfer"]
    measured = {each["name"]: (each["mean_gain"], each["final_gap"]) for each in result["transfer"]["backbones"]}
    assert measured == {"narrow": (0.75, 1.0), "middle": (1.5, 2.0), "wide": (2.25, 3.0)}
    scores = {each["name"]: each["scores"]["observation"] for each in result["representations"]}
    assert scores["narrow"] < scores["middle"] < scores["wide"]
    assert result["transfer"]["spearman"]["observation"] == {"mean gain": 1.0, "final gap": 1.0}
    status, _, err = run(capsys, "probe", *names, "data=demo", "transfer=report-wide")
    assert status == 2 and "reports of 3 backbones or more, not of 1" in err
    status, _, err = run(capsys, "probe", "wide", "data=demo", f"transfer={reports}")
    assert status == 2 and "which is not probed" in err and err.splitlines()[-1].startswith("rl-lab: transfer=report-")
    Path("report-wide/report.json").write_text('{"arms": []}')
    status, _, err = run(capsys, "probe", *names, "data=demo", f"transfer={reports}")
    assert status == 2 and "report.json is damaged" in err and err.count("\n") == 1


WRONG: dict[str, tuple[list[str], str]] = {
    "no backbone": (["data=demo"], "name the backbones to probe"),
    "unknown backbone": (["bb", "data=demo"], "no backbone bb; name a folder, or a run"),
    "no data": (["b"], "say which data set to probe on: data=DIR"),
    "missing data": (["b", "data=dmo"], "dmo: no such data set"),
    "other world": (["acrobot", "data=demo"], "backbone acrobot observes float32 [6]"),
    "key": (["b", "data=demo", "row=3"], "probe has no key 'row'; did you mean 'rows'?"),
    "rows": (["b", "data=demo", "rows=0"], "rows=0: expected 10 to"),
    "validation": (["b", "data=demo", "validation=1"], "expected a number between 0 and 1"),
    "twice": (["b", "b", "data=demo"], "named twice"),
    "no report": (["b", "data=demo", "transfer=demo"], "is no report of rl-lab transfer-report"),
    "another's file": (["b", "data=demo", "out=notes.json"], "exists, and is not of rl-lab probe"),
    "one level": (["b", "data=single"], "episodes of one level seed only"),
    "collapsed": (["flat", "data=demo"], "backbone flat: its features have collapsed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_demonstrations(Path("demo"), episodes=4)
    columns = random_columns(cartpole_metadata(), [9, 9])
    write_data_set(Path("single"), cartpole_metadata(), dataclasses.replace(columns, seeds=np.zeros(2, np.int64)))
    write_backbone(Path("b"))
    write_backbone(Path("acrobot"), world="acrobot")
    flat = write_backbone(Path("flat"), hidden=[8])
    flat.trunk.layers[0].weight.data.zero_()  # type: ignore[index, union-attr]
    folder.save(Path("flat"), flat, {})
    Path("notes.json").write_text("{}")
    words, expected = WRONG[name]
    status, _, err = run(capsys, "probe", *words)
    assert status == 2 and expected in err.splitlines()[-1] and "Traceback" not in err
    assert not Path("probe.json").exists()
