"""RLlib's APPO as a `Learner`, whose environments are in this process or in those of env runners."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rl_lab.core.agent import Rollout, StateDict
from rl_lab.core.env_recipe import EnvRecipe
from rl_lab.core.untrusted import checked_int
from rl_lab.core.world import Array
from rl_lab.learners.rllib.appo_algorithm import appo_config
from rl_lab.learners.rllib.appo_learner import update_from_references
from rl_lab.learners.rllib.connector import NothingToLearnError
from rl_lab.learners.rllib.learner import RllibLearner
from rl_lab.learners.rllib.policy_builder import PolicyBuilder
from rl_lab.learners.rllib.remote_learning import LearnsRemotely
from rl_lab.learners.sb3.state_validation import check_parameters
from rl_lab.learners.sb3.training_state import as_arrays


class RllibAPPO(RllibLearner):
    """RLlib's APPO over a batch of environments in this process: it samples, then updates, and so on.

    Args: as of `RllibLearner`.
    """

    name = "rllib_appo"
    metric_names = {
        "total_loss": "train/loss",
        "policy_loss": "train/policy_loss",
        "vf_loss": "train/value_loss",
        "entropy": "train/entropy",
        "mean_kl_loss": "train/approx_kl",
        "mean_IS": "train/importance_ratio",
    }
    _parts = 1

    def _build(self, build: PolicyBuilder, seed: int, device: str) -> Any:
        return self._build_algorithm(build, self.envs.rewards.size, seed=seed, device=device)

    def _build_algorithm(
        self, build: PolicyBuilder, rows: int, *, seed: int, device: str, recipes: Sequence[EnvRecipe] = ()
    ) -> Any:
        policy, gpu = build(), device.startswith("cuda")
        spaces = policy.observation_space, policy.action_space
        config = appo_config(self._settings, spaces, build, num_envs=rows, seed=seed, gpu=gpu, recipes=recipes)
        return self._instantiate(config)

    @property
    def rollout(self) -> Rollout:
        """Return what is collected before each update: a fragment of every world."""
        rows = self._runner.config.num_envs_per_env_runner * self._parts
        return Rollout(self._settings.rollout_fragment_length * rows, "rollout_fragment_length")

    def train_iteration(self) -> dict[str, float]:
        """Sample one fragment of each part and update from them; return metrics.

        Raises NonFiniteError for non-finite numbers.
        """
        fragments = self._sample()
        begin = time.perf_counter()
        result = self._update(fragments)
        self._send_weights()
        self._learn_seconds += time.perf_counter() - begin
        return self._metrics(result)

    def _sample(self) -> list[Any]:
        """Return the next fragment of each part, or references to what has them where other processes learn."""
        fragment = self._runner.sample()
        self._steps += len(fragment)
        return [fragment]

    def _update(self, fragments: list[Any]) -> dict[str, float]:
        """Update from what `_sample` has returned; return metrics, none where no transition ended."""
        try:
            return self._plain(self._learner().update_from(fragments, self._steps, self._iterations))
        except NothingToLearnError:
            return {}

    @property
    def _iterations(self) -> int:
        return int(self._settings.circular_buffer_iterations_per_batch)

    def _check(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        super()._check(state, tensors)
        check_parameters(self._policy, tensors["target"])

    def _check_own(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        super()._check_own(state, tensors)
        self._check_kl_and_pending(state, tensors)
        for name in ("last_target_update", "trained"):
            checked_int(state[name], name)


class DistributedAPPO(LearnsRemotely, RllibAPPO):
    """RLlib's APPO over `DistributedEnvs`: while it updates, the runners sample the next fragments.

    So fragments are sampled with the parameters from before the last update, in which V-trace corrects for the
    difference. These parameters are part of the state; a lost runner changes nothing in the result where the
    environments can be restored exactly. Each of several learners updates from the fragments of its own runners.

    Args: as of `RllibAPPO`.
    """

    def _build(self, build: PolicyBuilder, seed: int, device: str) -> Any:
        self._parts, recipes = len(self.envs.recipes), self.envs.recipes
        rows = self.envs.rows // self._parts
        return self._build_algorithm(build, rows, recipes=recipes, seed=seed, device=device)

    def _attach(self) -> None:
        super()._attach()
        self._behaviour = as_arrays(self._policy.state_dict())  # the parameters of the next fragments

    def _fragments(self) -> list[tuple[Any, Any]]:
        if not self.collector.is_started:
            self.collector.start(self._number, self._behaviour)
        results = self.collector.finish()
        self._behaviour = as_arrays(self._policy.state_dict())
        self.collector.start(self._number + 1, self._behaviour)
        return results

    def _sample(self) -> list[Any]:
        results = self._collect()
        return [part.fragment if self.learns_here else reference for reference, part in results]

    def _update(self, fragments: list[Any]) -> dict[str, float]:
        if self.learns_here:
            return super()._update(fragments)
        shares = self._learners.shares(fragments)
        arguments = [(share, self._steps, self._iterations) for share in shares]
        try:
            result, *_ = self._learners.apply(update_from_references, arguments)
        except NothingToLearnError:
            self._refuse_empty_share("rollout_fragment_length")
        return self._plain(result)

    def save(self) -> StateDict:
        """Return the whole state between two iterations."""
        state_dict = super().save()
        return StateDict({**state_dict.tensors, "behaviour": self._behaviour}, state_dict.state)

    def restore(self, state_dict: StateDict) -> None:
        """Restore what `save` returned. Raises ValueError where it does not fit."""
        super().restore(state_dict)
        self._behaviour = state_dict.tensors["behaviour"]

    def _check(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        super()._check(state, tensors)
        check_parameters(self._policy, tensors["behaviour"])
