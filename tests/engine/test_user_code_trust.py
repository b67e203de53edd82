"""These tests check which code a file from somebody else may name: the same world that the user ran, nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core.errors import UsageError
from rl_lab.engine import source_modules, user_code

ENV = """
from subprocess import run
import gymnasium, numpy as np
from gymnasium.spaces import Box, Discrete

class Env(gymnasium.Env):
    observation_space = Box(-5, 5, (1,), np.float32)
    action_space = Discrete(2)
    render_mode = None

    def __init__(self, size=3.0):
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 0.0, False, self.t >= 9, {}

class Other(Env):
    def __init__(self, **given):
        open("PWNED", "w").close()
"""
SMALL = "budget=64 worlds=1 agent.n_steps=32 agent.batch_size=32 agent.net_arch=[8] evaluation.episodes=2".split()
SMALL += "evaluation.selections=1 evaluation.selection_episodes=1 video=false run_dir=run".split()
RUN = {"args": "touch PWNED", "shell": True}


@pytest.fixture(autouse=True)
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    user_code.reset_permissions(None)
    folder = tmp_path / "project_folder"
    folder.mkdir()
    (folder / "env.py").write_text(ENV)
    monkeypatch.chdir(folder)
    return folder


def expect_refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line that a command is refused with; nothing of the file has run."""
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    assert code == 2 and not out and len(err.splitlines()) == 1, err
    assert not Path("PWNED").exists()
    return err


def world(name: str, params: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "params": params, "file": "env.py", "sha256": source_modules.digest(Path("env.py")), **more}


MEMBERS = [
    ("env.py:run", RUN, {}),
    ("env:run", RUN, {}),
    ("env.py:Other", {}, {}),
    ("gym:env.py:their/Id-v0", RUN, {"entry": "run"}),
    ("gym:their/Id-v0", RUN, {"entry": "run"}),
    ("pettingzoo:env.py:run", RUN, {}),
]


@pytest.mark.parametrize("name, params, more", MEMBERS)
def test_a_file_that_names_another_member_of_trusted_code_is_refused(
    name: str, params: dict[str, Any], more: dict[str, Any], capsys: pytest.CaptureFixture[str], project_folder: Path
) -> None:
    assert main(["evaluate", "random", "world=env.py:Env", "evaluation.episodes=1"]) == 0
    (project_folder / "theirs.yaml").write_text(yaml.dump({"world": world(name, params, **more)}))
    assert "--allow-code" in expect_refusal(capsys, "train", "theirs.yaml", *SMALL)
    facts = {"format": "rl_lab.tournament 2", "world": name, "params": params, "schedule": "round-robin"}
    facts |= {"pairs": 1, "rounds": 1, "seed": 0, "opening": 0, "timeout": 1.0, "test": None}
    facts |= {"entrants": [{"name": n, "spec": "random", "kind": "made", "hash": "0"} for n in ("a", "b")]}
    facts |= {"source": world(name, params, **more)}
    (project_folder / "cup").mkdir()
    (project_folder / "cup" / "tournament.json").write_text(json.dumps(facts))
    (project_folder / "cup" / "matches.jsonl").touch()
    assert "--allow-code" in expect_refusal(capsys, "tournament", "resume", "cup")
    user_code.reset_permissions(None)
    if "entry" not in more:  # a trace has the world's name alone
        with pytest.raises(UsageError, match="allow-code"):
            make.make(name, 1, params)
    # Of an allowed file, too, only what it defines runs.
    if params is RUN:
        assert "name it yourself" in expect_refusal(capsys, "train", "theirs.yaml", *SMALL, "--allow-code", "env.py")


def test_a_run_that_names_another_member_is_refused_and_the_users_own_is_not(
    capsys: pytest.CaptureFixture[str], project_folder: Path
) -> None:
    assert main(["train", "env.py:Env", *SMALL]) == 0
    for verb in (["evaluate", "run"], ["resume", "run"]):
        assert main(verb) == 0
    config = project_folder / "run" / "config.yaml"
    facts = yaml.safe_load(config.read_text())
    facts["world"] |= {"name": "env.py:run", "params": RUN}
    config.write_text(yaml.dump(facts))
    for verb in (["evaluate", "run"], ["resume", "run"], ["watch", "run", "--file"], ["export", "run", "a.zip"]):
        assert "--allow-code" in expect_refusal(capsys, *verb)


def test_what_is_allowed_stays_allowed_as_what_it_is(capsys: pytest.CaptureFixture[str], project_folder: Path) -> None:
    (project_folder / "theirs.yaml").write_text(yaml.dump({"world": world("env.py:Env", {})}))
    assert "--allow-code" in expect_refusal(capsys, "train", "theirs.yaml", *SMALL)
    assert main(["train", "theirs.yaml", *SMALL, "--allow-code", "env.py"]) == 0
    assert main(["evaluate", "run"]) == 0
    (project_folder / "theirs.yaml").write_text(yaml.dump({"world": world("env.py:run", RUN)}))
    expect_refusal(capsys, "train", "theirs.yaml", *SMALL)


def test_what_the_user_types_may_come_from_another_module(project_folder: Path) -> None:
    (project_folder / "again.py").write_text("from env import Env\n")
    assert main(["train", "again.py:Env", *SMALL]) == 0
    assert main(["evaluate", "run"]) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"horizon": "x"}, {"horizon": -1}, {"horizon": True}, {"solved": "x"}, {"solved": [1]}, {"entry": 3}, {"file": 1}]
    + [{"sha256": {}}, {"entry": "a.b"}, {"file": "a\0b"}],
)
def test_a_record_of_another_type_is_one_line(
    wrong: dict[str, Any], capsys: pytest.CaptureFixture[str], project_folder: Path
) -> None:
    (key,) = wrong
    (project_folder / "theirs.yaml").write_text(
        yaml.dump({"world": world("gym:their/Id-v0", {}, **{"entry": "Env", **wrong})})
    )
    assert f"world's {key} is" in expect_refusal(capsys, "train", "theirs.yaml", *SMALL)
    with pytest.raises(UsageError, match=f"world's {key} is"):
        user_code.permit_recorded("gym:their/Id-v0", {"file": "env.py", "entry": "Env", **wrong}, "tournament.json")


def test_only_the_allowed_file_runs_under_a_modules_name(
    capsys: pytest.CaptureFixture[str], project_folder: Path
) -> None:
    evil = "open('PWNED', 'w').close()\n" + ENV
    for folder, files in {"evil": ["evil.py", "__init__.py"], "a": ["b.py"], "x": ["b.py"]}.items():
        (project_folder / folder).mkdir()
        for file in files:
            (project_folder / folder / file).write_text(evil)
    for name, allowed in {"evil:Env": "evil/env.py", "a.b:Env": "x/b.py", "a:Env": "x/b.py"}.items():
        (project_folder / allowed).write_text(ENV)
        (project_folder / "theirs.yaml").write_text(yaml.dump({"world": name}))
        expect_refusal(capsys, "train", "theirs.yaml", *SMALL, "--allow-code", allowed)


def test_compiled_python_beside_a_module_does_not_run(project_folder: Path) -> None:
    import os
    import py_compile

    mine = project_folder / "mine.py"
    mine.write_text("open('PWNED', 'w').close()\n".ljust(len(ENV) + 50))
    assert py_compile.compile(str(mine), doraise=True)
    stat = mine.stat()
    mine.write_text(ENV.ljust(len(ENV) + 50))
    os.utime(mine, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert main(["evaluate", "random", "world=mine:Env", "evaluation.episodes=1"]) == 0
    assert not Path("PWNED").exists() and "their/Id-v0" not in gymnasium.registry
