"""Random: uniformly random actions, the floor every agent must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_lab.agent import Agent, hyperparameter
from rl_lab.batch import WorldInfo, Worlds
from rl_lab.chance import actions_of
from rl_lab.world import Array


@dataclass(frozen=True)
class Config:
    """Its only choice is the seed."""

    seed: int = hyperparameter(0, "of its actions")


class RandomAgent:
    """Draws from the action space, or from what is legal; see `chance.actions_of`."""

    name = "random"

    def __init__(self, world: WorldInfo, seed: int) -> None:
        self.space, self.seed, self.calls = world.action, seed, 0

    def attend(self, worlds: Worlds) -> None:
        """Begin its actions anew, so that an evaluation can be repeated."""
        self.calls = 0

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`."""
        # A generator for each call: where this agent stands is one number, and a run that resumes goes on from it.
        uniform = np.random.default_rng((self.seed, self.calls)).random((len(observations), *(self.space.shape or ())))
        self.calls += 1
        return actions_of(uniform, self.space, legal), None


def make(config: Config, world: WorldInfo) -> Agent:
    """Return the random agent."""
    return RandomAgent(world, config.seed)
