"""What learners share whose env runners are in other processes of this machine or of a cluster."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from rl_lab.core.agent import StateDict
from rl_lab.core.errors import UsageError, one_line
from rl_lab.learners.rllib.attached_cluster import AttachedCluster
from rl_lab.learners.rllib.cluster import Cluster, LocalCluster
from rl_lab.learners.rllib.collector import Collector
from rl_lab.learners.rllib.learner import RllibLearner
from rl_lab.learners.rllib.process_settings import gpus_of_learners, gpus_of_runners
from rl_lab.learners.sb3.training_state import as_arrays


class SamplesRemotely(RllibLearner):
    """Placed before the class of an algorithm: its environments are `DistributedEnvs`.

    Raises:
        UsageError: there is no such cluster, or it is too small.
        WorkFailed: the processes cannot be started.
    """

    def _open_cluster(self) -> Cluster:
        settings = self._settings
        cpus, gpus = settings.env_runners * settings.cpus_per_runner, _gpus_by_setting(settings)
        if self.envs.cluster == "local":
            _check_this_machine(cpus, gpus)
            return LocalCluster(num_cpus=cpus, num_gpus=sum(gpus.values()))
        cluster = AttachedCluster(self.envs.cluster)
        try:
            cluster.require("CPU", cpus, f"env_runners={settings.env_runners}")
            cluster.require("GPU", sum(gpus.values()), f"the processes of {' and '.join(gpus)}")
        except BaseException:
            cluster.close()
            raise
        return cluster

    def _instantiate(self, config: Any) -> Any:
        assert isinstance(self._cluster, Cluster)
        self._cluster.wait_until_free("GPU", gpus_of_learners(self._settings))  # RLlib would wait without a limit
        return config.build_algo()

    def _attach(self) -> None:
        group = self.algorithm.env_runner_group
        # By value: what lies in the object store of one node may be lost with it, and no runner starts without.
        group._remote_config_obj_ref = group._remote_config
        group.add_workers(len(self.envs.recipes))
        runners = list(group._worker_manager.actors().values())
        timeout, check = self._settings.sample_timeout_s, self._cluster.check
        self.collector = Collector(runners, self.envs, timeout=timeout, check=check)
        self._wait_seconds = 0.0
        self._number = 0  # of the fragments of each part so far

    def _runners(self) -> str:
        """Return how many runners sample, where, and what acts where they have GPUs."""
        import ray

        count, share = len(self.envs.recipes), self._settings.gpus_per_env_runner
        runners = f"RLlib {ray.__version__}, {count} env runner{'s' * (count > 1)} ({self.envs.cluster})"
        if not share:
            return runners
        acting = "torch on the GPU"
        if self._runner.gpu_device() is None:
            acting = "compiled code on the CPU (agent.compiled=false: torch on the GPU)"
        return f"{runners}, {share:g} GPU each, acting by {acting}"

    def _engine(self) -> str:
        return f"{self._runners()}, updates by {self._learner().code}"

    @property
    def seconds(self) -> dict[str, float]:
        """Return the time so far in seconds by activity: env and infer as runners' means, wait, and learn."""
        return {**self._runner.seconds, "wait": self._wait_seconds, "learn": self._learn_seconds}

    def _collect(self) -> list[tuple[Any, Any]]:
        """Return the next fragment of each part, as `Collector.collect` does, and count it."""
        begin = time.perf_counter()
        before = sum(self._runner.seconds.values())
        results = self._fragments()
        for _, part in results:
            self._runner.record(part.sample, share=1 / len(results))
            self._steps += len(part.fragment)
        self._number += 1
        elapsed = time.perf_counter() - begin
        self._wait_seconds += max(elapsed - sum(self._runner.seconds.values()) + before, 0.0)
        return results

    def _fragments(self) -> list[tuple[Any, Any]]:
        """Return the next fragment of each part, sampled with the policy's parameters."""
        return self.collector.collect(self._number, as_arrays(self._policy.state_dict()))

    def _fragments_per_learner(self) -> int:
        return len(self.envs.recipes) // len(self._learners)

    def restore(self, state_dict: StateDict) -> None:
        """Restore what `save` returned; runners continue from the restored environments. Raises as `RllibLearner`."""
        super().restore(state_dict)
        self._number = self._steps // (self.envs.rows * self._runner.config.rollout_fragment_length)
        self.collector.abandon()
        self.collector.forget()


def _gpus_by_setting(settings: Any) -> dict[str, int]:
    """Return the numbers of GPUs that processes need, by the setting that asks for them, without zeros."""
    gpus = {"gpus_per_learner": gpus_of_learners(settings), "gpus_per_env_runner": gpus_of_runners(settings)}
    return {name: count for name, count in gpus.items() if count}


def _check_this_machine(cpus: float, gpus: dict[str, int]) -> None:
    """Raise UsageError where this machine has fewer of them."""
    if (total := sum(gpus.values())) > torch.cuda.device_count():
        ask = f"{' and '.join(gpus)} ask{'s' * (len(gpus) == 1)} for {total} GPU{'s' * (total > 1)}"
        raise UsageError(f"{ask}; this machine has {torch.cuda.device_count()}")
    available = len(os.sched_getaffinity(0))
    if cpus > available:
        request = f"env_runners and cpus_per_runner ask for {cpus:g} CPUs; this machine has {available}"
        raise UsageError(one_line(f"{request}: fewer runners, or less than one CPU for each, fit"))
