"""The greedy actions of a trained policy or Q-network.

A template, executed by `build` after `calls`: see `engine/template_context.py`. `learners/sb3/inference.py` calls
`greedy_actions` for evaluation and play. It writes the actions and the memory of the network at nets[0]. The actions of
a row are the same in every batch, whatever its size.
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import TILE
from rl_lab.learners.compiled.templates.calls import forward, transpose_weights
from rl_lab.learners.compiled.templates.memory_views import activations, copy

jit = decorators().jit


@jit
def greedy_actions(
    observations: Any,  # float32 [B, d]
    action_mask: Any,  # uint8 [B, n or more], or [B, 0] where every action is legal
    discrete_actions: Any,  # int64 [B], or [0] where actions are continuous
    continuous_actions: Any,  # float32 [B, k], or [0, 0]
    action_size: Any,  # n or k
    nets: Any,  # int64 [1, NUM_ADDRESSES], see `network.NetworkMemory.tables`
    output: Any,  # index of the network's buffer of logits, Q-values, or means of continuous actions
    sparse: Any,  # whether observations enter the network as lists of their numbers that are not zero
) -> None:
    """Write each row's legal action with the highest output, the first of equals; or its outputs, if continuous.

    A row without a legal action gets action 0.
    """
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
                copy(continuous_actions[row], outputs[r, :action_size])
                continue
            action = -1
            for k in range(action_size):
                if action_mask.shape[1] and action_mask[row, k] == 0:
                    continue
                if action < 0 or outputs[r, k] > outputs[r, action]:
                    action = k
            discrete_actions[row] = max(action, 0)
