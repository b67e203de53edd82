"""The peer rllib of `rl-lab bench rollout` and `train`: RLlib's own PPO, network and env runner, in this process.

`run` builds the algorithm; it starts a private Ray where none runs yet. Environments are Gymnasium's.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any

from rl_lab.bench.env_throughput import ORIGINALS
from rl_lab.bench.settings import NETWORK, Setting
from rl_lab.learners.rllib.cluster import LocalCluster

# Entries of a setting that are not passed to `training()` under their names, because they are passed otherwise.
_PASSED_OTHERWISE = {"train_batch_size_per_learner", "shuffle_batch_per_epoch", *NETWORK}


def config(world: str, setting: Setting) -> Any:
    """Return RLlib's configuration of PPO, with one runner and one learner in this process.

    The environment is Gymnasium's vectorised one where there is one; Gymnasium's loop over single ones elsewhere.
    """
    import gymnasium
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    values, size = setting.config, setting.config["train_batch_size_per_learner"]
    network = DefaultModelConfig(
        fcnet_hiddens=list(values["net_arch"]), fcnet_activation=values["activation"], vf_share_layers=False
    )
    return (
        PPOConfig()
        .framework("torch")
        .environment(ORIGINALS[world])
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=setting.num_envs,
            rollout_fragment_length=size // setting.num_envs,
            batch_mode="truncate_episodes",
            gym_env_vectorize_mode="vector_entry_point" if vectorised(world) else gymnasium.VectorizeMode.SYNC,
        )
        .learners(num_learners=0, num_gpus_per_learner=0)
        .training(
            train_batch_size_per_learner=size,
            shuffle_batch_per_epoch=True,
            **{name: value for name, value in values.items() if name not in _PASSED_OTHERWISE},
        )
        .rl_module(model_config=network)
        .debugging(seed=0, log_level="ERROR")
    )


def vectorised(world: str) -> bool:
    """Return whether Gymnasium has a vectorised version of the environment."""
    import gymnasium

    return gymnasium.spec(ORIGINALS[world]).vector_entry_point is not None


def run(kind: str, world: str, setting: Setting) -> Callable[[], int]:
    """Return a function that samples one train batch, and unless `kind` is "rollout" trains on it; it returns steps.

    A private Ray is started where none runs yet, see `LocalCluster`; it ends with this process.
    """
    import ray

    if not ray.is_initialized():
        atexit.register(LocalCluster(num_cpus=os.cpu_count() or 1).close)
    algorithm = config(world, setting).build_algo()
    runner, size = algorithm.env_runner, setting.config["train_batch_size_per_learner"]

    def sample() -> int:
        return sum(map(len, runner.sample(num_timesteps=size, random_actions=False)))

    def train() -> int:
        return int(algorithm.train()["env_runners"]["num_env_steps_sampled"])

    return sample if kind == "rollout" else train
