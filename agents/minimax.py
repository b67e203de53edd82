"""Minimax: alpha-beta search, for two agents who take turns; with enough depth and nodes it plays perfectly."""

from __future__ import annotations

from dataclasses import dataclass

from rl_lab.agent import Agent, hyperparameter
from rl_lab.batch import WorldInfo
from rl_lab.search import AlphaBetaAgent


@dataclass(frozen=True)
class Config:
    """How much it looks ahead."""

    depth: int = hyperparameter(0, "how far it looks ahead; 0: to the end", "actions")
    nodes: int = hyperparameter(100_000, "spent on a move, then the last depth that was completed counts; 0: no limit")
    playouts: int = hyperparameter(0, "random games that value a position where it stops looking; 0: it is worth 0")
    longest: int = hyperparameter(1000, "of a playout, which then counts as it stands; 0: no limit", "actions")
    seed: int = hyperparameter(0, "of its choice between equally good moves, and of its playouts")


def make(config: Config, world: WorldInfo) -> Agent:
    """Return the agent. Raises ValueError where the world cannot be searched; see `search.SearchAgent`."""
    return AlphaBetaAgent(world, config.seed, config.longest, config.depth, config.nodes, config.playouts)
