"""MCTS: Monte Carlo tree search with random playouts, for two agents who take turns; nothing is learnt."""

from __future__ import annotations

from dataclasses import dataclass

from rl_lab.agent import Agent, hyperparameter
from rl_lab.batch import WorldInfo
from rl_lab.search import UctAgent


@dataclass(frozen=True)
class Config:
    """How much it looks ahead."""

    simulations: int = hyperparameter(1000, "for each move", "simulations")
    exploration: float = hyperparameter(1.0, "how wide it searches; in halves of the range of returns that were seen")
    longest: int = hyperparameter(1000, "of a playout, which then counts as it stands; 0: no limit", "actions")
    seed: int = hyperparameter(0, "of its playouts")


def make(config: Config, world: WorldInfo) -> Agent:
    """Return the agent. Raises ValueError where the world cannot be searched; see `search.SearchAgent`."""
    return UctAgent(world, config.seed, config.longest, config.simulations, config.exploration)
