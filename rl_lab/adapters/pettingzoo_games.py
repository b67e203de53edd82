"""Foreign PettingZoo environments by id, and one way to step them whether their agents act in turns or together."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pettingzoo
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo.env_registry.exceptions import FailedToImport, PettingZooRegistryError

from ..names import nearest
from .foreign import ForeignWorld

PREFIX = "pettingzoo:"
_MPE = "mpe/"  # PettingZoo's particle worlds, which are a package of their own by now


@dataclass(frozen=True)
class PettingZooWorld(ForeignWorld):
    """What is known of a foreign environment of several agents, in `World`'s terms."""

    observation_spaces: tuple[Box, ...] = ()  # before padding; one-hot where they are discrete
    action_spaces: tuple[Discrete[Any] | Box, ...] = ()
    turns: str = ""  # not empty where one agent acts at a time
    zero_sum: bool = False


class Game(Protocol):
    """One environment; `seen` and `active` are as of the last step."""

    env: Any
    horizon: int  # steps after which it truncates, 0 where that is unknown
    possible_agents: list[Any]
    seen: dict[Any, Any]  # what everybody there observes, masks aside
    active: list[Any]  # who acts next

    def reset(self, seed: int) -> None:
        """Begin an episode."""

    def step(self, actions: dict[Any, Any]) -> tuple[dict[Any, float], list[Any], list[Any]]:
        """Take the actions of all active agents; return rewards, and who was terminated and truncated by it."""

    def mask(self, agent: Any) -> Any:
        """Return the agent's mask, [actions], or None."""


class _Seen:
    """Keeps observations apart from the masks that come with them, or in the infos; see `Game`."""

    horizon = 0

    def __init__(self, env: Any) -> None:
        self.env, self.possible_agents = env, list(env.possible_agents)
        self.active: list[Any] = []

    def _keep(self, seen: dict[Any, Any], infos: dict[Any, Any]) -> None:
        self.seen: dict[Any, Any] = {}
        self._masks: dict[Any, Any] = {}
        for agent, observation in seen.items():
            info = infos.get(agent, {})
            if isinstance(observation, dict):
                self._masks[agent] = observation.get("action_mask", info.get("action_mask"))
                self.seen[agent] = observation["observation"]
            else:
                self._masks[agent], self.seen[agent] = info.get("action_mask"), observation

    def mask(self, agent: Any) -> Any:
        return self._masks.get(agent)


class _Together(_Seen):
    """A ParallelEnv."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        cycles = getattr(env.unwrapped, "max_cycles", None)
        self.horizon = cycles if isinstance(cycles, int) else 0

    def reset(self, seed: int) -> None:
        self._keep(*self.env.reset(seed=seed))
        self.active = list(self.env.agents)

    def step(self, actions: dict[Any, Any]) -> tuple[dict[Any, float], list[Any], list[Any]]:
        seen, rewards, terminated, truncated, infos = self.env.step(actions)
        self._keep({agent: seen[agent] for agent in self.possible_agents if agent in seen}, infos)
        ends = [[agent for agent in self.active if flags.get(agent)] for flags in (terminated, truncated)]
        self.active = list(self.env.agents)
        return {agent: rewards[agent] for agent in rewards if agent in self.possible_agents}, ends[0], ends[1]


class _InTurns(_Seen):
    """An AECEnv: `agent_selection` acts; who is out is stepped over. Its cycles, if it counts them, are not moves."""

    def _look(self) -> None:
        self._keep({agent: self.env.observe(agent) for agent in self.env.agents}, self.env.infos)

    def reset(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self._look()
        self.active, self._out = [self.env.agent_selection], set[Any]()

    def step(self, actions: dict[Any, Any]) -> tuple[dict[Any, float], list[Any], list[Any]]:
        env = self.env
        env.step(actions[self.active[0]])
        self._look()
        rewards = dict(env.rewards)
        there = [agent for agent in env.agents if agent not in self._out]
        ends = [[agent for agent in there if flags[agent]] for flags in (env.terminations, env.truncations)]
        self._out |= {*ends[0], *ends[1]}
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)
        self.active = [env.agent_selection] if env.agents else []
        return rewards, ends[0], ends[1]


def game_of(kind: str, env: Any) -> Game:
    """Return an environment of a kind, "parallel" or "aec", ready to be reset."""
    return _Together(env) if kind == "parallel" else _InTurns(env)


def find(name: str) -> tuple[str, Callable[..., Any]]:
    """Return "parallel" or "aec", and what makes the environment of this id, `pettingzoo:FAMILY/NAME_vN`.

    Only what PettingZoo has registered and MPE2's own modules are looked up: a name in a file imports nothing else.
    Raises ValueError naming the nearest id, or the package that is missing.
    """
    identity = name.removeprefix(PREFIX)
    if identity.startswith(_MPE):
        return "parallel", _particles(name, identity.removeprefix(_MPE))
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
        raise ValueError(f"world {name!r} needs the package {missing}, which is not installed: {family}") from None


def _particle_names() -> list[str]:
    try:
        import mpe2
    except ImportError:
        return []
    return [module.name for module in pkgutil.iter_modules(mpe2.__path__) if re.search(r"_v\d+$", module.name)]


def _particles(name: str, identity: str) -> Callable[..., Any]:
    known = _particle_names()
    if not known:
        raise ValueError(f"world {name!r} needs the package mpe2, which is not installed: pip install mpe2")
    if identity not in known:
        raise ValueError(f"no world {name!r}; {nearest(name, {PREFIX + _MPE + each for each in known})}")
    make: Callable[..., Any] = importlib.import_module(f"mpe2.{identity}").parallel_env
    return make


def describe(name: str, game: Game) -> tuple[PettingZooWorld, list[Any]]:
    """Return what is known of an environment, and the spaces [A] that its observations come from; resets it.

    Raises ValueError for spaces that a batch cannot hold.
    """
    seen: list[Box] = []
    taken: list[Any] = []
    sources = []
    for agent in game.possible_agents:
        space, action = game.env.observation_space(agent), game.env.action_space(agent)
        if isinstance(space, Dict) and "observation" in space.spaces:
            space = space["observation"]
        if isinstance(space, Discrete):
            seen.append(Box(0.0, 1.0, (int(space.n),), np.float32))
        elif isinstance(space, Box):
            seen.append(space if space.dtype == np.uint8 else _single(space))
        else:
            raise ValueError(f"world {name!r}: {agent} observes {space}; Box and Discrete are supported")
        if not (isinstance(action, Discrete) or (isinstance(action, Box) and len(action.shape) == 1)):
            raise ValueError(f"world {name!r}: {agent} acts in {action}; Discrete and Box of shape (k,) are supported")
        taken.append(Discrete(int(action.n)) if isinstance(action, Discrete) else _single(action))
        sources.append(space)
    if len({type(action) for action in taken}) > 1:
        raise ValueError(f"world {name!r}: some agents choose from a list and others give numbers")
    if len({(box.shape, box.dtype) for box in seen}) > 1:
        seen = [Box(box.low.astype(np.float32).ravel(), box.high.astype(np.float32).ravel()) for box in seen]
    counts = {int(action.n) for action in taken if isinstance(action, Discrete)}
    game.reset(0)  # masks may come in the infos
    masked = bool(counts) and (len(counts) > 1 or any(game.mask(agent) is not None for agent in game.active))
    world = PettingZooWorld(
        name=name,
        observation=_padded(seen),
        action=Discrete(max(counts)) if counts else _padded(taken),
        horizon=game.horizon,
        solved=None,
        frames_per_second=int(game.env.metadata.get("render_fps", 30)),
        agents=tuple(str(agent) for agent in game.possible_agents),
        masked=masked,
        observation_spaces=tuple(seen),
        action_spaces=tuple(taken),
        turns="agent_selection" if isinstance(game, _InTurns) else "",
    )
    return world, sources


def _single(space: Box) -> Box:
    """Return the Box in single precision; cast here, because Gymnasium warns when it does so itself."""
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def _padded(spaces: list[Box]) -> Box:
    """Return the Box that holds every one of these, the shorter ones with zeros behind them."""
    lows, highs = [box.low for box in spaces], [box.high for box in spaces]
    if len({box.shape for box in spaces}) > 1:
        longest = max(box.shape[0] for box in spaces)
        lows, highs = ([np.pad(side, (0, longest - len(side))) for side in sides] for sides in (lows, highs))
    kind: Any = spaces[0].dtype
    return Box(np.min(lows, axis=0), np.max(highs, axis=0), dtype=kind)
