"""PettingZoo's faces: one world as an AECEnv, whose agents act one after the other, or as a ParallelEnv.

    from rl_lab.adapters.pettingzoo import env, parallel_env
    env = parallel_env("catch", max_cycles=50, speed=2)

Importing this file registers every world as `rl_lab/<name>-v0`, for pettingzoo.make: PettingZoo 1.27 has a function to
register environments, and no entry points through which it would find them by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from pettingzoo import AECEnv, ParallelEnv

from ..world import World
from .pettingzoo_face import Face
from .registration import register_pettingzoo


class LabAECEnv(Face, AECEnv):  # type: ignore[misc]
    """One world whose agents act one after the other; see `Face` for its arguments and observations.

    Where all act at once, their actions are collected, and the world steps with the last one's: until then nobody
    sees anything new. With turns, the next agent is whoever the world says; chance is part of a step.
    """

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin an episode; a seed makes it, and the ones after it, reproducible."""
        self._begin(seed)
        self.rewards, self._cumulative_rewards = (dict.fromkeys(self.agents, 0.0) for _ in range(2))
        self.terminations, self.truncations = (dict.fromkeys(self.agents, False) for _ in range(2))
        self.infos = self._infos()
        self._skip_agent_selection, self._turn = None, 0
        self.agent_selection = self._next()

    def observe(self, agent: str) -> Any:
        """Return what the agent observes; a copy."""
        _, _, own, mask = self._places[agent]
        seen = self._observations[own].copy()
        return {"observation": seen, "action_mask": self._legal[mask].copy()} if self._masked else seen

    def step(self, action: Any) -> None:
        """Let `agent_selection` act: None for one that is out. ValueError for an action outside its space."""
        if not self.agents:
            raise ResetNeeded("no episode is running: call reset() first")
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            self._seats = [seat for seat in self._seats if seat[0] != agent]
            return
        index = self._index[agent]
        self._put(agent, index, action)
        if self._mover is None and self._turn + 1 < len(self._seats):
            self._hold(agent, index)
            return
        b = self.batch
        ended = b.step()
        self._turn = 0
        self._cumulative_rewards[agent] = 0.0
        self.rewards = self._rewards()
        self._accumulate_rewards()
        if self._masked:
            self.infos = self._infos()
        if ended or self._left():
            self.terminations, self.truncations = self._ends()
            self.agent_selection = self._next()
            self._deads_step_first()
        else:
            self.agent_selection = self._next()
        if self.render_mode == "human":
            self.render()

    def _hold(self, agent: str, index: int) -> None:
        """Keep an action until everybody has chosen; the batch would refuse a bad one only then."""
        if self.batch.illegal == "refuse":
            space, given = self.action_spaces[agent], self._actions[index]
            own = given[: space.shape[0]] if isinstance(space, Box) else int(given)
            where = f"{self.batch.world.name}: action {given} of {agent} at step {self.batch.states['t'][0]}"
            if not space.contains(own):
                raise ValueError(f"{where} is outside {space}")
            if self._masked and not self._legal[index, own]:
                raise ValueError(f"{where} is illegal; legal are {np.flatnonzero(self._legal[index]).tolist()}")
        if self._turn == 0:
            self._clear_rewards()
        self._cumulative_rewards[agent] = 0.0
        self._turn += 1
        self.agent_selection = self._seats[self._turn][0]

    def _next(self) -> str:
        if self._mover is not None:
            return str(self.possible_agents[self._mover.item()])
        for agent, *_ in self._seats:
            if not (self.terminations[agent] or self.truncations[agent]):
                return agent
        return self._seats[0][0]


class LabParallelEnv(Face, ParallelEnv):  # type: ignore[misc]
    """One world whose agents act at once; see `Face` for its arguments and observations.

    In a world with turns the mover's action alone is taken; the others may be given any, or none.
    """

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Begin an episode; a seed makes it, and the ones after it, reproducible."""
        self._begin(seed)
        return self._look()

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Take everybody's action, by name; all that comes back is by name, too, of who was there before the step.

        Raises ValueError for actions outside their space or missing, before anything moves.
        """
        if not self.agents:
            if self._fresh:
                raise ResetNeeded("no episode is running: call reset() first")
            return {}, {}, {}, {}, {}
        acting, b = self._seats, self.batch
        if self._mover is not None:
            acting = [self._places[self.possible_agents[self._mover.item()]]]
        put = self._put
        for agent, index, _, _ in acting:
            if agent not in actions:
                raise ValueError(f"{b.world.name}: no action for {agent}")
            put(agent, index, actions[agent])
        ended = b.step()
        observations, infos = self._look()
        rewards = self._rewards()
        if ended or self._left():
            terminated, truncated = self._ends()
            self._seats = [seat for seat in self._seats if not (terminated[seat[0]] or truncated[seat[0]])]
            self.agents = [seat[0] for seat in self._seats]
        else:
            terminated, truncated = (dict.fromkeys(self.agents, False) for _ in range(2))
        if self.render_mode == "human":
            self.render()
        return observations, rewards, terminated, truncated, infos

    def _look(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        seen, infos = self._observations.copy(), self._infos()  # one copy, of which everybody gets a part
        if not self._masked:
            return {agent: seen[own] for agent, _, own, _ in self._seats}, infos
        return {agent: {"observation": seen[own], **infos[agent]} for agent, _, own, _ in self._seats}, infos


def env(world: str | World, **arguments: Any) -> LabAECEnv:
    """Return a world as an AECEnv; the arguments are those of `Face`."""
    return LabAECEnv(world, **arguments)


def parallel_env(world: str | World, **arguments: Any) -> LabParallelEnv:
    """Return a world as a ParallelEnv; the arguments are those of `Face`."""
    return LabParallelEnv(world, **arguments)


raw_env = env  # the environment itself sees to what PettingZoo's wrappers would check
register_pettingzoo()
