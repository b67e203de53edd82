"""The training of a sequence policy: the transformer predicts the recorded actions from what came before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from rl_lab.core.protocols import EnvSpec
from rl_lab.core.world import Array
from rl_lab.learners.generative import windows
from rl_lab.learners.generative.loading import require_same_spaces
from rl_lab.learners.generative.method import GenerativeMethod
from rl_lab.learners.generative.sequence_network import Context, SequencePolicy, make_policy
from rl_lab.learners.generative.settings import SequenceConfig
from rl_lab.learners.pretraining.examples import ExampleBatch, Examples

_ILLEGAL = -1e8  # the score of an action that is not legal
_OVERLAP = 4  # contexts of an epoch in which a transition occurs, about


class SequenceModel(nn.Module):
    """The policy as the trainer wants it, which trains a head on a trunk: here the head is all of it."""

    def __init__(self, policy: SequencePolicy) -> None:
        super().__init__()
        self.trunk, self.policy = nn.Identity(), policy


class SequenceTraining(GenerativeMethod):
    """The method of pretraining. An example is a context, and the loss is that of all actions in it.

    The training examples are thinned: each transition is in about four contexts of an epoch. The scores are those of
    the last action of each context, one for each validation transition. Raises ValueError for hyperparameters and
    worlds that do not fit.
    """

    model: SequenceModel

    def __init__(self, config: SequenceConfig, world: EnvSpec, examples: Examples, seed: int) -> None:
        super().__init__(seed)
        config.check()
        require_same_spaces("sequence", world)
        self.config, self.examples, data = config, examples, examples.data
        policy = make_policy(world, config)
        self.is_discrete = policy.is_discrete
        self.score = "likelihood" if self.is_discrete else "explained_variance"
        rows = examples.train
        policy.observations.fit_moments(np.asarray(data.observations[rows], np.float32).reshape(len(rows), -1))
        if not self.is_discrete:
            policy.actions.fit_range(np.asarray(data.actions[rows]))
        self.best_return = float(data.returns().max())
        self.returns_to_go = _returns_to_go(np.asarray(data.rewards), np.asarray(data.episode_offsets))
        returns = data.returns()[np.unique(data.episode_of(rows))]
        policy.return_scale.fill_(max(float(np.abs(returns).max()), 1e-6))
        self.model = SequenceModel(policy)
        self._thin()

    def _thin(self) -> None:
        """Keep the training contexts that end at every few steps, or at the end of an episode."""
        data, rows = self.examples.data, self.examples.train
        episodes, stride = data.episode_of(rows), max(self.config.context // _OVERLAP, 1)
        step, is_last = rows - data.episode_offsets[episodes], rows == data.episode_offsets[episodes + 1] - 1
        self.examples.train = rows[(step % stride == stride - 1) | is_last]

    def agent_network(self, model: Any) -> nn.Module:
        """Return the network of a trained model whose parameters the agent has."""
        network: nn.Module = model.policy
        return network

    def _context(self, rows: Array) -> tuple[Context, torch.Tensor, torch.Tensor | None]:
        """Return the contexts that end with these transitions, which places of them are used, and the masks."""
        data, examples = self.examples.data, self.examples
        steps, is_inside = windows.context(data, rows, self.config.context)
        begins = data.episode_offsets[data.episode_of(rows)]
        observations = np.asarray(data.observations[steps], np.float32).reshape(*steps.shape, -1)
        context = Context(
            examples.tensor(self.returns_to_go[steps]),
            examples.tensor(observations),
            examples.tensor(data.actions[steps]),
            examples.tensor(steps - begins[:, None]),
        )
        masks = data.action_masks
        return context, examples.tensor(is_inside), None if masks is None else examples.tensor(masks[steps] != 0)

    def _predictions(self, model: SequenceModel, context: Context, masks: torch.Tensor | None) -> torch.Tensor:
        predictions: torch.Tensor = model.policy(context)
        return predictions if masks is None else predictions.masked_fill(~masks, _ILLEGAL)

    def loss(self, model: Any, batch: ExampleBatch) -> torch.Tensor:
        """Return the mean over all actions of the contexts: cross-entropy, or the squared error of scaled actions."""
        context, is_inside, masks = self._context(batch.rows)
        predictions = self._predictions(model, context, masks)[is_inside]
        if self.is_discrete:
            return nn.functional.cross_entropy(predictions, context.actions[is_inside])
        return nn.functional.mse_loss(predictions, model.policy.actions(context.actions[is_inside]))

    def predict(self, model: Any, batch: ExampleBatch) -> Mapping[str, Array]:
        """Return what the last action of each context is, and what is predicted for it."""
        context, is_inside, masks = self._context(batch.rows)
        last = is_inside.sum(1) - 1
        index = torch.arange(len(last), device=last.device)
        predicted, actions = self._predictions(model, context, masks)[index, last], context.actions[index, last]
        if self.is_discrete:
            losses = nn.functional.cross_entropy(predicted, actions, reduction="none")
            results = {"log_probs": -losses, "is_equal": predicted.argmax(1) == actions}
        else:
            scaled = model.policy.actions(actions)
            results = {"errors": (predicted - scaled).square().mean(1), "squares": scaled.square().mean(1)}
        return {name: value.cpu().numpy() for name, value in results.items()}

    def scores(self, predictions: Mapping[str, Array]) -> dict[str, float]:
        """Return the mean log-likelihood and the accuracy, or the share of the actions' mean square that is right."""
        means = {name: float(values.mean(dtype=np.float64)) for name, values in predictions.items()}
        if self.is_discrete:
            return {"likelihood": means["log_probs"], "accuracy": means["is_equal"]}
        return {"explained_variance": 1 - means["errors"] / max(means["squares"], 1e-12)}


def _returns_to_go(rewards: Array, offsets: Array) -> Array:
    """Return the sum of the rewards from each transition to the end of its episode, float32 [S]."""
    total = np.cumsum(rewards.astype(np.float64))
    ends = np.repeat(total[offsets[1:] - 1], np.diff(offsets))
    return np.asarray(ends - total + rewards, np.float32)
