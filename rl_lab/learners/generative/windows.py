"""Windows of an episode around a transition, as indices of transitions of a data set."""

from __future__ import annotations

import numpy as np

from rl_lab.core.world import Array
from rl_lab.datasets.dataset import Dataset


def around(data: Dataset, rows: Array, first: int, length: int) -> Array:
    """Return the `length` transitions from `first` steps after each of `rows`, int64 [B]; int64 [B, length].

    Beyond an end of the episode, its first or last transition is repeated.
    """
    episodes = data.episode_of(rows)
    steps = rows[:, None] + np.arange(first, first + length)
    begins, ends = data.episode_offsets[episodes], data.episode_offsets[episodes + 1]
    return np.asarray(np.clip(steps, begins[:, None], ends[:, None] - 1))


def context(data: Dataset, rows: Array, length: int) -> tuple[Array, Array]:
    """Return the last `length` transitions up to each of `rows`, int64 [B], and which of them there are.

    The transitions, int64 [B, length], begin in column 0. Where the episode has fewer, bool [B, length] is False in the
    last columns, which repeat the transition of the row.
    """
    begins = data.episode_offsets[data.episode_of(rows)]
    steps = np.maximum(rows - length + 1, begins)[:, None] + np.arange(length)
    return np.minimum(steps, rows[:, None]), np.asarray(steps <= rows[:, None])
