"""What is broken is a row of its list that says so; the others are listed all the same."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

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
def test_one_broken_file_is_a_row(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, suffix, text, told = BROKEN[name]
    kind = name.split()[0]
    if suffix == "yaml":
        from rl_lab.experiments import scenario_yaml

        few = scenario_yaml.names()[:3]  # each takes a while to be composed
        monkeypatch.setattr(scenario_yaml, "names", lambda: few)
    main(["list", kind, "--json"])
    before = json.loads(capsys.readouterr().out)["items"]
    file = f"zz_broken{list(BROKEN).index(name)}"
    if suffix == "yaml":
        monkeypatch.setattr(scenario_yaml, "names", lambda: [*few, file])
    else:
        (tmp_path / f"{file}.{suffix}").write_text(text)
        module = importlib.import_module(f"rl_lab.{package}")
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(tmp_path)])
    assert main(["list", kind, "--json"]) == 0
    after = json.loads(capsys.readouterr().out)["items"]
    (row,) = [item for item in after if item not in before]
    assert row["name"] == file and row[told].startswith("broken: ") and set(row) == set(before[0])
    assert [item for item in after if item in before] == before
    assert main(["list", kind]) == 0
    out, err = capsys.readouterr()
    assert f"{file} " in out and "Traceback" not in out + err


def test_one_damaged_run_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rl_lab.experiments.run_dir import Run

    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text('{"scenario": "catch", "agent": "ppo", "seed": 0}')
        (tmp_path / "runs" / name / "config.yaml").write_text("world: catch\n")
    facts = Run.metadata

    def damaged(self: Run) -> dict[str, object]:
        if self.path.name == "a":
            raise OSError(5, "Input/output error")
        return facts(self)

    monkeypatch.setattr(Run, "metadata", damaged)
    assert main(["list", "runs", "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert {Path(i["name"]).name: str(i["scenario"]).partition(":")[0] for i in items} == {"a": "broken", "b": "catch"}
