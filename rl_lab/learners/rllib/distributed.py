"""RLlib's PPO with env runners, and perhaps learners, in other processes of this machine or of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from rl_lab.core.agent import StateDict
from rl_lab.core.errors import WorkFailed
from rl_lab.core.untrusted import listed, number, of_kind
from rl_lab.learners.rllib.connector import NothingToLearnError
from rl_lab.learners.rllib.ppo import RllibPPO
from rl_lab.learners.rllib.remote_sampling import SamplesRemotely
from rl_lab.learners.sb3.state_validation import check_generators, checked_moments
from rl_lab.learners.sb3.training_state import as_tensors

_OWN = ("generators", "pending")  # members of a state that differ between learners
_PREFIX = "learner"  # of the members of a state that belong to learner 1, 2, ...


class DistributedPPO(SamplesRemotely, RllibPPO):
    """RLlib's PPO over `DistributedEnvs`: each iteration has one fragment of each part of the environments.

    Sampling is synchronous: all fragments are sampled with the same weights, those of the last update. A lost runner
    changes nothing in the result where the environments can be restored exactly. A lost learner ends the training,
    which its checkpoint continues.

    Args: as of `RllibPPO`.

    Raises:
        UsageError: there is no such cluster, or it is too small.
        WorkFailed: the processes cannot be started.
    """

    def _build(self, build: Callable[[], Any], seed: int, device: str) -> Any:
        envs, total = self.envs, self._settings.train_batch_size_per_learner * max(self._settings.learners, 1)
        return self._build_algorithm(
            build,
            fragment_length=total // envs.rows,
            num_envs=envs.rows // len(envs.recipes),
            recipes=envs.recipes,
            seed=seed,
            device=device,
        )

    def _attach(self) -> None:
        super()._attach()
        if self._learners.local is None:
            self._take_weights()

    @property
    def backend(self) -> str:
        """Return what trains, and where."""
        if self._learners.local is not None:
            return super().backend
        each = "a GPU each" if self._settings.gpus_per_learner else "on CPUs"
        return f"{self._runners()}, {len(self._learners)} learner{'s' * (len(self._learners) > 1)} {each}"

    def train_iteration(self) -> dict[str, float]:
        """Sample one train batch and update from it; return metrics.

        Raises:
            NonFiniteError: a number is not finite.
            WorkFailed: no env runner is left, a learner has died, or the cluster is gone.
        """
        results = self._collect()
        begin = time.perf_counter()
        if self._learners.local is None:
            losses = self._update_remotely([reference for reference, _ in results])
        else:
            losses = self._update([part.fragment for _, part in results])
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
            told = "a learner has nothing to learn from: in its fragments, no transition ends"
            raise WorkFailed(f"{told}; a larger train_batch_size_per_learner makes them longer") from None
        self._take_weights()
        return self._plain(result)

    def _fragments_per_learner(self) -> int:
        return len(self.envs.recipes) // len(self._learners)

    def _take_weights(self) -> None:
        """Copy the learners' parameters to the policy of this process, and keep their state for `save`."""
        self._states = self._learners.state()
        self._policy.load_state_dict(as_tensors(self._states[0].tensors["policy"]))

    def save(self) -> StateDict:
        """Return the whole state between two iterations."""
        if self._learners.local is not None:
            return super().save()
        first, *others = self._states
        tensors, state = dict(first.tensors), {**self._counters(), **first.state}
        for index, other in enumerate(others, 1):
            tensors |= {f"{_PREFIX}{index}.{name}": other.tensors[name] for name in _OWN if name in other.tensors}
        return StateDict(tensors, {**state, "learners": [other.state for other in others]})

    def restore(self, saved: StateDict) -> None:
        """Restore what `save` returned. Raises ValueError where it does not fit."""
        if self._learners.local is not None:
            super().restore(saved)
        else:
            self._restore_remotely(saved)
        self._continue_sampling()

    def _restore_remotely(self, saved: StateDict) -> None:
        state, tensors = saved.state, saved.tensors
        try:
            self._check(state, tensors)
            checked_moments(torch.optim.Adam(self._policy.parameters()), tensors["optimizer"])
            states = [StateDict(tensors, state)]
            others = listed(state["learners"], "learners", len(self._learners) - 1)
            for index, other in enumerate(others, 1):
                number(of_kind(other, "learners", dict)["kl_coeff"], "kl_coeff", 0.0)
                own = {name: tensors.get(f"{_PREFIX}{index}.{name}", {}) for name in _OWN}
                check_generators(own["generators"], other)
                self._check_pending(own["pending"])
                states.append(StateDict({**tensors, **own}, other))
        except KeyError as error:
            raise ValueError(f"the checkpoint does not fit this learner: {error.args[0]} is missing") from None
        self._learners.restore(states, with_pending=self.envs.restores_exactly)
        self._set_counters(state)
        self._take_weights()
