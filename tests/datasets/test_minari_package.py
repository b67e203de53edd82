"""Minari's own package reads the data sets of this one, and the other way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.datasets.dataset import open_dataset

# It is in the extra `dev`, so CI has it. An environment that was made before it was added still runs all other tests.
minari = pytest.importorskip("minari", reason='Minari is not installed: pip install "rl-lab[dev]"')


def test_minari_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = cartpole_metadata(mask_size=2)
    columns = random_columns(about, [3, 1, 5])
    write_data_set(tmp_path / "demo-v0", about, columns)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert list(minari.list_local_datasets()) == ["demo-v0"]
    data = minari.load_dataset("demo-v0")
    assert (data.total_episodes, data.total_steps) == (3, 9)
    assert (data.observation_space, data.action_space) == (about.observation_space, about.action_space)
    for index, episode in enumerate(data.iterate_episodes()):
        steps = slice(columns.offsets[index], columns.offsets[index + 1])
        np.testing.assert_array_equal(episode.observations[:-1], columns.observations[steps])
        np.testing.assert_array_equal(episode.observations[-1], columns.final_observations[index])
        np.testing.assert_array_equal(episode.actions, columns.actions[steps])
        np.testing.assert_array_equal(episode.rewards, columns.rewards[steps])
        np.testing.assert_array_equal(episode.terminations, columns.terminated[steps])
        np.testing.assert_array_equal(episode.truncations, columns.truncated[steps])
        np.testing.assert_array_equal(episode.infos["action_mask"][:-1], columns.action_masks[steps])
    assert [each["seed"] for each in data.storage.get_episode_metadata(range(3))] == columns.seeds.tolist()


def test_minari_reads_pictures_as_they_were_written(tmp_path: Path) -> None:
    about = cartpole_metadata(Box(0, 255, (32, 32, 3), np.uint8))
    columns = random_columns(about, [2])
    write_data_set(tmp_path / "demo-v0", about, columns)
    (episode,) = minari.MinariDataset(tmp_path / "demo-v0" / "data").iterate_episodes()
    np.testing.assert_array_equal(episode.observations[:-1], columns.observations)


def test_minari_makes_the_environment_of_a_collected_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rl_lab.cli import main

    out = tmp_path / "demos" / "cartpole-v0"
    words = f"data collect random world=cartpole world.params.gravity=5 episodes=2 out={out}"
    assert main(words.split()) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = minari.load_dataset("demos/cartpole-v0")
    env = data.recover_environment()
    seeds = [each["seed"] for each in data.storage.get_episode_metadata(range(2))]
    for seed, episode in zip(seeds, data, strict=True):
        observations = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in episode.actions)]
        np.testing.assert_array_equal(observations, episode.observations)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_data_that_minari_has_written_are_read(tmp_path: Path, data_format: str) -> None:
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    about = cartpole_metadata(Box(0, 255, (3, 2), np.uint8), Box(-1.0, 1.0, (2,), np.float32))
    columns = random_columns(about, [3, 1, 5])
    spaces = {"observation_space": about.observation_space, "action_space": about.action_space}
    storage = MinariStorage.new(tmp_path, data_format=data_format, jpeg_encoding=False, **spaces)
    storage.update_metadata({"dataset_id": "theirs-v0", "minari_version": minari.__version__})
    for index in range(3):
        steps = slice(columns.offsets[index], columns.offsets[index + 1])
        buffer = EpisodeBuffer(
            id=index,
            seed=int(columns.seeds[index]) if index else None,
            observations=np.concatenate([columns.observations[steps], columns.final_observations[index, None]]),
            actions=columns.actions[steps],
            rewards=columns.rewards[steps].tolist(),
            terminations=columns.terminated[steps].tolist(),
            truncations=columns.truncated[steps].tolist(),
        )
        storage.update_episodes([buffer])
    data = open_dataset(tmp_path)
    np.testing.assert_array_equal(data.observations, columns.observations)
    np.testing.assert_array_equal(data.final_observations, columns.final_observations)
    np.testing.assert_array_equal(data.actions, columns.actions)
    np.testing.assert_array_equal(data.rewards, columns.rewards)
    np.testing.assert_array_equal(data.terminated, columns.terminated)
    np.testing.assert_array_equal(data.truncated, columns.truncated)
    assert data.seeds.tolist() == [-1, 8, 9] and data.group_ids.tolist() == [0, 1, 2]
    assert data.world == "" and data.action_masks is None and data.policies == ("unknown",)
