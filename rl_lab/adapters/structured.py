"""This module flattens observations that are no single array: Dict, Tuple, MultiDiscrete and MultiBinary.

The lab stores them as vectors. Stable-Baselines3's policies get them in the library's own form: a Dict of arrays (for
MultiInputPolicy), or a MultiDiscrete or MultiBinary vector. An `ObservationStructure` converts both ways.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from rl_lab.adapters.foreign_data import checked_observation
from rl_lab.adapters.foreign_errors import InvalidDataError
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.world import Array

_SEPARATE_POLICIES = "give each kind of agent a policy of its own, policies={NAME: [AGENT, ...], ...}"
CLIP = 10.0  # the bound to which VecNormalize clips observations
_MIN_IMAGE_SIDE = 36  # the least height and width, in pixels, of an image for SB3's CNN


class ObservationStructure:
    """The layout of a structured observation in a vector of D numbers.

    `box` is the space of the vectors, float32 [D]. `space` is the space for SB3's policies, in which nested Dicts and
    Tuples become one Dict whose keys are the paths of the parts. Raises ValueError for a part that is no array of
    numbers.
    """

    def __init__(self, name: str, source: gymnasium.Space[Any]) -> None:
        self.kind = type(source).__name__
        self.source = source
        self.parts = list(_leaf_spaces(name, source, ()))
        spaces = [_policy_space(part) for _, part in self.parts]
        nested = isinstance(source, Dict | Tuple)
        self.space: gymnasium.Space[Any] = Dict(_by_path(self.parts, spaces)) if nested else spaces[0]
        self._keys = list(_by_path(self.parts, spaces)) if nested else []
        self._spaces = spaces
        self.sizes = [int(np.prod(space.shape or (1,))) for space in spaces]
        bounds = [_bounds(space) for space in spaces]
        low, high = (np.concatenate([b[k] for b in bounds]).astype(np.float32) for k in (0, 1))
        self.box = Box(low, high, dtype=np.float32)

    def flatten(self, observation: Any, agent: str = "") -> Array:
        """Return an observation as a vector, float32 [D]. Raises InvalidDataError if a part is not in its space."""
        whose = f" for agent {agent}" if agent else ""
        flat = []
        for path, part in self.parts:
            value = observation
            for depth, key in enumerate(path):
                try:
                    value = value[key]
                except (KeyError, IndexError, TypeError):
                    part_of = f"observation{whose} without {_subscript(path[: depth + 1])}"
                    raise InvalidDataError(f"returned an {part_of}") from None
            value = checked_observation(value, part, agent, what=f"observation{_subscript(path)}")
            with np.errstate(over="ignore"):  # numbers beyond single precision become infinite, which is checked later
                flat.append(np.asarray(value, np.float32).ravel() - _start(part))
        return np.concatenate(flat, dtype=np.float32)

    def path_of(self, index: int) -> str:
        """Return the path of the part that has the vector's number at an index, such as "['position'][0]"."""
        number = int(np.searchsorted(np.cumsum(self.sizes), index, side="right"))
        return _subscript(self.parts[number][0])

    def unflatten(self, rows: Array) -> Any:
        """Return vectors [B, D] in the policies' form: an array [B, ...], or a dict of them if the space is a Dict."""
        arrays, offset = [], 0
        for space, size in zip(self._spaces, self.sizes, strict=True):
            part = rows[:, offset : offset + size].reshape(len(rows), *(space.shape or ()))
            arrays.append(part.astype(space.dtype))
            offset += size
        return dict(zip(self._keys, arrays, strict=True)) if self._keys else arrays[0]

    def unflatten_row(self, row: Array) -> Any:
        """Return one vector [D] in the policies' form."""
        observations = self.unflatten(row[None])
        return {key: value[0] for key, value in observations.items()} if self._keys else observations[0]


def _subscript(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key!r}]" for key in path)


def _leaf_spaces(name: str, space: Any, path: tuple[Any, ...]) -> Any:
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from _leaf_spaces(name, part, (*path, key))
    elif isinstance(space, Tuple):
        for number, part in enumerate(space.spaces):
            yield from _leaf_spaces(name, part, (*path, number))
    elif isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary):
        yield path, space
    else:
        raise ValueError(
            f"world {name!r}: observations are {type(space).__name__}; Box and Discrete are supported, MultiDiscrete, "
            "MultiBinary, and Dict and Tuple of them"
        )


def _by_path(parts: Any, spaces: list[Any]) -> dict[str, Any]:
    """Return spaces by their paths; dots in keys become underscores, because torch allows no dots in module names."""
    names = ["/".join(str(key).replace(".", "_") for key in path) or "empty" for path, _ in parts]
    return dict(zip(names, spaces, strict=True))


def _policy_space(part: Any) -> Any:
    """Return a part's space in SB3's form, with discrete values that start at 0."""
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

    if isinstance(part, Discrete):
        return Discrete(int(part.n))
    if isinstance(part, MultiDiscrete):
        return MultiDiscrete(np.asarray(part.nvec).ravel())
    if isinstance(part, MultiBinary):
        return MultiBinary(int(np.prod(part.shape)))
    if is_image_space(part):
        sides = part.shape[1:] if is_image_space_channels_first(part) else part.shape[:2]
        if min(sides) >= _MIN_IMAGE_SIDE:
            return part
    low, high = (np.atleast_1d(side).astype(np.float32) for side in (part.low, part.high))
    return Box(low, high, dtype=np.float32)


def _bounds(space: Any) -> tuple[Array, Array]:
    if isinstance(space, Box):
        return space.low.ravel(), space.high.ravel()
    counts = np.atleast_1d(space.n if isinstance(space, Discrete) else getattr(space, "nvec", 2))
    high = np.broadcast_to(counts - 1, (int(np.prod(space.shape or (1,))),))
    return np.zeros(len(high)), high


def _start(part: Any) -> Any:
    return np.ravel(part.start).astype(np.float32) if isinstance(part, Discrete | MultiDiscrete) else np.float32(0)


def is_structured(space: gymnasium.Space[Any]) -> bool:
    """Return True if observations of a space are flattened to vectors: all but Box and Discrete."""
    return not isinstance(space, Box | Discrete)


def structure_of(world: EnvSpec) -> ObservationStructure | None:
    """Return the layout of a world's structured observations, None if they are plain arrays.

    Raises:
        ValueError: the agents observe different things; each kind needs a policy of its own.
    """
    structures: tuple[ObservationStructure | None, ...] = getattr(world, "structures", ())
    distinct = list(dict.fromkeys(structures))
    if len(distinct) > 1:
        kinds = " and ".join("plain arrays" if each is None else f"a {each.kind}" for each in distinct)
        raise ValueError(f"{world.name}: its agents observe different things, {kinds}: {_SEPARATE_POLICIES}")
    return distinct[0] if distinct else None


def policy_space(world: EnvSpec) -> gymnasium.Space[Any]:
    """Return the observation space of an SB3 policy for this world, with the channels of images first."""
    structure = structure_of(world)
    space: gymnasium.Space[Any] = channels_first(world.observation if structure is None else structure.space)
    return space


def normalized_space(space: Any) -> Any:
    """Return the space in which VecNormalize shows observations of a space: images of bytes become floats there."""
    from stable_baselines3.common.preprocessing import is_image_space

    if not is_image_space(space):
        return space
    return Box(-CLIP, CLIP, space.shape, dtype=np.float32)


def channels_first(space: Any) -> Any:
    """Return a space with the channels of its images first, as Stable-Baselines3 orders them."""
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
    from stable_baselines3.common.vec_env import VecTransposeImage

    if isinstance(space, Dict):
        return Dict({key: channels_first(part) for key, part in space.spaces.items()})
    if is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space
