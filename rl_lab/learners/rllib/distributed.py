"""RLlib's PPO with env runners, and perhaps learners, in other processes of this machine or of a cluster."""

from __future__ import annotations

import time
from typing import Any

from rl_lab.learners.rllib.connector import NothingToLearnError
from rl_lab.learners.rllib.policy_builder import PolicyBuilder
from rl_lab.learners.rllib.ppo import RllibPPO
from rl_lab.learners.rllib.remote_learning import LearnsRemotely


class DistributedPPO(LearnsRemotely, RllibPPO):
    """RLlib's PPO over `DistributedEnvs`: each iteration has one fragment of each part of the environments.

    Sampling is synchronous: all fragments are sampled with the same weights, those of the last update. A lost runner
    changes nothing in the result where the environments can be restored exactly.

    Args: as of `RllibPPO`.

    Raises:
        UsageError: there is no such cluster, or it is too small.
        WorkFailed: the processes cannot be started.
    """

    def _build(self, build: PolicyBuilder, seed: int, device: str) -> Any:
        envs, total = self.envs, self._settings.train_batch_size_per_learner * max(self._settings.learners, 1)
        return self._build_algorithm(
            build,
            fragment_length=total // envs.rows,
            num_envs=envs.rows // len(envs.recipes),
            recipes=envs.recipes,
            seed=seed,
            device=device,
        )

    def train_iteration(self) -> dict[str, float]:
        """Sample one train batch and update from it; return metrics.

        Raises:
            NonFiniteError: a number is not finite.
            WorkFailed: no env runner is left, a learner has died, or the cluster is gone.
        """
        results = self._collect()
        begin = time.perf_counter()
        if self.learns_here:
            losses = self._update([part.fragment for _, part in results])
        else:
            losses = self._update_remotely([reference for reference, _ in results])
        self._send_weights()
        self._learn_seconds += time.perf_counter() - begin
        return self._metrics(losses)

    def _update_remotely(self, references: list[Any]) -> dict[str, float]:
        settings = self._settings
        rows = settings.num_epochs * settings.train_batch_size_per_learner
        # Learners average their gradients in every minibatch: all need the same number of them.
        minibatches = max(rows // settings.minibatch_size, 1)
        try:
            result, *_ = self._learners.update(
                references, num_total_minibatches=minibatches, **self._update_arguments()
            )
        except NothingToLearnError:
            self._refuse_empty_share("train_batch_size_per_learner")
        return self._plain(result)
