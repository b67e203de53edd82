"""The methods of pretraining: what each one predicts from the features, its loss, and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal

from rl_lab.core.world import Array
from rl_lab.learners.pretraining.autoencoder import Autoencoder
from rl_lab.learners.pretraining.base import Method
from rl_lab.learners.pretraining.examples import ExampleBatch, Examples
from rl_lab.learners.pretraining.model import BackboneModel
from rl_lab.learners.pretraining.self_prediction import SelfPrediction

if TYPE_CHECKING:
    from rl_lab.learners.pretraining.trainer import TrainerConfig


class BehaviourCloning(Method):
    """The policy head imitates the recorded actions: cross-entropy, or the likelihood of a Gaussian.

    Where the data have action masks, illegal actions have probability 0, as in MaskablePPO. Raises ValueError where a
    recorded action is illegal.
    """

    head, score = "policy", "likelihood"

    def __init__(self, examples: Examples) -> None:
        super().__init__()
        data = examples.data
        self.is_discrete = data.actions.ndim == 1
        if data.action_masks is not None and not np.take_along_axis(data.action_masks, data.actions[:, None], 1).all():
            raise ValueError(f"{data.path} has actions that its own action masks forbid")

    def _logits(self, model: BackboneModel, batch: ExampleBatch) -> torch.Tensor:
        logits: torch.Tensor = model.policy(model.trunk(batch.observations))
        return logits if batch.masks is None else logits.masked_fill(~batch.masks, -1e8)

    def _log_probs(self, model: BackboneModel, batch: ExampleBatch) -> torch.Tensor:
        """Return the log probability of each row's action, float32 [B]."""
        if self.is_discrete:
            return -nn.functional.cross_entropy(self._logits(model, batch), batch.actions, reduction="none")
        mean = model.policy(model.trunk(batch.observations))
        log_probs: torch.Tensor = Normal(mean, model.log_std.exp()).log_prob(batch.actions).sum(1)  # type: ignore[no-untyped-call]
        return log_probs

    def loss(self, model: BackboneModel, batch: ExampleBatch) -> torch.Tensor:
        """Return the negative mean log-likelihood."""
        return -self._log_probs(model, batch).mean()

    def predict(self, model: BackboneModel, batch: ExampleBatch) -> Mapping[str, Array]:
        """Return the likelihood of each row's action and, of discrete actions, the most likely one."""
        predictions = {"log_probs": self._log_probs(model, batch), "actions": batch.actions}
        if self.is_discrete:
            predictions["greedy"] = self._logits(model, batch).argmax(1)
        else:
            predictions["greedy"] = model.policy(model.trunk(batch.observations))
        return {name: value.cpu().numpy() for name, value in predictions.items()}

    def scores(self, predictions: Mapping[str, Array]) -> dict[str, float]:
        """Return the mean log-likelihood; of discrete actions accuracy and macro F1, of others the squared error."""
        actions, greedy = predictions["actions"], predictions["greedy"]
        scores = {"likelihood": float(predictions["log_probs"].mean(dtype=np.float64))}
        if not self.is_discrete:
            return scores | {"squared_error": float(np.square(actions - greedy).mean(dtype=np.float64))}
        return scores | {"accuracy": float((actions == greedy).mean()), "f1": macro_f1(actions, greedy)}


def macro_f1(actions: Array, predicted: Array) -> float:
    """Return the mean over the actions that occur of the harmonic mean of precision and recall."""
    values = []
    for action in np.unique(actions):
        hits = float(((actions == action) & (predicted == action)).sum())
        values.append(2 * hits / float((actions == action).sum() + (predicted == action).sum()))
    return float(np.mean(values))


class Critic(Method):
    """The value head predicts the discounted sum of the rewards that follow.

    Episodes that were truncated continue beyond their last transition: there, as in PPO, the value of the final
    observation takes the place of the missing rewards. It is computed anew before each epoch. The head learns
    standardised returns, and `finish` puts the scale into its last layer.
    """

    head, score = "value", "explained_variance"

    def __init__(self, examples: Examples, gamma: float) -> None:
        super().__init__()
        self.examples = examples
        data = examples.data
        self._returns = np.zeros(data.num_steps)
        self._share = np.zeros(data.num_steps)  # of the value of the final observation in each row's return
        ended = np.asarray(data.episode_offsets[1:]) - 1
        truncated = data.truncated[ended] & ~data.terminated[ended]
        for first, last, is_truncated in zip(data.episode_offsets[:-1], ended, truncated, strict=True):
            length = int(last - first) + 1
            self._returns[first : last + 1] = discounted_sums(np.asarray(data.rewards[first : last + 1]), gamma)
            self._share[first : last + 1] = is_truncated * gamma ** np.arange(length, 0, -1)
        self._episodes = data.episode_of(np.arange(data.num_steps))
        returns = self._returns[examples.train]
        self.mean, self.deviation = float(returns.mean()), max(float(returns.std()), 1e-6)
        self._targets = self._returns

    def begin_epoch(self, model: BackboneModel, epoch: int) -> None:
        """Compute the targets with the present values of the final observations."""
        data, values = self.examples.data, []
        with torch.no_grad():
            for first in range(0, data.num_episodes, 4096):
                observations = self.examples.tensor(data.final_observations[first : first + 4096])
                values.append(model.value(model.trunk(observations))[:, 0].cpu().numpy())
        final = np.concatenate(values).astype(np.float64) * self.deviation + self.mean
        self._targets = self._returns + self._share * final[self._episodes]

    def _standardised(self, batch: ExampleBatch) -> torch.Tensor:
        targets = (self._targets[batch.rows] - self.mean) / self.deviation
        return self.examples.tensor(targets.astype(np.float32))

    def loss(self, model: BackboneModel, batch: ExampleBatch) -> torch.Tensor:
        """Return the mean squared error of standardised returns."""
        values = model.value(model.trunk(batch.observations))[:, 0]
        return nn.functional.mse_loss(values, self._standardised(batch))

    def predict(self, model: BackboneModel, batch: ExampleBatch) -> Mapping[str, Array]:
        """Return the value and the target of each row."""
        values = model.value(model.trunk(batch.observations))[:, 0].cpu().numpy()
        return {"values": values * self.deviation + self.mean, "targets": self._targets[batch.rows]}

    def scores(self, predictions: Mapping[str, Array]) -> dict[str, float]:
        """Return the share of the targets' variance that the values explain, and the root of the mean squared error.

        Where the targets are all equal, nothing is to be explained, and the share is 0.
        """
        error = predictions["targets"] - predictions["values"].astype(np.float64)
        variance = float(predictions["targets"].var())
        explained = 1 - float(error.var()) / variance if variance > 1e-12 else 0.0
        return {"explained_variance": explained, "error": float(np.sqrt(np.square(error).mean()))}

    def finish(self, model: BackboneModel) -> None:
        """Let the last layer return values in place of standardised ones."""
        last: Any = model.value[-1]
        with torch.no_grad():
            last.weight *= self.deviation
            last.bias.mul_(self.deviation).add_(self.mean)


def discounted_sums(rewards: Array, gamma: float) -> Array:
    """Return, for each of T rewards, the discounted sum of it and those after it, float64 [T]."""
    from scipy.signal import lfilter

    return np.asarray(lfilter([1.0], [1.0, -gamma], rewards[::-1].astype(np.float64)))[::-1]


# The head of the backbone that each method trains, by the method's name; None: the trunk alone.
HEADS = {"bc": "policy", "critic": "value", "selfpred": None, "vae": None}
NAMES = tuple(HEADS)


def make(name: str, examples: Examples, model: BackboneModel, config: TrainerConfig, seed: int) -> Method:
    """Return the method of this name, one of NAMES, for these examples. Raises ValueError for data that do not fit."""
    if name == "bc":
        return BehaviourCloning(examples)
    if name == "critic":
        return Critic(examples, config.gamma)
    if name == "selfpred":
        return SelfPrediction(examples, model, config)
    return Autoencoder(examples, model, config, seed)
