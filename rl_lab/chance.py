"""Random play: uniform numbers made into actions that may be taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from .rng import philox
from .world import Array

if TYPE_CHECKING:
    from .batch import Worlds
    from .engine import Batch


def actions_of(uniform: Array, space: Discrete[Any] | Box, legal: Array | None = None) -> Array:
    """Return random actions, int64 [...] or float32 [..., k], from numbers in [0, 1) of the same shape.

    `legal`, uint8 [..., actions], restricts them to actions it marks; a row that marks none gets action 0. A Box's
    unbounded side is cut at 1, or at a distance of 1 from the other.
    """
    if isinstance(space, Discrete):
        if legal is None:
            return (uniform * space.n).astype(np.int64)
        allowed = legal != 0
        rank = (uniform * allowed.sum(axis=-1)).astype(np.int64)
        # The rank-th of those marked: the first place at which so many and one more have been counted.
        chosen: Array = (np.cumsum(allowed, axis=-1) > rank[..., None]).argmax(axis=-1)
        return chosen
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    low = np.where(np.isfinite(low), low, np.minimum(-1.0, high - 1.0))
    high = np.where(np.isfinite(high), high, np.maximum(1.0, low + 1.0))
    # Rounding to single precision may reach over the edge.
    drawn = (low + (high - low) * uniform).astype(np.float32)
    inside: Array = np.clip(drawn, low.astype(np.float32), high.astype(np.float32))
    return inside


def actions_at(
    uniform: Array, spaces: Sequence[Discrete[Any] | Box], seats: Array, legal: Array | None = None
) -> Array:
    """Return random actions, int64 [B] or float32 [B, k], of agents at `seats`, int64 [B], each from its own space.

    `uniform` is [B] or [B, k], `legal` uint8 [B, actions]; numbers behind a shorter Box are 0.
    """
    if all(space is spaces[0] for space in spaces):
        return actions_of(uniform, spaces[0], legal)
    actions = np.zeros(uniform.shape, np.float32 if isinstance(spaces[0], Box) else np.int64)
    for seat, space in enumerate(spaces):
        own = np.flatnonzero(seats == seat)
        if isinstance(space, Box):
            size = space.shape[0]
            actions[own, :size] = actions_of(uniform[own, :size], space)
        else:
            actions[own] = actions_of(uniform[own], space, None if legal is None else legal[own])
    return actions


def choices(chances: Array, uniform: Array) -> Array:
    """Return choices, int64 [B], with these chances, float64 [B, actions], for numbers in [0, 1), float64 [B]."""
    # The last bound is 1 but for rounding; what is drawn stays below all that is left of it.
    bounds = np.cumsum(chances, axis=1)
    return np.asarray((bounds > (uniform * bounds[:, -1])[:, None]).argmax(axis=1))


def uniforms(keys: Array, steps: Array, shape: tuple[int, ...] = ()) -> Array:
    """Return numbers in [0, 1), float64 [B, *shape], that depend on each row's key, uint64 [B], and step, int64 [B]."""
    count = int(np.prod(shape))
    places = steps.astype(np.uint64)[:, None] * np.uint64(count) + np.arange(count, dtype=np.uint64)
    low, high = (keys & np.uint64(2**32 - 1))[:, None], (keys >> np.uint64(32) << np.uint64(32))[:, None]
    drawn = philox(low, high + places) >> np.uint64(11)
    numbers: Array = (drawn * 2.0**-53).reshape(len(keys), *shape)
    return numbers


def move_at_random(worlds: Worlds, rows: Array, keys: Array, steps: Array) -> None:
    """Let chance move for these rows, int64 [R]; what it draws depends on their keys and steps, [R], alone."""
    taken, seats = worlds.actions.reshape(-1, *worlds.actions.shape[2:]), rows % worlds.actions.shape[1]
    legal = worlds.legal.reshape(len(taken), -1)[rows] if worlds.world.masked else None
    uniform = uniforms(keys, steps, taken.shape[1:])
    taken[rows] = actions_at(uniform, worlds.world.action_spaces, seats, legal)


def fill(batch: Batch, uniform: Array) -> None:
    """Write random actions for every agent of a batch into its `actions`; uniform [N, A] or [N, A, k]."""
    world, rows = batch.world, batch.active.size
    legal = batch.legal.reshape(rows, -1) if world.masked else None
    seats = np.tile(np.arange(len(world.agents)), batch.n)
    actions = actions_at(uniform.reshape(rows, *uniform.shape[2:]), world.action_spaces, seats, legal)
    batch.actions[...] = actions.reshape(batch.actions.shape)
