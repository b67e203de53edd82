"""Policy arguments that SB3's PPO and DQN share, and the convolutional extractor for small boards."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from ..batch import WorldInfo
from .sb3 import with_indicator

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}
POLICIES = ("mlp", "cnn")


class BoardCnn(BaseFeaturesExtractor):
    """A convolution of 16 3x3 filters and a dense layer of 128: MinAtar's network (Young and Tian 2019).

    Observations [H, W] or [C, H, W], or [H, W, C] with no more channels than rows; 36 pixels a side or more get the
    strides of Mnih et al. 2015 in front.
    """

    def __init__(self, observation_space: Box, features: int = 128) -> None:
        super().__init__(observation_space, features)
        shape = observation_space.shape
        self.add_channel = len(shape) == 2
        self.channels_last = len(shape) == 3 and shape[2] <= shape[0]
        channels, sides = (1, shape) if self.add_channel else (shape[0], shape[1:])
        if self.channels_last:
            channels, sides = shape[2], shape[:2]
        large = min(sides) >= 36
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3), nn.ReLU()]
        if large:
            layers = [nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()]
            layers += [nn.Conv2d(64, 64, 3), nn.ReLU()]
        self.convolution = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            size = self.convolution(self._image(torch.zeros(1, *shape))).shape[1]
        self.dense = nn.Sequential(nn.Linear(size, features), nn.ReLU())

    def _image(self, observations: torch.Tensor) -> torch.Tensor:
        if self.add_channel:
            return observations.unsqueeze(1)
        return observations.permute(0, 3, 1, 2) if self.channels_last else observations

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return features [B, features] of observations [B, *shape]."""
        features: torch.Tensor = self.dense(self.convolution(self._image(observations)))
        return features


def policy_arguments(world: WorldInfo, policy: str, net_arch: list[int], activation: str) -> dict[str, Any]:
    """Return SB3's policy_kwargs; ValueError for an unknown policy or activation, or a CNN on a vector."""
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r}: expected one of {', '.join(POLICIES)}")
    if any(type(units) is not int or not 1 <= units <= 2**20 for units in net_arch):
        raise ValueError(f"net_arch={list(net_arch)}: expected layers of 1 to {2**20} units")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    arguments: dict[str, Any] = {"net_arch": list(net_arch), "activation_fn": ACTIVATIONS[activation]}
    if policy == "cnn":
        if len(world.observation.shape) not in (2, 3):
            raise ValueError(f"policy=cnn: {world.name} observes a vector of shape {world.observation.shape}")
        arguments["features_extractor_class"] = BoardCnn
    return arguments


def build_policy(
    policy_class: type[BasePolicy], world: WorldInfo, *, indicator: bool = False, **arguments: Any
) -> BasePolicy:
    """Return a policy of this class for the world's spaces, untrained."""
    space = with_indicator(world.observation, len(world.agents)) if indicator else world.observation
    return policy_class(space, world.action, lambda _: 0.0, **arguments)
