"""The backbone of grids and entities: a small transformer whose tokens are cells, or groups of a vector's numbers.

The tokens get learned positions, and attend to each other in blocks with LayerNorm before each part. The features are
the mean over the tokens.

Source: Vaswani et al. 2017, "Attention is all you need"; Xiong et al. 2020, "On layer normalization in the transformer"
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gymnasium.spaces import Box
from torch import nn

from rl_lab.core.agent import hyperparameter
from rl_lab.core.image_shape import has_channels_first

_MOST_TOKENS = 1024  # attention costs memory in proportion to the square of their number


@dataclass(frozen=True)
class Config:
    """The hyperparameters."""

    width: int = hyperparameter(64, "numbers of a token, and features", low=1, high=4096)
    heads: int = hyperparameter(4, "attention heads, which divide width", low=1, high=64)
    layers: int = hyperparameter(2, "blocks of attention and a dense part", low=1, high=32)
    entity_size: int = hyperparameter(1, "how many consecutive numbers of a vector form one token", low=1, high=2**16)


class Backbone(nn.Module):
    """A transformer over the cells of observations [H, W] or [H, W, C] (or [C, H, W]), or the entities of vectors [d].

    Of three axes, the shorter one of the first and the last has the channels, see `core.image_shape`. Integers from 0
    to 255 are scaled to 0 to 1. Raises ValueError where the sizes do not fit.
    """

    def __init__(self, space: Box, config: Config) -> None:
        super().__init__()
        shape = space.shape
        self.scale = 1 / 255 if space.dtype == "uint8" and space.high.max() == 255 else 1.0
        self.channels_first = len(shape) == 3 and has_channels_first(shape)
        size = config.entity_size
        if len(shape) == 3:
            size = shape[0] if self.channels_first else shape[2]
        elif len(shape) == 2:
            size = 1
        numbers = int(torch.Size(shape).numel())
        if numbers % size or numbers // size > _MOST_TOKENS:
            raise ValueError(
                f"backbone attention: {list(shape)} makes no tokens of {size} numbers, {_MOST_TOKENS} at most"
            )
        if config.width % config.heads:
            raise ValueError(f"backbone attention: heads={config.heads} does not divide width={config.width}")
        self.entity_size = size
        self.embedding = nn.Linear(size, config.width)
        self.positions = nn.Parameter(torch.randn(numbers // size, config.width) * 0.02)
        block = nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return features, float32 [B, width], of observations [B, *shape]."""
        if self.channels_first:
            observations = observations.permute(0, 2, 3, 1)
        tokens = observations.float().reshape(len(observations), -1, self.entity_size) * self.scale
        features: torch.Tensor = self.norm(self.blocks(self.embedding(tokens) + self.positions).mean(1))
        return features
