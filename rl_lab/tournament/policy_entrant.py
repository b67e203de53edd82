"""This module wraps a trained policy so that its action for a row depends on that row alone.

`entrants` makes a `PolicyAgent` for each entrant that is a run. Without it, the result of a match would depend on which
other matches are in the batch: matrix products round differently in batches of different sizes, and torch's sampling
uses one random stream for all rows.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.core.agent import Agent
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_actions import counter_uniforms, sample_categorical
from rl_lab.core.rng import philox
from rl_lab.core.world import Array

ROWS_PER_CALL = 128  # of the policy


class PolicyAgent:
    """An agent that calls a policy for a constant number of rows at a time.

    The last call is padded with copies of its last row. With `sample`, each row's action is sampled with the row's own
    random key: from the policy's probabilities where it has them; otherwise the policy is called for one row at a time,
    with torch's global generator seeded for that row.
    """

    def __init__(self, agent: Agent, *, sample: bool) -> None:
        self.name, self.agent, self.sample = agent.name, agent, sample
        if hasattr(agent, "begin"):  # a policy that remembers
            self.begin = agent.begin

    def bind(self, envs: BatchedEnv) -> None:
        """See `Agent`."""
        self.agent.bind(envs)
        self._num_agents, self._space = len(envs.world.agents), envs.world.action

    def set_row_seeds(self, keys: Array, clock: Array) -> None:
        """See `Agent`."""
        self._keys, self._clock = keys, clock

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `Agent.act`."""
        has_probs = self.sample and hasattr(self.agent, "probabilities") and isinstance(self._space, Discrete)
        parts, size = [], ROWS_PER_CALL if has_probs or not self.sample else 1
        for first in range(0, len(rows), size):
            index = np.minimum(np.arange(first, first + size), len(rows) - 1)  # the last row is repeated
            masks = {} if action_mask is None else {"action_mask": action_mask[index]}
            if has_probs:
                probs = self.agent.probabilities(observations[index], rows=rows[index], **masks)  # type: ignore[attr-defined]
                parts.append(self._sample(probs[: len(rows) - first], rows[first : first + size]))
                continue
            if self.sample:
                self._seed(int(rows[first]))
            actions, state = self.agent.act(
                observations[index], state=state, rows=rows[index], deterministic=not self.sample, **masks
            )
            parts.append(actions[: len(rows) - first])
        return np.concatenate(parts), state

    def _sample(self, probs: Array, rows: Array) -> Array:
        """Sample an action for each row, [R], from its probabilities, [R, C]."""
        return sample_categorical(probs, counter_uniforms(self._keys[rows], self._clock[rows // self._num_agents]))

    def _seed(self, row: int) -> None:
        """Seed torch's global generator, with which a policy samples, for this row."""
        key = self._keys[row]
        seed = philox(key & np.uint64(2**32 - 1), key ^ np.uint64(self._clock[row // self._num_agents]))
        sys.modules["torch"].default_generator.manual_seed(int(seed) >> 1)
