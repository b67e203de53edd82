"""Trained policies at a tournament: an answer depends on nothing but the row that is asked about."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from ..agent import Agent
from ..batch import Worlds
from ..chance import choices, uniforms
from ..rng import philox
from ..world import Array

CHUNK = 128  # rows asked at a time


class PolicyAgent:
    """A policy that is always asked about as many rows.

    A matrix product rounds differently in batches of different sizes, and two actions can be that close: so the last
    chunk is filled up with rows that nobody looks at. A policy that samples draws for each row from the row's own key:
    from its probabilities where it can tell them, and else its rows are asked one by one.
    """

    def __init__(self, agent: Agent, *, sample: bool) -> None:
        self.name, self.agent, self.sample = agent.name, agent, sample

    def attend(self, worlds: Worlds) -> None:
        """See `agent.Agent`."""
        self.agent.attend(worlds)
        self._agents, self._space = len(worlds.world.agents), worlds.world.action

    def follow(self, keys: Array, clock: Array) -> None:
        """See `agent.Agent`."""
        self._keys, self._clock = keys, clock

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        rows: Array,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`."""
        tells = self.sample and hasattr(self.agent, "probabilities") and isinstance(self._space, Discrete)
        answers, size = [], CHUNK if tells or not self.sample else 1
        for first in range(0, len(rows), size):
            wanted = np.minimum(np.arange(first, first + size), len(rows) - 1)
            asked = {} if legal is None else {"legal": legal[wanted]}
            if tells:
                chances = self.agent.probabilities(observations[wanted], rows=rows[wanted], **asked)  # type: ignore[attr-defined]
                answers.append(self._drawn(chances[: len(rows) - first], rows[first : first + size]))
                continue
            if self.sample:
                self._seed(int(rows[first]))
            given, state = self.agent.act(
                observations[wanted], rows=rows[wanted], deterministic=not self.sample, **asked
            )
            if state is not None:
                raise ValueError("it keeps a state, which worlds of several agents do not support")
            answers.append(given[: len(rows) - first])
        return np.concatenate(answers), None

    def _drawn(self, chances: Array, rows: Array) -> Array:
        """Draw an action for each row, [R], from its chances, [R, S]."""
        return choices(chances, uniforms(self._keys[rows], self._clock[rows // self._agents]))

    def _seed(self, row: int) -> None:
        """Seed torch's generator, from which a policy draws, for this row."""
        key = self._keys[row]
        drawn = philox(key & np.uint64(2**32 - 1), key ^ np.uint64(self._clock[row // self._agents]))
        sys.modules["torch"].default_generator.manual_seed(int(drawn) >> 1)
