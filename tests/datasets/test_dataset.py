"""The arrays of a data set: episodes, next observations, returns, and the division by level seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.core.errors import UsageError
from rl_lab.datasets import cache
from rl_lab.datasets.dataset import Dataset, open_dataset

LENGTHS = [3, 1, 5, 2, 2, 4]


@pytest.fixture(name="data")
def _data(tmp_path: Path) -> Dataset:
    about = cartpole_metadata()
    write_data_set(tmp_path / "demo", about, random_columns(about, LENGTHS, groups=2))
    return open_dataset(tmp_path / "demo")


def test_episodes_and_their_steps(data: Dataset) -> None:
    assert (data.num_steps, data.num_episodes, data.lengths.tolist()) == (17, 6, LENGTHS)
    assert data.episode_of(np.arange(17)).tolist() == np.repeat(np.arange(6), LENGTHS).tolist()
    assert data.steps_of(np.array([2, 1])).tolist() == [4, 5, 6, 7, 8, 3]
    assert data.steps_of(np.zeros(0, np.int64)).tolist() == []
    np.testing.assert_allclose(data.returns(), [data.rewards[data.steps_of(np.array([e]))].sum() for e in range(6)])


def test_next_observations_are_of_the_same_episode(data: Dataset) -> None:
    after = data.next_observations(np.array([16, 0, 2, 3]))
    expected = [
        data.final_observations[5],
        data.observations[1],
        data.final_observations[0],
        data.final_observations[1],
    ]
    np.testing.assert_array_equal(after, expected)


@given(st.floats(0.01, 0.99), st.integers(0, 100), st.integers(1, 5))
def test_no_level_seed_lies_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, fraction: float, seed: int, groups: int
) -> None:
    about = cartpole_metadata()
    folder = tmp_path_factory.mktemp("split") / "demo"
    write_data_set(folder, about, random_columns(about, [1] * 20, groups=groups))
    data = open_dataset(folder)
    train, validation = data.split(fraction, seed)
    assert sorted([*train, *validation]) == list(range(20)) and len(train) and len(validation)
    assert not set(data.seeds[train]) & set(data.seeds[validation])
    assert not set(data.group_ids[train]) & set(data.group_ids[validation])
    assert abs(len(validation) - fraction * 20) <= groups
    again = data.split(fraction, seed)
    np.testing.assert_array_equal(validation, again[1])


def test_a_division_that_cannot_be_made_is_refused(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        data.split(1.0, 0)
    about = cartpole_metadata()
    write_data_set(tmp_path / "one", about, random_columns(about, [2, 2], groups=2))
    with pytest.raises(ValueError, match="one level seed only"):
        open_dataset(tmp_path / "one").split(0.5, 0)


def test_what_is_cached_is_checked_again_against_other_spaces(data: Dataset) -> None:
    file = data.path / "data" / "metadata.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"action_space": '{"type": "Discrete", "n": 1, "start": 0}'}))
    with pytest.raises(UsageError, match="expected 0 to 0"):
        open_dataset(data.path)


def test_the_cache_is_named_after_the_data_and_repaired(data: Dataset, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "demo", tmp_path / "copy")
    assert open_dataset(tmp_path / "copy").content_hash == data.content_hash
    (folder,) = cache.root().iterdir()
    assert folder.name.startswith(data.content_hash)
    expected = np.array(data.observations)
    (folder / "observations.npy").write_bytes(b"damaged")
    (folder / "rewards.npy").unlink()
    np.testing.assert_array_equal(open_dataset(tmp_path / "demo").observations, expected)
    assert [each.name for each in cache.root().iterdir()] == [folder.name]
