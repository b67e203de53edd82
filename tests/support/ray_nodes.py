"""A Ray cluster of several nodes on this machine, reachable from this machine alone, by a token."""

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

from rl_lab.learners.rllib import janitor

LOCAL = "127.0.0.1"


@contextmanager
def cluster_of(nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """Start a head node without CPUs, and nodes of one CPU; yield the cluster and the nodes. All end with the block."""
    folder = tempfile.mkdtemp(prefix="rl-lab-test-", dir="/tmp")
    Path(get_default_ray_temp_dir()).mkdir(exist_ok=True)  # where `Cluster` notes its address
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # of the nodes: or they listen for other machines
    patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    # What Ray has read from the environment before.
    raylet: Any = _raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    head = {"num_cpus": 0, "node_ip_address": LOCAL, "include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster, [cluster.add_node(num_cpus=1, node_ip_address=LOCAL) for _ in range(nodes)]
    finally:
        cluster.shutdown()
        for process in janitor.processes_of(folder):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        patch.undo()
