"""Tests of environments that are made from recipes: divided into parts, and in processes without the user's files."""

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


def test_environments_divided_into_parts_have_the_same_episodes() -> None:
    """Each world has the same episodes in any division."""
    parts = 3
    recipe = dataclasses.replace(recipe_of(compose("cartpole", ["worlds=12", "seed=5"])), threads=1)
    undivided, divided = recipe.make(), [part.make() for part in recipe.split(parts)]
    for envs in (undivided, *divided):
        envs.reset()
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert np.array_equal(undivided.observations, np.concatenate([envs.observations for envs in divided]))
        actions = rng.integers(2, size=(12, 1))
        for envs, actions_of_part in zip([undivided, *divided], [actions, *np.split(actions, parts)], strict=True):
            envs.actions[...] = actions_of_part
            envs.step()
        assert np.array_equal(undivided.done, np.concatenate([envs.done for envs in divided]))


def test_random_opponents_in_two_parts_choose_different_actions() -> None:
    """Row 0 of each part has the same number; the opponents' seeds must differ all the same."""
    recipe = recipe_of(compose("tic_tac_toe", ["worlds=64", "opponent=random"]))
    parts = [dataclasses.replace(part, threads=1) for part in recipe.split(2)]
    first, second, second_made_again = (part.make().reset() for part in (*parts, parts[1]))
    started = [index for index in range(32) if first[index].any() and second[index].any()]
    assert any(not np.array_equal(first[index], second[index]) for index in started)
    assert np.array_equal(second, second_made_again)


def test_environments_that_cannot_be_divided_equally_are_refused() -> None:
    recipe = recipe_of(compose("cartpole", ["worlds=12"]))
    assert [(part.first, part.num_envs) for part in recipe.split(3)] == [(0, 4), (4, 4), (8, 4)]
    with pytest.raises(ValueError, match="worlds=12 cannot be divided among 5 env_runners: 10 can"):
        recipe.split(5)


@pytest.mark.parametrize("name", ["walk.py", "corridors.walk:world"])
def test_a_recipe_makes_a_users_world_without_the_users_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_folder, worker_folder = tmp_path / "here", tmp_path / "there"
    file = user_folder / ("walk.py" if name.endswith(".py") else "corridors/walk.py")
    file.parent.mkdir(parents=True)
    worker_folder.mkdir()
    file.write_text(WALK)
    monkeypatch.chdir(user_folder)
    recipe = recipe_of(compose(name, ["worlds=3"]))
    packed = pickle.dumps(dataclasses.replace(recipe, threads=1))
    file.unlink()
    user_code.reset_permissions(None)
    monkeypatch.chdir(worker_folder)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: worker_folder / "cache")
    envs = pickle.loads(packed).make()
    assert envs.num_envs == 3 and envs.world.name == "walk"
    assert [path.read_text() for path in worker_folder.rglob("walk.py")] == [WALK]


def test_a_copy_of_a_users_file_that_was_changed_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
