"""Self-prediction: what it learns, that it stays within episodes and without rewards, and when it gives up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.backbones import train, trainer_of
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.core.errors import UsageError
from rl_lab.datasets.columns import Columns
from rl_lab.datasets.dataset import open_dataset
from rl_lab.learners.pretraining.examples import Examples, FutureSteps
from rl_lab.learners.pretraining.feature_statistics import FeatureStatistics, feature_statistics
from rl_lab.learners.pretraining.model import tensor_hash

LENGTH, EPISODES = 25, 40


def walk_columns() -> Columns:
    """Return episodes in which action 1 adds (0.3, 0.1, -0.3, 0.2) to the observation, and action 0 subtracts it."""
    columns = random_columns(cartpole_metadata(), [LENGTH] * EPISODES)
    rng = np.random.default_rng(3)
    steps = np.where(columns.actions == 1, 1.0, -1.0).reshape(EPISODES, LENGTH, 1) * (0.3, 0.1, -0.3, 0.2)
    after = rng.normal(size=(EPISODES, 1, 4)) + steps.cumsum(1)
    observations = (after - steps).astype(np.float32).reshape(-1, 4)
    return dataclasses.replace(columns, observations=observations, final_observations=after[:, -1].astype(np.float32))


def write_walks(path: Path, **changes: np.ndarray) -> Path:
    write_data_set(path, cartpole_metadata(), dataclasses.replace(walk_columns(), **changes))
    return path


def test_it_learns_what_actions_do_and_how_features_go_on(tmp_path: Path) -> None:
    trainer = trainer_of(write_walks(tmp_path / "d"), "selfpred", epochs=6, patience=1, horizon=2)
    first = trainer.validate()
    scores = train(trainer).best_scores
    assert trainer.epoch == 6  # its scores do not end it early
    # Actions are random, so that the observation alone tells nothing about them.
    assert scores["action_accuracy"] > 0.95 and first["action_accuracy"] < 0.7
    assert scores["similarity"] > 0.9 and abs(scores["similarity_to_others"]) < 0.2


def test_sequences_end_with_their_episode(tmp_path: Path) -> None:
    data = open_dataset(write_walks(tmp_path / "d"))
    rows = np.array([LENGTH - 2, LENGTH - 1, LENGTH, len(data.rewards) - 1])
    after = Examples(data, 0.3, 0, "cpu").sequences(rows, 3)
    assert after.is_inside.tolist() == [[True, True, False], [True, False, False], [True] * 3, [True, False, False]]
    assert torch.equal(after.observations[0, 0], torch.tensor(data.observations[LENGTH - 1]))
    assert torch.equal(after.observations[0, 1], torch.tensor(data.final_observations[0]))
    assert after.actions[2].tolist() == data.actions[LENGTH : LENGTH + 3].tolist()


def test_neither_other_episodes_nor_rewards_change_the_loss(tmp_path: Path) -> None:
    columns = walk_columns()
    others = columns.observations.copy()
    others[LENGTH:] *= -7
    rewards = np.full_like(columns.rewards, 1e6)
    losses = []
    for name, changes in {"as it was": {}, "changed": {"observations": others, "rewards": rewards}}.items():
        trainer = trainer_of(write_walks(tmp_path / name, **changes), "selfpred")
        losses.append(trainer.method.loss(trainer.model, trainer.examples.batch(np.arange(LENGTH))).item())
    assert losses[0] == losses[1]


def test_what_lies_beyond_the_end_of_an_episode_does_not_change_the_loss(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer = trainer_of(write_walks(tmp_path / "d"), "selfpred", horizon=4)
    batch, sequences = trainer.examples.batch(np.arange(LENGTH)), trainer.examples.sequences
    loss = trainer.method.loss(trainer.model, batch).item()

    def changed_beyond_the_end(rows: np.ndarray, horizon: int) -> FutureSteps:
        following = sequences(rows, horizon)
        assert not following.is_inside.all()
        following.observations[~following.is_inside] = 50.0
        return following

    monkeypatch.setattr(trainer.examples, "sequences", changed_beyond_the_end)
    assert trainer.method.loss(trainer.model, batch).item() == loss


@pytest.mark.parametrize(("momentum", "follows"), [(0.0, True), (1.0, False)])
def test_the_target_follows_the_trunk_by_the_momentum(tmp_path: Path, momentum: float, follows: bool) -> None:
    trainer = trainer_of(write_walks(tmp_path / "d"), "selfpred", momentum=momentum, epochs=1)
    target = trainer.method.networks["target"]["trunk"]
    before = tensor_hash(target.state_dict())
    train(trainer)
    assert tensor_hash(target.state_dict()) == (tensor_hash(trainer.model.trunk.state_dict()) if follows else before)


def test_features_that_collapse_end_the_training_in_one_line(tmp_path: Path) -> None:
    trainer = trainer_of(write_walks(tmp_path / "d"), "selfpred")
    trainer.validate()
    with torch.no_grad():
        trainer.model.trunk.layers[0].weight.zero_()  # type: ignore[union-attr, index]
    with pytest.raises(UsageError, match="the features have collapsed: their .*; try a smaller learning_rate") as error:
        trainer.validate()
    assert "\n" not in str(error.value)


def test_feature_statistics_of_known_features() -> None:
    rng = np.random.default_rng(0)
    untrained = FeatureStatistics(0.5, 12.0)
    isotropic = feature_statistics(rng.normal(size=(4000, 8)))
    assert isotropic.spread == pytest.approx(1.0, abs=0.01) and isotropic.rank == pytest.approx(8.0, abs=0.02)
    assert not isotropic.collapse(untrained)
    equal = feature_statistics(np.full((50, 8), 0.1, np.float32))
    assert (equal.spread, equal.rank) == (0.0, 1.0) and "standard deviation" in equal.collapse(untrained)
    small = FeatureStatistics(0.008, 12.0)  # of an untrained trunk with a spread of 0.5 it is a collapse
    assert small.collapse(untrained) and not small.collapse(FeatureStatistics(0.02, 12.0))
    line = feature_statistics(rng.normal(size=(50, 1)) * np.arange(8.0))
    assert line.rank == pytest.approx(1.0) and "effective rank is 1, below 1.5" in line.collapse(untrained)
    assert not line.collapse(FeatureStatistics(0.5, 1.0))  # the untrained trunk has no more
