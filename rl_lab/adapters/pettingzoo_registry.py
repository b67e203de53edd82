"""This module finds PettingZoo environments by id, and steps AECEnv and ParallelEnv in the same way."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pettingzoo
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo.env_registry.exceptions import FailedToImport, PettingZooRegistryError

from rl_lab.adapters import user_env
from rl_lab.adapters.foreign_data import flag, frames_per_second, parts
from rl_lab.adapters.foreign_errors import InvalidDataError, calling
from rl_lab.adapters.from_gymnasium import ForeignWorld
from rl_lab.adapters.structured import Structure, is_structured
from rl_lab.core.errors import UsageError, nearest
from rl_lab.engine import user_code

PREFIX = "pettingzoo:"
_RESULT = "observations, rewards, terminations, truncations, infos"
_MPE = "mpe/"  # PettingZoo's particle worlds, which have become a package of their own, mpe2


@dataclass(frozen=True)
class PettingZooWorld(ForeignWorld):
    """The EnvSpec of a foreign environment with several agents."""

    observation_spaces: tuple[Box, ...] = ()  # before padding; one-hot for discrete observations
    action_spaces: tuple[Discrete[Any] | Box, ...] = ()
    current_player_field: str = ""  # not empty if one agent acts at a time
    zero_sum: bool = False


def _without_mask(parts: dict[str, Any]) -> Any:
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
                self.observations[agent] = _without_mask(value)
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

    def _ended(self, terminated: Any, truncated: Any, agents: list[Any]) -> list[list[Any]]:
        """Return those of `agents` that terminated and those that were truncated; check what is said of each."""
        ends = []
        for name, flags in (("termination", terminated), ("truncation", truncated)):
            self._check_agents(flags, f"a {name}", agents)
            ends.append([agent for agent in agents if flag(flags[agent], f"a {name}", str(agent))])
        return ends

    def _check_presence(self, before: list[Any], ends: list[list[Any]]) -> None:
        """Raise InvalidDataError where one of the agents `before` a step has left `agents` and its end has no flag.

        Nothing would say whether a learner has to bootstrap the value of its last state.
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


class _ParallelGame(_GameBase):
    """A game over a ParallelEnv."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        cycles = getattr(env.unwrapped, "max_cycles", None)
        self.horizon = cycles if isinstance(cycles, int) else 0

    def reset(self, seed: int) -> None:
        self._store(*parts(self.env.reset(seed=seed), "observations, infos"))
        self.acting = list(self.env.agents)

    def step(self, actions: dict[Any, Any]) -> tuple[dict[Any, float], list[Any], list[Any]]:
        observations, rewards, terminated, truncated, infos = parts(self.env.step(actions), _RESULT)
        self._store(observations, infos)
        self._check_agents(rewards, "a reward", self.acting)
        ends = self._ended(terminated, truncated, self.acting)
        self._check_presence(self.acting, ends)
        for agent in (*ends[0], *ends[1]):
            if agent in self.env.agents:
                raise InvalidDataError(f"kept {agent} in agents, although it terminated or was truncated")
        self.acting = list(self.env.agents)
        return rewards, ends[0], ends[1]


class _AECGame(_GameBase):
    """A game over an AECEnv: `agent_selection` acts; terminated and truncated agents are stepped with None.

    The horizon is unknown, because `max_cycles` of an AECEnv does not count single moves.
    """

    def _observe(self) -> None:
        # Each observation is copied, because an environment may return the same array for every agent.
        self._store({agent: deepcopy(self.env.observe(agent)) for agent in self.env.agents}, self.env.infos)

    def reset(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self._observe()
        self.acting, self._live = [self.env.agent_selection], list(self.env.agents)

    def step(self, actions: dict[Any, Any]) -> tuple[dict[Any, float], list[Any], list[Any]]:
        env, live = self.env, self._live
        env.step(actions[self.acting[0]])
        ends = self._ended(env.terminations, env.truncations, live)
        self._check_presence(live, ends)
        self._observe()
        self._check_agents(env.rewards, "a reward", live)
        rewards = dict(env.rewards)
        while env.agents and self._is_dead(env.agent_selection):
            env.step(None)
            ends = self._with_later_ends(live, ends)
        self._live = [agent for agent in env.agents if not self._is_dead(agent)]
        self.acting = [env.agent_selection] if env.agents else []
        return rewards, ends[0], ends[1]

    def _with_later_ends(self, live: list[Any], ends: list[list[Any]]) -> list[list[Any]]:
        """Return the ends of this step with those of agents that the removal of another agent has ended."""
        env = self.env
        others = [agent for agent in live if agent not in (*ends[0], *ends[1])]
        reported = [agent for agent in others if agent in env.agents or agent in env.terminations]
        later = self._ended(env.terminations, env.truncations, reported)
        self._check_presence(others, later)
        return [before + after for before, after in zip(ends, later, strict=True)]

    def _is_dead(self, agent: Any) -> bool:
        """Return whether an agent's episode has ended. Raises InvalidDataError for one that is not in `agents`."""
        env = self.env
        if agent not in env.agents:
            raise InvalidDataError(f"left {agent!r} as agent_selection, expected one of {env.agents}")
        return any(self._ended(env.terminations, env.truncations, [agent]))


def game_of(kind: str, env: Any) -> Game:
    """Return the game over an environment; `kind` is "parallel" or "aec"."""
    return _ParallelGame(env) if kind == "parallel" else _AECGame(env)


def find(name: str) -> tuple[str, Callable[..., Any]]:
    """Return "parallel" or "aec", and a function that makes the environment `pettingzoo:FAMILY/NAME_vN`.

    Only PettingZoo's registry and MPE2's modules are searched, so that a name in a file imports nothing else.

    Raises:
        ValueError: there is no such id, and the message has the nearest one; or a package is missing.
    """
    if user_code.permitted(name) is not None:
        return user_env.game(name)
    identity = name.removeprefix(PREFIX)
    if identity.startswith(_MPE):
        return "parallel", _mpe_constructor(name, identity.removeprefix(_MPE))
    for kind, registry in (("parallel", pettingzoo.parallel_registry), ("aec", pettingzoo.aec_registry)):
        try:
            spec = pettingzoo.spec(kind, identity)
        except PettingZooRegistryError:
            continue
        if spec.id in registry:
            return kind, partial(_make, name, kind, spec)
    known = {re.sub(r"-v(\d+)$", r"_v\1", each) for each in {*pettingzoo.aec_registry, *pettingzoo.parallel_registry}}
    known |= {_MPE + each for each in _particle_names()}
    raise ValueError(f"no world {name!r}; {nearest(name, {PREFIX + each for each in known})}")


def _make(name: str, kind: Any, spec: Any, **arguments: Any) -> Any:
    try:
        return pettingzoo.make(kind, spec, **arguments)
    except (FailedToImport, ImportError) as error:
        missing = getattr(error.__cause__ or error, "name", None) or str(error).partition("\n")[0]
        family = f"pip install 'pettingzoo[{spec.namespace}]'"
        raise UsageError(f"world {name!r} needs the package {missing}, which is not installed: {family}") from None


def _particle_names() -> list[str]:
    try:
        import mpe2
    except ImportError:
        return []
    return [module.name for module in pkgutil.iter_modules(mpe2.__path__) if re.search(r"_v\d+$", module.name)]


def _mpe_constructor(name: str, identity: str) -> Callable[..., Any]:
    known = _particle_names()
    if not known:
        raise ValueError(f"world {name!r} needs the package mpe2, which is not installed: pip install mpe2")
    if identity not in known:
        raise ValueError(f"no world {name!r}; {nearest(name, {PREFIX + _MPE + each for each in known})}")
    make: Callable[..., Any] = importlib.import_module(f"mpe2.{identity}").parallel_env
    return make


def describe(name: str, game: Game) -> tuple[PettingZooWorld, list[Any]]:
    """Reset an environment; return its EnvSpec, and for each agent the space of its own observations.

    Raises ValueError for spaces that a batch cannot hold.
    """
    observation_spaces: list[Box] = []
    action_spaces: list[Any] = []
    structures: list[Structure | None] = []
    sources = []
    for agent in game.possible_agents:
        with calling(name, "observation_space", game.env):
            space = game.env.observation_space(agent)
        with calling(name, "action_space", game.env):
            action = game.env.action_space(agent)
        if isinstance(space, Dict):
            inner = _without_mask(space.spaces)
            space = Dict(inner) if isinstance(inner, dict) else inner
        structure = None
        if is_structured(space):  # agents of equal spaces share one, by which a policy of theirs is known
            structure = next((each for each in structures if each and each.source == space), Structure(name, space))
        structures.append(structure)
        if structure is not None:
            observation_spaces.append(structure.box)
        elif isinstance(space, Discrete):
            observation_spaces.append(Box(0.0, 1.0, (int(space.n),), np.float32))
        else:
            observation_spaces.append(space if space.dtype == np.uint8 else _single(space))
        if not (isinstance(action, Discrete) or (isinstance(action, Box) and len(action.shape) == 1)):
            raise ValueError(f"world {name!r}: {agent} acts in {action}; Discrete and Box of shape (k,) are supported")
        action_spaces.append(Discrete(int(action.n)) if isinstance(action, Discrete) else _single(action))
        sources.append(space)
    if len({type(action) for action in action_spaces}) > 1:
        raise ValueError(f"world {name!r}: some agents choose from a list and others give numbers")
    if len({(box.shape, box.dtype) for box in observation_spaces}) > 1:
        observation_spaces = [
            Box(box.low.astype(np.float32).ravel(), box.high.astype(np.float32).ravel()) for box in observation_spaces
        ]
    counts = {int(action.n) for action in action_spaces if isinstance(action, Discrete)}
    with calling(name, "reset", game.env):
        game.reset(0)  # only the infos may show whether there are masks
    masked = bool(counts) and (len(counts) > 1 or any(game.mask(agent) is not None for agent in game.possible_agents))
    world = PettingZooWorld(
        name=name,
        observation=_padded(observation_spaces),
        action=Discrete(max(counts)) if counts else _padded(action_spaces),
        horizon=game.horizon,
        solved=None,
        frames_per_second=frames_per_second(game.env.metadata),
        agents=tuple(str(agent) for agent in game.possible_agents),
        has_action_mask=masked,
        observation_spaces=tuple(observation_spaces),
        action_spaces=tuple(action_spaces),
        structures=tuple(structures),
        current_player_field="agent_selection" if isinstance(game, _AECGame) else "",
    )
    return world, sources


def _single(space: Box) -> Box:
    """Return the Box in single precision; the bounds are cast first, because Gymnasium warns when it casts them."""
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def _padded(spaces: list[Box]) -> Box:
    """Return the Box that contains all of these, after shorter vectors are padded with zeros."""
    lows, highs = [box.low for box in spaces], [box.high for box in spaces]
    if len({box.shape for box in spaces}) > 1:
        longest = max(box.shape[0] for box in spaces)
        lows, highs = ([np.pad(side, (0, longest - len(side))) for side in sides] for sides in (lows, highs))
    dtype: Any = spaces[0].dtype
    return Box(np.min(lows, axis=0), np.max(highs, axis=0), dtype=dtype)
