"""These tests check environments and worlds in the user's own files, named on the command line, with every command."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest
import yaml
from support import programs

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core.errors import UsageError
from rl_lab.engine import source_modules, user_code
from rl_lab.experiments.compose import compose

POINT = """
import gymnasium, numpy as np
from gymnasium.spaces import Box, Discrete

class Point(gymnasium.Env):
    observation_space = Box(-5, 5, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self, size=3.0):
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1), 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x, self.t = self.x + action - 0.5, self.t + 1
        seen = np.array([np.clip(self.x, -5, 5)], np.float32)
        return seen, float(self.x > self.size), bool(abs(self.x) > self.size), self.t >= 20, {}

def made(size=3.0):
    return gymnasium.wrappers.TimeLimit(Point(size), 7)

gymnasium.register("mine/Point-v0", entry_point="my_env:Point", max_episode_steps=15)
"""
ZOO = """
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from pettingzoo.utils import parallel_to_aec

class Zoo(ParallelEnv):
    metadata, render_mode = {"name": "zoo_v0", "render_modes": []}, None

    def __init__(self, size=3.0):
        self.possible_agents, self.size = ["a", "b"], size

    def observation_space(self, agent):
        return Box(-9, 9, (2,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        self.x = dict(zip(self.agents, np.random.default_rng(seed).uniform(-1, 1, 2).tolist()))
        return self.seen(), {agent: {} for agent in self.agents}

    def seen(self):
        return {agent: np.array([self.x[agent], self.t / 10], np.float32) for agent in self.agents}

    def step(self, actions):
        self.t, there = self.t + 1, list(self.agents)
        for agent, action in actions.items():
            self.x[agent] += 0.3 * action
        seen, over = self.seen(), self.t >= 10
        self.agents = [] if over else there
        flags = dict.fromkeys(there, over)
        return seen, dict(self.x), dict.fromkeys(there, False), flags, {agent: {} for agent in there}

def parallel_env(**arguments):
    return Zoo(**arguments)

def turns(**arguments):
    return parallel_to_aec(Zoo(**arguments))
"""
SMALL = "budget=64 worlds=1 agent.n_steps=32 agent.batch_size=32 agent.net_arch=[8] evaluation.episodes=3".split()
SMALL += "evaluation.selections=1 evaluation.selection_episodes=1 video=false run_dir=run".split()
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of a user's own, and no code trusted yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    user_code.reset_permissions(None)
    for identity in ("mine/Point-v0", "other/Wide-v0"):
        gymnasium.registry.pop(identity, None)
    folder = tmp_path / "project_folder"
    folder.mkdir()
    (folder / "my_env.py").write_text(POINT)
    (folder / "my_zoo.py").write_text(ZOO)
    envs = Path(make.__file__).parents[2] / "envs"
    for name, own in (("catch", "maze"), ("tic_tac_toe", "board")):
        text = (envs / f"{name}.py").read_text().replace("from ._games", "from rl_lab.envs._games")
        (folder / f"{own}.py").write_text(text)
    (folder / "sub").mkdir()
    shutil.copy(folder / "my_env.py", folder / "sub" / "random.py")  # the name of a module of Python's
    monkeypatch.chdir(folder)
    return folder


NAMES = {
    "my_env.py:Point": "my_env.py:Point",
    "my_env.py": "my_env.py:Point",
    "sub/random.py:Point": "random.py:Point",
    "my_env.py:made": "my_env.py:made",
    "my_env:Point": "my_env:Point",
    "gym:my_env:mine/Point-v0": "gym:my_env:mine/Point-v0",
    "gym:my_env.py:mine/Point-v0": "gym:my_env.py:mine/Point-v0",
    "pettingzoo:my_zoo": "pettingzoo:my_zoo",
    "my_zoo.py:Zoo": "my_zoo.py:Zoo",
    "my_zoo.py:turns": "my_zoo.py:turns",
    "maze.py": "maze.py:world",
    "maze.py:world": "maze.py:world",
}


@pytest.mark.parametrize("named, known", NAMES.items())
def test_every_verb_takes_a_world_of_ones_own(named: str, known: str, run_cli: Call, project_folder: Path) -> None:
    parameter = "world.params.speed=2" if "maze" in named else "world.params.size=2.5"
    code, _, said = run_cli("train", f"world={named}", parameter, *SMALL)
    assert code == 0, said
    config = yaml.safe_load((project_folder / "run" / "config.yaml").read_text())["world"]
    assert (
        config["name"] == known and (project_folder / "run" / config["file"]).is_file() and len(config["sha256"]) == 64
    )
    code, out, said = run_cli("evaluate", "run", "--json")
    assert code == 0, said
    summary = json.loads(out.splitlines()[-1])
    field, _, value = parameter.removeprefix("world.params.").partition("=")
    assert summary["episodes"] == 3 and summary["world"] == known and summary["params"][field] == float(value)
    if known.endswith(("made", "v0")):
        assert summary["mean_length"] <= {"made": 7, "v0": 15}[known[-4:].removeprefix("t-")]
    code, _, said = run_cli("watch", "run", "--file", "--out", "films")
    assert code == 0 and len(list((project_folder / "films").glob("*.mp4"))) == 1, said
    assert run_cli("resume", "run")[0] == 0
    code, out, said = run_cli("evaluate", "random", f"world={named}", "evaluation.episodes=2", "--json")
    assert code == 0, said


# Worker processes take seconds to start: with a foreign environment in them, too, in `make slow`.
@pytest.mark.parametrize(
    ("named", "workers"),
    [
        ("board.py", "2"),
        ("my_zoo.py:turns", "1"),
        pytest.param("board.py", "1", marks=pytest.mark.slow),
        pytest.param("my_zoo.py:turns", "2", marks=pytest.mark.slow),
    ],
)
def test_a_tournament_in_a_world_of_ones_own(named: str, workers: str, run_cli: Call, project_folder: Path) -> None:
    opponent = ["opponent=random"] if named == "board.py" else []
    code, _, said = run_cli("train", named, *SMALL, *opponent)
    assert code == 0, said
    words = ["--pairs", "2", "--workers", workers, "--dir", "cup"]
    code, _, said = run_cli("tournament", named, "one=run", "other=random", *words)
    assert code == 0, said
    assert len((project_folder / "cup" / "matches.jsonl").read_text().splitlines()) == 4
    for verb in ("rate", "resume"):
        code, _, said = run_cli("tournament", verb, "cup")
        assert code == 0, said
    (project_folder / named.partition(":")[0]).write_text(
        f"# changed\n{(project_folder / named.partition(':')[0]).read_text()}"
    )
    code, _, said = run_cli("tournament", "rate", "cup")
    assert code == 2 and "--allow-code" in said


def test_an_agent_of_ones_own_environment_is_exported(run_cli: Call, project_folder: Path) -> None:
    assert run_cli("train", "my_env.py:Point", *SMALL)[0] == 0
    code, _, said = run_cli("export", "run", "agent.zip")
    assert code == 0, said
    assert (project_folder / "agent.zip").is_file()


def test_a_lab_world_is_exploited_and_trained_against_a_run(run_cli: Call) -> None:
    assert run_cli("train", "board.py", "opponent=random", *SMALL)[0] == 0
    code, _, said = run_cli("exploit", "run")
    assert code == 0, said
    assert run_cli("train", "board.py", "opponent=run", *SMALL[:-1], "run_dir=second")[0] == 0


# What may run


@pytest.fixture
def trained_run(run_cli: Call, project_folder: Path) -> Path:
    assert run_cli("train", "my_env.py:Point", *SMALL)[0] == 0
    return project_folder / "run"


VERBS = [["evaluate"], ["watch", "--file"], ["resume"], ["export"]]


def arguments_of(verb: list[str], run: str) -> list[str]:
    return [verb[0], run, *verb[1:], *(["agent.zip"] if verb[0] == "export" else [])]


@pytest.mark.parametrize("verb", VERBS)
def test_code_that_has_changed_is_asked_for(
    verb: list[str], trained_run: Path, project_folder: Path, run_cli: Call
) -> None:
    before = source_modules.digest(project_folder / "my_env.py")
    (project_folder / "my_env.py").write_text(f"from pathlib import Path\nPath('ran').touch()\n{POINT}")
    code, _, said = run_cli(*arguments_of(verb, "run"))
    assert code == 2 and len(said.splitlines()) == 1 and not (project_folder / "ran").exists()
    after = source_modules.digest(project_folder / "my_env.py")
    assert "--allow-code" in said and before[:16] in said and after[:16] in said and "my_env.py:Point" in said
    code, _, said = run_cli(*arguments_of(verb, "run"), "--allow-code", "my_env.py")
    assert code == 0 and (project_folder / "ran").exists(), said


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("changed", [False, True])
def test_code_that_comes_with_a_run_does_not_run(
    verb: list[str], changed: bool, trained_run: Path, tmp_path: Path, run_cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(trained_run, theirs / "run")
    (theirs / "my_env.py").write_text(f"{POINT}\nfrom pathlib import Path\nPath('ran').touch()\n" if changed else POINT)
    monkeypatch.chdir(theirs)
    code, _, said = run_cli(*arguments_of(verb, "run"))
    assert code == 2 and "--allow-code" in said and not (theirs / "ran").exists()
    code, _, said = run_cli(*arguments_of(verb, "run"), "--allow-code", "my_env.py")
    assert code == 0, said


def test_a_run_without_its_code_says_what_is_missing(
    trained_run: Path, tmp_path: Path, run_cli: Call, project_folder: Path
) -> None:
    shutil.copytree(trained_run, tmp_path / "far" / "away" / "run")
    os.chdir(tmp_path / "far")
    code, _, said = run_cli("evaluate", "away/run")
    assert code == 2 and "my_env.py:Point" in said and "--allow-code FILE" in said
    code, _, said = run_cli("evaluate", "away/run", "--allow-code", str(project_folder / "my_env.py"))
    assert code == 0, said


@pytest.mark.parametrize(
    "name", ["evil.py:Point", "evil:Point", "gym:evil:mine/Point-v0", "pettingzoo:evil", "evil.py"]
)
def test_what_only_a_recipe_names_does_not_run(name: str, run_cli: Call, project_folder: Path) -> None:
    (project_folder / "evil.py").write_text(f"from pathlib import Path\nPath('ran').touch()\n{POINT}")
    (project_folder / "mine.yaml").write_text(yaml.dump({"world": name}))
    (project_folder / "record.yaml").write_text(
        yaml.dump(
            {"world": {"name": name, "file": "evil.py", "sha256": source_modules.digest(project_folder / "evil.py")}}
        )
    )
    for recipe in ("mine.yaml", "record.yaml"):
        code, _, said = run_cli("train", recipe, *SMALL)
        assert code == 2 and len(said.splitlines()) == 1 and "--allow-code" in said
    with pytest.raises(UsageError, match="allow-code"):
        make.make(name, 1)
    assert not (project_folder / "ran").exists() and not (project_folder / "run").exists()


def test_compiled_python_beside_a_file_does_not_run(run_cli: Call, project_folder: Path) -> None:
    import py_compile

    evil = project_folder / "evil.py"
    evil.write_text(f"open('ran', 'w').close()\n{POINT}".ljust(len(POINT) + 100))
    cached = Path(py_compile.compile(str(evil), doraise=True) or "")
    stat = evil.stat()
    evil.write_text(POINT.ljust(len(POINT) + 100))
    os.utime(evil, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cached.is_file()
    code, _, said = run_cli("evaluate", "random", "world=evil.py:Point", "evaluation.episodes=1")
    assert code == 0 and not (project_folder / "ran").exists(), said


# From Python

SCRIPT = """
import sys
import gymnasium
from my_env import Point
from rl_lab.core.progress import Progress
from rl_lab.experiments.compose import compose
from rl_lab.experiments.trainer import train

class Wide(Point):
    pass

if __name__ == "__main__":
    gymnasium.register("other/Wide-v0", entry_point=Wide, max_episode_steps=9)
    train(compose("gym:other/Wide-v0", sys.argv[1:]), [], Progress(quiet=True))
"""


def test_a_run_made_from_python_is_evaluated_and_watched(run_cli: Call, project_folder: Path) -> None:
    (project_folder / "script.py").write_text(SCRIPT)
    programs.run([sys.executable, "script.py", *SMALL], check=True, timeout=200)
    code, out, said = run_cli("evaluate", "run", "--json")
    assert code == 0, said
    assert json.loads(out.splitlines()[-1])["mean_length"] <= 9
    code, _, said = run_cli("watch", "run", "--file")
    assert code == 0, said


def test_python_may_hand_over_the_class_itself(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(project_folder))
    import my_env

    composed = compose(my_env.Point, ["world.params.size=2"])
    assert composed.world == "my_env.py:Point" and make.make(composed.world, 1, composed.params).world.horizon == 0
    with pytest.raises(UsageError, match="top of a file"):
        compose(lambda: my_env.Point())
    sys.modules.pop("my_env")


# Mistakes


@pytest.mark.parametrize(
    "world, said",
    [
        ("nowhere.py:Point", "no file nowhere.py"),
        ("nowhere:Point", "no module nowhere"),
        ("my_env.py:Pont", "did you mean 'Point'?"),
        ("gym:my_env.py:mine/Pont-v0", "did you mean 'mine/Point-v0'?"),
        ("my_zoo.py:np", "is not a class or function"),
        ("my_env.py:Box", "makes none of"),
        ("gym:theirs/Point-v0", "theirs"),
        ("my_env.py:Point world.params.size=abc", "expects a number"),
        ("my_env.py:Point world.params.siz=1", "it takes size"),
        ("gym:FrozenLake-v1 world.params.map_name=9x9", "map_name='9x9'"),
        ("gym:CartPole-v1 world.params.max_episode_steps=0", "max_episode_steps=0"),
        ("gym:Pendulum-v1 world.params.g=abc", "g=abc"),
        ("gym:Pendulum-v1 +world.params.gravity=1", "no parameter 'gravity'"),
        ("gym:Taxi-v3 world.params.is_rainy=maybe", "true or false"),
        ("pettingzoo:classic/tictactoe_v3 world.params.screen_hight=1", "screen_hight"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "evaluate random"])
def test_a_mistake_is_one_line(verb: str, world: str, said: str, run_cli: Call, project_folder: Path) -> None:
    before = set(project_folder.iterdir())
    code, out, err = run_cli(*verb.split(), *f"world={world}".split())
    assert code == 2 and not out and len(err.splitlines()) == 1 and said in err, err
    assert set(project_folder.iterdir()) - before <= {project_folder / "__pycache__"}


@pytest.mark.parametrize("line", ["1 / 0", "raise SystemExit(3)", "def f(:", "import nothing_of_this_name"])
def test_a_file_that_cannot_be_imported_is_told_with_its_line(line: str, run_cli: Call, project_folder: Path) -> None:
    (project_folder / "broken.py").write_text(f"x = 1\n{line}\n")
    for name in ("broken.py:Point", "gym:broken:mine/Point-v0", "broken.py"):
        code, _, err = run_cli("train", name, *SMALL)
        assert code in (1, 2) and len(err.splitlines()) == 1 and "broken.py:2" in err, err


RELATIVE = "from .beside import SIZE\n"


@pytest.mark.parametrize("command", [["train", "dotted.py"], ["check", "dotted.py"], ["check", "dotted.py:world"]])
def test_a_relative_import_in_a_file_is_told_with_what_to_write(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dotted.py").write_text(RELATIVE)
    (tmp_path / "beside.py").write_text("SIZE = 3\n")
    assert main(command) == 1
    shown = capsys.readouterr()
    said = " ".join((shown.out + shown.err).split())
    assert "dotted.py:1" in said and "rl_lab_user_code" not in said
    assert "import what lies beside it without the dot" in said


def test_check_takes_a_file_that_has_one_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone.py").write_text(POINT)
    main(["check", "--quick", "alone.py"])
    assert "pass  it loads" in capsys.readouterr().out
    assert main(["check", "missing.py"]) == 2
    assert "no file missing.py" in capsys.readouterr().err
