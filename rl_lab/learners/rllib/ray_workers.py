"""Workers on a Ray cluster as a user asks for them: `ray` or `ray:N`, and the cluster that has them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl_lab.core.errors import UsageError
from rl_lab.learners.rllib.requirement import require

if TYPE_CHECKING:
    from rl_lab.learners.rllib.cluster import Cluster

_CLUSTERS = r"local|auto|([\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"
_MOST = 10_000  # workers


@dataclass(frozen=True)
class RayWorkers:
    """So many workers, or as many as the cluster has CPUs; each has one."""

    count: int | None = None
    cluster: str = "local"  # local, auto or HOST:PORT

    def open(self) -> tuple[Cluster, int]:
        """Return the cluster, which the caller closes, and the number of workers that it has room for.

        Raises UsageError where Ray is missing, or there is no such cluster, or it has too few CPUs.
        """
        require("workers=ray")
        from rl_lab.learners.rllib.attached_cluster import AttachedCluster
        from rl_lab.learners.rllib.cluster import LocalCluster

        request = f"workers=ray:{self.count}"
        if self.cluster == "local":
            cpus = len(os.sched_getaffinity(0))
            if (self.count or 1) > cpus:
                raise UsageError(f"{request} needs {self.count} CPUs; this machine has {cpus}")
            return LocalCluster(num_cpus=self.count or cpus), self.count or cpus
        cluster = AttachedCluster(self.cluster)
        try:
            if self.count is not None:
                cluster.require("CPU", self.count, request)
                return cluster, self.count
            if not (cpus := int(cluster.total("CPU"))):
                raise UsageError(f"cluster={self.cluster}: it has no CPUs for workers")
            return cluster, min(cpus, _MOST)
        except BaseException:
            cluster.close()
            raise


def parse_workers(text: str, cluster: str = "local") -> RayWorkers | None:
    """Return the workers that `ray` or `ray:N` means, None for any other text. Raises UsageError for a wrong N."""
    kind, colon, number = text.partition(":")
    if kind != "ray":
        return None
    check_cluster(cluster)
    if colon and not (re.fullmatch("[0-9]{1,5}", number) and 1 <= int(number) <= _MOST):
        raise UsageError(f"workers={text}: expected ray, or ray:N with N from 1 to {_MOST:,}")
    return RayWorkers(int(number) if colon else None, cluster)


def take_workers(overrides: Sequence[str]) -> tuple[RayWorkers | None, list[str]]:
    """Return the workers that workers=ray, with cluster= or without, asks for, and the other overrides.

    Without workers=, all overrides are returned: cluster= is then a key of the scenario.
    Raises UsageError for other workers, and as `parse_workers`.
    """
    keys = dict(line.partition("=")[::2] for line in overrides)
    others = [line for line in overrides if line.partition("=")[0] != "workers"]
    if "workers" not in keys:
        return None, others
    workers = parse_workers(keys["workers"], keys.get("cluster", "local"))
    if workers is None:
        raise UsageError(f"workers={keys['workers']}: expected ray or ray:N; worlds= are environments side by side")
    return workers, [line for line in others if line.partition("=")[0] != "cluster"]


def check_cluster(cluster: str) -> None:
    """Raise UsageError for a text that names no cluster."""
    if not re.fullmatch(_CLUSTERS, cluster):
        raise UsageError(f"cluster={cluster!r}: expected local, auto, or HOST:PORT of a Ray head node")
