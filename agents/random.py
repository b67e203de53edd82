"""Random: uniformly random actions, the floor every agent must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.agent import Agent, hyperparameter
from rl_lab.batch import WorldInfo, Worlds
from rl_lab.world import Array


@dataclass(frozen=True)
class Config:
    """Its only choice is the seed."""

    seed: int = hyperparameter(0, "of its actions")


class RandomAgent:
    """Draws from the action space; a Box's unbounded side is cut at 1, or at a distance of 1 from the other."""

    name = "random"

    def __init__(self, world: WorldInfo, seed: int) -> None:
        self.space, self.seed = world.action, seed
        self.generator = np.random.default_rng(seed)

    def attend(self, worlds: Worlds) -> None:
        """Begin its actions anew, so that an evaluation can be repeated."""
        self.generator = np.random.default_rng(self.seed)

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`."""
        if isinstance(self.space, Discrete):
            return self.generator.integers(0, self.space.n, len(observations)), None
        low, high = self.space.low.astype(np.float64), self.space.high.astype(np.float64)
        low = np.where(np.isfinite(low), low, np.minimum(-1.0, high - 1.0))
        high = np.where(np.isfinite(high), high, np.maximum(1.0, low + 1.0))
        return self.generator.uniform(low, high, (len(observations), *low.shape)).astype(np.float32), None


def make(config: Config, world: WorldInfo) -> Agent:
    """Return the random agent."""
    return RandomAgent(world, config.seed)
