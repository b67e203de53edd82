"""The examples that a backbone is trained on: rows of a data set, divided by episode and level seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rl_lab.core.symmetry import Symmetry
from rl_lab.core.world import Array
from rl_lab.datasets.dataset import Dataset

_ROWS = 4096  # of one forward pass where nothing is learned


@dataclass(frozen=True)
class ExampleBatch:
    """B rows of a data set. `masks` is bool [B, actions], None where every action is legal."""

    rows: Array  # int64 [B], transitions of the data set
    observations: torch.Tensor  # [B, *shape], as they were recorded
    actions: torch.Tensor  # int64 [B] or float32 [B, k]
    masks: torch.Tensor | None


@dataclass(frozen=True)
class FutureSteps:
    """The K steps that follow each of B transitions.

    `observations[b, k]` came after `actions[b, k]`, and `actions[b, 0]` is that of transition b. Where `is_inside` is
    False, the episode has ended before, and the other two have no meaning.
    """

    actions: torch.Tensor  # int64 [B, K] or float32 [B, K, n]
    observations: torch.Tensor  # [B, K, *shape]
    is_inside: torch.Tensor  # bool [B, K]


class Examples:
    """The transitions of a data set, some to train from and some to validate with, which have other level seeds.

    With `validation` 0, all transitions are trained from, and scores are measured on the same ones. With symmetries,
    each row of an epoch is seen in a random one of its forms, of which one is how it was recorded.
    """

    def __init__(
        self, data: Dataset, validation: float, seed: int, device: str, symmetries: Sequence[Symmetry] = ()
    ) -> None:
        self.data, self.device = data, device
        self._forms = None
        if symmetries:
            size, num_actions = symmetries[0].observation.size, symmetries[0].actions.size
            forms = [Symmetry(np.arange(size), np.arange(num_actions)), *symmetries]
            self._forms = np.stack([each.observation for each in forms]), np.stack([each.actions for each in forms])
        everything = np.arange(data.num_episodes)
        train, held_out = data.split(validation, seed) if validation else (everything, everything)
        self.train, self.validation = data.steps_of(train), data.steps_of(held_out)
        self.episodes = len(train), len(held_out) if validation else 0

    def batch(self, rows: Array) -> ExampleBatch:
        """Return these transitions, int64 [B]."""
        masks = self.data.action_masks
        return ExampleBatch(
            rows,
            self.tensor(self.data.observations[rows]),
            self.tensor(self.data.actions[rows]),
            None if masks is None else self.tensor(masks[rows] != 0),
        )

    def sequences(self, rows: Array, horizon: int) -> FutureSteps:
        """Return what follows each of these transitions, int64 [B], for `horizon` steps within its episode."""
        data = self.data
        steps = rows[:, None] + np.arange(horizon)
        ends = data.episode_offsets[data.episode_of(rows) + 1]
        is_inside = steps < ends[:, None]
        steps = np.where(is_inside, steps, rows[:, None])  # any rows of the data do where nothing is predicted
        after = data.next_observations(steps.reshape(-1)).reshape(*steps.shape, *data.observations.shape[1:])
        return FutureSteps(self.tensor(data.actions[steps]), self.tensor(after), self.tensor(is_inside))

    def tensor(self, array: Array) -> torch.Tensor:
        """Return a copy of an array as a tensor on the device."""
        return torch.from_numpy(np.array(array)).to(self.device)

    def epoch(self, batch_size: int, seed: int, number: int) -> Iterator[ExampleBatch]:
        """Yield the training rows in a random order that depends on the seed and on the epoch's number alone."""
        generator = np.random.default_rng((seed, number))
        order = generator.permutation(self.train)
        for first in range(0, len(order), batch_size):
            batch = self.batch(order[first : first + batch_size])
            yield batch if self._forms is None else self._in_random_forms(batch, *self._forms, generator)

    def _in_random_forms(
        self, batch: ExampleBatch, source_of_form: Array, target_of_form: Array, generator: np.random.Generator
    ) -> ExampleBatch:
        """Return a batch with each row in a random form.

        `source_of_form` has a row for each form, with the source of each number of an observation, and
        `target_of_form` one with what each action becomes.
        """
        form_index = generator.integers(len(target_of_form), size=len(batch.rows))
        sources, targets = self.tensor(source_of_form[form_index]), self.tensor(target_of_form[form_index])
        observations = batch.observations.flatten(1).gather(1, sources).view_as(batch.observations)
        actions = targets.gather(1, batch.actions[:, None])[:, 0]
        masks = None if batch.masks is None else batch.masks.gather(1, targets.argsort(1))
        return ExampleBatch(batch.rows, observations, actions, masks)

    def validation_batches(self) -> Iterator[ExampleBatch]:
        """Yield the validation rows in order, in large batches."""
        for first in range(0, len(self.validation), _ROWS):
            yield self.batch(self.validation[first : first + _ROWS])
