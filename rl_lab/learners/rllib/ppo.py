"""RLlib's PPO as a `Learner`, in this process."""

from __future__ import annotations

import time
from typing import Any

from rl_lab.core.agent import Rollout
from rl_lab.core.world import Array
from rl_lab.learners.rllib.algorithm import algorithm_config
from rl_lab.learners.rllib.connector import NothingToLearnError
from rl_lab.learners.rllib.learner import RllibLearner
from rl_lab.learners.rllib.policy_builder import PolicyBuilder


class RllibPPO(RllibLearner):
    """RLlib's PPO over a batch of environments in this process.

    Args: as of `RllibLearner`.
    """

    name = "rllib_ppo"
    metric_names = {
        "total_loss": "train/loss",
        "policy_loss": "train/policy_loss",
        "vf_loss": "train/value_loss",
        "entropy": "train/entropy",
        "mean_kl_loss": "train/approx_kl",
        "curr_kl_coeff": "train/kl_coeff",
        "vf_explained_var": "train/explained_variance",
    }

    def _build(self, build: PolicyBuilder, seed: int, device: str) -> Any:
        rows = self.envs.rewards.size
        length = self._settings.train_batch_size_per_learner // rows
        return self._build_algorithm(build, fragment_length=length, num_envs=rows, seed=seed, device=device)

    def _build_algorithm(self, build: PolicyBuilder, *, device: str, **arguments: Any) -> Any:
        policy = build()
        spaces = policy.observation_space, policy.action_space
        gpu = device.startswith("cuda")
        return self._instantiate(algorithm_config(self._settings, spaces, build, gpu=gpu, **arguments))

    @property
    def rollout(self) -> Rollout:
        """Return what is collected before each update: a train batch for each learner."""
        learners = max(self._settings.learners, 1)
        return Rollout(self._settings.train_batch_size_per_learner * learners, "train_batch_size_per_learner", learners)

    def train_iteration(self) -> dict[str, float]:
        """Sample one train batch and update from it; return metrics. Raises NonFiniteError for non-finite numbers."""
        fragment = self._runner.sample()
        self._steps += len(fragment)
        begin = time.perf_counter()
        result = self._update([fragment])
        self._send_weights()
        self._learn_seconds += time.perf_counter() - begin
        return self._metrics(result)

    def _update(self, fragments: list[Any]) -> dict[str, float]:
        """Update the learner of this process from fragments; return its metrics, none where no transition ended."""
        try:
            (result,) = self._learners.update(fragments, **self._update_arguments())
        except NothingToLearnError:
            return {}
        return self._plain(result)

    def _update_arguments(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "timesteps": {"num_env_steps_sampled_lifetime": self._steps},
            "num_epochs": settings.num_epochs,
            "minibatch_size": settings.minibatch_size,
            "shuffle_batch_per_epoch": settings.shuffle_batch_per_epoch,
        }

    def _check_own(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        super()._check_own(state, tensors)
        self._check_kl_and_pending(state, tensors)
