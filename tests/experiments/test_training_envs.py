"""The environments of a training, divided into parts that other processes make from recipes."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from support.walk_world import WALK

from rl_lab.engine import packed_code, user_code
from rl_lab.experiments.compose import compose
from rl_lab.experiments.training_envs import recipe_of


def test_parts_are_the_whole() -> None:
    """Each world has the same episodes, whichever process steps it."""
    parts = 3
    recipe = dataclasses.replace(recipe_of(compose("cartpole", ["worlds=12", "seed=5"])), threads=1)
    whole, divided = recipe.make(), [part.make() for part in recipe.split(parts)]
    for envs in (whole, *divided):
        envs.reset()
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert np.array_equal(whole.observations, np.concatenate([envs.observations for envs in divided]))
        actions = rng.integers(2, size=(12, 1))
        for envs, chosen in zip([whole, *divided], [actions, *np.split(actions, parts)], strict=True):
            envs.actions[...] = chosen
            envs.step()
        assert np.array_equal(whole.done, np.concatenate([envs.done for envs in divided]))


def test_random_opponents_of_two_parts_differ() -> None:
    """An opponent has a seed of its own, and row 0 of each part has the same number there."""
    recipe = recipe_of(compose("tic_tac_toe", ["worlds=64", "opponent=random"]))
    parts = [dataclasses.replace(part, threads=1) for part in recipe.split(2)]
    first, second, again = (part.make().reset() for part in (*parts, parts[1]))
    begun = [index for index in range(32) if first[index].any() and second[index].any()]
    assert any(not np.array_equal(first[index], second[index]) for index in begun)
    assert np.array_equal(second, again)


def test_parts_are_equal_or_refused() -> None:
    recipe = recipe_of(compose("cartpole", ["worlds=12"]))
    assert [(part.first, part.num_envs) for part in recipe.split(3)] == [(0, 4), (4, 4), (8, 4)]
    with pytest.raises(ValueError, match="worlds=12 cannot be divided among 5 env_runners: 10 can"):
        recipe.split(5)


@pytest.mark.parametrize("name", ["walk.py", "corridors.walk:world"])
def test_a_machine_without_the_users_file_makes_its_world(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    file = here / ("walk.py" if name.endswith(".py") else "corridors/walk.py")
    file.parent.mkdir(parents=True)
    there.mkdir()
    file.write_text(WALK)
    monkeypatch.chdir(here)
    recipe = recipe_of(compose(name, ["worlds=3"]))
    packed = pickle.dumps(dataclasses.replace(recipe, threads=1))
    file.unlink()
    user_code.reset_permissions(None)
    monkeypatch.chdir(there)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: there / "cache")
    envs = pickle.loads(packed).make()
    assert envs.num_envs == 3 and envs.world.name == "walk"
    assert [path.read_text() for path in there.rglob("walk.py")] == [WALK]


def test_a_copy_that_was_changed_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "walk.py").write_text(WALK)
    monkeypatch.chdir(tmp_path)
    world = compose("walk.py").world
    packed = packed_code.pack(world)
    assert packed is not None
    (tmp_path / "walk.py").unlink()
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")
    packed.permit()
    (copy,) = (tmp_path / "cache").rglob("walk.py")
    copy.write_text("raise RuntimeError('this was not permitted')")
    packed.permit()
    assert copy.read_text() == WALK
