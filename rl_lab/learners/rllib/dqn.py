"""RLlib's DQN as a `Learner`, whose environments are in this process or in those of env runners."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rl_lab.core.agent import StateDict
from rl_lab.core.untrusted import whole
from rl_lab.core.world import Array
from rl_lab.learners.rllib.dqn_algorithm import dqn_config
from rl_lab.learners.rllib.learner import RllibLearner
from rl_lab.learners.rllib.learners import MODULE
from rl_lab.learners.rllib.pending_state import check_pending
from rl_lab.learners.rllib.replay import Replay


class RllibDQN(RllibLearner):
    """RLlib's DQN: a fragment of each part of the environments goes into the replay buffer, then updates follow.

    Args:
        budget: environment steps after which training ends; no iteration goes beyond it by more than a fragment.
        others: as of `RllibLearner`.
    """

    name = "rllib_dqn"
    metric_names = {
        "total_loss": "train/loss",
        "qf_mean": "train/q_mean",
        "td_error_mean": "train/td_error",
    }

    def __init__(self, settings: Any, envs: Any, build: Callable[[], Any], *, budget: int, **others: Any) -> None:
        self._budget = budget
        super().__init__(settings, envs, build, **others)

    def _build(self, build: Callable[[], Any], seed: int, device: str) -> Any:
        policy, settings = build(), self._settings
        spaces, gpu = (policy.observation_space, policy.action_space), device.startswith("cuda")
        length, rows = settings.rollout_fragment_length or settings.n_step, self.envs.rewards.size
        config = dqn_config(settings, spaces, build, fragment_length=length, num_envs=rows, seed=seed, gpu=gpu)
        return config.build_algo()

    def _attach(self) -> None:
        super()._attach()
        settings, config, space = self._settings, self._runner.config, self._policy.observation_space
        self._replay = Replay(
            settings.capacity,
            space,
            int(self._policy.action_space.n) if self.envs.world.has_action_mask else 0,
            parts=1,
            rows=config.num_envs_per_env_runner,
            alpha=settings.alpha,
            beta=settings.beta,
        )
        steps, batch = config.rollout_fragment_length * config.num_envs_per_env_runner, config.total_train_batch_size
        # As in RLlib: how often to sample, then how often to update.
        intensity = (settings.training_intensity or batch / steps) * steps / batch
        self._rounds = max(round(1 / intensity), 1), max(round(intensity), 1)

    def train_iteration(self) -> dict[str, float]:
        """Sample and update for `min_sample_timesteps_per_iteration` steps; return metrics.

        Raises NonFiniteError for non-finite numbers.
        """
        end = self._steps + self._settings.min_sample_timesteps_per_iteration
        end = min(end, self._budget) if self._steps < self._budget else end
        result: dict[str, Any] = {}
        while self._steps < end:
            for _ in range(self._rounds[0]):
                self._sample()
            begin = time.perf_counter()
            if self._steps >= self._settings.num_steps_sampled_before_learning_starts and len(self._replay):
                for _ in range(self._rounds[1]):
                    result = self._update()
                self._send_weights()
            self._learn_seconds += time.perf_counter() - begin
        return self._metrics(self._plain(result) if result else {})

    def _sample(self) -> None:
        fragment = self._runner.sample()
        self._replay.add(0, fragment)
        self._steps += len(fragment)

    def _update(self) -> dict[str, Any]:
        settings = self._settings
        size = settings.train_batch_size_per_learner
        columns, slots = self._replay.sample(size, settings.n_step, settings.gamma)
        result: dict[str, Any] = self._learner().update_from(columns, self._steps)
        errors = result[MODULE]["td_error"].peek()
        self._replay.set_priorities(slots, np.concatenate([np.atleast_1d(error) for error in errors]))
        return result

    def save(self) -> StateDict:
        """Return the whole state between two iterations, with the replay buffer."""
        saved = super().save()
        return StateDict({**saved.tensors, **self._replay.arrays()}, {**saved.state, **self._replay.values()})

    def restore(self, saved: StateDict) -> None:
        """Restore what `save` returned. Raises ValueError where it does not fit."""
        super().restore(saved)
        self._replay.restore(saved.tensors, saved.state)
        if not self.envs.restores_exactly:
            self._replay.end_episodes()
        config = self._runner.config
        self._runner.fragments = self._steps // (config.rollout_fragment_length * config.num_envs_per_env_runner)

    def _check(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        super()._check(state, tensors)
        whole(state["last_target_update"], "last_target_update")
        self._replay.check(tensors, state)
        rows, has_mask = self._runner.config.num_envs_per_env_runner, self.envs.world.has_action_mask
        check_pending(tensors.get("pending", {}), self._policy, places=1, rows=rows, has_mask=has_mask)
