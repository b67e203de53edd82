"""A divergence from a teacher's policy in PPO's loss, against the collapse that follows cloning.

The coefficient decays to zero, so that the agent can become better than its teacher.

Source: Schmitt et al. 2018, "Kickstarting deep reinforcement learning"; Ramrakhya et al. 2023, "PIRLNav"
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributions import Normal, kl_divergence

from rl_lab.learners.pretraining.folder import SavedBackbone
from rl_lab.learners.pretraining.model import BackboneModel


class _WithLoss(torch.autograd.Function):
    """Returns its first argument, and adds the second, a scalar, to whatever loss is computed from it."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,) = gradients
        return gradient, gradient.new_ones(())


class Teacher:
    """The policy of a saved backbone, which does not learn. SB3's PPO calls it through its own `evaluate_actions`."""

    def __init__(self, saved: SavedBackbone, model: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            self.network = BackboneModel(saved.spec)
        self.network.load_state_dict({name: torch.from_numpy(value) for name, value in saved.tensors.items()})
        self.network.to(model.device).eval().requires_grad_(False)
        self.coefficient = 0.0
        self._model, self._evaluate_actions = model, model.policy.evaluate_actions
        model.policy.evaluate_actions = self.evaluate_actions

    def evaluate_actions(self, observations: torch.Tensor, actions: torch.Tensor, **more: Any) -> Any:
        """Return what the policy's own method returns; PPO's loss of it includes the divergence from the teacher."""
        values, log_prob, entropy = self._evaluate_actions(observations, actions, **more)
        if self.coefficient == 0.0:
            return values, log_prob, entropy
        divergence = self.divergence(observations, **more)
        self._model.logger.record_mean("train/teacher_kl", float(divergence.detach()))
        return values, _WithLoss.apply(log_prob, self.coefficient * divergence), entropy  # type: ignore[no-untyped-call]

    def divergence(self, observations: torch.Tensor, action_masks: Any = None) -> torch.Tensor:
        """Return the mean Kullback-Leibler divergence of the policy from the teacher, over observations [B, ...]."""
        masked = {} if action_masks is None else {"action_masks": action_masks}
        student = self._model.policy.get_distribution(observations, **masked).distribution
        with torch.no_grad():
            teacher = self.network.policy(self.network.trunk(observations))
        if isinstance(student, Normal):
            distribution = Normal(teacher, self.network.log_std.exp())
            return kl_divergence(distribution, student).sum(1).mean()
        if action_masks is not None:
            legal = torch.as_tensor(action_masks, dtype=torch.bool, device=teacher.device).reshape(teacher.shape)
            teacher = teacher.masked_fill(~legal, -1e8)
        log_probs = teacher.log_softmax(1)
        difference = log_probs - student.logits.log_softmax(1)
        divergence: torch.Tensor = (log_probs.exp() * difference).sum(1).mean()
        return divergence
