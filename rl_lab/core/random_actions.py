"""This module turns uniform random numbers into random legal actions.

Agents, wrappers and tests use it. `write_random_actions` and `write_uniform_actions` write a batch's `actions`; the
other functions return arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.rng import philox
from rl_lab.core.world import Array

if TYPE_CHECKING:
    from rl_lab.core.protocols import BatchedEnv
    from rl_lab.engine.batch import Batch


def sample_actions(uniform: Array, space: Discrete[Any] | Box, action_mask: Array | None = None) -> Array:
    """Return random actions, int64 [...] or float32 [..., k], from numbers in [0, 1) of the same shape.

    `action_mask`, uint8 [..., actions], restricts them to the actions that it marks; a row that marks none gets action
    0. An unbounded side of a Box ends at -1 or 1, or at a distance of 1 from the other side.
    """
    if isinstance(space, Discrete):
        if action_mask is None:
            return (uniform * space.n).astype(np.int64)
        allowed = action_mask != 0
        rank = (uniform * allowed.sum(axis=-1)).astype(np.int64)
        # The action of this rank among the legal ones: the first whose cumulative count exceeds the rank.
        actions: Array = (np.cumsum(allowed, axis=-1) > rank[..., None]).argmax(axis=-1)
        return actions
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    low = np.where(np.isfinite(low), low, np.minimum(-1.0, high - 1.0))
    high = np.where(np.isfinite(high), high, np.maximum(1.0, low + 1.0))
    # Rounding to single precision may exceed the bounds.
    samples = (low + (high - low) * uniform).astype(np.float32)
    clipped: Array = np.clip(samples, low.astype(np.float32), high.astype(np.float32))
    return clipped


def actions_at(
    uniform: Array, spaces: Sequence[Discrete[Any] | Box], seats: Array, action_mask: Array | None = None
) -> Array:
    """Return random actions, int64 [B] or float32 [B, k]; row r samples the space of agent seats[r], int64 [B].

    `uniform` is [B] or [B, k], `action_mask` uint8 [B, actions]; where a Box is shorter than k, the rest is 0.
    """
    if all(space is spaces[0] for space in spaces):
        return sample_actions(uniform, spaces[0], action_mask)
    actions = np.zeros(uniform.shape, np.float32 if isinstance(spaces[0], Box) else np.int64)
    for seat, space in enumerate(spaces):
        rows = np.flatnonzero(seats == seat)
        if isinstance(space, Box):
            size = space.shape[0]
            actions[rows, :size] = sample_actions(uniform[rows, :size], space)
        else:
            actions[rows] = sample_actions(uniform[rows], space, None if action_mask is None else action_mask[rows])
    return actions


def sample_categorical(probs: Array, uniform: Array) -> Array:
    """Sample categories, int64 [B], with probabilities `probs`, float64 [B, actions], from `uniform`, float64 [B]."""
    # The last bound is 1 up to rounding; scaling by it keeps each number below it.
    bounds = np.cumsum(probs, axis=1)
    return np.asarray((bounds > (uniform * bounds[:, -1])[:, None]).argmax(axis=1))


def counter_uniforms(keys: Array, steps: Array, shape: tuple[int, ...] = ()) -> Array:
    """Return numbers in [0, 1), float64 [B, *shape], that depend on each row's key, uint64 [B], and step, int64 [B]."""
    count = int(np.prod(shape))
    counters = steps.astype(np.uint64)[:, None] * np.uint64(count) + np.arange(count, dtype=np.uint64)
    low, high = (keys & np.uint64(2**32 - 1))[:, None], (keys >> np.uint64(32) << np.uint64(32))[:, None]
    random_bits = philox(low, high + counters) >> np.uint64(11)
    numbers: Array = (random_bits * 2.0**-53).reshape(len(keys), *shape)
    return numbers


def write_random_actions(envs: BatchedEnv, rows: Array, keys: Array, steps: Array) -> None:
    """Write random actions for these rows, int64 [R]; they depend only on the rows' keys and steps, [R]."""
    actions, seats = envs.actions.reshape(-1, *envs.actions.shape[2:]), rows % envs.actions.shape[1]
    action_mask = envs.action_mask.reshape(len(actions), -1)[rows] if envs.world.has_action_mask else None
    uniform = counter_uniforms(keys, steps, actions.shape[1:])
    actions[rows] = actions_at(uniform, envs.world.action_spaces, seats, action_mask)


def write_uniform_actions(batch: Batch, uniform: Array) -> None:
    """Write random actions for every agent of a batch into its `actions`; `uniform` is [N, A] or [N, A, k]."""
    world, rows = batch.world, batch.acting.size
    action_mask = batch.action_mask.reshape(rows, -1) if world.has_action_mask else None
    seats = np.tile(np.arange(len(world.agents)), batch.num_envs)
    actions = actions_at(uniform.reshape(rows, *uniform.shape[2:]), world.action_spaces, seats, action_mask)
    batch.actions[...] = actions.reshape(batch.actions.shape)
