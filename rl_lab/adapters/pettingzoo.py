"""This module makes a world an AECEnv, whose agents act one after the other, or a ParallelEnv.

    from rl_lab.adapters.pettingzoo import env, parallel_env
    env = parallel_env("catch", max_cycles=50, speed=2)

Importing this file registers every world as `rl_lab/<name>-v0`, for pettingzoo.make. PettingZoo 1.27 has no entry
points through which it would find them without this import.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from pettingzoo import AECEnv, ParallelEnv

from rl_lab.adapters.pettingzoo_base import PettingZooBase
from rl_lab.adapters.registration import register_pettingzoo
from rl_lab.core.world import World


class LabAECEnv(PettingZooBase, AECEnv):  # type: ignore[misc]
    """An AECEnv of one world; see `PettingZooBase` for its arguments and observations.

    If all agents act at once, their actions are collected, and the world steps with the last agent's action; until
    then observations do not change. If agents take turns, the world's `current_player_field` says which one is next.
    """

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin an episode; a seed makes this one and the following ones reproducible."""
        self._begin_episode(seed)
        self.rewards, self._cumulative_rewards = (dict.fromkeys(self.agents, 0.0) for _ in range(2))
        self.terminations, self.truncations = (dict.fromkeys(self.agents, False) for _ in range(2))
        self.infos = self._infos()
        self._skip_agent_selection, self._num_collected = None, 0
        self.agent_selection = self._next_agent()

    def observe(self, agent: str) -> Any:
        """Return a copy of the agent's observation."""
        slot = self._slots[agent]
        observation = self._observations[slot.observation].copy()
        if not self._has_action_mask:
            return observation
        return {"observation": observation, "action_mask": self._action_mask[slot.mask].copy()}

    def step(self, action: Any) -> None:
        """Take the action of `agent_selection`, which is None for an agent that is terminated or truncated.

        Raises ValueError for an action outside its space.
        """
        if not self.agents:
            raise ResetNeeded("no episode is running: call reset() first")
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            self._live_slots = [slot for slot in self._live_slots if slot.agent != agent]
            return
        index = self._index[agent]
        self._write_action(agent, index, action)
        if self._current_player is None and self._num_collected + 1 < len(self._live_slots):
            self._collect_action(agent, index)
            return
        b = self.batch
        ended = b.step()
        self._num_collected = 0
        self._cumulative_rewards[agent] = 0.0
        self.rewards = self._rewards()
        self._accumulate_rewards()
        if self._has_action_mask:
            self.infos = self._infos()
        if ended or self._any_agent_left():
            self.terminations, self.truncations = self._end_flags()
            self.agent_selection = self._next_agent()
            self._deads_step_first()
        else:
            self.agent_selection = self._next_agent()
        if self.render_mode == "human":
            self.render()

    def _collect_action(self, agent: str, index: int) -> None:
        """Check an action and select the next agent; the batch steps, and checks again, once all have acted."""
        if self.batch.illegal == "refuse":
            space, row = self.action_spaces[agent], self._actions[index]
            action = row[: space.shape[0]] if isinstance(space, Box) else int(row)
            subject = f"{self.batch.world.name}: action {row} of {agent} at step {self.batch.states['t'][0]}"
            if not space.contains(action):
                raise ValueError(f"{subject} is outside {space}")
            if self._has_action_mask and not self._action_mask[index, action]:
                legal = np.flatnonzero(self._action_mask[index]).tolist()
                raise ValueError(f"{subject} is illegal; legal are {legal}")
        if self._num_collected == 0:
            self._clear_rewards()
        self._cumulative_rewards[agent] = 0.0
        self._num_collected += 1
        self.agent_selection = self._live_slots[self._num_collected].agent

    def _next_agent(self) -> str:
        if self._current_player is not None:
            return str(self.possible_agents[self._current_player.item()])
        for slot in self._live_slots:
            if not (self.terminations[slot.agent] or self.truncations[slot.agent]):
                return slot.agent
        return self._live_slots[0].agent


class LabParallelEnv(PettingZooBase, ParallelEnv):  # type: ignore[misc]
    """A ParallelEnv of one world; see `PettingZooBase` for its arguments and observations.

    If agents take turns, only the action of the agent to move is used; actions of the others may be missing.
    """

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begin an episode; a seed makes this one and the following ones reproducible."""
        self._begin_episode(seed)
        return self._observe_all()

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Take the agents' actions; return observations, rewards, terminations, truncations and infos.

        All are dicts by agent, for the agents that were live before the step. Raises ValueError for an action that is
        missing or outside its space; then the world has not changed.
        """
        if not self.agents:
            if self._needs_seed:
                raise ResetNeeded("no episode is running: call reset() first")
            return {}, {}, {}, {}, {}
        acting, b = self._live_slots, self.batch
        if self._current_player is not None:
            acting = [self._slots[self.possible_agents[self._current_player.item()]]]
        write_action = self._write_action
        for agent, index, _, _ in acting:
            if agent not in actions:
                raise ValueError(f"{b.world.name}: no action for {agent}")
            write_action(agent, index, actions[agent])
        ended = b.step()
        observations, infos = self._observe_all()
        rewards = self._rewards()
        if ended or self._any_agent_left():
            terminated, truncated = self._end_flags()
            self._live_slots = [
                slot for slot in self._live_slots if not (terminated[slot.agent] or truncated[slot.agent])
            ]
            self.agents = [slot.agent for slot in self._live_slots]
        else:
            terminated, truncated = (dict.fromkeys(self.agents, False) for _ in range(2))
        if self.render_mode == "human":
            self.render()
        return observations, rewards, terminated, truncated, infos

    def _observe_all(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        copy, infos = self._observations.copy(), self._infos()  # one copy for all agents; each gets a view of it
        if not self._has_action_mask:
            return {agent: copy[index] for agent, _, index, _ in self._live_slots}, infos
        return {agent: {"observation": copy[index], **infos[agent]} for agent, _, index, _ in self._live_slots}, infos


def env(world: str | World, **arguments: Any) -> LabAECEnv:
    """Return a world as an AECEnv; the arguments are those of `PettingZooBase`."""
    return LabAECEnv(world, **arguments)


def parallel_env(world: str | World, **arguments: Any) -> LabParallelEnv:
    """Return a world as a ParallelEnv; the arguments are those of `PettingZooBase`."""
    return LabParallelEnv(world, **arguments)


raw_env = env  # the environment itself makes the checks of PettingZoo's wrappers
register_pettingzoo()
