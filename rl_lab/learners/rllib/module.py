"""The actor-critic that RLlib trains: a policy of Stable-Baselines3, which the lab can load without Ray."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Discrete
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS, TargetNetworkAPI
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from rl_lab.learners.compiled.fragment_records import ILLEGAL_LOGIT


class LabActorCritic(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """Wraps the policy that `model_config["build"]()` returns; its parameters have the names `policy.<SB3's name>`."""

    def setup(self) -> None:
        """Build the policy."""
        self.policy = self.model_config["build"]()
        self.policy.optimizer = None  # SB3's own, of which there is no need

    def outputs(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs of the action distribution, [B, n] or [B, 2k], and the critic's features [B, width].

        The logits of actions that `batch["action_mask"]`, bool [B, n], excludes are so low that their probability is 0.
        """
        return self._outputs_of(self.policy, batch)

    def _outputs_of(self, policy: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        features = policy.extract_features(batch["obs"])
        actor, critic = policy.mlp_extractor(features)
        inputs = policy.action_net(actor)
        if not isinstance(self.action_space, Discrete):
            inputs = torch.cat([inputs, policy.log_std.expand_as(inputs)], dim=-1)
        elif "action_mask" in batch:
            inputs = torch.where(batch["action_mask"], inputs, ILLEGAL_LOGIT)
        return inputs, critic

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        inputs, critic = self.outputs(batch)
        return {"action_dist_inputs": inputs, "embeddings": critic}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Return the values, float32 [B], of `batch["obs"]`, or of the critic's features where they are given."""
        if embeddings is None:
            embeddings = self.outputs(batch)[1]
        values: torch.Tensor = self.policy.value_net(embeddings).squeeze(-1)
        return values


class LabTargetActorCritic(LabActorCritic, TargetNetworkAPI):  # type: ignore[misc]
    """The same with an older copy of the policy, the target network of APPO, which only a learner has."""

    def make_target_networks(self) -> None:
        """Copy the policy."""
        self.old_policy = make_target_network(self.policy)

    def get_target_network_pairs(self) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
        """Return the policy and its copy."""
        return [(self.policy, self.old_policy)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the inputs of the copy's action distribution."""
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self._outputs_of(self.old_policy, batch)[0]}
