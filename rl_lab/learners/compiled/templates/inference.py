"""The greedy actions of a trained network.

A template, executed by `build`: see `engine/template_context.py`.
Each row's result is the same in every batch, whatever its size.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import TILE
from rl_lab.learners.compiled.templates.tiles import activations, copy, forward, transpose_weights

jit = decorators().jit


@jit
def greedy_actions(
    observations: Any,  # float32 [B, d]
    action_mask: Any,  # uint8 [B, n or more], or [B, 0] where every action is legal
    discrete_actions: Any,  # int64 [B], or [0] where actions are continuous
    continuous_actions: Any,  # float32 [B, k], or [0, 0]
    count: Any,  # n or k
    nets: Any,  # int64 [1, ADDRESSES]
    output: Any,
    sparse: Any,
) -> None:
    """Write each row's legal action with the highest output, the first of equals; or its outputs, if continuous."""
    rows, d = observations.shape
    net = nets.ctypes.data
    inputs, outputs = activations(net, 0), activations(net, output)
    transpose_weights(net)
    for low in range(0, rows, TILE):
        high = min(low + TILE, rows)
        for r in range(high - low):
            copy(inputs[r, :d], observations[low + r])
        forward(high - low, d, sparse, net)
        for r in range(high - low):
            row = low + r
            if len(discrete_actions) == 0:
                copy(continuous_actions[row], outputs[r, :count])
                continue
            action = -1
            for k in range(count):
                if action_mask.shape[1] and action_mask[row, k] == 0:
                    continue
                if action < 0 or outputs[r, k] > outputs[r, action]:
                    action = k
            discrete_actions[row] = max(action, 0)
