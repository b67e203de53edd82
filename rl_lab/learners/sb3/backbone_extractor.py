"""A backbone as the features extractor of a Stable-Baselines3 policy."""

from __future__ import annotations

import torch
from gymnasium.spaces import Box
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from rl_lab.learners.pretraining import networks
from rl_lab.learners.pretraining.spec import NetworkChoice


class BackboneExtractor(BaseFeaturesExtractor):
    """A backbone as the features extractor of an SB3 policy."""

    def __init__(self, observation_space: Box, network: NetworkChoice) -> None:
        module = networks.build(network, observation_space)
        super().__init__(observation_space, networks.width_of(module, observation_space, network.kind))
        self.backbone = module

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return features, float32 [B, width], of observations [B, *shape]."""
        features: torch.Tensor = self.backbone(observations)
        return features
