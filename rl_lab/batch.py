"""What evaluation and learners ask of a batch of worlds, whoever steps it, and how one is made by name."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from . import worlds
from .engine import Batch
from .names import nearest
from .world import Array, World

FOREIGN = ("gym:", "pettingzoo:")


class WorldInfo(Protocol):
    """What is known of a world without stepping it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def observation(self) -> Box: ...  # noqa: D102
    @property
    def action(self) -> Discrete[Any] | Box: ...  # noqa: D102
    @property
    def horizon(self) -> int: ...  # noqa: D102
    @property
    def solved(self) -> float | None: ...  # noqa: D102
    @property
    def agents(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def roles(self) -> dict[str, tuple[int, ...]]: ...  # noqa: D102
    @property
    def masked(self) -> bool: ...  # noqa: D102
    @property
    def waiting(self) -> bool: ...  # noqa: D102
    @property
    def turns(self) -> str: ...  # noqa: D102
    @property
    def observation_spaces(self) -> tuple[Box, ...]: ...  # noqa: D102
    @property
    def action_spaces(self) -> tuple[Discrete[Any] | Box, ...]: ...  # noqa: D102
    @property
    def frames_per_second(self) -> int: ...  # noqa: D102


class Worlds(Protocol):
    """A batch of N worlds with A agents each; `engine.Batch` documents the arrays and their order of events."""

    n: int
    exact: bool  # whether snapshot and restore continue bit for bit
    actions: Array
    observations: Array
    rewards: Array
    terminated: Array
    truncated: Array
    ended: Array
    legal: Array
    active: Array
    departed: Array
    held: Array
    running_returns: Array
    final_observations: Array
    episode_returns: Array
    episode_lengths: Array

    @property
    def world(self) -> WorldInfo: ...  # noqa: D102
    def seed(self, seed: int | Array, first: int = 0) -> None: ...  # noqa: D102
    def reset(self, mask: Array | None = None) -> Array: ...  # noqa: D102
    def step(self) -> int: ...  # noqa: D102
    def snapshot(self) -> dict[str, Array]: ...  # noqa: D102
    def restore(self, snapshot: dict[str, Array]) -> None: ...  # noqa: D102
    def drain_log(self) -> dict[str, float]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


def make(
    name: str,
    n: int,
    params: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    autoreset: AutoresetMode = AutoresetMode.SAME_STEP,
    threads: int | None = None,
    render: bool = False,
) -> Worlds:
    """Return n worlds of this name, `gym:ID` or `pettingzoo:FAMILY/ID` for foreign environments; `params` by field.

    `render` asks foreign environments for pictures; the lab's own worlds are drawn from their state whenever wanted.
    Raises ValueError naming the nearest world or field.
    """
    if name.startswith(FOREIGN):
        if name.startswith("pettingzoo:"):
            from .adapters.pettingzoo_foreign import ForeignPettingZooBatch as Foreign
        else:
            from .adapters.foreign import ForeignBatch as Foreign  # type: ignore[assignment]
        return Foreign(name, n, params or {}, seed=seed, autoreset=autoreset, render=render)
    world = worlds.load(name)
    return Batch(world, n, parameters(world, params or {}), seed=seed, threads=threads, autoreset=autoreset)


def parameters(world: World, given: dict[str, Any]) -> Array:
    """Return the world's Params with `given` overrides; ValueError names the world, the field and the nearest one."""
    fields = world.Params.dtype.names or ()
    for field in given:
        if field not in fields:
            raise ValueError(f"{world.name} has no parameter {field!r}; {nearest(field, fields)}")
    try:
        return np.asarray(world.Params(**given))
    except ValueError as error:
        raise ValueError(f"{world.name}: parameter {error}") from None
