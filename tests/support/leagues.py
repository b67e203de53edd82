"""Parts of scenarios with small leagues, as YAML; a small PPO learner; and the files of a run, for comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.agents import random_agent

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

# The beginning of a `league` section; a test appends keys and the closing brace.
LEAGUE = (
    "league: {freeze_every: 128, timeout: 200, max_opponents: 2, random_opening_moves: 2, reset_prob: 0.5,"
    " anchors: [random]"
)
LEAGUE_OF_THREE_KINDS = LEAGUE + ", members: {main: 1, main_exploiter: 1, league_exploiter: 1}}\n"
SMALL_SCENARIO = (
    "worlds: 8\nvideo: false\nthreads: 1\nevaluation: {episodes: 4, selections: 2, selection_episodes: 4}\n"
)
PPO = "agent: {name: ppo, n_steps: 8, batch_size: 32, n_epochs: 2}\n"
DQN = "agent: {name: dqn, learning_starts: 50, buffer_size: 800, train_freq: 8}\n"


def small_ppo_learner(world: str, n: int, **settings: Any) -> Any:
    """Return a PPO against a random opponent in n worlds, and its config."""
    module, envs = agent_registry.load("ppo"), make.make(world, n, seed=3)
    config = module.Config(n_steps=8, batch_size=n * 8, n_epochs=1, net_arch=[24, 16], **settings)
    opponent = random_agent(envs.world)
    return module.learner(config, OpponentsWrapper(envs, [opponent]), budget=1000, seed=4, device="cpu"), config


def league_files(folder: Path) -> dict[str, Any]:
    """Return the contents of a run's files that must not depend on interruptions, by path."""
    files = [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".jsonl") or "league" in p.parts[:-2]]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.is_file()}
