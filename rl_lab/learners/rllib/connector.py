"""The learner connector: it makes RLlib's train batch of fragments, in place of RLlib's own pieces for episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID

from rl_lab.core.world import Array
from rl_lab.learners.rllib.advantages import advantages_and_targets
from rl_lab.learners.rllib.train_columns import joined_columns
from rl_lab.learners.rllib.transitions import Pending

_NETWORKS = {"obs", "action_mask"}  # columns that the network reads


class NothingToLearnError(Exception):
    """No transition has ended in these fragments."""


class FragmentsToBatch(ConnectorV2):  # type: ignore[misc]
    """Turns fragments into the columns of PPO's loss, with the order, the added rows and the numbers of RLlib's own.

    `pending` has the transitions that had not ended with the last fragments, by the fragment's place among them; it is
    part of a learner's state.

    Args:
        gamma: the discount.
        lambda_: lambda of generalised advantage estimation.
    """

    def __init__(self, gamma: float, lambda_: float) -> None:
        super().__init__()
        self.gamma, self.lambda_ = gamma, lambda_
        self.pending: list[Pending | None] = []

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **_: Any) -> dict[str, dict[str, torch.Tensor]]:
        """Return the batch: tensors [R, ...] by module and column."""
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        device = next(module.parameters()).device

        def values(columns: dict[str, Array]) -> Array:
            tensors = {name: torch.from_numpy(columns[name]).to(device) for name in _NETWORKS & set(columns)}
            with torch.no_grad():
                return np.asarray(module.compute_values(tensors).cpu().numpy())

        columns = self.train_batch(episodes, values)
        return {DEFAULT_MODULE_ID: {name: torch.from_numpy(column).to(device) for name, column in columns.items()}}

    def train_batch(self, episodes: list[Any], values: Callable[[dict[str, Array]], Array]) -> dict[str, Array]:
        """Return the columns of PPO's loss, [R, ...] each; `values(columns)` are the value network's, float32 [R].

        `episodes` are fragments, or what a runner in another process returns, which has one as a member. Raises
        NothingToLearnError.
        """
        columns, self.pending = joined_columns([getattr(each, "fragment", each) for each in episodes], self.pending)
        if not columns["loss_mask"].any():
            raise NothingToLearnError
        advantages, targets = advantages_and_targets(columns, values(columns), gamma=self.gamma, lambda_=self.lambda_)
        return {**columns, "advantages": advantages.astype(np.float32), "value_targets": targets.astype(np.float32)}


def connector_of(learner: Any) -> FragmentsToBatch:
    """Return a learner's only connector."""
    (connector,) = learner._learner_connector.connectors
    assert isinstance(connector, FragmentsToBatch)
    return connector
