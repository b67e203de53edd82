"""A run of an agent that RLlib trains: its result without Ray, its resume, and what is left on the machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import programs
from support.runs import reproducible_content
from support.time_limits import within

from rl_lab.adapters.make import make
from rl_lab.cli import main
from rl_lab.experiments.agent_loading import load_agent
from rl_lab.experiments.run_dir import Run
from rl_lab.learners.rllib import ray_cleanup

pytest.importorskip("ray", reason="needs the extra rllib")

WORDS = "budget=1536 worlds=4 agent.train_batch_size_per_learner=256 agent.minibatch_size=64 agent.num_epochs=2"
WORDS += " video=false evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1 checkpoint.steps=1"
WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from rl_lab.cli import main; sys.exit(main(sys.argv[1:]))"


def train(folder: Path, world: str = "cartpole", *more: str) -> list[str]:
    program = [sys.executable, "-m", "rl_lab.cli", "train", world, "agent=rllib_ppo", f"run_dir={folder}"]
    return [*program, *WORDS.split(), *more]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return programs.run(words, capture_output=True, text=True, timeout=240)


def agent_of(folder: Path) -> Any:
    run_folder = Run(folder)
    return load_agent(run_folder.agent, run_folder.scenario())[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    # In a new interpreter, with a hash seed of its own.
    done = subprocess.run(train(folder), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "learner: RLlib" in done.stderr and "acting by compiled code, updates by compiled code" in done.stderr
    assert "ray" not in done.stderr.replace("RLlib", "").lower()
    return folder


def test_one_process_starts_no_other(tmp_path: Path) -> None:
    assert main(train(tmp_path / "run", "cartpole", "budget=256")[3:]) == 0
    import ray

    assert not ray.is_initialized()


def test_the_agent_needs_no_ray_and_acts_as_rllibs_module(whole: Path, tmp_path: Path) -> None:
    """Greedy actions of 10,000 observations are those of the policy's own logits."""
    copy = shutil.copytree(whole, tmp_path / "run")
    done = run([sys.executable, "-c", WITHOUT_RAY, "evaluate", str(copy), "evaluation.episodes=3"])
    assert done.returncode == 0, done.stderr
    agent = agent_of(whole)
    observations = np.random.default_rng(0).normal(size=(10_000, 4)).astype(np.float32)
    greedy = agent.act(observations)[0]
    assert np.array_equal(greedy, agent.probabilities(observations).argmax(axis=1))
    assert 0 < greedy.mean() < 1


def test_killed_and_resumed_it_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = programs.Popen(train(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not list(folder.glob("checkpoints/step-*")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run([sys.executable, "-m", "rl_lab.cli", "resume", str(folder)])
    assert done.returncode == 0, done.stderr
    assert reproducible_content(folder) == reproducible_content(whole)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_nothing_is_left_behind(number: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        train(tmp_path / "run", "cartpole", "agent.num_epochs=10000", "agent.env_runners=1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 120
    while not (tmp_path / "run/metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    folder = folder_of(process.pid)
    processes = ray_cleanup.processes_of(str(folder))
    assert len(processes) >= 2
    assert not [address for each in (process.pid, *processes) for address in listened(each) if not local(address)]
    process.send_signal(number)
    with within(30):
        assert process.wait(120) == (-number if number == signal.SIGKILL else 128 + number)
    with within(10):
        while folder.exists() or any(Path(f"/proc/{each}/exe").exists() for each in processes):
            time.sleep(0.1)


def ray_variables() -> dict[str, str]:
    """Return what the environment says to Ray, which the next one would read; imports of libraries add other names."""
    return {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "GLOO_", "PYTHON"))}


def folder_of(process: int) -> Path:
    """Return the folder of the Ray that a process has started: the argument of the program that watches it."""
    (children,) = Path(f"/proc/{process}/task/{process}").glob("children")
    commands = [Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0") for child in children.read_text().split()]
    (folder,) = [words[-2].decode() for words in commands if any(b"ray_cleanup" in word for word in words)]
    return Path(folder)


def listened(process: int) -> list[str]:
    """Return the addresses, in hexadecimal, at which a process accepts connections."""
    sockets = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            sockets.add(os.readlink(entry))
        except OSError:
            continue
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]


def local(address: str) -> bool:
    """Return True for 127.0.0.1 and ::1, in the kernel's hexadecimal."""
    return address in ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


@pytest.mark.parametrize(
    ("world", "more"),
    [
        ("catch", ["agent.policy=cnn"]),
        ("pendulum", []),
        ("tic_tac_toe", ["opponent=random"]),
    ],
)
def test_boards_continuous_actions_and_masks(world: str, more: list[str], tmp_path: Path) -> None:
    environment = ray_variables()
    assert main(train(tmp_path / "run", world, "budget=512", *more)[3:]) == 0
    assert ray_variables() == environment
    envs = make(world, 8)
    agent = agent_of(tmp_path / "run")
    agent.bind(envs)
    envs.reset()
    mask = envs.action_mask.reshape(-1, envs.action_mask.shape[-1]) if envs.world.has_action_mask else None
    observations = envs.observations.reshape(-1, *envs.observations.shape[2:])
    assert np.isfinite(agent.act(observations, action_mask=mask)[0]).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["agent.train_batch_size_per_learner=1001"], "is no multiple of 8 rows a step: 1000 is"),
        (["agent.minibatch_size=5000"], "is larger than a train batch of 256 rows"),
        (["agent.lr=-1"], "lr=-1"),
    ],
)
def test_wrong_settings_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "cartpole", "agent=rllib_ppo", "worlds=8", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "train cartpole agent=rllib_ppo",
        "tournament tic_tac_toe random scripted --workers ray",
        "evaluate random world=tic_tac_toe workers=ray",
        "train -m cartpole seed=0,1 workers=ray",
    ],
)
def test_without_the_extra_it_says_what_to_install(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run([sys.executable, "-c", MISSING, *words.split()])
    assert done.returncode == 2
    assert 'pip install "rl-lab[rllib]"' in done.stderr and "Traceback" not in done.stderr


MISSING = """
import sys
from importlib import metadata
installed_version = metadata.version
def version(name):
    if name == "ray":
        raise metadata.PackageNotFoundError(name)
    return installed_version(name)
metadata.version = version
from rl_lab.cli import main
sys.exit(main(sys.argv[1:]))
"""
