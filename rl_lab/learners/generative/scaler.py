"""A scaler of vectors whose parameters are saved with a network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rl_lab.core.world import Array

_SMALLEST = 1e-6  # numbers that vary less in the data are left as they are


class Scaler(nn.Module):
    """An affine map of vectors of `size` numbers, whose offset and scale are buffers."""

    offset: torch.Tensor
    scale: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit_range(self, values: Array) -> None:
        """Map the smallest value of each of the numbers in float32 [rows, size] to -1, and the largest one to 1."""
        low, high = values.min(0).astype(np.float64), values.max(0).astype(np.float64)
        self._fit((low + high) / 2, (high - low) / 2)

    def fit_moments(self, values: Array) -> None:
        """Map the numbers in float32 [rows, size] to mean 0 and standard deviation 1."""
        self._fit(values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64))

    def _fit(self, offset: Array, scale: Array) -> None:
        self.offset.copy_(torch.from_numpy(offset))
        self.scale.copy_(torch.from_numpy(np.where(scale > _SMALLEST, scale, 1.0)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return scaled values, float32 [..., size]."""
        return (values - self.offset) / self.scale

    def inverse(self, scaled: torch.Tensor) -> torch.Tensor:
        """Return the values of scaled ones, float32 [..., size]."""
        return scaled * self.scale + self.offset
