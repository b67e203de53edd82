"""RLlib's DQN with the lab's environments, module and replay buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.dqn import DQN, DQNConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_lab.core.env_recipe import EnvRecipe
from rl_lab.learners.rllib.algorithm import NoLogFolder, distribute, set_sampling
from rl_lab.learners.rllib.dqn_learner import LabDQNTorchLearner
from rl_lab.learners.rllib.epsilon_greedy import EpsilonGreedyRunner
from rl_lab.learners.rllib.q_module import LabQNetwork

# What RLlib does with the configuration's fields of these names is what it documents.
TRAINING = "lr gamma grad_clip train_batch_size_per_learner target_network_update_freq tau double_q n_step".split()
TRAINING += "td_error_loss_fn epsilon num_steps_sampled_before_learning_starts training_intensity".split()


class LabDQN(NoLogFolder, DQN):  # type: ignore[misc]
    """RLlib's DQN without a log folder and without RLlib's replay buffer."""

    def setup(self, config: Any) -> None:
        """Set up runners and learners."""
        Algorithm.setup(self, config)


def dqn_config(
    settings: Any,
    spaces: tuple[Any, Any],
    build: Any,
    *,
    fragment_length: int,
    num_envs: int,
    seed: int,
    gpu: bool,
    recipes: Sequence[EnvRecipe] = (),
) -> DQNConfig:
    """Return RLlib's configuration; the arguments are those of `algorithm.algorithm_config`."""
    config: DQNConfig = DQNConfig(algo_class=LabDQN)
    module = RLModuleSpec(LabQNetwork, *spaces, model_config={"build": build, "double_q": settings.double_q})
    set_sampling(config, module, EpsilonGreedyRunner, fragment_length=fragment_length, num_envs=num_envs, seed=seed)
    config.learners(num_learners=0, num_gpus_per_learner=int(gpu), learner_class=LabDQNTorchLearner)
    config.training(**{name: getattr(settings, name) for name in TRAINING}, dueling=False, num_atoms=1)
    if recipes:
        distribute(config, settings, recipes)
    return config
