"""Agent `random`: uniformly random legal actions, the baseline for all other agents.

It has its own random numbers and reads no observation. The random stream restarts with every `bind`.
"""

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
        self.space, self.spaces, self.seed = world.action, world.action_spaces, seed
        self.calls = 0  # of `act` since `bind`; snapshots of `OpponentMixture` save and restore it
        self.num_rows = 0  # of the bound batch
        self._keys: Array | None = None  # see `set_row_seeds`
        self._clock: Array | None = None

    def bind(self, envs: BatchedEnv) -> None:
        """Restart the random stream, so that an evaluation can be repeated."""
        self.calls, self.num_rows = 0, envs.rewards.size
        self._keys = self._clock = None

    def set_row_seeds(self, keys: Array, clock: Array) -> None:
        """See `agent.Agent`."""
        self._keys, self._clock = keys, clock

    def probabilities(
        self, observations: Array, action_mask: Array | None = None, *, rows: Array | None = None
    ) -> Array:
        """Return the probabilities of actions, float64 [B, actions], which are equal for all legal ones."""
        assert isinstance(self.space, Discrete)
        if action_mask is None:
            action_mask = np.ones((len(observations), int(self.space.n)))
        is_legal = action_mask.astype(np.float64)
        return np.asarray(is_legal / is_legal.sum(axis=1, keepdims=True))

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`. The random numbers are those of `set_row_seeds` or else of the seed."""
        shape = self.space.shape or ()
        row_numbers = np.arange(len(observations)) if rows is None else rows
        seats = row_numbers % len(self.spaces)
        if self._keys is not None and self._clock is not None:
            keys = self._keys[row_numbers] ^ np.uint64(self.seed % 2**64)
            clock = self._clock[row_numbers // len(self.spaces)]
            return actions_at(counter_uniforms(keys, clock, shape), self.spaces, seats, action_mask), None
        # There is one generator per call, so the agent's state is one number, with which a resumed run continues.
        generator = np.random.default_rng((self.seed, self.calls))
        self.calls += 1
        # Numbers are made for all rows of the batch, also for those that do not act now. So every row has its own, and
        # two agents of the same seed in different seats do not act alike.
        count = len(observations) if rows is None else max(self.num_rows, int(rows.max()) + 1)
        uniforms = generator.random((count, *shape))
        uniforms = uniforms if rows is None else uniforms[rows]
        return actions_at(uniforms, self.spaces, seats, action_mask), None


def make(config: Config, world: EnvSpec) -> Agent:
    """Return the random agent."""
    return RandomAgent(world, config.seed)
