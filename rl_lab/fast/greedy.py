"""A trained network's best actions.

Not imported as it stands: see `kernels.py`. Each row's result is the same in every batch, whatever its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.fast.plan import TILE

if TYPE_CHECKING:
    from rl_lab.compiler import jit

    from .network import forward, turn
    from .rows import find, tile_of


@jit
def decide(
    seen: Any,  # float32 [B, d]
    legal: Any,  # uint8 [B, n or more], or [B, 0] where everything is legal
    choices: Any,  # int64 [B], or [0] where actions are numbers
    numbers: Any,  # float32 [B, k], or [0, 0]
    count: Any,  # n or k
    layers: Any,
    buffers: Any,
    weights: Any,
    turned: Any,
    work: Any,
    output: Any,
    sparse: Any,
) -> None:
    """Write each row's highest output among the legal ones, the first of equals, or all of its outputs."""
    rows, d = seen.shape
    cells = TILE * d if sparse else 0
    at, places, values = np.zeros((TILE, 2), np.int64), np.zeros(cells + 1, np.int32), np.zeros(cells + 1, np.float32)
    inputs, outputs = tile_of(work, buffers, 0), tile_of(work, buffers, output)
    turn(layers, weights, turned)
    for low in range(0, rows, TILE):
        high = min(low + TILE, rows)
        inputs[: high - low, :d] = seen[low:high]
        if sparse:
            find(inputs[: high - low, :d], at, places, values)
        forward(high - low, layers, buffers, weights, turned, work, sparse, at, places, values)
        for r in range(high - low):
            row = low + r
            if len(choices) == 0:
                numbers[row] = outputs[r, :count]
                continue
            choice = -1
            for k in range(count):
                if legal.shape[1] and legal[row, k] == 0:
                    continue
                if choice < 0 or outputs[r, k] > outputs[r, choice]:
                    choice = k
            choices[row] = max(choice, 0)
