"""Agent `mcts`: Monte Carlo tree search with random playouts, for two agents that take turns; it needs no training.

The search is `games.search.agents.MctsAgent`; this file has its settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from rl_lab.core.agent import Agent, hyperparameter
from rl_lab.core.protocols import EnvSpec
from rl_lab.games.search.agents import MctsAgent


@dataclass(frozen=True)
class Config:
    """The settings of the search."""

    simulations: int = hyperparameter(1000, "simulations for each move", "simulations")
    exploration: float = hyperparameter(1.0, "exploration constant, in halves of the range of observed returns")
    longest: int = hyperparameter(1000, "length at which a playout is cut off; 0: no limit", "actions")
    seed: int = hyperparameter(0, "seed of the playouts")


def make(config: Config, world: EnvSpec) -> Agent:
    """Return the agent. Raises ValueError if the world cannot be searched; see `search.agents`."""
    return MctsAgent(world, config.seed, config.longest, config.simulations, config.exploration)
