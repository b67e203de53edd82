"""This module has `OpponentMixture`, a list of opponents that may grow, with the probability of meeting each of them.

`OpponentsWrapper` draws an opponent from it for each episode; a league changes its agents and probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.untrusted import checked_array
from rl_lab.core.world import Array
from rl_lab.multiagent.match_runner import begin_episodes, write_actions

_STATE = "state."  # precedes an agent's index in the names of a snapshot


class OpponentMixture:
    """R agents, and `probs`, float64 [R] with sum 1: the probability that an episode is played against each.

    `states` has by index what agents that remember have returned, see `core.agent.Agent`.
    """

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents: list[Agent] = list(agents)
        self.probs = np.full(len(self.agents), 1.0) / max(len(self.agents), 1)
        self.states: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.agents)

    def seed(self, seed: int, first: int, envs: BatchedEnv) -> None:
        """Seed the mixture's own random numbers for `envs`, whose first environment has number `first`.

        This class has no random numbers of its own, and its agents have seeds of their own.
        """

    def bind(self, envs: BatchedEnv) -> None:
        """Bind every agent to the batch, before its first episodes."""
        self.states.clear()
        for agent in self.agents:
            agent.bind(envs)

    def begin(self, mask: Array, envs: BatchedEnv) -> None:
        """Let the agents forget the last episodes of the environments where mask, bool [N], is True."""
        for index, state in self.states.items():
            self.states[index] = begin_episodes(self.agents[index], state, mask, envs)

    def draw(self, uniform: Array) -> Array:
        """Return the opponents of E episodes, int64 [E], for uniform numbers in [0, 1), float64 [E]."""
        bounds = np.cumsum(self.probs)
        # Rounding can leave the last bound below 1, and the last agent of the list may have probability 0.
        last = int(np.flatnonzero(self.probs)[-1]) if self.probs.any() else 0
        indices = np.searchsorted(bounds, uniform * bounds[-1], side="right")
        return np.asarray(np.minimum(indices, last))

    def write_actions(self, envs: BatchedEnv, rows: Array, opponents: Array, *, deterministic: bool) -> None:
        """Write the actions of rows, int64 [K]; the agent with index opponents[k], int64 [K], acts for rows[k]."""
        for index in np.unique(opponents).tolist():
            agent, own_rows, state = self.agents[index], rows[opponents == index], self.states.get(index)
            state = write_actions(agent, envs, own_rows, state=state, deterministic=deterministic)
            if state is not None:
                if not hasattr(agent, "initial_state"):
                    raise ValueError(
                        f"opponent {agent.name} returns a state, and has no initial_state() to check one by"
                    )
                self.states[index] = state

    def snapshot(self) -> dict[str, Array]:
        """Return the counters of the agents that draw random numbers, and the states of those that remember."""
        calls = np.array([getattr(agent, "calls", 0) for agent in self.agents], np.int64)
        return {"calls": calls, **{f"{_STATE}{index}": np.array(state) for index, state in self.states.items()}}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Restore a `snapshot`. Raises ValueError for one of another number of opponents."""
        calls = snapshot.get("calls")
        if calls is None or calls.shape != (len(self.agents),) or calls.dtype != np.int64:
            raise ValueError(f"the snapshot does not fit: it is not one of {len(self.agents)} opponents")
        self.states = self._checked_states(snapshot)
        for agent, count in zip(self.agents, calls.tolist(), strict=True):
            if hasattr(agent, "calls"):
                agent.calls = count

    def _checked_states(self, snapshot: dict[str, Array]) -> dict[int, Any]:
        """Return the states in a snapshot by the agent's index. Raises ValueError where one does not fit."""
        states: dict[int, Any] = {}
        for index, agent in enumerate(self.agents):
            state = snapshot.get(f"{_STATE}{index}")
            if state is None:  # the agent has not acted, or does not remember
                continue
            like = getattr(agent, "initial_state", lambda: None)()
            if like is None:
                raise ValueError(f"the snapshot does not fit: opponent {agent.name} has no state")
            states[index] = checked_array(state, f"state of opponent {agent.name}", like).copy()
        return states
