"""Tests of the collection of data sets: whole episodes, one for each agent, the same when they are collected again."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.datasets import recorder
from rl_lab.datasets.columns import Columns, concatenate
from rl_lab.evaluation.collection import SEEDS, CollectionPlan, Policy, collect, first_seed
from rl_lab.evaluation.evaluate import EVALUATION_SEED


def make_policy(name: str, world: str, **config: Any) -> Policy:
    factory: Any = agent_registry.load(name)
    agent = factory.make(factory.Config(**config), make.make(world, 1).world)
    return Policy(agent, deterministic=True)


def collect_columns(plan: CollectionPlan, *policies: Policy) -> Columns:
    return concatenate(list(collect(plan, policies)))


def assert_equal_columns(one: Columns, other: Columns) -> None:
    for field in fields(Columns):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_transitions_are_those_of_the_world_played_again_from_the_seed() -> None:
    plan = CollectionPlan("cartpole", {}, seed=3, steps=300, noise=0.5)
    data = collect_columns(plan, make_policy("random", "cartpole"))
    assert len(data.rewards) >= 300
    assert data.seeds.min() >= 0 and data.seeds.max() < SEEDS == EVALUATION_SEED
    assert len(set(data.seeds.tolist())) == len(data.seeds)
    envs = make.make("cartpole", 1, autoreset=AutoresetMode.DISABLED)
    for episode, (first, last) in enumerate(zip(data.offsets, data.offsets[1:], strict=False)):
        envs.seed(np.array([data.seeds[episode]]))
        envs.reset(np.array([True]))
        for step in range(first, last):
            np.testing.assert_array_equal(envs.observations[0, 0], data.observations[step])
            envs.actions[0, 0] = data.actions[step]
            envs.step()
            assert envs.rewards[0, 0] == data.rewards[step]
            assert envs.terminated[0] == data.terminated[step] and envs.truncated[0] == data.truncated[step]
        np.testing.assert_array_equal(envs.observations[0, 0], data.final_observations[episode])
        assert envs.done[0]


def test_the_same_seed_gives_the_same_data_and_another_seed_gives_others() -> None:
    plan = CollectionPlan("cartpole", {}, seed=3, steps=200, noise=0.2)
    once = collect_columns(plan, make_policy("random", "cartpole"))
    assert_equal_columns(once, collect_columns(plan, make_policy("random", "cartpole")))
    other = collect_columns(replace(plan, seed=4), make_policy("random", "cartpole"))
    assert not set(once.seeds.tolist()) & set(other.seeds.tolist())
    assert first_seed(3) != first_seed(4)


def test_data_do_not_depend_on_the_size_of_the_recorders_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = CollectionPlan("cartpole", {}, seed=3, episodes=6, noise=0.2)
    once = collect_columns(plan, make_policy("scripted", "cartpole"))
    monkeypatch.setattr(recorder, "_BYTES", 1)  # as few steps as possible, which is fewer than an episode has
    parts = list(collect(plan, [make_policy("scripted", "cartpole")]))
    assert once.lengths.max() > 64
    assert_equal_columns(once, concatenate(parts))


def test_the_episodes_are_divided_equally_among_the_agents() -> None:
    plan = CollectionPlan("cartpole", {}, seed=0, episodes=7)
    data = collect_columns(plan, make_policy("scripted", "cartpole"), make_policy("random", "cartpole"))
    assert np.bincount(data.policy_indices).tolist() == [4, 3]
    assert sorted(data.group_ids.tolist()) == list(range(7))
    assert data.lengths[data.policy_indices == 0].min() > data.lengths[data.policy_indices == 1].max()
    assert np.array_equal(data.seeds, first_seed(0) + data.group_ids)
    alone = collect_columns(
        replace(plan, episodes=1), make_policy("scripted", "cartpole"), make_policy("random", "cartpole")
    )
    assert alone.policy_indices.tolist() == [0]


def test_noise_replaces_actions_by_random_legal_ones() -> None:
    plan = CollectionPlan("cartpole", {}, seed=0, episodes=4)
    pure, noisy = (
        collect_columns(replace(plan, noise=noise), make_policy("scripted", "cartpole")) for noise in (0.0, 0.5)
    )
    assert pure.actions[0] in (0, 1) and not np.array_equal(pure.actions[:50], noisy.actions[:50])
    random = collect_columns(replace(plan, noise=1.0, episodes=400), make_policy("scripted", "cartpole"))
    assert abs(random.actions.mean() - 0.5) < 0.03  # 5 standard errors of 8,000 actions


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_agents_of_a_turn_based_world_have_an_episode_each(noise: float) -> None:
    plan = CollectionPlan("tic_tac_toe", {}, seed=1, episodes=40, noise=noise)
    data = collect_columns(plan, make_policy("random", "tic_tac_toe"), make_policy("scripted", "tic_tac_toe"))
    assert len(data.lengths) == 80
    masks = data.action_masks
    assert masks.shape == (len(data.actions), 9) and (masks[np.arange(len(masks)), data.actions] == 1).all()
    ended = np.zeros(len(data.rewards), np.bool_)
    ended[data.offsets[1:] - 1] = True
    assert np.array_equal(data.terminated, ended) and not data.truncated.any()
    assert not data.rewards[~ended].any()
    returns = np.add.reduceat(data.rewards, data.offsets[:-1])
    for group in range(40):
        x, o = (np.flatnonzero((data.group_ids == group) & (data.agent_indices == agent)) for agent in (0, 1))
        assert len(x) == len(o) == 1 and data.seeds[x] == data.seeds[o] == first_seed(1) + group
        assert returns[x] + returns[o] == 0
        assert data.lengths[x] - data.lengths[o] in (0, 1)
        assert sorted([*data.policy_indices[x], *data.policy_indices[o]]) == [0, 1]
        assert data.policy_indices[x] == group % 2
    assert returns[data.policy_indices == 1].mean() > 0.3 or noise


def test_an_agent_of_the_world_without_a_policy_is_refused() -> None:
    plan = CollectionPlan("tic_tac_toe", {}, seed=1, episodes=1)
    with pytest.raises(ValueError, match="can be o; name one more"):
        collect_columns(plan, replace(make_policy("random", "tic_tac_toe"), seats=(0,)))
    two = [replace(make_policy("random", "tic_tac_toe"), seats=(seat,)) for seat in (1, 0)]
    data = collect_columns(plan, *two)
    assert dict(zip(data.agent_indices.tolist(), data.policy_indices.tolist(), strict=True)) == {0: 1, 1: 0}


class StepCounterAgent:
    """An agent that keeps a state: how many steps each row has acted since its episode began."""

    name = "counter"

    def bind(self, envs: Any) -> None:
        self.seen: list[int] = []

    def begin(self, state: Any, episode_starts: Any) -> Any:
        return np.where(episode_starts, 0, state)

    def act(self, observations: Any, *, state: Any = None, **_: Any) -> tuple[Any, Any]:
        state = np.zeros(len(observations), np.int64) if state is None else state
        return state % 2, state + 1


def test_the_state_of_an_agent_is_reset_with_each_episode() -> None:
    plan = CollectionPlan("cartpole", {}, seed=1, steps=500)
    data = collect_columns(plan, Policy(StepCounterAgent(), deterministic=True))
    steps = np.arange(len(data.actions)) - np.repeat(data.offsets[:-1], data.lengths)
    np.testing.assert_array_equal(data.actions, steps % 2)
