"""Random: an agent of uniformly random actions, the baseline for all other agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.core.agent import Agent, hyperparameter
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.random_actions import actions_at, counter_uniforms
from rl_lab.core.world import Array


@dataclass(frozen=True)
class Config:
    """The settings of the agent."""

    seed: int = hyperparameter(0, "seed of the actions")


class RandomAgent:
    """An agent that samples uniformly from the legal actions; see `random_actions.actions_at`."""

    name = "random"

    def __init__(self, world: EnvSpec, seed: int) -> None:
        self.space, self.spaces, self.seed, self.calls, self.rows = world.action, world.action_spaces, seed, 0, 0
        self._keys: Array | None = None
        self._clock: Array | None = None

    def bind(self, envs: BatchedEnv) -> None:
        """Restart the random stream, so that an evaluation can be repeated."""
        self.calls, self.rows = 0, envs.rewards.size
        self._keys = self._clock = None

    def set_row_seeds(self, keys: Array, clock: Array) -> None:
        """See `agent.Agent`."""
        self._keys, self._clock = keys, clock

    def probabilities(
        self, observations: Array, action_mask: Array | None = None, *, rows: Array | None = None
    ) -> Array:
        """Return the probabilities of actions, float64 [B, actions], which are equal for all legal ones."""
        assert isinstance(self.space, Discrete)
        allowed = (
            np.ones((len(observations), int(self.space.n))) if action_mask is None else action_mask.astype(np.float64)
        )
        return np.asarray(allowed / allowed.sum(axis=1, keepdims=True))

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`."""
        if self._keys is not None and self._clock is not None:
            numbers = np.arange(len(observations)) if rows is None else rows
            keys, clock = self._keys[numbers] ^ np.uint64(self.seed % 2**64), self._clock[numbers // len(self.spaces)]
            uniform = counter_uniforms(keys, clock, self.space.shape or ())
            return actions_at(uniform, self.spaces, numbers % len(self.spaces), action_mask), None
        # There is one generator per call, so the agent's state is one number, with which a resumed run continues.
        generator, shape = np.random.default_rng((self.seed, self.calls)), self.space.shape or ()
        self.calls += 1
        # Every row has its own numbers, so two agents of the same seed in different seats do not act alike.
        count = len(observations) if rows is None else max(self.rows, int(rows.max()) + 1)
        uniform = generator.random((count, *shape))
        uniform = uniform if rows is None else uniform[rows]
        numbers = np.arange(len(uniform)) if rows is None else rows
        return actions_at(uniform, self.spaces, numbers % len(self.spaces), action_mask), None


def make(config: Config, world: EnvSpec) -> Agent:
    """Return the random agent."""
    return RandomAgent(world, config.seed)
