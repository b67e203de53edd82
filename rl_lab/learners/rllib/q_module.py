"""The Q-network that RLlib trains: a policy of Stable-Baselines3's DQN, which the lab can load without Ray."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.core.rl_module.apis import QNetAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule


class LabQNetwork(TorchRLModule, QNetAPI, TargetNetworkAPI):  # type: ignore[misc]
    """Wraps the policy that `model_config["build"]()` returns: its `q_net`, and `q_net_target` as target network.

    The values of illegal actions are -inf, in the network's and in the target's maximum.
    """

    def setup(self) -> None:
        """Build the policy."""
        self.policy = self.model_config["build"]()
        self.policy.optimizer = None  # RLlib has an optimizer of its own
        # RLlib calls this as well, but after it has wrapped the module for several learners. These wait for the
        # gradients of all parameters that needed one when it was wrapped, so the target's must not need one by then.
        self.make_target_networks()

    def make_target_networks(self) -> None:
        """Copy the network to the target network, which gradients do not change."""
        self.policy.q_net_target.load_state_dict(self.policy.q_net.state_dict())
        self.policy.q_net_target.requires_grad_(False)

    def get_target_network_pairs(self) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
        """Return the network and its target network."""
        return [(self.policy.q_net, self.policy.q_net_target)]

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the values, float32 [B, n], of `batch["obs"]`; `batch["action_mask"]`, bool [B, n], is optional."""
        return {QF_PREDS: _legal(self.policy.q_net(batch["obs"]), batch.get("action_mask"))}

    def forward_target(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the target network's values as `compute_q_values` does."""
        return {QF_PREDS: _legal(self.policy.q_net_target(batch["obs"]), batch.get("action_mask"))}

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"actions": self.compute_q_values(batch)[QF_PREDS].argmax(dim=-1)}

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        obs, next_obs, mask = batch["obs"], batch["new_obs"], batch.get("next_action_mask")
        outputs = {QF_TARGET_NEXT_PREDS: self.forward_target({"obs": next_obs, "action_mask": mask})[QF_PREDS]}
        if not self.model_config["double_q"]:
            return {**outputs, QF_PREDS: self.policy.q_net(obs)}
        # One pass for both, as in RLlib.
        values, next_values = self.policy.q_net(torch.cat([obs, next_obs])).chunk(2)
        return {**outputs, QF_PREDS: values, QF_NEXT_PREDS: _legal(next_values, mask)}


def _legal(values: torch.Tensor, action_mask: torch.Tensor | None) -> torch.Tensor:
    return values if action_mask is None else torch.where(action_mask, values, -torch.inf)
