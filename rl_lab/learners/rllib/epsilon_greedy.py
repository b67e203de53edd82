"""Sampling for DQN: each row takes the action of the largest value, or with probability epsilon a random legal one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_PREDS
from ray.rllib.utils.schedules.scheduler import Scheduler

from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_actions import sample_actions
from rl_lab.core.world import Array
from rl_lab.learners.rllib.env_runner import LabEnvRunner
from rl_lab.learners.rllib.fragment import Sample
from rl_lab.learners.rllib.torch_sampler import batch_on_device, encoder_of, sample_fragment


class EpsilonGreedy:
    """Acts with a Q-network; epsilon follows RLlib's schedule, step by step.

    Args:
        module: a `LabQNetwork`.
        schedule: epsilon, or its values at numbers of environment steps, [[step, value], ...].
        rows: that act in a step, those of all runners together.
    """

    def __init__(self, module: Any, schedule: Any, rows: int) -> None:
        self._module, self._rows, self.steps = module, rows, 0
        self._scheduler = Scheduler(schedule)

    @property
    def epsilon(self) -> float:
        """Return the probability of a random action after `steps` environment steps."""
        return float(self._scheduler.update(self.steps))

    def __call__(self, observations: Array, action_mask: Array | None) -> tuple[Array, Array, Array]:
        """Return actions, int64 [B], log probabilities, which DQN has not, so 0, and the values, float32 [B, n]."""
        with torch.no_grad():
            values = self._module.compute_q_values(batch_on_device(self._module, observations, action_mask))[QF_PREDS]
        values = values.cpu().numpy()
        uniform = torch.rand((2, len(values)), dtype=torch.float64).numpy()
        random = sample_actions(uniform[0], self._module.action_space, action_mask)
        actions = np.where(uniform[1] < self.epsilon, random, values.argmax(axis=1))
        self.steps += self._rows
        return actions, np.zeros(len(values), np.float32), values


class EpsilonGreedyRunner(LabEnvRunner):
    """An env runner for DQN. Where it is in epsilon's schedule follows from the number of the fragment."""

    def _is_compiled(self) -> bool:
        return False

    def _sampler(self, envs: BatchedEnv, threads: int) -> Callable[[int], Sample]:
        config = self.config
        rows = config.num_envs_per_env_runner * max(len(config.env_config.get("recipes", ())), 1)
        act = EpsilonGreedy(self.module, config.epsilon, rows)
        return partial(sample_fragment, self.module, envs, act=act, encode=encoder_of(self.module))

    def _begin_fragment(self, sample: Any, number: int) -> None:
        act: EpsilonGreedy = sample.keywords["act"]
        act.steps = number * self.config.rollout_fragment_length * act._rows
