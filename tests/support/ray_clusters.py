"""Start a Ray cluster of several nodes on this machine, as `ray start` would, and remove it afterwards."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray import _raylet
from ray._common.utils import get_default_ray_temp_dir
from ray.cluster_utils import Cluster

from rl_lab.learners.rllib import ray_cleanup

LOCAL = "127.0.0.1"


@contextmanager
def cluster_of(nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """Yield a cluster with a token, and its nodes of one CPU each; its head node has none."""
    folder = tempfile.mkdtemp(prefix="rl-lab-test-", dir="/tmp")
    patch = pytest.MonkeyPatch()
    Path(get_default_ray_temp_dir()).mkdir(exist_ok=True)  # where `Cluster` notes its address
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else the nodes listen for other machines
    patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    # Ray has read these variables when it was imported; it reads them again here.
    _raylet.Config.initialize("")
    _raylet.AuthenticationTokenLoader.instance().reset_cache()
    head = {"num_cpus": 0, "node_ip_address": LOCAL, "include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster, [cluster.add_node(num_cpus=1, node_ip_address=LOCAL) for _ in range(nodes)]
    finally:
        cluster.shutdown()
        for process in ray_cleanup.processes_of(folder):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        patch.undo()


def workers_of(cluster: Any) -> list[int]:
    """Return the process numbers of the cluster's workers of `learners.rllib.job_pool`."""
    folder = cluster.head_node.get_temp_dir_path()
    titles = {process: Path(f"/proc/{process}/cmdline").read_bytes() for process in ray_cleanup.processes_of(folder)}
    return [process for process, title in titles.items() if title.startswith(b"ray::_JobWorker")]
