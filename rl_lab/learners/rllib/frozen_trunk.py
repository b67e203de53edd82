"""The trunk of a backbone that begins to learn after a number of environment steps, in the learners of RLlib's."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from rl_lab.learners.rllib.policy_builder import RllibBackbone, backbone_of


class FrozenTrunk:
    """Placed before a learner of RLlib's: updates leave the trunk alone until `freeze_steps` steps were sampled.

    Its gradients are dropped before they are clipped. They are computed, because several learners wait for the
    gradients of all parameters that needed one when the module was made.
    """

    module: Any
    steps_sampled = 0

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Note how many environment steps there were so far."""
        super().before_gradient_based_update(timesteps=timesteps)  # type: ignore[misc]
        self.steps_sampled = int(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))

    def compute_gradients(self, loss_per_module: dict[str, torch.Tensor], **arguments: Any) -> dict[Any, Any]:
        """Return the gradients by parameter, without those of a trunk that does not learn yet."""
        gradients: dict[Any, Any] = super().compute_gradients(loss_per_module, **arguments)  # type: ignore[misc]
        backbone = self.begins_frozen()
        if backbone is None or self.steps_sampled > backbone.settings.freeze_steps:
            return gradients
        for parameter in backbone.trunk(self.module[DEFAULT_MODULE_ID].unwrapped().policy):
            parameter.grad = None  # Adam leaves a parameter without a gradient alone
            gradients.pop(parameter, None)
        return gradients

    def begins_frozen(self) -> RllibBackbone | None:
        """Return the backbone whose trunk begins to learn later, None where there is none."""
        if DEFAULT_MODULE_ID not in self.module:  # several policies, which take no backbone
            return None
        backbone = backbone_of(self.module[DEFAULT_MODULE_ID].unwrapped())
        return backbone if backbone is not None and backbone.settings.freeze_steps else None
