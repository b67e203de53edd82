"""Tests of the files in deploy/ray/: Ray's cluster launcher and KubeRay accept them, and their commands are valid.

A command is valid if it fails only because there is no cluster at its address.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ray", reason="needs the extra rllib")
pytest.importorskip("jsonschema", reason="Ray checks with it")

from ray.autoscaler._private.util import prepare_config, validate_config

from rl_lab.cli import main
from rl_lab.learners.rllib.requirement import VERSION

ROOT = Path(__file__).parents[2]
MACHINES, KUBERAY = ROOT / "deploy/ray/machines.yaml", ROOT / "deploy/ray/kuberay.yaml"
TRAININGS = re.findall(
    r"rl-lab train [^'\n]*cluster=auto[^'\n]*", (ROOT / "docs/scaling.md").read_text().partition("## On machines of")[2]
)
# https://github.com/ray-project/kuberay/blob/master/docs/reference/api.md, ray.io/v1
FIELDS = {
    "RayJobSpec": "activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector "
    "submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML jobId submissionMode entrypointResources "
    "entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished shutdownAfterJobFinishes suspend",
    "RayClusterSpec": "authOptions suspend managedBy autoscalerOptions headServiceAnnotations enableInTreeAutoscaling "
    "gcsFaultToleranceOptions headGroupSpec rayVersion workerGroupSpecs",
    "HeadGroupSpec": "template headService enableIngress rayStartParams serviceType",
    "WorkerGroupSpec": "suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds rayStartParams template "
    "scaleStrategy numOfHosts",
}


def kuberay() -> Any:
    """Return the specification of the RayJob."""
    (job,) = (each for each in yaml.safe_load_all(KUBERAY.read_text()) if each["kind"] == "RayJob")
    assert job["apiVersion"] == "ray.io/v1"
    return job["spec"]


def cpus_of(spec: Any) -> int:
    """Return the CPUs of a group's pods."""
    (container,) = spec["template"]["spec"]["containers"]
    return int(container["resources"]["limits"]["cpu"])


def test_the_cluster_launcher_accepts_machines_yaml() -> None:
    config = yaml.safe_load(MACHINES.read_text())
    validate_config(prepare_config(config))  # raises for a key or a value that Ray's schema does not have
    assert f"ray:{VERSION}." in config["docker"]["image"]


def test_kuberay_yaml_has_only_fields_that_kuberay_documents() -> None:
    job = kuberay()
    cluster = job["rayClusterSpec"]
    workers = cluster["workerGroupSpecs"]
    parts = {"RayJobSpec": [job], "RayClusterSpec": [cluster], "HeadGroupSpec": [cluster["headGroupSpec"]]}
    for kind, specs in (parts | {"WorkerGroupSpec": workers}).items():
        for spec in specs:
            assert set(spec) <= set(FIELDS[kind].split()), kind
    assert cluster["rayVersion"].startswith(f"{VERSION}.") and cluster["authOptions"] == {"mode": "token"}
    starts = [each["rayStartParams"] for each in (cluster["headGroupSpec"], *workers)]
    assert all(isinstance(value, str) for start in starts for value in start.values())
    runners = int(re.findall(r"env_runners=(\d+)", job["entrypoint"])[0])
    assert sum(each["replicas"] * cpus_of(each) for each in workers) >= runners


@pytest.mark.parametrize("command", [kuberay()["entrypoint"], *TRAININGS])
def test_the_commands_fail_only_because_there_is_no_cluster(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    words = command.split()
    assert words[0] == "rl-lab" and main(words[1:]) == 2
    assert "127.0.0.1:1: nothing answers at this address" in capsys.readouterr().err


def test_the_page_on_scaling_has_a_command_for_machines() -> None:
    assert TRAININGS
