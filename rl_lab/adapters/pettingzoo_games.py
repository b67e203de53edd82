"""This module steps PettingZoo's two kinds of environments, AECEnv and ParallelEnv, in the same way.

`make_game` wraps an environment in a `Game`. A step of a Game changes its environment, `observations` and `acting`, and
raises InvalidDataError where the environment returns something that PettingZoo's interface does not allow.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Protocol

from rl_lab.adapters.foreign_data import checked_flag, checked_parts
from rl_lab.adapters.foreign_errors import InvalidDataError

_STEP_RESULT = "observations, rewards, terminations, truncations, infos"


def without_mask(parts: dict[str, Any]) -> Any:
    """Return what an agent observes beside its mask: what lies under "observation" where there is nothing else."""
    rest = {key: part for key, part in parts.items() if key != "action_mask"}
    return rest["observation"] if list(rest) == ["observation"] else rest


class Game(Protocol):
    """One environment, AECEnv or ParallelEnv; `observations` and `acting` are those after the last step."""

    env: Any
    horizon: int  # steps after which it truncates, 0 where that is unknown
    possible_agents: list[Any]
    observations: dict[Any, Any]  # by live agent, without masks
    acting: list[Any]  # the agents that act next

    def reset(self, seed: int) -> None:
        """Begin an episode."""

    def step(self, actions: dict[Any, Any]) -> tuple[dict[Any, float], list[Any], list[Any]]:
        """Take the actions of the acting agents; return rewards, terminated agents and truncated agents."""

    def mask(self, agent: Any) -> Any:
        """Return the agent's mask, [actions], or None."""


class _GameBase:
    """The common part of both kinds of `Game`: it separates observations from action masks."""

    horizon = 0

    def __init__(self, env: Any) -> None:
        self.env, self.possible_agents = env, list(env.possible_agents)
        self.acting: list[Any] = []

    def _store(self, values: dict[Any, Any], infos: dict[Any, Any]) -> None:
        """Store observations and masks; a mask is in the observation or in the infos."""
        self.observations: dict[Any, Any] = {}
        self._masks: dict[Any, Any] = {}
        self._check_agents(values, "an observation")
        if not isinstance(infos, dict):
            raise InvalidDataError(f"returned infos of type {type(infos).__name__}, expected a dict of dicts")
        for agent, value in values.items():
            info = infos.get(agent, {})
            if not isinstance(info, dict):
                message = f"returned an info for agent {agent} of type {type(info).__name__}, expected a dict"
                raise InvalidDataError(message)
            if isinstance(value, dict):
                self._masks[agent] = value.get("action_mask", info.get("action_mask"))
                self.observations[agent] = without_mask(value)
            else:
                self._masks[agent], self.observations[agent] = info.get("action_mask"), value

    def mask(self, agent: Any) -> Any:
        return self._masks.get(agent)

    def _check_agents(self, values: Any, what: str, required: Iterable[Any] = ()) -> None:
        """Raise InvalidDataError where `values` is not a dict, has an impossible agent, or lacks a required one."""
        if not isinstance(values, dict):
            raise InvalidDataError(f"returned a {type(values).__name__}, expected a dict with {what} for each agent")
        for agent in values:
            if agent not in self.possible_agents:
                raise InvalidDataError(f"returned {what} for {agent!r}, which is not in possible_agents")
        for agent in required:
            if agent not in values:
                raise InvalidDataError(f"returned no {what.partition(' ')[2]} for agent {agent}")

    def _agents_flagged(self, terminated: Any, truncated: Any, agents: list[Any]) -> list[list[Any]]:
        """Return two lists, the agents that terminated and those that were truncated.

        Raises InvalidDataError where an agent has no flag, or a flag is no bool.
        """
        ends = []
        for name, flags in (("termination", terminated), ("truncation", truncated)):
            self._check_agents(flags, f"a {name}", agents)
            ends.append([agent for agent in agents if checked_flag(flags[agent], f"a {name}", str(agent))])
        return ends

    def _check_presence(self, before: list[Any], ends: list[list[Any]]) -> None:
        """Raise InvalidDataError where an agent of `before` is no longer in `agents` and neither of its flags is set.

        Without a flag, a learner would not know whether to bootstrap the value of the agent's last state.
        """
        agents = self.env.agents
        if not isinstance(agents, list | tuple):
            raise InvalidDataError(f"left agents of type {type(agents).__name__}, expected a list")
        for agent in agents:
            if agent not in self.possible_agents:
                raise InvalidDataError(f"left {agent!r} in agents, which is not in possible_agents")
        for agent in before:
            if agent not in agents and agent not in (*ends[0], *ends[1]):
                message = f"removed {agent} from agents, although it neither terminated nor was truncated"
                raise InvalidDataError(message)


class ParallelGame(_GameBase):
    """A game over a ParallelEnv."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        cycles = getattr(env.unwrapped, "max_cycles", None)
        self.horizon = cycles if isinstance(cycles, int) else 0

    def reset(self, seed: int) -> None:
        """See `Game.reset`."""
        self._store(*checked_parts(self.env.reset(seed=seed), "observations, infos"))
        self.acting = list(self.env.agents)

    def step(self, actions: dict[Any, Any]) -> tuple[dict[Any, float], list[Any], list[Any]]:
        """See `Game.step`."""
        observations, rewards, terminated, truncated, infos = checked_parts(self.env.step(actions), _STEP_RESULT)
        self._store(observations, infos)
        self._check_agents(rewards, "a reward", self.acting)
        ends = self._agents_flagged(terminated, truncated, self.acting)
        self._check_presence(self.acting, ends)
        for agent in (*ends[0], *ends[1]):
            if agent in self.env.agents:
                raise InvalidDataError(f"kept {agent} in agents, although it terminated or was truncated")
        self.acting = list(self.env.agents)
        return rewards, ends[0], ends[1]


class AECGame(_GameBase):
    """A game over an AECEnv: `agent_selection` acts; terminated and truncated agents are stepped with None.

    The horizon is unknown, because `max_cycles` of an AECEnv does not count single moves.
    """

    def _observe(self) -> None:
        # Each observation is copied, because an environment may return the same array for every agent.
        self._store({agent: deepcopy(self.env.observe(agent)) for agent in self.env.agents}, self.env.infos)

    def reset(self, seed: int) -> None:
        """See `Game.reset`."""
        self.env.reset(seed=seed)
        self._observe()
        self.acting, self._live_agents = [self.env.agent_selection], list(self.env.agents)

    def step(self, actions: dict[Any, Any]) -> tuple[dict[Any, float], list[Any], list[Any]]:
        """See `Game.step`."""
        env, live = self.env, self._live_agents
        env.step(actions[self.acting[0]])
        ends = self._agents_flagged(env.terminations, env.truncations, live)
        self._check_presence(live, ends)
        self._observe()
        self._check_agents(env.rewards, "a reward", live)
        rewards = dict(env.rewards)
        while env.agents and self._is_dead(env.agent_selection):
            env.step(None)
            ends = self._with_later_ends(live, ends)
        self._live_agents = [agent for agent in env.agents if not self._is_dead(agent)]
        self.acting = [env.agent_selection] if env.agents else []
        return rewards, ends[0], ends[1]

    def _with_later_ends(self, live: list[Any], ends: list[list[Any]]) -> list[list[Any]]:
        """Return the ends of this step with those of agents that the removal of another agent has ended."""
        env = self.env
        others = [agent for agent in live if agent not in (*ends[0], *ends[1])]
        reported = [agent for agent in others if agent in env.agents or agent in env.terminations]
        later = self._agents_flagged(env.terminations, env.truncations, reported)
        self._check_presence(others, later)
        return [before + after for before, after in zip(ends, later, strict=True)]

    def _is_dead(self, agent: Any) -> bool:
        """Return whether an agent's episode has ended. Raises InvalidDataError for one that is not in `agents`."""
        env = self.env
        if agent not in env.agents:
            raise InvalidDataError(f"left {agent!r} as agent_selection, expected one of {env.agents}")
        return any(self._agents_flagged(env.terminations, env.truncations, [agent]))


def make_game(kind: str, env: Any) -> Game:
    """Return the game over an environment; `kind` is "parallel" or "aec"."""
    return ParallelGame(env) if kind == "parallel" else AECGame(env)
