"""Self-prediction: features from which the next features, and the action between two of them, can be predicted.

No rewards are used. A model of the dynamics predicts, from the features of an observation and the actions that follow,
the features of the next K observations. The targets are features of a second trunk, whose parameters are an exponential
moving average of those that learn. Both are projected and standardised over the batch, as BYOL does. A second loss
predicts the action between two consecutive observations.

Source: Schwarzer et al. 2021, "Data-efficient reinforcement learning with self-predictive representations"; Grill et
al. 2020, "Bootstrap your own latent"; Pathak et al. 2017, "Curiosity-driven exploration by self-supervised prediction"
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from rl_lab.core.errors import UsageError
from rl_lab.core.world import Array
from rl_lab.learners.pretraining.base import Method
from rl_lab.learners.pretraining.examples import ExampleBatch, Examples
from rl_lab.learners.pretraining.feature_statistics import feature_statistics
from rl_lab.learners.pretraining.model import BackboneModel
from rl_lab.learners.pretraining.spec import action_contract

if TYPE_CHECKING:
    from rl_lab.learners.pretraining.trainer import TrainerConfig

_HIDDEN, _PROJECTION = 256, 128  # units


@dataclass(frozen=True)
class _Comparison:
    """Predictions from B transitions for K steps, compared with what followed."""

    similarities: torch.Tensor  # float32 [B, K], cosines of predictions and targets
    is_inside: torch.Tensor  # bool [B, K], whether the episode goes on so far
    actions_loss: torch.Tensor  # float32 [B]
    features: torch.Tensor  # float32 [B, width]
    prediction: torch.Tensor  # float32 [B, projection], of the first step
    target: torch.Tensor  # float32 [B, projection], of the first step
    greedy: torch.Tensor  # int64 [B] or float32 [B, n], predicted actions


class SelfPrediction(Method):
    """The trunk learns to predict its own features `horizon` steps ahead, never across the end of an episode.

    The last parameters are kept and not the best: targets change with the trunk, so that scores of two epochs cannot be
    compared. Raises ValueError for actions that are neither discrete nor vectors.
    """

    score = None

    def __init__(self, examples: Examples, model: BackboneModel, config: TrainerConfig) -> None:
        super().__init__()
        self.examples, self.config = examples, config
        action, width = action_contract(examples.data.action_space), model.width
        self.num_actions, self.is_discrete = action.size, action.kind == "discrete"
        self.dynamics = _two_layers(width + action.size, width)
        self.inverse = _two_layers(2 * width, action.size)
        self.projector = nn.Linear(width, _PROJECTION)
        self.predictor = _two_layers(_PROJECTION, _PROJECTION)
        self.target = nn.ModuleDict({"trunk": model.trunk, "projector": self.projector})
        self.target = copy.deepcopy(self.target).requires_grad_(False)
        for name in ("dynamics", "inverse", "projector", "predictor", "target"):
            self.networks[name] = getattr(self, name)
        self.untrained = feature_statistics(self._validation_features(model))

    def _validation_features(self, model: BackboneModel) -> Array:
        with torch.no_grad():
            parts = [model(batch.observations).cpu().numpy() for batch in self.examples.validation_batches()]
        return np.concatenate(parts)

    def loss(self, model: BackboneModel, batch: ExampleBatch) -> torch.Tensor:
        """Return the mean cosine distance of predictions from targets, plus the weighted loss of the actions."""
        compared = self._compare(model, batch)
        distance = 1 - (compared.similarities * compared.is_inside).sum() / compared.is_inside.sum()
        return distance + self.config.inverse_weight * compared.actions_loss.mean()

    def _compare(self, model: BackboneModel, batch: ExampleBatch) -> _Comparison:
        """Compare predictions from a batch with what followed."""
        following = self.examples.sequences(batch.rows, self.config.horizon)
        rows, horizon = following.is_inside.shape
        is_inside = following.is_inside.flatten()
        features = model.trunk(batch.observations)
        with torch.no_grad():
            later_features = self.target["trunk"](following.observations.flatten(0, 1))
            projected_targets = _standardised(self.target["projector"](later_features), is_inside)
            targets = nn.functional.normalize(projected_targets, dim=1)
        predicted, later = features, []
        for step in range(horizon):
            predicted = predicted + self.dynamics(torch.cat([predicted, self._encoded(following.actions[:, step])], 1))
            later.append(predicted)
        projected = _standardised(self.projector(torch.stack(later, 1).flatten(0, 1)), is_inside)
        predictions = nn.functional.normalize(self.predictor(projected), dim=1)
        similarities = (predictions * targets).sum(1).reshape(rows, horizon)
        next_features = model.trunk(following.observations[:, 0])
        actions = self.inverse(torch.cat([features, next_features], 1))
        actions_loss, greedy = self._actions_loss(actions, batch)
        first = torch.arange(rows, device=features.device) * horizon
        return _Comparison(
            similarities, following.is_inside, actions_loss, features, predictions[first], targets[first], greedy
        )

    def _encoded(self, actions: torch.Tensor) -> torch.Tensor:
        if not self.is_discrete:
            return actions
        return nn.functional.one_hot(actions, self.num_actions).float()

    def _actions_loss(self, outputs: torch.Tensor, batch: ExampleBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each row's action, and the action that is predicted."""
        if not self.is_discrete:
            return (outputs - batch.actions).square().mean(1), outputs
        logits = outputs if batch.masks is None else outputs.masked_fill(~batch.masks, -1e8)
        return nn.functional.cross_entropy(logits, batch.actions, reduction="none"), logits.argmax(1)

    def after_update(self, model: BackboneModel) -> None:
        """Move the targets' parameters towards those that learn; buffers are copied."""
        with torch.no_grad():
            for target, online in ((self.target["trunk"], model.trunk), (self.target["projector"], self.projector)):
                for own, new in zip(target.parameters(), online.parameters(), strict=True):
                    own.lerp_(new, 1 - self.config.momentum)
                for buffer, new_buffer in zip(target.buffers(), online.buffers(), strict=True):
                    buffer.copy_(new_buffer)

    def predict(self, model: BackboneModel, batch: ExampleBatch) -> Mapping[str, Array]:
        """Return each row's mean similarity over its steps, features, first prediction and target, and action."""
        compared = self._compare(model, batch)
        values = {name: getattr(compared, name) for name in ("features", "prediction", "target", "greedy")}
        values["similarity"] = (compared.similarities * compared.is_inside).sum(1) / compared.is_inside.sum(1)
        values["actions"] = batch.actions
        return {name: value.cpu().numpy() for name, value in values.items()}

    def scores(self, predictions: Mapping[str, Array]) -> dict[str, float]:
        """Return the similarity of predictions with their targets and with any others, and those of the features.

        Raises UsageError where the features have collapsed.
        """
        statistics = feature_statistics(predictions["features"])
        if collapse := statistics.collapse(self.untrained):
            raise UsageError(
                f"the features have collapsed: {collapse}; try a smaller learning_rate, a larger inverse_weight or "
                f"momentum, or data whose observations differ more"
            )
        means = (predictions[name].mean(0, dtype=np.float64) for name in ("prediction", "target"))
        scores: dict[str, Any] = {
            "similarity": predictions["similarity"].mean(dtype=np.float64),
            "similarity_to_others": np.dot(*means),
        }
        actions, greedy = predictions["actions"], predictions["greedy"]
        if self.is_discrete:
            scores["action_accuracy"] = (actions == greedy).mean()
        else:
            scores["action_error"] = np.square(actions - greedy).mean(dtype=np.float64)
        return {name: float(value) for name, value in scores.items()} | statistics.as_scores()


def _two_layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, outputs))


def _standardised(projections: torch.Tensor, is_inside: torch.Tensor) -> torch.Tensor:
    """Return projections [N, projection] with mean 0 and variance 1 over those that are inside their episode, bool [N].

    Features after a ReLU have a mean that is much larger than their differences. All cosines would be near 1.
    """
    variance, mean = torch.var_mean(projections[is_inside], dim=0, correction=0)
    return (projections - mean) / (variance + 1e-5).sqrt()
