"""This module has the agent that plays several policies, each of which acts at the seats of its own agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array


@dataclass
class _Member:
    agent: Agent
    seats: tuple[int, ...]


class MultiPolicyAgent:
    """One agent that consists of several, each of which acts at its own seats."""

    def __init__(self, agents: dict[str, Agent], policies: dict[str, tuple[int, ...]]) -> None:
        self.name = "+".join(sorted({agent.name for agent in agents.values()}))
        self.stochastic = any(getattr(agent, "stochastic", False) for agent in agents.values())
        self._members = [_Member(agent, policies[name]) for name, agent in agents.items()]
        self._num_agents = sum(len(seats) for seats in policies.values())
        self._shape: tuple[int, ...] = ()
        self._dtype: Any = np.int64

    def bind(self, envs: BatchedEnv) -> None:
        """Bind all members to the batch."""
        self._shape, self._dtype = envs.actions.shape[2:], envs.actions.dtype
        for member in self._members:
            member.agent.bind(envs)
            agent_indices: Any = getattr(member.agent, "agent_indices", None)
            if agent_indices is not None:  # a policy that observes an agent's index numbers its own agents from 0
                agent_indices[list(member.seats)] = np.arange(len(member.seats))

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `Agent.act`: each row is decided by the member whose seat it is."""
        numbers = np.arange(len(observations)) if rows is None else rows
        actions = np.zeros((len(observations), *self._shape), self._dtype)
        for member in self._members:
            index = np.flatnonzero(np.isin(numbers % self._num_agents, member.seats))
            if len(index):
                masks = None if action_mask is None else action_mask[index]
                actions[index], memory = member.agent.act(
                    observations[index], action_mask=masks, rows=numbers[index], deterministic=deterministic
                )
                if memory is not None:
                    raise ValueError(f"{member.agent.name} remembers, and several policies have no place for a state")
        return actions, None
