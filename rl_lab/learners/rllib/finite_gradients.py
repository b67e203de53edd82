"""The refusal of gradients that are not finite, for the learners of RLlib's that train by torch."""

from __future__ import annotations

from typing import Any

import torch

from rl_lab.engine.batch import NonFiniteError


class FiniteGradients:
    """Placed before a learner of RLlib's: a gradient that is not finite is an error; RLlib would replace it by zero."""

    agent_name: str

    def apply_gradients(self, gradients_dict: dict[Any, torch.Tensor]) -> None:
        """Take one step of the optimizer. Raises NonFiniteError, and changes nothing, for non-finite gradients."""
        gradients = [gradient for gradient in gradients_dict.values() if gradient is not None]
        if not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            raise NonFiniteError(f"{self.agent_name}: a gradient is not finite; no parameter was changed by it")
        super().apply_gradients(gradients_dict)  # type: ignore[misc]
