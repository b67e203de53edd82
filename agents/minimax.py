"""Agent `minimax`: alpha-beta search for two agents that take turns; with enough depth and nodes it plays perfectly.

The search is `games.search.agents.AlphaBetaAgent`; this file has its settings. It needs no training.
"""

from __future__ import annotations

from dataclasses import dataclass

from rl_lab.core.agent import Agent, hyperparameter
from rl_lab.core.protocols import EnvSpec
from rl_lab.games.search.agents import AlphaBetaAgent


@dataclass(frozen=True)
class Config:
    """The settings of the search."""

    depth: int = hyperparameter(0, "search depth; 0: to the end of the game", "actions")
    nodes: int = hyperparameter(100_000, "most nodes for a move; the last completed depth counts; 0: no limit")
    playouts: int = hyperparameter(0, "random games that evaluate a position at the full depth; 0: its value is 0")
    longest: int = hyperparameter(1000, "length at which a playout is cut off; 0: no limit", "actions")
    seed: int = hyperparameter(0, "seed of the choice between equally good moves, and of the playouts")


def make(config: Config, world: EnvSpec) -> Agent:
    """Return the agent. Raises ValueError if the world cannot be searched; see `search.agents`."""
    return AlphaBetaAgent(world, config.seed, config.longest, config.depth, config.nodes, config.playouts)
