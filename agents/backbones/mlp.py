"""The backbone of vectors: dense layers on the flattened observation.

Without LayerNorm and with tanh or relu, the lab's compiled learners train it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gymnasium.spaces import Box
from torch import nn

from rl_lab.core.agent import hyperparameter
from rl_lab.core.errors import nearest

_MOST_LAYERS = 64
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


@dataclass(frozen=True)
class Config:
    """The hyperparameters."""

    hidden: list[int] = hyperparameter([64, 64], "layers; the last one's units are the features", "units")
    activation: str = hyperparameter("tanh", "tanh, relu, elu or silu")
    layer_norm: bool = hyperparameter(False, "LayerNorm before each activation; compiled learners do not know it")


class Backbone(nn.Module):
    """Dense layers on the flattened observation; integers from 0 to 255 are scaled to 0 to 1.

    Raises ValueError for layers that cannot be.
    """

    def __init__(self, space: Box, config: Config) -> None:
        super().__init__()
        if not 1 <= len(config.hidden) <= _MOST_LAYERS or any(not 1 <= units <= 2**14 for units in config.hidden):
            text = f"{list(config.hidden)}"[:80]
            raise ValueError(f"backbone mlp: hidden={text}: expected 1 to {_MOST_LAYERS} layers of 1 to {2**14} units")
        if config.activation not in ACTIVATIONS:
            raise ValueError(
                f"backbone mlp: activation={config.activation!r}; {nearest(config.activation, ACTIVATIONS)}"
            )
        self.scale = 1 / 255 if space.dtype == "uint8" and space.high.max() == 255 else 1.0
        sizes, layers = [int(torch.Size(space.shape).numel()), *config.hidden], []
        for inputs, units in zip(sizes, sizes[1:], strict=False):
            norm = [nn.LayerNorm(units)] if config.layer_norm else []
            layers += [nn.Linear(inputs, units), *norm, ACTIVATIONS[config.activation]()]
        self.layers = nn.Sequential(*layers)

    def compiled_layers(self) -> tuple[str, nn.Sequential] | None:
        """Return the member that compiled learners may compute in place of `forward`, None if there is none."""
        return ("layers", self.layers) if self.scale == 1.0 else None

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return features, float32 [B, hidden[-1]], of observations [B, *shape]."""
        features: torch.Tensor = self.layers(observations.flatten(1).float() * self.scale)
        return features
