"""Tests of `rl-lab list` with broken files: each is a row with its error, and all others are listed as usual."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rl_lab.cli import main

BROKEN = {
    "worlds": ("envs", "py", "import nothing_of_that_name\n", "what"),
    "worlds that raise": ("envs", "py", "raise KeyError('x')\n", "what"),
    "worlds that are none": ("envs", "py", "x = 1\n", "what"),
    "worlds that do not parse": ("envs", "py", "def step(:\n", "what"),
    "agents": ("agents", "py", "import nothing_of_that_name\n", "what"),
    "scenarios": ("scenarios", "yaml", "world: catch\nagnt: ppo\n", "source"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_world_agent_or_scenario_is_a_row_with_its_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, suffix, text, error_column = BROKEN[name]
    kind = name.split()[0]
    if suffix == "yaml":
        from rl_lab.experiments import scenario_yaml

        first_names = scenario_yaml.names()[:3]  # each takes a while to be composed
        monkeypatch.setattr(scenario_yaml, "names", lambda: first_names)
    main(["list", kind, "--json"])
    before = json.loads(capsys.readouterr().out)["items"]
    file = f"zz_broken{list(BROKEN).index(name)}"
    if suffix == "yaml":
        monkeypatch.setattr(scenario_yaml, "names", lambda: [*first_names, file])
    else:
        (tmp_path / f"{file}.{suffix}").write_text(text)
        module = importlib.import_module(f"rl_lab.{package}")
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(tmp_path)])
    assert main(["list", kind, "--json"]) == 0
    after = json.loads(capsys.readouterr().out)["items"]
    (row,) = [item for item in after if item not in before]
    assert row["name"] == file and row[error_column].startswith("broken: ") and set(row) == set(before[0])
    assert [item for item in after if item in before] == before
    assert main(["list", kind]) == 0
    out, err = capsys.readouterr()
    assert f"{file} " in out and "Traceback" not in out + err


RECORD: dict[str, Any] = {
    "scenario": "catch",
    "world": "catch",
    "agent": "ppo",
    "seed": 0,
    "started": "2026-01-02T03:04:05+0000",
    "settings": {"budget": "8192"},
    "command": ["rl-lab", "train", "catch"],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def is_of_its_type(name: str, value: object) -> bool:
    return type(value) is type(RECORD[name])


DAMAGED = (
    JSON.map(json.dumps)
    | st.binary(max_size=30)
    | st.integers(0, len(json.dumps(RECORD)) - 1).map(lambda length: json.dumps(RECORD)[:length])
    | st.sampled_from(["scenario", "world", "agent", "seed", "started"]).map(
        lambda name: json.dumps({k: v for k, v in RECORD.items() if k != name})
    )
    | st.tuples(st.sampled_from(sorted(RECORD)), JSON)
    .filter(lambda pair: not is_of_its_type(*pair))
    .map(lambda pair: json.dumps({**RECORD, pair[0]: pair[1]}))
)


def make_runs(*names: str) -> None:
    for name in names:
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "run.json").write_text(json.dumps(RECORD))
        Path("runs", name, "config.yaml").write_text("world: catch\n")


def listed_scenarios(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["list", "runs", "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    return {Path(item["name"]).name: item["scenario"] for item in items}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(DAMAGED)
@example(b"\xfb\t\xe2G\xcd")
@example("[]")
@example("null")
@example("")
@example("{}")
@example(json.dumps({**RECORD, "seed": True}))
def test_a_run_with_a_damaged_run_json_is_a_row_with_its_error_and_is_not_resumed(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], content: str | bytes
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("place"))
        make_runs("a", "b")
        record = Path("runs/a/run.json")
        record.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert main(["resume", "runs/a"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"rl-lab: {record} is damaged: ") and line.isprintable()
        scenarios = listed_scenarios(capsys)
        assert scenarios["b"] == "catch" and scenarios["a"].startswith(f"broken: {record} is damaged: ")
        assert sorted(path.name for path in Path("runs/a").iterdir()) == ["config.yaml", "run.json"]


def test_all_commands_refuse_a_run_with_a_damaged_run_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_runs("a")
    Path("runs/a/run.json").write_text("{")
    Path("runs/a/agent/step-000000001").mkdir(parents=True)
    Path("runs/a/agent/step-000000001/manifest.json").write_text("{}")
    message = (
        "runs/a/run.json is damaged: .*; delete it to continue: `rl-lab resume` writes it again from config.yaml\n"
    )
    for words in (
        ["resume", "runs/a"],
        ["evaluate", "runs/a"],
        ["evaluate", "a"],
        ["evaluate", "runs/a@1"],
        ["evaluate", "runs/a/agent"],
        ["watch", "runs/a", "--file"],
        ["export", "runs/a", "a.zip"],
        ["train", "tic_tac_toe", "opponent=runs/a"],
        ["tournament", "tic_tac_toe", "runs/a", "random"],
    ):
        assert main(words) == 2
        assert re.fullmatch(f"rl-lab: .*{message}", capsys.readouterr().err), words


def damage(path: str) -> None:
    file = Path("runs/a", path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        file.unlink()
    else:
        file.write_text("[]")


@pytest.mark.parametrize(
    "path", ["run.json", "config.yaml", "evaluations/1/summary.json", "checkpoints/step-000000001/state.json"]
)
def test_a_run_with_a_damaged_or_missing_file_is_a_row_with_its_error(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_runs("a", "b")
    assert listed_scenarios(capsys) == {"a": "catch", "b": "catch"}
    damage(path)
    scenarios = listed_scenarios(capsys)
    assert scenarios["b"] == "catch" and scenarios["a"].startswith("broken: ")


def test_a_run_with_an_unreadable_config_is_a_row_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_runs("a", "b")
    Path("runs/a/config.yaml").write_text("[")
    assert listed_scenarios(capsys)["a"].startswith("broken: runs/a/config.yaml: line ")
