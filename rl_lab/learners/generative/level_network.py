"""A network that fills in the cells of a level that are hidden: a transformer over cells.

A level is made from hidden cells alone. They are filled one after the other, in a random order, each with a symbol that
is drawn from the network's prediction given those before it.

Source: Hoogeboom et al. 2022, "Autoregressive diffusion models"; Austin et al. 2021, "Structured denoising diffusion
models in discrete state-spaces" (its absorbing state is a hidden cell)
"""

from __future__ import annotations

import torch
from torch import nn

_GRIDS_AT_ONCE = 500  # that are sampled side by side


class LevelNetwork(nn.Module):
    """A transformer from grids, int64 [B, H * W], to logits of the symbols, float32 [B, H * W, symbols].

    The number `symbols` stands for a hidden cell.
    """

    def __init__(
        self, shape: tuple[int, int], symbols: int, *, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        height, self.columns = shape
        self.symbols, self.cells = symbols, height * self.columns
        self.embedding = nn.Embedding(symbols + 1, width)
        self.row, self.column = nn.Embedding(height, width), nn.Embedding(self.columns, width)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, symbols))

    def forward(self, grids: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        cells = torch.arange(self.cells, device=grids.device)
        places = self.row(cells // self.columns) + self.column(cells % self.columns)
        logits: torch.Tensor = self.output(self.blocks(self.embedding(grids) + places))
        return logits


@torch.no_grad()
def sample_grids(
    network: LevelNetwork, count: int, *, temperature: float, seed: int, device: torch.device
) -> torch.Tensor:
    """Return `count` grids, int64 [count, H * W] on the CPU. The network is in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [min(_GRIDS_AT_ONCE, count - first) for first in range(0, count, _GRIDS_AT_ONCE)]
    return torch.cat([_sample(network, size, temperature, generator, device) for size in sizes])


def _sample(
    network: LevelNetwork, count: int, temperature: float, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    order = torch.rand((count, network.cells), generator=generator).argsort(dim=1)
    grids = torch.full((count, network.cells), network.symbols)
    rows = torch.arange(count)
    for step in range(network.cells):
        places = order[:, step]
        logits = network(grids.to(device))[rows.to(device), places.to(device)].cpu()
        grids[rows, places] = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return grids
