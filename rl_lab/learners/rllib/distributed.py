"""RLlib's PPO with env runners, and perhaps learners, in other processes of this machine or of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from rl_lab.core.agent import StateDict
from rl_lab.core.errors import UsageError, WorkFailed, one_line
from rl_lab.core.untrusted import listed, number, of_kind
from rl_lab.learners.rllib.attached_cluster import AttachedCluster
from rl_lab.learners.rllib.cluster import Cluster, LocalCluster
from rl_lab.learners.rllib.collector import Collector
from rl_lab.learners.rllib.connector import NothingToLearnError
from rl_lab.learners.rllib.learners import Learners
from rl_lab.learners.rllib.ppo import RllibPPO
from rl_lab.learners.sb3.state_validation import check_generators, checked_moments
from rl_lab.learners.sb3.training_state import as_arrays, as_tensors

_UPDATE = 600.0  # seconds that learners in other processes may take for one update
_OWN = ("generators", "pending")  # members of a state that differ between learners
_PREFIX = "learner"  # of the members of a state that belong to learner 1, 2, ...


class DistributedPPO(RllibPPO):
    """RLlib's PPO over `DistributedEnvs`: each iteration has one fragment of each part of the environments.

    Sampling is synchronous: all fragments are sampled with the same weights, those of the last update. A lost runner
    changes nothing in the result where the environments can be restored exactly. A lost learner ends the training,
    which its checkpoint continues.

    Args: as of `RllibPPO`.

    Raises:
        UsageError: there is no such cluster, or it is too small.
        WorkFailed: the processes cannot be started.
    """

    def _open_cluster(self) -> Cluster:
        settings = self._settings
        cpus, gpus = settings.env_runners * settings.cpus_per_runner, settings.learners * settings.gpus_per_learner
        if self.envs.cluster == "local":
            _check_this_machine(cpus, gpus)
            return LocalCluster(num_cpus=cpus, num_gpus=gpus)
        cluster = AttachedCluster(self.envs.cluster)
        try:
            cluster.require("CPU", cpus, f"env_runners={settings.env_runners}")
            cluster.require("GPU", gpus, f"learners={settings.learners}")
        except BaseException:
            cluster.close()
            raise
        return cluster

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
        group = self.algorithm.env_runner_group
        # By value: what lies in the object store of one node may be lost with it, and no runner starts without.
        group._remote_config_obj_ref = group._remote_config
        group.add_workers(len(self.envs.recipes))
        runners = list(group._worker_manager.actors().values())
        timeout, check = self._settings.sample_timeout_s, self._cluster.check
        self.collector = Collector(runners, self.envs, timeout=timeout, check=check)
        self._learners = Learners(self.algorithm.learner_group, timeout=_UPDATE, check=check)
        self._wait_seconds = 0.0
        self._number = 0  # of iterations so far
        if self._learners.local is None:
            self._take_weights()

    @property
    def backend(self) -> str:
        """Return what trains, and where."""
        import ray

        runners, place = len(self.envs.recipes), self.envs.cluster
        what = f"RLlib {ray.__version__}, {runners} env runner{'s' * (runners > 1)} ({place})"
        if self._learners.local is None:
            each = "a GPU each" if self._settings.gpus_per_learner else "on CPUs"
            return f"{what}, {len(self._learners)} learner{'s' * (len(self._learners) > 1)} {each}"
        return f"{what}, learner {self._learners.local.code}"

    @property
    def seconds(self) -> dict[str, float]:
        """Return the time so far in seconds by activity: env and infer as runners' means, wait, and learn."""
        return {**self._runner.seconds, "wait": self._wait_seconds, "learn": self._learn_seconds}

    def train_iteration(self) -> dict[str, float]:
        """Sample one train batch and update from it; return metrics.

        Raises:
            NonFiniteError: a number is not finite.
            WorkFailed: no env runner is left, a learner has died, or the cluster is gone.
        """
        begin = time.perf_counter()
        before = sum(self._runner.seconds.values())
        results = self.collector.collect(self._number, as_arrays(self._policy.state_dict()))
        for _, part in results:
            self._runner.record(part.sample, share=1 / len(results))
            self._steps += len(part.fragment)
        self._number += 1
        sampled = time.perf_counter()
        self._wait_seconds += max(sampled - begin - sum(self._runner.seconds.values()) + before, 0.0)
        if self._learners.local is None:
            losses = self._update_remotely([reference for reference, _ in results])
        else:
            losses = self._update([part.fragment for _, part in results])
            self._send_weights()
        self._learn_seconds += time.perf_counter() - sampled
        return self._metrics(losses)

    def _update(self, fragments: Any) -> dict[str, float]:
        try:
            (result,) = self._learners.update(fragments, **self._arguments())
        except NothingToLearnError:
            return {}
        return self._plain(result)

    def _update_remotely(self, references: list[Any]) -> dict[str, float]:
        settings = self._settings
        rows = settings.num_epochs * settings.train_batch_size_per_learner
        # Learners average their gradients in every minibatch: all need the same number of them.
        minibatches = max(rows // settings.minibatch_size, 1)
        try:
            result, *_ = self._learners.update(references, num_total_minibatches=minibatches, **self._arguments())
        except NothingToLearnError:
            told = "a learner has nothing to learn from: in its fragments, no transition ends"
            raise WorkFailed(f"{told}; a larger train_batch_size_per_learner makes them longer") from None
        self._take_weights()
        return self._plain(result)

    def _arguments(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "timesteps": {"num_env_steps_sampled_lifetime": self._steps},
            "num_epochs": settings.num_epochs,
            "minibatch_size": settings.minibatch_size,
            "shuffle_batch_per_epoch": settings.shuffle_batch_per_epoch,
        }

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
        self._number = self._steps // (self.envs.rows * self._runner.config.rollout_fragment_length)
        self.collector.forget()

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


def _check_this_machine(cpus: float, gpus: int) -> None:
    """Raise UsageError where this machine has fewer of them."""
    import os

    if gpus > torch.cuda.device_count():
        raise UsageError(f"gpus_per_learner asks for {gpus} GPUs; this machine has {torch.cuda.device_count()}")
    known = len(os.sched_getaffinity(0))
    if cpus > known:
        told = f"env_runners and cpus_per_runner ask for {cpus:g} CPUs; this machine has {known}"
        raise UsageError(one_line(f"{told}: fewer runners, or less than one CPU for each, fit"))
