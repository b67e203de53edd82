"""This module finds PettingZoo environments by id, and describes them by an EnvSpec.

`find` imports the environment's package; `describe` resets the environment once.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pettingzoo
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo.env_registry.exceptions import FailedToImport, PettingZooRegistryError

from rl_lab.adapters import user_env
from rl_lab.adapters.foreign_data import as_vector, checked_space, frames_per_second
from rl_lab.adapters.foreign_errors import calling
from rl_lab.adapters.foreign_world import ForeignWorld, single_precision
from rl_lab.adapters.pettingzoo_games import AECGame, Game, without_mask
from rl_lab.adapters.structured import ObservationStructure, is_structured
from rl_lab.core.errors import UsageError, nearest_id
from rl_lab.engine import user_code

PREFIX = "pettingzoo:"
_MPE = "mpe/"  # PettingZoo's particle worlds, which have become a package of their own, mpe2


@dataclass(frozen=True)
class PettingZooWorld(ForeignWorld):
    """The EnvSpec of a foreign environment with several agents."""

    observation_spaces: tuple[Box, ...] = ()  # before padding; one-hot for discrete observations
    action_spaces: tuple[Discrete[Any] | Box, ...] = ()
    current_player_field: str = ""  # not empty if one agent acts at a time
    zero_sum: bool = False


def find(name: str) -> tuple[str, Callable[..., Any]]:
    """Return "parallel" or "aec", and a function that makes the environment `pettingzoo:FAMILY/NAME_vN`.

    Only PettingZoo's registry and MPE2's modules are searched, so that a name in a file imports nothing else.

    Raises:
        ValueError: there is no such id, and the message has the nearest one; or a package is missing.
    """
    if user_code.permitted(name) is not None:
        return user_env.pettingzoo_constructor(name)
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
    valid_ids = {
        re.sub(r"-v(\d+)$", r"_v\1", each) for each in {*pettingzoo.aec_registry, *pettingzoo.parallel_registry}
    }
    valid_ids |= {_MPE + each for each in _particle_names()}
    raise ValueError(f"no world {name!r}{nearest_id(identity, valid_ids, PREFIX)}")


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
    valid_ids = _particle_names()
    if not valid_ids:
        raise ValueError(f"world {name!r} needs the package mpe2, which is not installed: pip install mpe2")
    if identity not in valid_ids:
        raise ValueError(f"no world {name!r}{nearest_id(identity, valid_ids, PREFIX + _MPE)}")
    make: Callable[..., Any] = importlib.import_module(f"mpe2.{identity}").parallel_env
    return make


def describe(name: str, game: Game) -> tuple[PettingZooWorld, list[Any]]:
    """Reset an environment; return its EnvSpec, and for each agent the space of its own observations.

    Raises ValueError for spaces that a batch cannot hold.
    """
    observation_spaces: list[Box] = []
    action_spaces: list[Any] = []
    structures: list[ObservationStructure | None] = []
    sources = []
    for agent in game.possible_agents:
        with calling(name, "observation_space", game.env):
            space = checked_space(game.env.observation_space(agent), "a space", str(agent))
        with calling(name, "action_space", game.env):
            action = checked_space(game.env.action_space(agent), "a space", str(agent))
        if isinstance(space, Dict):
            inner = without_mask(space.spaces)
            space = Dict(inner) if isinstance(inner, dict) else inner
        structure = None
        if is_structured(space):  # agents of equal spaces share one, by which a policy of theirs is known
            structure = next(
                (each for each in structures if each and each.source == space), ObservationStructure(name, space)
            )
        structures.append(structure)
        if structure is not None:
            observation_spaces.append(structure.box)
        elif isinstance(space, Discrete):
            observation_spaces.append(Box(0.0, 1.0, (int(space.n),), np.float32))
        else:
            box = as_vector(space)
            observation_spaces.append(box if box.dtype == np.uint8 else single_precision(box))
        if not (isinstance(action, Discrete) or (isinstance(action, Box) and len(action.shape) == 1)):
            raise ValueError(f"world {name!r}: {agent} acts in {action}; Discrete and Box of shape (k,) are supported")
        action_spaces.append(Discrete(int(action.n)) if isinstance(action, Discrete) else single_precision(action))
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
        reward_threshold=None,
        frames_per_second=frames_per_second(game.env.metadata),
        agents=tuple(str(agent) for agent in game.possible_agents),
        has_action_mask=masked,
        observation_spaces=tuple(observation_spaces),
        action_spaces=tuple(action_spaces),
        structures=tuple(structures),
        current_player_field="agent_selection" if isinstance(game, AECGame) else "",
    )
    return world, sources


def _padded(spaces: list[Box]) -> Box:
    """Return the Box that contains all of these, after shorter vectors are padded with zeros."""
    lows, highs = [box.low for box in spaces], [box.high for box in spaces]
    if len({box.shape for box in spaces}) > 1:
        longest = max(box.shape[0] for box in spaces)
        lows, highs = ([np.pad(side, (0, longest - len(side))) for side in sides] for sides in (lows, highs))
    dtype: Any = spaces[0].dtype
    return Box(np.min(lows, axis=0), np.max(highs, axis=0), dtype=dtype)
