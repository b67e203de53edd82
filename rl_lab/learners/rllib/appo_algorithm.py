"""RLlib's APPO with the lab's environments, module and train batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.appo import APPO, APPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_lab.core.env_recipe import EnvRecipe
from rl_lab.learners.rllib.algorithm import NoLogFolder, distribute, set_sampling
from rl_lab.learners.rllib.appo_learner import LabAPPOTorchLearner
from rl_lab.learners.rllib.env_runner import LabEnvRunner
from rl_lab.learners.rllib.module import LabTargetActorCritic

# What RLlib does with the configuration's fields of these names is what it documents.
TRAINING = "lr gamma clip_param vf_loss_coeff entropy_coeff use_kl_loss kl_coeff kl_target grad_clip tau".split()
TRAINING += "vtrace_clip_rho_threshold vtrace_clip_pg_rho_threshold target_network_update_freq".split()
TRAINING += "circular_buffer_num_batches circular_buffer_iterations_per_batch".split()


class LabAPPO(NoLogFolder, APPO):  # type: ignore[misc]
    """RLlib's APPO without a log folder and without RLlib's asynchronous requests."""

    def setup(self, config: Any) -> None:
        """Set up runners and learners."""
        Algorithm.setup(self, config)


def appo_config(
    settings: Any,
    spaces: tuple[Any, Any],
    build: Any,
    *,
    num_envs: int,
    seed: int,
    gpu: bool,
    recipes: Sequence[EnvRecipe] = (),
) -> APPOConfig:
    """Return RLlib's configuration; the arguments are those of `algorithm.algorithm_config`."""
    config: APPOConfig = APPOConfig(algo_class=LabAPPO)
    length = settings.rollout_fragment_length
    model = {"build": build, "compiled": settings.compiled}
    module = RLModuleSpec(LabTargetActorCritic, *spaces, model_config=model)
    set_sampling(config, module, LabEnvRunner, fragment_length=length, num_envs=num_envs, seed=seed)
    config.learners(num_learners=0, num_gpus_per_learner=int(gpu), learner_class=LabAPPOTorchLearner)
    config.training(
        **{name: getattr(settings, name) for name in TRAINING},
        train_batch_size_per_learner=length * num_envs * max(len(recipes), 1) // max(settings.learners, 1),
        use_circular_buffer=False,  # of the learner's thread
    )
    if recipes:
        distribute(config, settings, recipes)
    return config
