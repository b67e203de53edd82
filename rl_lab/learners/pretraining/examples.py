"""The examples that a backbone is trained on: rows of a data set, divided by episode and level seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rl_lab.core.world import Array
from rl_lab.datasets.dataset import Dataset

_ROWS = 4096  # of one forward pass where nothing is learned


@dataclass(frozen=True)
class Batch:
    """B rows of a data set. `masks` is bool [B, actions], None where every action is legal."""

    rows: Array  # int64 [B], transitions of the data set
    observations: torch.Tensor  # [B, *shape], as they were recorded
    actions: torch.Tensor  # int64 [B] or float32 [B, k]
    masks: torch.Tensor | None


@dataclass(frozen=True)
class Sequences:
    """What follows B transitions for K steps.

    `observations[b, k]` came after `actions[b, k]`, and `actions[b, 0]` is that of transition b. Where `is_inside` is
    False, the episode has ended before, and the other two have no meaning.
    """

    actions: torch.Tensor  # int64 [B, K] or float32 [B, K, n]
    observations: torch.Tensor  # [B, K, *shape]
    is_inside: torch.Tensor  # bool [B, K]


class Examples:
    """The transitions of a data set, some to train from and some to validate with, which have other level seeds."""

    def __init__(self, data: Dataset, validation: float, seed: int, device: str) -> None:
        self.data, self.device = data, device
        train, held_out = data.split(validation, seed)
        self.train, self.validation = data.steps_of(train), data.steps_of(held_out)
        self.episodes = len(train), len(held_out)

    def batch(self, rows: Array) -> Batch:
        """Return these transitions, int64 [B]."""
        masks = self.data.action_masks
        return Batch(
            rows,
            self.tensor(self.data.observations[rows]),
            self.tensor(self.data.actions[rows]),
            None if masks is None else self.tensor(masks[rows] != 0),
        )

    def sequences(self, rows: Array, horizon: int) -> Sequences:
        """Return what follows each of these transitions, int64 [B], for `horizon` steps within its episode."""
        data = self.data
        steps = rows[:, None] + np.arange(horizon)
        ends = data.episode_offsets[data.episode_of(rows) + 1]
        is_inside = steps < ends[:, None]
        steps = np.where(is_inside, steps, rows[:, None])  # any rows of the data do where nothing is predicted
        after = data.next_observations(steps.reshape(-1)).reshape(*steps.shape, *data.observations.shape[1:])
        return Sequences(self.tensor(data.actions[steps]), self.tensor(after), self.tensor(is_inside))

    def tensor(self, array: Array) -> torch.Tensor:
        """Return a copy of an array as a tensor on the device."""
        return torch.from_numpy(np.array(array)).to(self.device)

    def epoch(self, batch_size: int, seed: int, number: int) -> Iterator[Batch]:
        """Yield the training rows in a random order that depends on the seed and on the epoch's number alone."""
        order = np.random.default_rng((seed, number)).permutation(self.train)
        for first in range(0, len(order), batch_size):
            yield self.batch(order[first : first + batch_size])

    def validation_batches(self) -> Iterator[Batch]:
        """Yield the validation rows in order, in large batches."""
        for first in range(0, len(self.validation), _ROWS):
            yield self.batch(self.validation[first : first + _ROWS])
