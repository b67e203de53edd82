"""What the trainer of a pretraining asks of a method: a loss, predictions, and their scores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from rl_lab.core.world import Array
from rl_lab.learners.pretraining.examples import ExampleBatch
from rl_lab.learners.pretraining.model import BackboneModel


class Method:
    """A method of pretraining, which trains a trunk with one head of the backbone, or with networks of its own.

    `networks` are those of its own. They are trained too, where they require gradients, and saved in checkpoints, but
    they are no part of the backbone.
    """

    head: str | None = None  # policy or value; None: the backbone gets no head
    score: str | None = None  # of `scores`, by which the best parameters are chosen; larger is better. None: the last

    def __init__(self) -> None:
        self.networks = nn.ModuleDict()

    def begin_epoch(self, model: BackboneModel, epoch: int) -> None:
        """Compute what stays fixed in epoch number `epoch`, which counts from 0."""

    def loss(self, model: BackboneModel, batch: ExampleBatch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        raise NotImplementedError

    def after_update(self, model: BackboneModel) -> None:
        """Change what follows the model without being trained."""

    def predict(self, model: BackboneModel, batch: ExampleBatch) -> Mapping[str, Array]:
        """Return what `scores` needs of a batch, arrays of B rows."""
        raise NotImplementedError

    def scores(self, predictions: Mapping[str, Array]) -> dict[str, float]:
        """Return the scores over all validation rows. Raises UsageError where training has failed."""
        raise NotImplementedError

    def finish(self, model: BackboneModel) -> None:
        """Change the head so that it needs nothing that only the method has."""

    def pictures(self, model: BackboneModel, count: int) -> dict[str, Array]:
        """Return observations to be drawn, [count, *observation shape] each, by title; most methods have none."""
        return {}
