"""What is kept of a training of RLlib's: agents that need no Ray, files for other programs, runs that are resumed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from support.runs import reproducible_content

from rl_lab.cli import main
from rl_lab.experiments.agent_loading import load_agent
from rl_lab.experiments.run_dir import Run

pytest.importorskip("ray", reason="needs the extra rllib")

WORDS = "budget=768 worlds=4 video=false evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1"
WORDS += " checkpoint.steps=1"
AGENTS: dict[str, tuple[Any, str]] = {
    "rllib_ppo": (PPO, "train_batch_size_per_learner=256 minibatch_size=64 num_epochs=2"),
    "rllib_dqn": (
        DQN,
        "num_steps_sampled_before_learning_starts=100 min_sample_timesteps_per_iteration=256 n_step=3"
        " training_intensity=32",
    ),
    "rllib_appo": (PPO, "rollout_fragment_length=64"),
}


@pytest.mark.parametrize("agent", AGENTS)
def test_a_kept_agent(agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It acts the same without Ray and in Stable-Baselines3; the run is resumed to the same bits."""
    library, settings = AGENTS[agent]
    folder = tmp_path / "run"
    words = ["train", "cartpole", f"agent={agent}", f"run_dir={folder}", *WORDS.split()]
    assert main([*words, *(f"agent.{word}" for word in settings.split())]) == 0
    before = reproducible_content(folder)
    shutil.rmtree(sorted((folder / "checkpoints").iterdir())[-1])
    assert main(["resume", str(folder)]) == 0
    assert reproducible_content(folder) == before

    assert main(["export", str(folder), str(tmp_path / "agent.zip")]) == 0
    for name in [name for name in sys.modules if name.startswith("rl_lab.learners.rllib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    agent_without_ray = load_agent(Run(folder).agent, Run(folder).scenario())[0]
    observations = np.random.default_rng(0).normal(size=(10_000, 4)).astype(np.float32)
    greedy = agent_without_ray.act(observations)[0]
    elsewhere = library.load(tmp_path / "agent.zip", gym.make("CartPole-v1"))
    assert np.array_equal(greedy, elsewhere.predict(observations, deterministic=True)[0])
    assert 0 < greedy.mean() < 1
