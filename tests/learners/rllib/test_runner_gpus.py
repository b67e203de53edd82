"""GPUs of env runners: what is asked of Ray, and where torch acts. No GPU is needed: Ray is told of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ray", reason="needs the extra rllib")

import ray
from support.ray_clusters import LOCAL, cluster_of

from rl_lab.cli import main
from rl_lab.core.errors import WorkFailed
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.learners.rllib import cluster as clusters
from rl_lab.learners.rllib.attached_cluster import AttachedCluster
from rl_lab.learners.rllib.process_settings import gpus_of_runners
from rl_lab.learners.rllib.torch_sampler import batch_on_device

WORDS = "agent.env_runners=2 agent.cpus_per_runner=0.5 worlds=4 agent.gpus_per_env_runner=0.5".split()
PPO = ["agent=rllib_ppo", "agent.train_batch_size_per_learner=64", "agent.minibatch_size=32", *WORDS]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return the address of a cluster of a node without GPUs, and one that says that it has one."""
    with cluster_of(1) as (cluster, _):
        cluster.add_node(num_cpus=1, num_gpus=1, node_ip_address=LOCAL)
        yield cluster.address


def learner_of(address: str, *words: str) -> Any:
    return make_learner(compose("cartpole", [*words, f"cluster={address}"]))[0]


def test_compiled_code_acts_on_the_cpu(address: str) -> None:
    """Both runners have their half of the GPU, and the first line says that nothing uses it."""
    learner = learner_of(address, *PPO)
    try:
        said = "0.5 GPU each, acting by compiled code on the CPU (agent.compiled=false: torch on the GPU), updates by"
        assert said in learner.backend
        assert np.isfinite(list(learner.train_iteration().values())).all()
        assert ray.cluster_resources()["GPU"] == 1 and ray.available_resources().get("GPU", 0) == 0
    finally:
        learner.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="runners would use the GPU")
@pytest.mark.parametrize("words", [[*PPO, "agent.compiled=false"], ["agent=rllib_dqn", *WORDS]])
def test_torch_needs_the_gpu_that_ray_has_given(words: list[str], address: str) -> None:
    learner = learner_of(address, *words)
    try:
        assert "2 env runners" in learner.backend and "0.5 GPU each, acting by torch on the GPU" in learner.backend
        with pytest.raises(WorkFailed, match="env runner . cannot be made: .*torch can use none in its process"):
            learner.train_iteration()
    finally:
        learner.close()


def test_a_cluster_with_too_few_is_one_line(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*PPO, "agent.gpus_per_env_runner=1", f"cluster={address}"]
    assert main(["train", "cartpole", *words]) == 2
    error = capsys.readouterr().err
    assert "the processes of gpus_per_env_runner need 2 GPUs; the cluster has 1" in error
    assert len(error.splitlines()) == 1


def test_learners_do_not_wait_for_ever_for_a_gpu_that_others_use(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Holder:  # local, so that it is sent to the actor's process by value
        def ping(self) -> None:
            """Answer once the actor has started."""

    monkeypatch.setattr(clusters, "FREE_WITHIN", 0.5)
    with closing(AttachedCluster(address)) as cluster:
        holder: Any = ray.remote(num_gpus=1)(Holder).remote()
        ray.get(holder.ping.remote(), timeout=60)
        with pytest.raises(WorkFailed, match="1 GPU of the Ray cluster did not become free within"):
            cluster.wait_until_free("GPU", 1)
        cluster.wait_until_free("GPU", 0)


@pytest.mark.parametrize(
    ("runners", "share", "gpus"), [(4, 0.0, 0), (3, 1.0, 3), (3, 0.6, 3), (10, 0.1, 1), (11, 0.1, 2)]
)
def test_fractions_share_whole_gpus(runners: int, share: float, gpus: int) -> None:
    assert gpus_of_runners(SimpleNamespace(env_runners=runners, gpus_per_env_runner=share)) == gpus


def test_torch_acts_where_the_parameters_are() -> None:
    module = torch.nn.Linear(3, 2, device="meta")
    batch = batch_on_device(module, np.zeros((4, 3), np.float32), np.ones((4, 2), np.uint8))
    assert {tensor.device.type for tensor in batch.values()} == {"meta"}
