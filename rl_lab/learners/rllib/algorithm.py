"""RLlib's PPO with the lab's environments, module and train batch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_lab.core.env_recipe import EnvRecipe
from rl_lab.learners.rllib.connector import FragmentsToBatch
from rl_lab.learners.rllib.env_runner import LabEnvRunner
from rl_lab.learners.rllib.module import LabActorCritic
from rl_lab.learners.rllib.ppo_learner import LabPPOTorchLearner

# What RLlib does with the configuration's fields of these names is what it documents.
TRAINING = "lr gamma lambda_ minibatch_size num_epochs clip_param vf_clip_param vf_loss_coeff entropy_coeff".split()
TRAINING += "use_kl_loss kl_coeff kl_target grad_clip train_batch_size_per_learner".split()


class NoLogFolder:
    """Placed before an algorithm of RLlib's: it writes nothing outside of the run's folder."""

    def _setup_logdir(self, *_: Any, **__: Any) -> None:
        self._logdir = None

    def _create_logger(self, *_: Any, **__: Any) -> None:
        self._result_logger = None


class LabPPO(NoLogFolder, PPO):  # type: ignore[misc]
    """RLlib's PPO without a log folder."""


def algorithm_config(
    settings: Any,
    spaces: tuple[Any, Any],
    build: Any,
    *,
    fragment_length: int,
    num_envs: int,
    seed: int,
    gpu: bool,
    recipes: Sequence[EnvRecipe] = (),
) -> PPOConfig:
    """Return RLlib's configuration.

    Args:
        settings: the agent's Config.
        spaces: the observation space and action space of the policy.
        build: a function that returns the policy.
        fragment_length: steps of each environment in a train batch.
        num_envs: rows that act in a step.
        seed: seeds the module's initial weights and the order of minibatches.
        gpu: whether the learner uses a GPU.
        recipes: of the parts of the environments that runners in other processes sample.
    """
    config: PPOConfig = PPOConfig(algo_class=LabPPO)
    module = RLModuleSpec(LabActorCritic, *spaces, model_config={"build": build, "compiled": settings.compiled})
    set_sampling(config, module, LabEnvRunner, fragment_length=fragment_length, num_envs=num_envs, seed=seed)
    config.learners(
        num_learners=0,
        num_gpus_per_learner=int(gpu),
        learner_class=LabPPOTorchLearner,
        learner_connector=functools.partial(_connector, settings.gamma, settings.lambda_),
        add_default_connectors_to_learner_pipeline=False,
    )
    config.training(**{name: getattr(settings, name) for name in TRAINING})
    if recipes:
        distribute(config, settings, recipes)
    return config


def set_sampling(
    config: AlgorithmConfig, module: RLModuleSpec, runner: type, *, fragment_length: int, num_envs: int, seed: int
) -> None:
    """Set what all algorithms share: the module, its spaces and the class of the runners, which need no connectors."""
    spaces = {"observation_space": module.observation_space, "action_space": module.action_space}
    config.framework("torch").environment(None, **spaces).rl_module(rl_module_spec=module)
    config.env_runners(
        env_runner_cls=runner,
        num_env_runners=0,
        num_envs_per_env_runner=num_envs,
        rollout_fragment_length=fragment_length,
        add_default_connectors_to_env_to_module_pipeline=False,
        add_default_connectors_to_module_to_env_pipeline=False,
    )
    config.debugging(seed=seed, log_level="ERROR", log_sys_usage=False)


def distribute(config: AlgorithmConfig, settings: Any, recipes: Sequence[EnvRecipe]) -> None:
    """Set what runners and learners in other processes need."""
    config.environment(env_config={"recipes": tuple(recipes)})
    # The runners are added later: RLlib's own start of them waits without a limit.
    config.env_runners(
        num_cpus_per_env_runner=settings.cpus_per_runner, num_gpus_per_env_runner=settings.gpus_per_env_runner
    )
    # A runner that died is started again at once, RLlib's default is a minute later.
    config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.0)
    if settings.learners:
        # Runners are idle while learners work, so these have no CPUs of their own.
        config.learners(
            num_learners=settings.learners,
            num_cpus_per_learner=0,
            num_gpus_per_learner=settings.gpus_per_learner,
        )


def _connector(gamma: float, lambda_: float, *_: Any) -> FragmentsToBatch:
    return FragmentsToBatch(gamma, lambda_)
