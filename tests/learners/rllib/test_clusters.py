"""Clusters that cannot be used, and requests that they cannot fulfil: one line and exit status 2."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra rllib")

from support.time_limits import within

from rl_lab.cli import main
from rl_lab.experiments.compose import compose
from rl_lab.learners.rllib import attached_cluster

CUP, EVALUATION = "tournament tic_tac_toe random scripted", "evaluate random world=tic_tac_toe"
TWO = ["agent=rllib_ppo", "agent.env_runners=2", "worlds=8"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*TWO, "cluster=lokal"], "cluster='lokal': expected local, auto, or HOST:PORT"),
        ([*TWO, "cluster=ray://head:10001"], "expected local, auto, or HOST:PORT"),
        ([*TWO, "cluster=127.0.0.1:1"], "cluster=127.0.0.1:1: nothing answers at this address"),
        ([*TWO, "cluster=127.0.0.1:99999"], "cluster=127.0.0.1:99999: nothing answers at this address"),
        ([*TWO, "cluster=192.0.2.1:6379"], "cluster=192.0.2.1:6379: refused without a token"),
        ([*TWO, "cluster=auto"], "cluster=auto, which is 127.0.0.1:1: nothing answers at this address"),
        (["agent=rllib_ppo", "cluster=auto"], "runs in one process; for a cluster, add agent.env_runners=2"),
        (["cluster=auto"], "for a cluster, add agent=rllib_ppo agent.env_runners=2"),
        ([*TWO, "worlds=9"], "worlds=9 cannot be divided among 2 env_runners: 8 can"),
        ([*TWO, "agent.cpus_per_runner=4096"], "ask for 8192 CPUs; this machine has"),
        (["agent=rllib_ppo", "agent.gpus_per_learner=1"], "gpus_per_learner needs learners=1 or more"),
        (["agent=rllib_dqn", "agent.gpus_per_learner=1"], "gpus_per_learner needs learners=1 or more"),
        (["agent=rllib_ppo", "agent.gpus_per_env_runner=1"], "gpus_per_env_runner needs env_runners=1 or more"),
        ([*TWO, "agent.gpus_per_env_runner=1.5"], "gpus_per_env_runner=1.5: expected 0 to 1"),
        ([*TWO, "agent.gpus_per_env_runner=0.5"], "gpus_per_env_runner asks for 1 GPU; this machine has 0"),
        ([*TWO, "agent.gpus_per_env_runner=0.6"], "gpus_per_env_runner asks for 2 GPUs; this machine has 0"),
        (
            [*TWO, "agent.learners=2", "agent.gpus_per_learner=1", "agent.gpus_per_env_runner=1"],
            "gpus_per_learner and gpus_per_env_runner ask for 4 GPUs; this machine has 0",
        ),
        (
            ["agent=rllib_dqn", "agent.env_runners=2", "worlds=8", "agent.gpus_per_env_runner=1"],
            "gpus_per_env_runner asks for 2 GPUs; this machine has 0",
        ),
        ([*TWO, "agent.sample_timeout_s=0"], "sample_timeout_s=0"),
        ([*TWO, "agent.learners=3"], "learners=3 share the fragments of env_runners=2"),
        (["agent=rllib_ppo", "agent.learners=2"], "learners=2 share the fragments of env_runners=0"),
        (
            [*TWO, "agent.learners=2", "agent.train_batch_size_per_learner=129"],
            "no multiple of 8 rows a step: 128 does",
        ),
    ],
)
def test_wrong_clusters_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/missing")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main(["train", "cartpole", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_auto_is_the_head_node_that_the_user_has_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without RAY_ADDRESS: `ray start --head` writes its address to a file, whoever else runs Ray on this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    words = ["train", "cartpole", *TWO, "cluster=auto"]
    assert main(words) == 2
    assert "RAY_ADDRESS is not set, and you have started no `ray start --head`" in capsys.readouterr().err
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:1")
    assert main(words) == 2
    assert "cluster=auto, which is 127.0.0.1:1: nothing answers" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:port")
    assert main(words) == 2
    assert "RAY_ADDRESS=127.0.0.1:port is not HOST:PORT" in capsys.readouterr().err


def test_an_address_that_accepts_and_says_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached_cluster, "_REACH", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, within(20):
        assert main(["train", "cartpole", *TWO, f"cluster=127.0.0.1:{server.getsockname()[1]}"]) == 2
    assert "nothing answers at this address" in capsys.readouterr().err


def test_a_recipe_names_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those who made it could run code on this machine; a run that was started with an address continues with auto."""
    file = tmp_path / "mine.yaml"
    file.write_text("world: cartpole\nagent: rllib_ppo\ncluster: 127.0.0.1:1\n")
    assert main(["train", str(file)]) == 2
    assert "names a cluster's address; only you do" in capsys.readouterr().err
    scenario = compose("cartpole", [*TWO, "cluster=127.0.0.1:1"])
    assert scenario.as_config()["cluster"] == "auto"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"{CUP} --workers ray:9999", "workers=ray:9999 needs 9999 CPUs; this machine has"),
        (f"{CUP} --workers ray --cluster 127.0.0.1:1", "cluster=127.0.0.1:1: nothing answers at this address"),
        (f"{EVALUATION} workers=ray:9999", "workers=ray:9999 needs 9999 CPUs; this machine has"),
        (f"{EVALUATION} workers=ray cluster=127.0.0.1:1", "cluster=127.0.0.1:1: nothing answers at this address"),
        (f"{EVALUATION} workers=ray cluster=here", "cluster='here': expected local, auto, or HOST:PORT"),
        ("train -m cartpole seed=0,1 workers=ray:9999", "workers=ray:9999 needs 9999 CPUs; this machine has"),
        ("train cartpole workers=ray", "workers= goes with -m"),
        (f"{EVALUATION} workers=4", "workers=4: expected ray or ray:N"),
    ],
)
def test_workers_that_no_cluster_has_are_one_line(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not any(tmp_path.iterdir())
