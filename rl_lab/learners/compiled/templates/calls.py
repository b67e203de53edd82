"""Calls of machine code by its address: a network's functions, and a step of the environments.

A template, executed by `build` after `observations`: see `engine/template_context.py`. The machine code of networks and
worlds is compiled once, by itself, and called through the addresses in `network.NetworkMemory.tables` and in a batch's
header. `net` is the address of a row of these tables. The calls write to the network's buffers or to the batch's
arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.buffers import CHECK, HEADER_SIZE, STEP
from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import AT_FORWARD, AT_TRANSPOSE_WEIGHTS, NUM_ADDRESSES
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.memory_views import activations, as_i64
from rl_lab.learners.compiled.templates.observations import build_sparse_rows

internal = decorators().internal
call = primitives().call


@internal
def transpose_weights(net: Any) -> None:
    """Call `layers.transpose_weights`: refresh the transposed copies of weights after the weights have changed."""
    call(as_i64(net, NUM_ADDRESSES)[AT_TRANSPOSE_WEIGHTS], 0, 0, net)


@internal
def forward(rows: Any, d: Any, sparse: Any, net: Any) -> None:
    """Run a network over inputs [rows, d] that lie in its buffer 0; `sparse` networks get them as lists."""
    table = as_i64(net, NUM_ADDRESSES)
    if sparse:
        build_sparse_rows(activations(net, 0)[:rows, :d], net)
    call(table[AT_FORWARD], rows, np.int64(sparse), net)


@internal
def step_envs(low: Any, high: Any, batch: Any) -> Any:
    """Check the actions of environments low to high - 1 of a batch, then step these environments.

    `batch` is the address of its header. Returns 0, or the negative outcome of what failed: see `Batch.native_handle`.
    """
    header = as_i64(batch, HEADER_SIZE)
    outcome = call(header[CHECK], low, high, batch)
    return call(header[STEP], low, high, batch) if outcome == 0 else outcome
