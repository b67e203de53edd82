"""Tests of resume: a run killed or interrupted at any moment ends with the same bits as an uninterrupted one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import programs
from support.runs import reproducible_content
from support.time_limits import within

from rl_lab.core import checkpoint

TRAIN_OVERRIDES = "video=false evaluation.episodes=4 evaluation.selections=3 evaluation.selection_episodes=2".split()
SCENARIOS = {
    "ppo": "agent=ppo budget=6000 worlds=4 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=2 checkpoint.steps=1000"
    " agent.normalize_observations=true agent.normalize_rewards=true",
    "dqn": "agent=dqn budget=6000 worlds=2 agent.train_freq=32 agent.gradient_steps=4 agent.buffer_size=3000"
    " agent.learning_starts=200 agent.target_update_interval=300 checkpoint.steps=1000",
}


def command(verb: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "rl_lab.cli", verb, *words]


def train(agent: str, folder: Path) -> list[str]:
    return command("train", "cartpole", *SCENARIOS[agent].split(), *TRAIN_OVERRIDES, f"run_dir={folder}", "--json")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, ...]]:
    outcomes = {}
    for agent in SCENARIOS:
        folder = tmp_path_factory.mktemp(agent) / "run"
        subprocess.run(train(agent, folder), check=True, capture_output=True)  # with a hash seed of its own
        outcomes[agent] = reproducible_content(folder)
    return outcomes


@pytest.mark.parametrize("agent", SCENARIOS)
@pytest.mark.parametrize("moment", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_resumes_bit_for_bit(
    agent: str, moment: int, tmp_path: Path, uninterrupted: dict
) -> None:
    generator = random.Random(f"{agent}{moment}")
    folder, words, kills = tmp_path / "run", train(agent, tmp_path / "run"), 0
    longest = 0.7  # seconds until the first kill
    for _ in range(30):
        process = programs.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        # Wait until training has begun; from then on the process is killed at any moment.
        while not (folder / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            # A resumed run takes a second to start. Each later one gets more time, so that the training ends.
            seconds_until_kill = generator.uniform(0.0, longest) if kills == 0 else generator.uniform(0.5, 1.5 + kills)
            _, errors = process.communicate(timeout=seconds_until_kill)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            words = command("resume", str(folder), "--json")
            continue
        assert process.returncode == 0, errors
        if kills:
            break
        shutil.rmtree(folder)  # the training has ended before it was to be killed
        longest /= 2
    assert kills > 0
    assert reproducible_content(folder) == uninterrupted[agent]


KILL_AT_POINT = """
import os, signal, sys
from rl_lab import cli
from rl_lab.core import checkpoint
point, nth = sys.argv[1], int(sys.argv[2])
def at(reached):
    global nth
    if reached == point:
        nth -= 1
        if nth == 0:
            os.kill(os.getpid(), signal.SIGKILL)
checkpoint.at_crash_point = at
sys.exit(cli.main(sys.argv[3:]))
"""
MEMBERS = ["generators", "kept-policy", "last", "optimizer", "policy", "world"]


@pytest.mark.slow
@pytest.mark.parametrize("point", checkpoint.crash_points(MEMBERS))
def test_a_run_killed_while_it_writes_a_checkpoint_resumes_bit_for_bit(
    point: str, tmp_path: Path, uninterrupted: dict
) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-c", KILL_AT_POINT, point, "4", *train("ppo", folder)[3:]]
    killed = programs.run(words, capture_output=True)
    if killed.returncode == 0:
        pytest.skip(f"a run never comes to {point}: it replaces no checkpoint")
    assert killed.returncode == -signal.SIGKILL
    programs.run(command("resume", str(folder), "--json"), check=True, capture_output=True)
    assert reproducible_content(folder) == uninterrupted["ppo"]


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_with_a_checkpoint_within_5_seconds(
    number: int, status: int, tmp_path: Path, uninterrupted: dict
) -> None:
    folder = tmp_path / "run"
    process = programs.Popen(train("ppo", folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    with within(5):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"rl-lab resume {folder}" in errors
    assert checkpoint.latest(folder / "checkpoints")[0] is not None
    programs.run(command("resume", str(folder), "--json"), check=True, capture_output=True)
    assert reproducible_content(folder) == uninterrupted["ppo"]


def test_a_signal_while_compiling_ends_training_within_5_seconds(tmp_path: Path, uninterrupted: dict) -> None:
    """A first start compiles for half a minute within one iteration, which the signal aborts."""
    folder = tmp_path / "run"
    empty_cache = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = programs.Popen(
        train("ppo", folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=empty_cache
    )
    while not (folder / "metrics.jsonl").exists():  # opened just before the first iteration
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    with within(5):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopped before its next checkpoint; continue with: rl-lab resume {folder}" in errors
    programs.run(command("resume", str(folder), "--json"), check=True, capture_output=True)
    assert reproducible_content(folder) == uninterrupted["ppo"]


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(tmp_path: Path, uninterrupted: dict) -> None:
    folder = tmp_path / "run"
    programs.run(train("ppo", folder), check=True, capture_output=True)
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    damaged = bytearray((newest / "policy.safetensors").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (newest / "policy.safetensors").write_bytes(damaged)
    resumed = programs.run(command("resume", str(folder), "--json"), check=True, capture_output=True, text=True)
    assert f"{newest.name}/policy.safetensors: does not match its manifest" in resumed.stderr
    assert "continuing from step-" in resumed.stderr
    assert reproducible_content(folder) == uninterrupted["ppo"]


def test_selections_do_not_change_training(tmp_path: Path, uninterrupted: dict) -> None:
    words = [*train("ppo", tmp_path / "run"), "evaluation.selections=0"]
    programs.run(words, check=True, capture_output=True)
    content = reproducible_content(tmp_path / "run")
    tensors_without_best_agent = {key: value for key, value in content[1].items() if not key.startswith("kept-")}
    assert tensors_without_best_agent == {
        key: value for key, value in uninterrupted["ppo"][1].items() if not key.startswith("kept-")
    }
    assert content[3] == uninterrupted["ppo"][3]
