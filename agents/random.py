"""Random: uniformly random actions, the floor every agent must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.agent import Agent, hyperparameter
from rl_lab.batch import WorldInfo, Worlds
from rl_lab.chance import actions_at, uniforms
from rl_lab.world import Array


@dataclass(frozen=True)
class Config:
    """Its only choice is the seed."""

    seed: int = hyperparameter(0, "of its actions")


class RandomAgent:
    """Draws from the action space, or from what is legal; see `chance.actions_at`."""

    name = "random"

    def __init__(self, world: WorldInfo, seed: int) -> None:
        self.space, self.spaces, self.seed, self.calls, self.rows = world.action, world.action_spaces, seed, 0, 0
        self._keys: Array | None = None
        self._clock: Array | None = None

    def attend(self, worlds: Worlds) -> None:
        """Begin its actions anew, so that an evaluation can be repeated."""
        self.calls, self.rows = 0, worlds.rewards.size
        self._keys = self._clock = None

    def follow(self, keys: Array, clock: Array) -> None:
        """See `agent.Agent`."""
        self._keys, self._clock = keys, clock

    def probabilities(self, observations: Array, legal: Array | None = None, *, rows: Array | None = None) -> Array:
        """Return how likely each action is, float64 [B, actions]: all that are legal, alike."""
        assert isinstance(self.space, Discrete)
        allowed = np.ones((len(observations), int(self.space.n))) if legal is None else legal.astype(np.float64)
        return np.asarray(allowed / allowed.sum(axis=1, keepdims=True))

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
        if self._keys is not None and self._clock is not None:
            numbers = np.arange(len(observations)) if rows is None else rows
            keys, clock = self._keys[numbers] ^ np.uint64(self.seed % 2**64), self._clock[numbers // len(self.spaces)]
            uniform = uniforms(keys, clock, self.space.shape or ())
            return actions_at(uniform, self.spaces, numbers % len(self.spaces), legal), None
        # A generator for each call: where this agent stands is one number, and a run that resumes goes on from it.
        generator, shape = np.random.default_rng((self.seed, self.calls)), self.space.shape or ()
        self.calls += 1
        # Every row has its own numbers, so two of the same seed at different seats do not move alike.
        count = len(observations) if rows is None else max(self.rows, int(rows.max()) + 1)
        uniform = generator.random((count, *shape))
        uniform = uniform if rows is None else uniform[rows]
        numbers = np.arange(len(uniform)) if rows is None else rows
        return actions_at(uniform, self.spaces, numbers % len(self.spaces), legal), None


def make(config: Config, world: WorldInfo) -> Agent:
    """Return the random agent."""
    return RandomAgent(world, config.seed)
