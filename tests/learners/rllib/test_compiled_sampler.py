"""Fragments sampled in compiled code: torch's probabilities, what the worlds return, and random actions."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from rl_lab.adapters.make import make
from rl_lab.core import agent_registry
from rl_lab.core.protocols import BatchedEnv
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

pytest.importorskip("ray.rllib", reason="needs the extra rllib")

from rl_lab.learners.rllib.compiled_sampler import CompiledSampler, acts_compiled, sampler
from rl_lab.learners.rllib.fragment import Fragment
from rl_lab.learners.rllib.module import LabActorCritic
from rl_lab.learners.rllib.policy_builder import policy_builder

NUM_ENVS, STEPS = 96, 12  # above one tile of rows, and enough for two threads
# Several agents a world, two of which have masks; boards through a convolution; continuous actions.
WORLDS: dict[str, dict[str, Any]] = {
    "cartpole": {},
    "catch": {"policy": "cnn"},
    "pendulum": {},
    "simple_speaker_listener": {},
}


def module_of(envs: BatchedEnv, **settings: Any) -> LabActorCritic:
    factory: Any = agent_registry.load("rllib_ppo")
    kind, arguments = factory.policy_class(factory.Config(**settings), envs.world)
    build = policy_builder(kind, envs.world, arguments)
    torch.manual_seed(0)
    policy = build()
    spaces = {"observation_space": policy.observation_space, "action_space": policy.action_space}
    return LabActorCritic(**spaces, model_config={"build": build})


def short(world: str) -> BatchedEnv:
    """Return worlds whose episodes are truncated after 7 steps, at the beginning of their first."""
    envs = Batch(replace(world_registry.load(world), horizon=7), NUM_ENVS)
    envs.reset()
    return envs


def sampled(world: str, *, threads: int = 2, seed: int = 0) -> tuple[LabActorCritic, Any]:
    envs = short(world)
    module = module_of(envs, **WORLDS[world])
    with torch.no_grad():
        module.policy.action_net.weight.mul_(30.0)  # or all actions are about as probable as each other
    sample = sampler(module, envs, threads)
    assert isinstance(sample, CompiledSampler)
    torch.manual_seed(seed)
    return module, sample(STEPS)


def by_torch(module: LabActorCritic, fragment: Fragment) -> tuple[torch.Tensor, Any]:
    batch = {"obs": torch.from_numpy(flat(fragment.observations))}
    if fragment.action_mask is not None:
        batch["action_mask"] = torch.from_numpy(flat(fragment.action_mask) != 0)
    with torch.no_grad():
        inputs = module.outputs(batch)[0]
    return inputs, module.get_exploration_action_dist_cls().from_logits(inputs)


def flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, *array.shape[2:])


@pytest.mark.parametrize("world", WORLDS)
def test_log_probs_are_torchs_and_the_rest_is_the_worlds(world: str) -> None:
    module, sample = sampled(world)
    fragment = sample.fragment
    inputs, distribution = by_torch(module, fragment)
    assert np.allclose(flat(fragment.action_dist_inputs), inputs.numpy(), rtol=1e-5, atol=1e-5)
    log_probs = distribution.logp(torch.from_numpy(flat(fragment.actions))).numpy()
    assert np.allclose(flat(fragment.action_logp), log_probs, rtol=1e-5, atol=1e-5)

    envs = short(world)
    rows, final, returns, lengths = envs.rewards.size, [], [], []
    for t in range(STEPS):
        assert np.array_equal(fragment.observations[t], flat(envs.observations))
        if fragment.action_mask is not None:
            assert np.array_equal(fragment.action_mask[t], flat(envs.action_mask))
        actions = fragment.actions[t]
        if hasattr(module.action_space, "low"):
            actions = np.clip(actions, module.action_space.low, module.action_space.high)
        envs.actions[...] = actions.reshape(envs.actions.shape)
        envs.step()
        assert np.array_equal(fragment.rewards[t], envs.rewards.reshape(rows))
        assert np.array_equal(fragment.terminated[t], envs.agent_terminated.reshape(rows))
        assert np.array_equal(fragment.truncated[t], envs.agent_truncated.reshape(rows))
        over = envs.agent_terminated | envs.agent_truncated
        final.append(envs.final_observations[over])
        returns += envs.episode_returns[envs.done].ravel().tolist()
        lengths += envs.episode_lengths[envs.done].tolist()
    assert np.array_equal(fragment.final_observations, np.concatenate(final))
    assert len(lengths) and (sample.returns, sample.lengths) == (returns, lengths)
    assert np.array_equal(fragment.last_observations, flat(envs.observations))
    if fragment.last_action_mask is not None:
        assert np.array_equal(fragment.last_action_mask, flat(envs.action_mask))


def test_one_seed_gives_one_fragment_for_any_number_of_threads() -> None:
    first, second, other = (
        sampled("cartpole", threads=threads, seed=seed)[1].fragment for threads, seed in ((1, 0), (2, 0), (2, 1))
    )
    for field in fields(Fragment):
        assert np.array_equal(getattr(first, field.name), getattr(second, field.name)), field.name
    assert (first.actions != other.actions).any()


@pytest.mark.parametrize("world", ["cartpole", "simple_speaker_listener"])
def test_actions_have_the_policys_frequencies(world: str) -> None:
    """Each action is as frequent as it is probable, and independent of the step and of the row before it.

    Up to 5 actions, each with 3 sums that are normal but for the number of rows: a false alarm is 4.5 standard
    deviations away, one in 10,000 runs; the seed is fixed.
    """
    module, sample = sampled(world)
    shape = sample.fragment.actions.shape
    inputs, _ = by_torch(module, sample.fragment)
    probs = torch.softmax(inputs, dim=-1).numpy().astype(float).reshape(*shape, -1)
    residuals = np.eye(probs.shape[-1])[sample.fragment.actions] - probs
    variances = probs * (1 - probs)
    assert (residuals[probs == 0] == 0).all()

    def deviations(sums: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return np.asarray(sums / np.sqrt(np.maximum(variance, 1e-6)))

    assert (abs(deviations(residuals.sum((0, 1)), variances.sum((0, 1)))) < 4.5).all()
    for earlier, later in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        products = (residuals[earlier] * residuals[later]).sum((0, 1))
        assert (abs(deviations(products, (variances[earlier] * variances[later]).sum((0, 1)))) < 4.5).all()


@pytest.mark.parametrize("world", ["tic_tac_toe", "pendulum"])
def test_compiled_code_acts_where_python_steps(world: str) -> None:
    """In games of turns, and in batches of plain Python; rows that wait have no legal action."""
    envs = Batch(world_registry.load(world), NUM_ENVS, plain=world == "pendulum")
    module = module_of(envs)
    envs.reset()
    sample = sampler(module, envs, 2)
    assert acts_compiled(sample) and not isinstance(sample, CompiledSampler)
    fragments = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        saved = envs.snapshot()
        fragments.append(sample(4).fragment)
        envs.restore(saved)
    fragment, again, other = fragments
    assert np.array_equal(fragment.actions, again.actions) and (fragment.actions != other.actions).any()
    inputs, distribution = by_torch(module, fragment)
    log_probs = distribution.logp(torch.from_numpy(flat(fragment.actions))).numpy()
    acting = np.ones(len(inputs), np.bool_) if fragment.action_mask is None else flat(fragment.action_mask).any(axis=1)
    assert acting.mean() == (0.5 if world == "tic_tac_toe" else 1.0)
    assert np.allclose(flat(fragment.action_dist_inputs)[acting], inputs.numpy()[acting], rtol=1e-5, atol=1e-5)
    assert np.allclose(flat(fragment.action_logp)[acting], log_probs[acting], rtol=1e-5, atol=1e-5)


def test_a_network_that_compiled_code_does_not_know_is_torchs() -> None:
    envs = make("cartpole", 4)
    module = module_of(envs, activation="silu")
    envs.reset()
    sample = sampler(module, envs, 1)
    assert not acts_compiled(sample)
    assert sample(3).fragment.actions.shape == (3, 4)
