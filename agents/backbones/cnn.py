"""The backbone of boards and images: MinAtar's convolution or, for large images, those of Mnih et al. 2015.

The lab's compiled learners train MinAtar's.

Source: Young and Tian 2019, "MinAtar"; Mnih et al. 2015, "Human-level control through deep reinforcement learning"
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gymnasium.spaces import Box
from torch import nn

from rl_lab.core.agent import hyperparameter
from rl_lab.core.errors import nearest

SIZES = ("auto", "minatar", "nature")


@dataclass(frozen=True)
class Config:
    """The hyperparameters."""

    size: str = hyperparameter("auto", "minatar, nature, or auto: nature from 36 pixels on each side")
    features: int = hyperparameter(0, "features; 0: 128 of minatar, 512 of nature", low=0, high=2**14)


class Backbone(nn.Module):
    """Convolutions and a dense layer on observations [H, W], [C, H, W], or [H, W, C] with no more channels than rows.

    Integers from 0 to 255 are scaled to 0 to 1. Raises ValueError for other shapes, and for images that are too small.
    """

    def __init__(self, space: Box, config: Config) -> None:
        super().__init__()
        shape = space.shape
        if len(shape) not in (2, 3):
            raise ValueError(f"backbone cnn: observations of shape {list(shape)} are no boards or images: use mlp")
        if config.size not in SIZES:
            raise ValueError(f"backbone cnn: size={config.size!r}; {nearest(config.size, SIZES)}")
        self.scale = 1 / 255 if space.dtype == "uint8" and space.high.max() == 255 else 1.0
        self.add_channel = len(shape) == 2
        self.channels_last = len(shape) == 3 and shape[2] <= shape[0]
        channels, sides = (1, shape) if self.add_channel else (shape[0], shape[1:])
        if self.channels_last:
            channels, sides = shape[2], shape[:2]
        self.is_large = config.size == "nature" or (config.size == "auto" and min(sides) >= 36)
        if min(sides) < (36 if self.is_large else 3):
            raise ValueError(f"backbone cnn: images of {list(sides)} pixels are too small for size={config.size}")
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3), nn.ReLU()]
        if self.is_large:
            layers = [nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()]
            layers += [nn.Conv2d(64, 64, 3), nn.ReLU()]
        self.convolution = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            size = self.convolution(self._image(torch.zeros(1, *shape))).shape[1]
        features = config.features or (512 if self.is_large else 128)
        self.dense = nn.Sequential(nn.Linear(size, features), nn.ReLU())

    def compiled_board(self) -> bool:
        """Return whether compiled learners may compute `convolution` and `dense` in place of `forward`."""
        return self.scale == 1.0 and not self.is_large

    def _image(self, observations: torch.Tensor) -> torch.Tensor:
        if self.add_channel:
            return observations.unsqueeze(1)
        return observations.permute(0, 3, 1, 2) if self.channels_last else observations

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return features, float32 [B, features], of observations [B, *shape]."""
        features: torch.Tensor = self.dense(self.convolution(self._image(observations.float() * self.scale)))
        return features
