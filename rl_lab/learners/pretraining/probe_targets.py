"""What linear probes predict: quantities of a transition that a data set has, or that its observations show.

A target's numbers are those of rows of the data set. Targets that are the same in all rows are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_lab.core.image_shape import has_channels_first
from rl_lab.core.world import Array
from rl_lab.datasets.dataset import Dataset

_MOST_FIELDS = 256  # of a vector: of longer ones, the observation is no target
_LEAST_SHARE = 0.5  # of the rows that have a position


@dataclass(frozen=True)
class ProbeTarget:
    """One quantity of N rows. `values` is int64 [N] for classes, float64 [N, m] for numbers."""

    name: str
    values: Array
    is_defined: Array  # bool [N]; where it is False, the row has no value

    @property
    def is_class(self) -> bool:
        """Return whether the values are classes, of which the right one is to be predicted."""
        return self.values.ndim == 1

    def at(self, rows: Array) -> tuple[Array, Array]:
        """Return which of these rows, indices into N, have a value, and their values."""
        defined = rows[self.is_defined[rows]]
        return defined, self.values[defined]


def targets(data: Dataset, steps: Array) -> list[ProbeTarget]:
    """Return the targets of these transitions, int64 [N], that differ between transitions."""
    actions, rewards = np.asarray(data.actions[steps]), np.asarray(data.rewards[steps], np.float64)
    # The logarithm: of episodes whose lengths differ much, the few longest would decide the score.
    steps_left = np.log(data.episode_offsets[data.episode_of(steps) + 1] - steps)
    every = np.ones(len(steps), np.bool_)
    candidates = [
        ProbeTarget("reward", rewards[:, None], every),
        ProbeTarget("log steps left", steps_left[:, None], every),
        ProbeTarget("action", actions if actions.ndim == 1 else actions.astype(np.float64), every),
    ]
    shape = data.observations.shape[1:]
    if len(shape) == 1 and shape[0] <= _MOST_FIELDS:
        candidates.append(ProbeTarget("observation", np.asarray(data.observations[steps], np.float64), every))
    if len(shape) == 3 and _is_binary(data):
        candidates += _positions(np.asarray(data.observations[steps]))
    return [target for target in candidates if _varies(target)]


def _is_binary(data: Dataset) -> bool:
    space = data.observation_space
    return str(space.dtype) == "uint8" and int(space.high.max()) == 1


def _positions(boards: Array) -> list[ProbeTarget]:
    """Return row and column of what each channel of boards [N, H, W, C] or [N, C, H, W] shows, if it shows one cell."""
    if has_channels_first(boards.shape[1:]):
        boards = boards.transpose(0, 2, 3, 1)
    width, positions_of_channels = boards.shape[2], []
    for channel in range(boards.shape[3]):
        cells = boards[..., channel].reshape(len(boards), -1)
        is_defined = cells.sum(1) == 1
        if is_defined.mean() < _LEAST_SHARE:
            continue
        cell = cells.argmax(1)
        positions = np.stack([cell // width, cell % width], 1).astype(np.float64)
        positions_of_channels.append(ProbeTarget(f"cell of channel {channel}", positions, is_defined))
    return positions_of_channels


def _varies(target: ProbeTarget) -> bool:
    values = target.values[target.is_defined]
    return len(values) > 0 and bool((values != values[0]).any())
