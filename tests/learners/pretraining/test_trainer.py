"""The pretraining trainer: it learns what the data show and nothing else, and continues to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from support.backbones import train, trainer_of, write_demonstrations
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.datasets.dataset import open_dataset
from rl_lab.learners.pretraining.methods import HEADS, Critic, discounted_sums, macro_f1
from rl_lab.learners.pretraining.model import tensor_hash


def test_bc_learns_a_rule_and_its_scores_are_of_other_episodes(tmp_path: Path) -> None:
    trainer = train(trainer_of(write_demonstrations(tmp_path / "d")))
    assert trainer.best_scores["accuracy"] > 0.95 and trainer.best_scores["f1"] > 0.95
    assert not set(trainer.examples.train) & set(trainer.examples.validation)


def test_without_validation_all_episodes_are_learned_for_all_epochs(tmp_path: Path) -> None:
    path = write_demonstrations(tmp_path / "d", episodes=4, shuffled=True)  # so that scores do not grow for long
    trainer = train(trainer_of(path, validation=0.0, patience=1, epochs=6))
    assert trainer.epoch == 6 and len(trainer.examples.train) == open_dataset(path).num_steps
    last, model = trainer.model.state_dict(), trainer.finished_model().state_dict()
    assert all(torch.equal(last[name], value) for name, value in model.items())


def test_shuffled_labels_give_chance_accuracy(tmp_path: Path) -> None:
    trainer = train(trainer_of(write_demonstrations(tmp_path / "d", shuffled=True)))
    rows = len(trainer.examples.validation)
    # Of a right program, one in a million fails: five deviations of a fair coin's mean.
    assert rows > 500 and abs(trainer.best_scores["accuracy"] - 0.5) < 5 * 0.5 / rows**0.5


@pytest.mark.parametrize("method", HEADS)
def test_a_restored_trainer_continues_bit_for_bit(tmp_path: Path, method: str) -> None:
    path = write_demonstrations(tmp_path / "d", episodes=20)
    first = trainer_of(path, method)
    first.train_epoch()
    saved = first.save()
    train(first)
    second = trainer_of(path, method)
    second.restore(saved)
    train(second)
    for member in ("model", "best", "optimizer"):
        assert tensor_hash(first.save().tensors[member]) == tensor_hash(second.save().tensors[member])
    assert first.save().state == second.save().state


def test_an_epoch_that_was_stopped_is_repeated(tmp_path: Path) -> None:
    path = write_demonstrations(tmp_path / "d")
    first, second = trainer_of(path), trainer_of(path)
    saved = second.save()  # before the first update: Adam has no moments yet

    def stop(updates: int) -> None:
        if updates == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        second.train_epoch(stop)
    again = trainer_of(path)
    again.restore(saved)
    assert again.train_epoch() == first.train_epoch()


def test_training_stops_early_and_keeps_the_best_parameters(tmp_path: Path) -> None:
    trainer = trainer_of(write_demonstrations(tmp_path / "d", shuffled=True), epochs=40, patience=2)
    scores, hashes = [], []
    while not trainer.is_done:
        scores.append(trainer.train_epoch()["validation/likelihood"])
        hashes.append(tensor_hash(trainer.model.state_dict()))
    assert len(scores) < 40 and int(np.argmax(scores)) == len(scores) - 3
    assert tensor_hash(trainer.finished_model().state_dict()) == hashes[int(np.argmax(scores))]


def test_illegal_actions_get_no_probability(tmp_path: Path) -> None:
    about = cartpole_metadata(action=Discrete(3), mask_size=3)
    columns = random_columns(about, [40] * 30)
    masks = columns.action_masks.copy()
    masks[np.arange(len(masks)), columns.actions] = 1
    write_data_set(tmp_path / "d", about, dataclasses.replace(columns, action_masks=masks))
    trainer = train(trainer_of(tmp_path / "d", epochs=2))
    batch = trainer.examples.batch(trainer.examples.validation)
    with torch.no_grad():
        predictions = trainer.method.predict(trainer.model, batch)
    chosen = masks[batch.rows, predictions["greedy"]]
    assert chosen.all() and (masks.sum(1) == 1).any()
    alone = masks[batch.rows].sum(1) == 1
    assert np.allclose(predictions["log_probs"][alone], 0.0)  # the only legal action is certain


def test_data_whose_actions_are_illegal_are_refused(tmp_path: Path) -> None:
    about = cartpole_metadata(action=Discrete(3), mask_size=3)
    write_data_set(tmp_path / "d", about, random_columns(about, [40] * 4))
    with pytest.raises(ValueError, match="that its own action masks forbid"):
        trainer_of(tmp_path / "d")


def test_a_gaussian_policy_learns_the_mean_and_the_deviation(tmp_path: Path) -> None:
    about = cartpole_metadata(action=Box(-1.0, 1.0, (1,), np.float32))
    columns = random_columns(about, [50] * 60)
    rng = np.random.default_rng(2)
    observations = rng.normal(size=columns.observations.shape).astype(np.float32)
    noise = 0.1 * rng.normal(size=len(observations))
    actions = (0.5 * observations[:, 0] + noise).astype(np.float32)[:, None]
    write_data_set(tmp_path / "d", about, dataclasses.replace(columns, observations=observations, actions=actions))
    trainer = train(trainer_of(tmp_path / "d", epochs=25, learning_rate=1e-2))
    assert trainer.best_scores["squared_error"] < 0.02  # the noise has 0.01
    assert -2.6 < float(trainer.finished_model().log_std.detach()) < -1.9  # log 0.1 is -2.3


def test_discounted_sums() -> None:
    rewards = np.array([1.0, 2.0, 3.0], np.float32)
    assert discounted_sums(rewards, 0.5).tolist() == [1 + 1 + 0.75, 2 + 1.5, 3]


def test_f1_is_the_mean_over_the_actions_that_occur() -> None:
    assert macro_f1(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])) == pytest.approx((0.8 + 2 / 3) / 2)
    assert macro_f1(np.array([2, 2]), np.array([2, 2])) == 1.0


def _one_reward_a_step(path: Path, *, truncated: bool) -> Path:
    """Write episodes of 20 steps with the reward 1, which all end in the same way; observation 0 is the time left."""
    about = cartpole_metadata()
    columns = random_columns(about, [20] * 60)
    observations = columns.observations.copy()
    observations[:, 0] = np.tile(np.arange(20, 0, -1), 60) / 10
    last = np.arange(1, 61) * 20 - 1
    ends = np.zeros(1200, np.bool_)
    ends[last] = True
    changes = {"terminated": ends & (not truncated), "truncated": ends & truncated}
    columns = dataclasses.replace(columns, observations=observations, rewards=np.ones(1200, np.float32), **changes)
    write_data_set(path, about, columns)
    return path


def test_a_critic_predicts_the_rewards_until_an_episode_is_terminated(tmp_path: Path) -> None:
    path = _one_reward_a_step(tmp_path / "d", truncated=False)
    trainer = train(trainer_of(path, "critic", gamma=1.0, epochs=20, patience=20))
    assert trainer.best_scores["explained_variance"] > 0.95
    model, data = trainer.finished_model(), trainer.examples.data
    with torch.no_grad():
        values = model.value(model(torch.from_numpy(np.array(data.observations[:20]))))[:, 0]
    assert np.abs(values.numpy() - np.arange(20, 0, -1)).max() < 3  # rewards to come, not standardised ones


def test_a_critic_continues_truncated_episodes_by_the_value_of_their_last_observation(tmp_path: Path) -> None:
    path = _one_reward_a_step(tmp_path / "d", truncated=True)
    trainer = trainer_of(path, "critic", gamma=0.5)
    method = trainer.method
    assert isinstance(method, Critic)
    with torch.no_grad():
        for parameter in trainer.model.value.parameters():
            parameter.zero_()
        trainer.model.value[-1].bias += (2.0 - method.mean) / method.deviation  # every value is 2
    method.begin_epoch(trainer.model, 0)
    batch = trainer.examples.batch(trainer.examples.validation)
    with torch.no_grad():
        predictions = method.predict(trainer.model, batch)
    assert np.allclose(predictions["values"], 2.0, atol=1e-5)
    assert np.allclose(predictions["targets"], 2.0, atol=1e-5)  # 1 + 1/2 + 1/4 + ..., wherever the episode was cut


def test_a_method_that_trains_only_the_trunk_refuses_a_frozen_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="freeze_trunk=true leaves nothing to learn"):
        trainer_of(write_demonstrations(tmp_path / "d", episodes=4), "vae", freeze_trunk=True)


def test_a_trunk_that_is_frozen_keeps_its_bits(tmp_path: Path) -> None:
    trainer = trainer_of(write_demonstrations(tmp_path / "d"), freeze_trunk=True)
    trunk, head = (tensor_hash(part.state_dict()) for part in (trainer.model.trunk, trainer.model.policy))
    train(trainer)
    model = trainer.finished_model()
    assert tensor_hash(model.trunk.state_dict()) == trunk and tensor_hash(model.policy.state_dict()) != head
