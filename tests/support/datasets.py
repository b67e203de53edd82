"""Make data sets for tests: episodes of random numbers as columns, their metadata, and the folder of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.agent_spaces import action_dtype_of
from rl_lab.datasets.columns import Columns
from rl_lab.datasets.metadata import Metadata
from rl_lab.datasets.minari_format import MinariWriter


def cartpole_metadata(
    observation: Box | None = None, action: Discrete[Any] | Box | None = None, *, mask_size: int = 0
) -> Metadata:
    """Return the metadata of a data set, by default of CartPole's spaces."""
    observation = Box(-10.0, 10.0, (4,), np.float32) if observation is None else observation
    return Metadata(
        observation, action or Discrete(2), mask_size, "cartpole", ("one", "two"), {"seed": 1}, dataset_id="demo-v0"
    )


def random_columns(metadata: Metadata, lengths: Sequence[int], seed: int = 0, groups: int = 1) -> Columns:
    """Return episodes of these lengths with random numbers; `groups` episodes in a row share a group and a seed."""
    rng = np.random.default_rng(seed)
    steps, episodes, index = sum(lengths), len(lengths), np.arange(len(lengths))
    shape, dtype = metadata.observation_space.shape, metadata.observation_space.dtype
    last = np.cumsum(lengths) - 1
    ended = np.zeros(steps, np.bool_)
    ended[last] = True
    is_truncated = np.repeat(rng.random(episodes) < 0.5, lengths)
    action = metadata.action_space
    is_discrete = isinstance(action, Discrete)
    return Columns(
        observations=rng.integers(0, 2, (steps, *shape)).astype(dtype),
        actions=rng.integers(0, action.n, steps)
        if is_discrete
        else rng.random((steps, *action.shape)).astype(action_dtype_of(action)),
        rewards=rng.random(steps).astype(np.float32),
        terminated=ended & ~is_truncated,
        truncated=ended & is_truncated,
        action_masks=rng.integers(0, 2, (steps, metadata.mask_size)).astype(np.uint8),
        final_observations=rng.integers(0, 2, (episodes, *shape)).astype(dtype),
        lengths=np.array(lengths, np.int64),
        seeds=7 + index // groups,
        agent_indices=index % groups,
        group_ids=index // groups,
        policy_indices=index % 2,
    )


def write_data_set(folder: Path, metadata: Metadata, *parts: Columns) -> Metadata:
    """Write a data set of these episodes into a new folder, and return its metadata."""
    writer = MinariWriter(folder / "data", metadata)
    for columns in parts:
        writer.write(columns)
    return writer.close()
