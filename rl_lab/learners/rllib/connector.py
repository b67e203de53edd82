"""The learner connector: it makes RLlib's train batch of fragments, in place of RLlib's own pieces for episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID

from rl_lab.learners.rllib.advantages import advantages_and_targets
from rl_lab.learners.rllib.train_columns import train_columns
from rl_lab.learners.rllib.transitions import Pending


class NothingToLearnError(Exception):
    """No transition has ended in these fragments."""


class FragmentsToBatch(ConnectorV2):  # type: ignore[misc]
    """Turns fragments into the columns of PPO's loss, with the order, the added rows and the numbers of RLlib's own.

    Args:
        gamma: the discount.
        lambda_: lambda of generalised advantage estimation.
    """

    def __init__(self, gamma: float, lambda_: float) -> None:
        super().__init__()
        self.gamma, self.lambda_ = gamma, lambda_
        self.pending: list[Pending | None] = []  # by the fragment's place: that of the last call's

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **_: Any) -> dict[str, dict[str, torch.Tensor]]:
        """Return the batch: tensors [R, ...] by module and column."""
        # What a runner in another process returns has its fragment as a member.
        fragments = [getattr(each, "fragment", each) for each in episodes]
        before = self.pending or [None] * len(fragments)
        parts, self.pending = map(list, zip(*map(train_columns, fragments, before), strict=True))
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not columns["loss_mask"].any():
            raise NothingToLearnError
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        device = next(module.parameters()).device
        tensors = {name: torch.from_numpy(column).to(device) for name, column in columns.items()}
        with torch.no_grad():
            values = module.compute_values(tensors).cpu().numpy()
        advantages, targets = advantages_and_targets(columns, values, gamma=self.gamma, lambda_=self.lambda_)
        tensors["advantages"], tensors["value_targets"] = (
            torch.from_numpy(array.astype(np.float32)).to(device) for array in (advantages, targets)
        )
        return {DEFAULT_MODULE_ID: tensors}
