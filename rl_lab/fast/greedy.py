"""A trained network's best actions.

Not imported as it stands: see `kernels.py`. Each row's result is the same in every batch, whatever its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_lab.fast.plan import TILE

if TYPE_CHECKING:
    from rl_lab.compiler import jit

    from .rows import copy, forward, tile_of, turn


@jit
def decide(
    seen: Any,  # float32 [B, d]
    legal: Any,  # uint8 [B, n or more], or [B, 0] where everything is legal
    choices: Any,  # int64 [B], or [0] where actions are numbers
    numbers: Any,  # float32 [B, k], or [0, 0]
    count: Any,  # n or k
    nets: Any,  # int64 [1, ADDRESSES]
    output: Any,
    sparse: Any,
) -> None:
    """Write each row's highest output among the legal ones, the first of equals, or all of its outputs."""
    rows, d = seen.shape
    net = nets.ctypes.data
    inputs, outputs = tile_of(net, 0), tile_of(net, output)
    turn(net)
    for low in range(0, rows, TILE):
        high = min(low + TILE, rows)
        for r in range(high - low):
            copy(inputs[r, :d], seen[low + r])
        forward(high - low, d, sparse, net)
        for r in range(high - low):
            row = low + r
            if len(choices) == 0:
                copy(numbers[row], outputs[r, :count])
                continue
            choice = -1
            for k in range(count):
                if legal.shape[1] and legal[row, k] == 0:
                    continue
                if choice < 0 or outputs[r, k] > outputs[r, choice]:
                    choice = k
            choices[row] = max(choice, 0)
