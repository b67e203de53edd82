"""These tests check the lab's worlds as environments of RLlib's own runners and modules."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra rllib")

from rl_lab.adapters.rllib import make_env

TRAIN = """
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from rl_lab.adapters import rllib

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
rllib.register()
config = (
    PPOConfig()
    .environment("rl_lab/simple_spread")
    .env_runners(num_env_runners=1)
    .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, *_, **__: "shared")
    .rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs={"shared": RLModuleSpec()}))
    .training(train_batch_size_per_learner=100, minibatch_size=50, num_epochs=1)
)
algorithm = config.build_algo()
result = algorithm.train()
print(result["env_runners"]["num_env_steps_sampled"], sorted(result["learners"]))
algorithm.stop()
vectors = {"num_envs_per_env_runner": 8, "gym_env_vectorize_mode": "vector_entry_point"}
config = PPOConfig().environment("rl_lab:rl_lab/cartpole-v0").env_runners(num_env_runners=1, **vectors)
config.training(train_batch_size_per_learner=100, minibatch_size=50, num_epochs=1)
result = config.build_algo().train()
print(result["env_runners"]["num_env_steps_sampled"], sorted(result["learners"]))
"""


def play(env: Any, steps: int) -> list[dict[str, Any]]:
    """Play random legal actions; return the rewards of each step."""
    rng, rewards = np.random.default_rng(0), []
    observations, _ = env.reset(seed=0)
    for _ in range(steps):
        actions = {}
        for agent, observation in observations.items():
            mask = observation["action_mask"] if isinstance(observation, dict) else None
            space = env.action_space[agent]
            actions[agent] = rng.choice(np.flatnonzero(mask)) if mask is not None else space.sample()
            assert env.observation_space[agent].contains(observation)
        observations, reward, terminated, truncated, _ = env.step(actions)
        rewards.append(reward)
        if terminated["__all__"] or truncated["__all__"]:
            return rewards
    return rewards


def test_a_world_of_one_agent_is_a_gymnasium_environment_with_parameters() -> None:
    env = make_env("catch", {"speed": 2})
    assert env.reset(seed=1)[0] in env.observation_space


def test_agents_that_act_together() -> None:
    env = make_env("simple_spread", {})
    rewards = play(env, 100)
    assert len(rewards) == 25 and all(set(reward) == set(env.possible_agents) for reward in rewards)


def test_a_game_of_turns_ends_with_a_reward_for_both() -> None:
    rewards = play(make_env("tic_tac_toe", {}), 20)
    assert 5 <= len(rewards) <= 9
    assert sum(rewards[-1].values()) == 0 and len(rewards[-1]) == 2


@pytest.mark.parametrize(("name", "config", "said"), [("nix", {}, "nix"), ("catch", {"sped": 2}, "sped")])
def test_wrong_names_are_refused(name: str, config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_env(name, config)


def test_rllibs_own_algorithm_trains_in_another_process() -> None:
    """Agents that share a module, and a world of one agent that is stepped as a vector."""
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for line, module in zip(done.stdout.splitlines()[-2:], ("shared", "default_policy"), strict=True):
        steps, modules = line.split(" ", 1)
        assert int(steps) >= 100 and module in modules
