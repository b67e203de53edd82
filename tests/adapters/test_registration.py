"""These tests check the registration of worlds with Gymnasium, imports from outside the folder, and the version."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeAwareObservation

import rl_lab
from rl_lab.engine import world_registry


@pytest.mark.parametrize("name", world_registry.names())
def test_every_specification_has_the_horizon_of_its_world(name: str) -> None:
    spec = gymnasium.spec(f"rl_lab/{name}-v0")
    assert spec.max_episode_steps == (world_registry.load(name).horizon or None)
    assert EnvSpec.from_json(spec.to_json()).max_episode_steps == spec.max_episode_steps


def test_wrappers_find_the_time_limit() -> None:
    env = TimeAwareObservation(gymnasium.make("rl_lab/catch-v0"), flatten=False)
    observation, _ = env.reset(seed=0)
    assert observation["time"] == 0


@pytest.mark.parametrize("steps", [5, None, -1])
def test_a_limit_of_ones_own_holds_for_one_and_for_many(steps: int | None) -> None:
    """Pendulum's episodes are 200 steps long."""
    expected = steps if steps is not None and steps > 0 else 200
    one = gymnasium.make("rl_lab/pendulum-v0", max_episode_steps=steps)
    many = gymnasium.make_vec("rl_lab/pendulum-v0", 2, "vector_entry_point", max_episode_steps=steps)
    for env in (one, many):
        env.reset(seed=0)
        ends = [bool(np.all(env.step(np.zeros(env.action_space.shape, np.float32))[3])) for _ in range(expected)]
        assert ends == [False] * (expected - 1) + [True]
        env.close()


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="max_episode_steps=0"):
        gymnasium.make_vec("rl_lab/pendulum-v0", 2, "vector_entry_point", max_episode_steps=0)


SCRIPT = """
import rl_lab, gymnasium, rl_lab.cli
from rl_lab.engine import world_registry as worlds
print(rl_lab.__file__)
print(len(worlds.names()), gymnasium.spec("rl_lab/catch-v0").max_episode_steps)
"""


def test_a_script_in_the_folder_above_a_clone_finds_the_package(tmp_path: Path) -> None:
    clone = Path(rl_lab.__file__).parents[1]
    if not (clone / "pyproject.toml").is_file():
        pytest.skip("installed, not a clone")
    (tmp_path / "rl_lab").symlink_to(clone)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    file, rest = done.stdout.splitlines()
    assert os.path.samefile(file, rl_lab.__file__)
    assert rest.split() == [str(len(world_registry.names())), str(world_registry.load("catch").horizon)]


NO_EDITABLE_PACKAGES = """
import sys
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in getattr(each, "__module__", "").lower()]
"""


def test_python_that_is_started_in_a_clone_finds_its_worlds(tmp_path: Path) -> None:
    """Where the package was installed by copying it, it is the clone's that Python finds there."""
    clone = Path(rl_lab.__file__).parents[1]
    if not (clone / "pyproject.toml").is_file():
        pytest.skip("installed, not a clone")
    for name in ("rl_lab", "envs", "agents", "scenarios"):
        (tmp_path / name).symlink_to(clone / name)
    words = [sys.executable, "-c", NO_EDITABLE_PACKAGES + SCRIPT]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    file, rest = done.stdout.splitlines()
    assert Path(file).parents[1] == tmp_path
    assert rest.split() == [str(len(world_registry.names())), str(world_registry.load("catch").horizon)]


@pytest.mark.parametrize("how", [["-m", "rl_lab"], ["-m", "rl_lab.cli"]])
def test_the_version_is_said(how: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, *how, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    from importlib import metadata

    assert done.stdout == f"rl-lab {metadata.version('rl-lab')}\n"
