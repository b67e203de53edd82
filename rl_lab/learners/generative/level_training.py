"""The training of a model of levels: it predicts the cells of a level that are hidden, whichever they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rl_lab.core.levels import Levels
from rl_lab.core.world import Array
from rl_lab.learners.generative.level_network import LevelNetwork
from rl_lab.learners.generative.method import GenerativeMethod
from rl_lab.learners.generative.settings import LevelModelConfig
from rl_lab.learners.pretraining.examples import ExampleBatch, Examples

_VALIDATION_SEED, _VALIDATION_MASKS = 0, 8  # the hidden cells in validation, the same in every epoch, and their draws


@dataclass(frozen=True)
class LevelSet:
    """Levels to learn from, and where they are from."""

    grids: Array  # u1 [N, H * W], all different
    source: str

    @property
    def content_hash(self) -> str:
        """Return the SHA-256 of the levels."""
        return hashlib.sha256(f"{self.grids.shape}".encode() + np.ascontiguousarray(self.grids).tobytes()).hexdigest()


class LevelExamples(Examples):
    """Levels, some to train from and some to validate with; with `validation` 0, all are used for both."""

    def __init__(self, levels: LevelSet, validation: float, seed: int, device: str) -> None:
        self.levels, self.device, self._forms = levels, device, None
        order = np.random.default_rng(seed).permutation(len(levels.grids))
        held_out = round(validation * len(order))
        if validation and not 0 < held_out < len(order):
            raise ValueError(f"validation={validation}: {len(order)} levels are too few to be divided; validation=0")
        self.train, self.validation = np.sort(order[held_out:]), np.sort(order[:held_out])
        if not validation:
            self.validation = self.train
        self.episodes = len(self.train), held_out

    def batch(self, rows: Array) -> ExampleBatch:
        """Return these levels, as observations int64 [B, H * W]; nothing is done in them."""
        grids = self.tensor(self.levels.grids[rows].astype(np.int64))
        return ExampleBatch(rows, grids, grids.new_zeros(len(rows)), None)


class LevelModel(nn.Module):
    """The network as the trainer wants it, which trains a head on a trunk: here the head is all of it."""

    def __init__(self, network: LevelNetwork) -> None:
        super().__init__()
        self.trunk, self.policy = nn.Identity(), network


class LevelTraining(GenerativeMethod):
    """The method of pretraining. Its score is a lower bound of a level's log-likelihood, in nats.

    Raises ValueError for hyperparameters that do not go together.
    """

    score = "log_likelihood"
    model: LevelModel

    def __init__(self, config: LevelModelConfig, levels: Levels, seed: int) -> None:
        super().__init__(seed)
        config.check()
        sizes = {"width": config.width, "layers": config.layers, "heads": config.heads, "dropout": config.dropout}
        self.model = LevelModel(LevelNetwork(levels.shape, len(levels.symbols), **sizes))  # type: ignore[arg-type]

    def _cross_entropy(
        self, network: LevelNetwork, grids: torch.Tensor, draws: torch.Tensor, ranks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each level's mean cross-entropy of hidden cells, and the share of them that is predicted, [B].

        Hidden are the cells with the lowest ranks, [B, H * W]: as many as draws, [B] in [0, 1), say, and one at least.
        """
        count = (draws * network.cells).long() + 1
        is_hidden = (ranks.argsort(1).argsort(1) < count[:, None]).to(grids.device)
        logits = network(grids.masked_fill(is_hidden, network.symbols))
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), grids, reduction="none")
        is_right = (logits.argmax(2) == grids) & is_hidden
        number = is_hidden.sum(1)
        return (losses * is_hidden).sum(1) / number, is_right.sum(1) / number

    def loss(self, model: Any, batch: ExampleBatch) -> torch.Tensor:
        """Return the mean cross-entropy of hidden cells; their share is spread evenly over the levels of the batch."""
        size, network = len(batch.rows), model.policy
        draws = (torch.rand(()) + torch.arange(size) / size) % 1.0
        losses, _ = self._cross_entropy(network, batch.observations, draws, torch.rand(size, network.cells))
        return losses.mean()

    def predict(self, model: Any, batch: ExampleBatch) -> Mapping[str, Array]:
        """Return bound and accuracy of each level, means over several draws of hidden cells."""
        network, size = model.policy, len(batch.rows)
        generator = torch.Generator().manual_seed(_VALIDATION_SEED)
        parts = []
        for index in range(_VALIDATION_MASKS):
            draws = (torch.rand(size, generator=generator) + index) / _VALIDATION_MASKS
            ranks = torch.rand((size, network.cells), generator=generator)
            parts.append(torch.stack(self._cross_entropy(network, batch.observations, draws, ranks)))
        losses, accuracy = torch.stack(parts).mean(0)
        return {"bound": -network.cells * losses.cpu().numpy(), "accuracy": accuracy.cpu().numpy()}

    def scores(self, predictions: Mapping[str, Array]) -> dict[str, float]:
        """Return the bound of the log-likelihood, and the share of hidden cells that is predicted."""
        means = {name: float(values.mean(dtype=np.float64)) for name, values in predictions.items()}
        return {"log_likelihood": means["bound"], "accuracy": means["accuracy"]}
