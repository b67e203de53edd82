"""Rows that wait while others act: rewards belong to the right transitions, wherever rollouts and replay buffers end.

`RandomEpisodes` says for random rows what each transition must be; buffers, PPO and DQN are compared with it. Other
tests save and restore transitions that are pending, see `rl_lab/learners/sb3/masked_rollout_buffers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compiled import plain_n_step_return

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.core.world import Array
from rl_lab.learners.sb3.masked_replay_buffer import CompleteTransitionDictReplayBuffer, CompleteTransitionReplayBuffer
from rl_lab.learners.sb3.masked_rollout_buffers import (
    CompleteTransitionMaskableRolloutBuffer,
    CompleteTransitionRolloutBuffer,
)

GAMMA = 0.9


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_ppo(world: str = "tic_tac_toe", num_envs: int = 4, **values: Any) -> Any:
    module, envs = agent_registry.load("ppo"), make.make(world, num_envs, seed=0)
    config = module.Config(**{"batch_size": 2, "n_epochs": 1, "net_arch": [8], "compiled": False, **values})
    return module.learner(config, envs, budget=10**9, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("steps", "rollouts", "compiled"),
    [
        (1, 200, False),
        (1, 200, True),
        (2, 200, False),
        (3, 200, True),
        (7, 200, False),
        (16, 200, True),
        (64, 200, True),
    ],
)
def test_learners_get_as_many_losses_as_wins(steps: int, rollouts: int, compiled: bool) -> None:
    learner = make_ppo(n_steps=steps, compiled=compiled)
    model, counts = learner.model, np.zeros(2, np.int64)
    for _ in range(rollouts):
        model.collect_rollouts(model.env, learner.callback, model.rollout_buffer, steps)
        rewards = model.rollout_buffer.rewards[model.rollout_buffer.has_complete_transition]
        counts += [(rewards == 1).sum(), (rewards == -1).sum()]
    assert counts[0] == counts[1] > rollouts * steps * 4 / 12, "a game has at most nine moves, and few are drawn"


@pytest.mark.parametrize("compiled", [False, True])
def test_a_rollout_with_a_single_transition_is_learned_from(compiled: bool) -> None:
    """In one world of two agents that take turns, a rollout of one step has one complete transition at most."""
    learner = make_ppo(num_envs=1, n_steps=1, compiled=compiled)
    model, outcomes = learner.model, set()
    for _ in range(40):
        before, bias = model._n_updates, model.policy.value_net.bias.clone()
        learner.train_iteration()
        changed = bool(model.policy.value_net.bias != bias)
        if not model.rollout_buffer.has_complete_transition.any():
            assert list(model.rollout_buffer.get(4)) == []
        outcomes.add((int(model.rollout_buffer.has_complete_transition.sum()), model._n_updates - before, changed))
    assert {(0, 0, False), (1, 1, True)} <= outcomes <= {(0, 0, False), (1, 1, True), (2, 1, True)}
    assert model.normalize_advantage and all(torch.isfinite(p).all() for p in model.policy.parameters())


class RandomEpisodes:
    """T random steps of B rows, and the transition that each action of a row begins, computed from all steps.

    Arrays are [T, B], those of `acting` and `observations` [T + 1, B, ...]. Every observation is a different number, by
    which tests find its step and row again.
    """

    def __init__(self, seed: int, steps: int, rows: int, waiting_prob: float) -> None:
        generator = np.random.default_rng(seed)
        self.steps, self.shape = steps, (steps, rows)
        self.acting = generator.random((steps + 1, rows)) >= waiting_prob  # whether a row acts in step t
        self.dones = generator.random(self.shape) < 0.2
        self.truncated = self.dones & (generator.random(self.shape) < 0.5)
        self.rewards = generator.integers(-3, 4, self.shape).astype(np.float32)
        self.observations = 1.0 + np.arange((steps + 1) * rows, dtype=np.float32).reshape(steps + 1, rows, 1)
        self.final_observations = -self.observations

    def transition(self, t: int, row: int) -> tuple[float, int, bool] | None:
        """Return the transition that starts in step t: its reward, its last step, and whether the episode ends there.

        Returns None for one that is still pending after the last step.
        """
        reward = 0.0
        for k in range(t, self.steps):
            reward += float(self.rewards[k, row])
            if self.dones[k, row] or self.acting[k + 1, row]:
                return reward, k, bool(self.dones[k, row])
        return None

    def steps_of_observations(self) -> dict[float, tuple[int, int]]:
        """Return step and row of every action by the observation."""
        return {float(self.observations[t, b, 0]): (int(t), int(b)) for t, b in np.argwhere(self.acting[: self.steps])}


def value(observation: Any) -> Any:
    """Return what stands for a critic's value of an observation."""
    return np.sin(np.asarray(observation, np.float32))


@pytest.mark.parametrize("masked", [False, True])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), horizon=st.integers(1, 9), waiting_prob=st.sampled_from([0.0, 0.3, 0.7, 0.95]))
def test_value_targets_are_those_of_whole_episodes(masked: bool, seed: int, horizon: int, waiting_prob: float) -> None:
    """With lambda 0, a target is the transition's reward plus gamma times the value of its next observation."""
    episodes = RandomEpisodes(seed, 9 * horizon, 3, waiting_prob)
    vec_env: Any = SimpleNamespace(is_decision_step=np.ones(3, bool), acting=episodes.acting[0])
    buffer_class = CompleteTransitionMaskableRolloutBuffer if masked else CompleteTransitionRolloutBuffer
    space, discounts = Box(-np.inf, np.inf, (1,)), {"gamma": GAMMA, "gae_lambda": 0.0}
    buffer = buffer_class(horizon, space, Discrete(2), device="cpu", n_envs=3, vec_env=vec_env, **discounts)
    targets: dict[float, float] = {}
    starts = np.ones(3, bool)
    for first in range(0, episodes.steps, horizon):
        buffer.reset()
        for t in range(first, first + horizon):
            vec_env.is_decision_step, vec_env.acting = episodes.acting[t], episodes.acting[t + 1]
            rewards = episodes.rewards[t] + episodes.truncated[t] * GAMMA * value(
                episodes.final_observations[t, :, 0]
            )  # as SB3 bootstraps
            actions, observation = np.zeros((3, 1), np.int64), episodes.observations[t]
            masks = {"action_masks": np.ones((3, 2))} if masked else {}
            values_and_log_probs = torch.as_tensor(value(observation)), torch.as_tensor(observation[:, 0])
            buffer.add(observation, actions, rewards.astype(np.float32), starts, *values_and_log_probs, **masks)
            starts = episodes.dones[t]
        buffer.compute_returns_and_advantage(torch.as_tensor(value(episodes.observations[first + horizon])), starts)
        for t, b in np.argwhere(buffer.has_complete_transition):
            observation = float(buffer.observations[t, b, 0])
            assert observation not in targets, "a transition is learned from once"
            assert buffer.log_probs[t, b] == observation and buffer.values[t, b] == pytest.approx(value(observation))
            targets[observation] = float(buffer.returns[t, b])
    for observation, (t, b) in episodes.steps_of_observations().items():
        if (after := episodes.transition(t, b)) is None:
            assert observation not in targets
            continue
        reward, k, done = after
        next_observation = episodes.final_observations[k, b, 0] if done else episodes.observations[k + 1, b, 0]
        expected = reward + (0.0 if done and not episodes.truncated[k, b] else GAMMA * float(value(next_observation)))
        assert targets[observation] == pytest.approx(expected, abs=1e-4)


def make_replay(
    episodes: RandomEpisodes,
    slots: int,
    steps: int,
    buffer_class: type[CompleteTransitionReplayBuffer] = CompleteTransitionReplayBuffer,
) -> CompleteTransitionReplayBuffer:
    """Return a replay buffer filled with the episodes; Dict observations have them as "x" and their negative as "y"."""
    vec_env: Any = SimpleNamespace(is_decision_step=None, acting=None, resets=0)
    vec_env.envs = SimpleNamespace(world=SimpleNamespace(has_action_mask=False))
    space, count = Box(-np.inf, np.inf, (1,)), episodes.shape[1]
    is_dict = buffer_class is CompleteTransitionDictReplayBuffer

    def as_obs(observation: Array) -> Any:
        return {"x": observation, "y": -observation} if is_dict else observation

    space = Dict({"x": space, "y": space}) if is_dict else space
    buffer = buffer_class(slots * count, space, Discrete(2), "cpu", count, vec_env=vec_env, n_steps=steps, gamma=GAMMA)
    for t in range(episodes.steps):
        vec_env.is_decision_step, vec_env.acting = episodes.acting[t], episodes.acting[t + 1]
        after = np.where(episodes.dones[t, :, None], episodes.final_observations[t], episodes.observations[t + 1])
        infos = [{"TimeLimit.truncated": bool(late)} for late in episodes.truncated[t]]
        buffer.add(
            as_obs(episodes.observations[t]),
            as_obs(after),
            np.zeros((count, 1)),
            episodes.rewards[t],
            episodes.dones[t],
            infos,
        )
    return buffer


def n_step(episodes: RandomEpisodes, t: int, row: int, steps: int) -> tuple[float, float, float, float] | None:
    """Return the n-step return of up to so many transitions, the discount, the next observation, and `terminated`."""
    total, discount, result = 0.0, 1.0, None
    for _ in range(steps):
        if (after := episodes.transition(t, row)) is None:
            break
        rewards, k, done = after
        total, discount = total + discount * rewards, discount * GAMMA
        observation = float((episodes.final_observations[k] if done else episodes.observations[k + 1])[row, 0])
        result, t = (total, discount, observation, float(done and not episodes.truncated[k, row])), k + 1
        if done:
            break
    return result


@pytest.mark.parametrize("buffer_class", [CompleteTransitionReplayBuffer, CompleteTransitionDictReplayBuffer])
@pytest.mark.parametrize("steps", [1, 3])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), slots=st.integers(2, 40), waiting_prob=st.sampled_from([0.0, 0.3, 0.7, 0.95]))
def test_dqn_samples_all_complete_transitions_and_no_others(
    buffer_class: type[CompleteTransitionReplayBuffer], steps: int, seed: int, slots: int, waiting_prob: float
) -> None:
    """They are those of the last `slots` steps, each with its n-step return."""
    episodes = RandomEpisodes(seed, 40, 3, waiting_prob)
    buffer = make_replay(episodes, slots, steps, buffer_class)
    first = max(episodes.steps - slots, 0)
    expected = {
        s: n_step(episodes, t, b, steps) for s, (t, b) in episodes.steps_of_observations().items() if t >= first
    }
    expected = {observation: result for observation, result in expected.items() if result is not None}
    filled = buffer.buffer_size if buffer.full else buffer.pos
    buffer_obs: Any = buffer.observations["x"] if isinstance(buffer.observations, dict) else buffer.observations
    complete = [float(buffer_obs[t, b, 0]) for t, b in np.argwhere(buffer.has_complete_transition[:filled])]
    assert sorted(complete) == sorted(expected)
    if not complete:
        with pytest.raises(ValueError, match="no complete transition"):
            buffer.sample(1)
        return
    batch = buffer.sample(300)
    obs, next_obs = batch.observations, batch.next_observations
    if isinstance(obs, dict):
        for parts in (obs, next_obs):
            assert torch.equal(parts["x"], -parts["y"])
        obs, next_obs = obs["x"], next_obs["x"]
    columns = (obs, batch.rewards, batch.discounts, next_obs, batch.dones)
    for observation, reward, discount, after, done in zip(*(c.flatten().tolist() for c in columns), strict=True):
        assert (reward, discount, after, done) == pytest.approx(expected[observation], abs=1e-4)


@pytest.mark.parametrize("waiting_prob", [0.0, 0.5, 0.9])
def test_compiled_n_step_returns_are_those_of_the_episodes(waiting_prob: float) -> None:
    from rl_lab.learners.sb3.dqn_arguments import replay_arrays

    n_step_return = plain_n_step_return()
    for seed, slots in ((0, 40), (1, 17), (2, 60)):
        episodes = RandomEpisodes(seed, 40, 3, waiting_prob)
        buffer = make_replay(episodes, slots, 3)
        filled = buffer.buffer_size if buffer.full else buffer.pos
        for slot, row in np.argwhere(buffer.has_complete_transition[:filled]):
            t, b = episodes.steps_of_observations()[float(buffer.observations[slot, row, 0])]
            arrays = replay_arrays(buffer)
            rewards, last, discount = n_step_return(int(slot), int(row), arrays, 3, GAMMA, buffer.pos, filled)
            result = rewards, discount, float(buffer.next_observations[last, row, 0])
            assert result == pytest.approx((n_step(episodes, t, b, 3) or ())[:3], abs=1e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_pending_transitions_are_saved(steps: int) -> None:
    """A learner that is restored between two rollouts learns what the original learns, bit for bit."""
    first = make_ppo(num_envs=8, n_steps=steps)
    for _ in range(5):
        first.train_iteration()
    saved, snapshot = first.save(), first.vec_env.envs.snapshot()
    assert saved.tensors["pending"]["has_pending"].any() and saved.tensors["pending"]["observations"].any()
    second = make_ppo(num_envs=8, n_steps=steps)
    second.vec_env.envs.restore(snapshot)
    second.restore(saved)
    final_states = []
    for learner in (first, second):
        learner.restore(saved)  # sets the global random generators, too
        learner.vec_env.envs.restore(snapshot)
        for _ in range(5):
            learner.train_iteration()
        final_states.append(learner.save())
    for part, arrays in final_states[0].tensors.items():
        for name, array in arrays.items():
            assert array.tobytes() == final_states[1].tensors[part][name].tobytes(), (part, name)


@pytest.mark.parametrize(
    ("name", "value_on_disk", "message"),
    [
        ("actions", 9, "outside Discrete"),
        ("actions", -1, "outside Discrete"),
        ("rewards", np.nan, "not finite"),
        ("action_masks", 0, "illegal"),
        ("has_pending", None, "has_pending is bool .15.; expected bool .16."),
        ("agent_done", None, "agent_done is bool .15.; expected bool .16."),
    ],
)
def test_crafted_pending_transitions_are_refused(name: str, value_on_disk: Any, message: str) -> None:
    learner = make_ppo(n_steps=2, num_envs=8)
    learner.train_iteration()
    saved = learner.save()
    array = saved.tensors["pending"][name]
    saved.tensors["pending"][name] = array[:-1] if value_on_disk is None else np.full_like(array, value_on_disk)
    with pytest.raises(ValueError, match=message):
        learner.restore(saved)


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_pending_transitions_have_exactly_the_expected_names(algorithm: str) -> None:
    """A missing array is not replaced by zeros, and an unknown one is not ignored; an error has one line."""
    module = agent_registry.load(algorithm)
    values = {"n_steps": 2, "batch_size": 2} if algorithm == "ppo" else {"buffer_size": 90}
    envs = make.make("tic_tac_toe" if algorithm == "ppo" else "pursuit", 4, seed=0)
    learner = module.learner(module.Config(compiled=False, **values), envs, budget=10**6, seed=0, device="cpu")
    learner.train_iteration()
    saved = learner.save()
    learner.restore(saved)
    pending = saved.tensors["pending"]
    assert {"agent_done", "has_pending" if algorithm == "ppo" else "pending_slots"} <= set(pending)
    for name in pending:
        saved.tensors["pending"] = {key: array for key, array in pending.items() if key != name}
        with pytest.raises(ValueError, match=f"^[^\\n]*pending transitions: {name} is missing$"):
            learner.restore(saved)
    saved.tensors["pending"] = {**pending, "other": pending["agent_done"]}
    with pytest.raises(ValueError, match="^[^\\n]*pending transitions: other is unknown$"):
        learner.restore(saved)
    del saved.tensors["pending"]
    with pytest.raises(ValueError, match="^[^\\n]*pending transitions: .* is missing$"):
        learner.restore(saved)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(
    ("name", "world"), [("ppo", "gym:CartPole-v1"), ("dqn", "gym:CartPole-v1"), ("ppo", "pettingzoo:classic/rps_v2")]
)
def test_restored_learners_observe_environments_that_began_new_episodes(
    name: str, world: str, normalized: bool
) -> None:
    """A third-party environment resumes in a new episode, whose observation must replace the saved one."""
    module, learners = agent_registry.load(name), []
    values = {"n_steps": 3, "batch_size": 3} if name == "ppo" else {"learning_starts": 9, "buffer_size": 90}
    config = module.Config(compiled=False, normalize_observations=normalized, **values)
    for _ in range(2):
        envs = make.make(world, 3, seed=0)
        learners.append(module.learner(config, envs, budget=10**6, seed=0, device="cpu"))
    first, second = learners
    first.train_iteration()
    second.vec_env.envs.restore(first.vec_env.envs.snapshot())
    second.restore(first.save())
    observation: Array = second.vec_env.envs.observations.reshape(second.model._last_obs.shape)
    if normalized:
        assert np.array_equal(second.model._last_original_obs, observation)
        observation = second.model.env.normalize_obs(observation)
    assert np.array_equal(second.model._last_obs, observation) and second.model._last_episode_starts.all()
