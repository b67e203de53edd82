"""RLlib's DQN as a `Learner`, whose environments are in this process or in those of env runners."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rl_lab.core.agent import Rollout, StateDict
from rl_lab.core.env_recipe import EnvRecipe
from rl_lab.core.untrusted import checked_int, checked_type
from rl_lab.core.world import Array
from rl_lab.learners.rllib.dqn_algorithm import dqn_config
from rl_lab.learners.rllib.dqn_learner import LabDQNTorchLearner
from rl_lab.learners.rllib.learner import RllibLearner
from rl_lab.learners.rllib.learners import MODULE
from rl_lab.learners.rllib.pending_state import check_pending
from rl_lab.learners.rllib.policy_builder import PolicyBuilder
from rl_lab.learners.rllib.remote_learning import LearnsRemotely
from rl_lab.learners.rllib.replay import PrioritizedReplayBuffer
from rl_lab.learners.sb3.generator_state import generator_arrays, generator_values, restore_generators
from rl_lab.learners.sb3.state_validation import check_generators


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

    def __init__(self, settings: Any, envs: Any, build: PolicyBuilder, *, budget: int, **others: Any) -> None:
        self._budget = budget
        super().__init__(settings, envs, build, **others)

    def _build(self, build: PolicyBuilder, seed: int, device: str) -> Any:
        return self._build_algorithm(build, parts=1, rows=self.envs.rewards.size, seed=seed, device=device)

    def _build_algorithm(
        self,
        build: PolicyBuilder,
        *,
        parts: int,
        rows: int,
        device: str,
        recipes: Sequence[EnvRecipe] = (),
        seed: int,
    ) -> Any:
        """Return RLlib's algorithm, for environments of so many parts and rows in all; make the replay buffer."""
        policy, settings = build(), self._settings
        space, action, rows_of_part = policy.observation_space, policy.action_space, rows // parts
        length, gpu = settings.rollout_fragment_length or settings.n_step, device.startswith("cuda")
        sizes: dict[str, Any] = {"fragment_length": length, "num_envs": rows_of_part, "recipes": recipes}
        config = dqn_config(settings, (space, action), build, seed=seed, gpu=gpu, **sizes)
        masked = int(action.n) if self.envs.world.has_action_mask else 0
        priorities = {"alpha": settings.alpha, "beta": settings.beta}
        self._replay = PrioritizedReplayBuffer(
            settings.capacity, space, masked, parts=parts, rows=rows_of_part, **priorities
        )
        self._round_steps, self._parts = length * rows, parts
        # As in RLlib: how often to sample, then how often to update.
        batch = self._batch_size()
        updates = (settings.training_intensity or batch / self._round_steps) * self._round_steps / batch
        self._rounds = max(round(1 / updates), 1), max(round(updates), 1)
        return self._instantiate(config)

    def _batch_size(self) -> int:
        """Return the number of transitions of an update, those of all learners together."""
        return int(self._settings.train_batch_size_per_learner * max(self._settings.learners, 1))

    @property
    def rollout(self) -> Rollout:
        """Return what is collected before each update."""
        return Rollout(self._round_steps * self._rounds[0], "rollout_fragment_length")

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
        columns, slots = self._replay.sample(self._batch_size(), settings.n_step, settings.gamma)
        results = self._update_from(columns)
        errors = [np.atleast_1d(error) for result in results for error in result[MODULE]["td_error"].peek()]
        self._replay.set_priorities(slots, np.concatenate(errors))
        return results[0]

    def _update_from(self, columns: dict[str, Array]) -> list[dict[str, Any]]:
        """Take one gradient step on these transitions; return RLlib's metrics, of each learner for its share."""
        return [self._learner().update_from(columns, self._steps)]

    def save(self) -> StateDict:
        """Return the whole state between two iterations, with the replay buffer."""
        state_dict = super().save()
        return StateDict({**state_dict.tensors, **self._replay.arrays()}, {**state_dict.state, **self._replay.values()})

    def restore(self, state_dict: StateDict) -> None:
        """Restore what `save` returned. Raises ValueError where it does not fit."""
        super().restore(state_dict)
        self._replay.restore(state_dict.tensors, state_dict.state)
        if not self.envs.restores_exactly:
            self._replay.end_episodes()
        self._runner.fragments = self._steps // self._round_steps

    def _check(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        super()._check(state, tensors)
        self._replay.check(tensors, state)
        rows, has_mask = self._runner.config.num_envs_per_env_runner, self.envs.world.has_action_mask
        check_pending(tensors.get("pending", {}), self._policy, places=self._parts, rows=rows, has_mask=has_mask)

    def _check_own(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        super()._check_own(state, tensors)
        checked_int(state["last_target_update"], "last_target_update")


class DistributedDQN(LearnsRemotely, RllibDQN):
    """RLlib's DQN over `DistributedEnvs`: each round has one fragment of each part of the environments.

    Sampling is synchronous: all fragments are sampled with the same weights, those of the last update. A lost runner
    changes nothing in the result where the environments can be restored exactly. The replay buffer is in this process;
    each of several learners updates from an equal share of the transitions that are sampled from it.

    Args: as of `RllibDQN`.
    """

    def _build(self, build: PolicyBuilder, seed: int, device: str) -> Any:
        parts, recipes = len(self.envs.recipes), self.envs.recipes
        rows = self.envs.rows
        return self._build_algorithm(build, parts=parts, rows=rows, recipes=recipes, seed=seed, device=device)

    def _sample(self) -> None:
        for part, (_, result) in enumerate(self._collect()):
            self._replay.add(part, result.fragment)

    def _update_from(self, columns: dict[str, Array]) -> list[dict[str, Any]]:
        if self.learns_here:
            return super()._update_from(columns)
        shares = {name: self._learners.shares(column) for name, column in columns.items()}
        numbers = range(len(self._learners))
        arguments = [({name: share[k] for name, share in shares.items()}, self._steps) for k in numbers]
        return self._learners.apply(LabDQNTorchLearner.update_from, arguments)

    def _learners_state(self) -> StateDict:
        state_dict = super()._learners_state()
        if self.learns_here:
            return state_dict
        # The replay buffer samples by the generators of this process, which are none of a learner's here.
        tensors, state = {"replay_generators": generator_arrays()}, {"replay_generators": generator_values()}
        return StateDict({**state_dict.tensors, **tensors}, {**state_dict.state, **state})

    def _restore_learners(self, state_dict: StateDict) -> None:
        super()._restore_learners(state_dict)
        if not self.learns_here:
            restore_generators(state_dict.tensors["replay_generators"], state_dict.state["replay_generators"])

    def _check(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        super()._check(state, tensors)
        if not self.learns_here:
            values = checked_type(state["replay_generators"], "replay_generators", dict)
            check_generators(tensors["replay_generators"], values)

    def _trained_parameters(self) -> list[torch.nn.Parameter]:
        return list(self._policy.q_net.parameters())
