"""The compiled learners learn as Stable-Baselines3's do: learning curves of ten seeds each are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.evaluation import stats

SEEDS = 10
# Of each world: agent, number of environments, budget and hyperparameters.
SETTINGS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "cartpole": ("ppo", 8, 60_000, {"n_steps": 32, "batch_size": 256, "n_epochs": 10, "learning_rate": 1e-3}),
    "acrobot": ("ppo", 16, 120_000, {"n_steps": 128, "batch_size": 256, "n_epochs": 6, "learning_rate": 1e-3}),
    "breakout": (
        "ppo",
        32,
        200_000,
        {"n_steps": 64, "batch_size": 512, "n_epochs": 4, "learning_rate": 1e-3, "policy": "cnn", "net_arch": [64]},
    ),
    "catch": (
        "dqn",
        8,
        40_000,
        {"learning_rate": 1e-3, "target_update_interval": 400, "exploration_fraction": 0.4, "learning_starts": 500},
    ),
}


def learning_curve(world: str, seed: int, *, compiled: bool) -> list[float]:
    """Return the mean return of the last 100 episodes at each tenth of the budget."""
    agent, num_envs, budget, settings = SETTINGS[world]
    factory = agent_registry.load(agent)
    learner = factory.learner(
        factory.Config(**settings, compiled=compiled),
        make.make(world, num_envs, seed=seed, threads=1),
        budget=budget,
        seed=seed,
        device="cpu",
    )
    assert (learner.backend == "compiled") == compiled
    points: list[float] = []
    latest = 0.0
    while learner.steps < budget:
        latest = learner.train_iteration().get("rollout/return", latest)
        if learner.steps >= (len(points) + 1) * budget / 10:
            points.append(latest)
    return points[:10]


@pytest.mark.slow
@pytest.mark.parametrize("world", SETTINGS)
def test_learning_curves_are_those_of_sb3(world: str) -> None:
    """At each tenth of the budget, the 95 % intervals of both IQMs overlap; equal learners fail once in 180 runs."""
    torch.set_num_threads(1)
    curves = {
        compiled: np.array([learning_curve(world, seed, compiled=compiled) for seed in range(SEEDS)])
        for compiled in (True, False)
    }
    for tenth in range(10):
        (low, high), (other_low, other_high) = (
            stats.bootstrap_ci(curves[compiled][:, tenth], stats.iqm) for compiled in (True, False)
        )
        assert low <= other_high and other_low <= high, (tenth, curves)
        print(f"{world} {tenth + 1}/10: compiled {low:.1f} to {high:.1f}, stock {other_low:.1f} to {other_high:.1f}")
