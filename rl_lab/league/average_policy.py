"""The average policy of self-play as an agent: before each episode, one of its snapshots is sampled to play it.

`experiments.frozen_agent` makes it of a league's snapshots. The agent keeps no state of its own while it plays: which
snapshot plays, and which actions are sampled, follows from the random key of the episode and its step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.random_actions import counter_uniforms, sample_categorical
from rl_lab.core.random_streams import PhiloxStream
from rl_lab.core.rng import STREAM_SHIFT, philox
from rl_lab.core.world import Array
from rl_lab.engine.batch import Batch
from rl_lab.league.batched_policies import BatchedPolicies, SequentialPolicies

_POLICY_KEY = PhiloxStream.AVERAGE_POLICY.key


class AveragePolicyAgent:
    """An agent that samples one of M policies uniformly for each episode and seat, and plays it by sampling actions.

    Its expected return against any opponents is that of the average strategy of fictitious self-play. In each
    information set, that strategy weights each policy's action probabilities by the probability that the policy's own
    actions lead there; see `games.tabular_policy.average`.

    It always samples actions, also if `act` is called with deterministic=True. Its samples depend on the seed of the
    episode, the seat and the step alone. With M = 1 it is that policy, sampled.

    Source: Heinrich, Lanctot and Silver 2015, "Fictitious self-play in extensive-form games", lemma 6.
    """

    def __init__(self, name: str, policies: BatchedPolicies | SequentialPolicies, num_policies: int) -> None:
        self.name, self.policies, self.num_policies = name, policies, num_policies
        self._row_seeds: tuple[Array, Array] | None = None  # keys [B] and clock [N], if `set_row_seeds` has set them

    def policy_functions(self) -> list[Callable[[Array, Array], Array]]:
        """Return each policy as a function of observations [B, *shape] and action masks [B, C] to probabilities."""

        def policy(index: int) -> Callable[[Array, Array], Array]:
            return lambda obs, action_mask: self.policies.probabilities(obs, np.full(len(obs), index), action_mask)

        return [policy(index) for index in range(self.num_policies)]

    def bind(self, envs: BatchedEnv) -> None:
        """Keep the batch, whose states hold the episodes' seeds. Raises ValueError for third-party environments."""
        if not isinstance(envs, Batch):
            raise ValueError(f"{envs.world.name}: an average policy needs a world of the lab, whose states hold seeds")
        self._batch, self._num_agents, self._row_seeds = envs, envs.acting.shape[1], None

    def set_row_seeds(self, keys: Array, clock: Array) -> None:
        """See `core.agent.Agent`: keys, uint64 [B], of rows i * A + a, and clock, int64 [N], of environments."""
        self._row_seeds = keys, clock

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `core.agent.Agent.act`, except that `deterministic` is ignored; call `bind` first."""
        numbers = np.arange(len(observations)) if rows is None else np.asarray(rows)
        keys, clock = self._keys_and_clock(numbers)
        # The choice of the policy has another key than the actions, so that the two are independent. Its counter is 0
        # in every step, so that the policy is the same throughout the episode.
        uniforms = counter_uniforms(keys ^ _POLICY_KEY, np.zeros(len(numbers), np.int64))
        policy_index = (uniforms * self.num_policies).astype(np.int64)
        probs = self.policies.probabilities(observations, policy_index, action_mask)
        return sample_categorical(probs, counter_uniforms(keys, clock)), None

    def _keys_and_clock(self, rows: Array) -> tuple[Array, Array]:
        """Return, for each row, [R], the random key of its episode and the step within the episode."""
        index, agents = np.divmod(rows, self._num_agents)
        if self._row_seeds is not None:
            keys, clock = self._row_seeds
            return keys[rows], clock[index]
        states = self._batch.states[index]
        streams = states["rng_counter"] >> STREAM_SHIFT
        # A key for each seat of each episode. Without _POLICY_KEY, it would be a random number that a world uses, too.
        keys = philox(states["rng_key"] ^ _POLICY_KEY, streams * np.uint64(self._num_agents) + agents.astype(np.uint64))
        return keys, states["t"].astype(np.int64)
