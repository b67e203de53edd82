"""Random play: uniform numbers made into actions that may be taken."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from .world import Array


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


def fill(batch: Any, uniform: Array) -> None:
    """Write random actions for every agent of an `engine.Batch` into its `actions`; uniform [N, A] or [N, A, k]."""
    world = batch.world
    for a, space in enumerate(world.action_spaces):
        if isinstance(space, Box):
            size = space.shape[0]
            batch.actions[:, a, :size] = actions_of(uniform[:, a, :size], space)
        else:
            batch.actions[:, a] = actions_of(uniform[:, a], space, batch.legal[:, a] if world.masked else None)
