"""Typed arrays over memory at an address: of any memory, and of a network's activations.

A template, executed by `build` before all others: see `engine/template_context.py`. Compiled code of the learners gets
addresses, not arrays, for what differs between worlds and networks in shape or type, because numba would compile it
anew for each type of array. These functions make an array of an address where its numbers are needed. The array owns
nothing: the caller of compiled code keeps the memory. `net` is the address of a row of `network.NetworkMemory.tables`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import (
    AT_ACTIVATION_GRADS,
    AT_ACTIVATIONS,
    AT_BUFFER_LAYOUT,
    NUM_ADDRESSES,
    TILE,
)
from rl_lab.learners.compiled.primitives import primitives

internal = decorators().internal
address_to_pointer = primitives().address_to_pointer


@internal
def as_f32(address: Any, n: Any) -> Any:
    """Return float32 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.float32)


@internal
def as_u8(address: Any, n: Any) -> Any:
    """Return uint8 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.uint8)


@internal
def as_i32(address: Any, n: Any) -> Any:
    """Return int32 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.int32)


@internal
def as_i64(address: Any, n: Any) -> Any:
    """Return int64 [n] at an address."""
    return carray(address_to_pointer(address), (n,), np.int64)


@internal
def copy(target: Any, source: Any) -> None:
    """Copy numbers [n]; an assignment of arrays would take seconds to compile, for an error that cannot occur."""
    for j in range(len(target)):
        target[j] = source[j]


@internal
def buffer_address(memory: Any, buffer_layout: Any, index: Any) -> Any:
    """Return the address of buffer `index` in the memory at this address, and the distance of its rows in floats.

    `buffer_layout` is the address of `NetworkMemory.buffer_layout`.
    """
    offset_and_stride = as_i64(buffer_layout + 16 * index, 2)
    return memory + 4 * offset_and_stride[0], offset_and_stride[1]


@internal
def activations(net: Any, index: Any) -> Any:
    """Return buffer `index` of a network as rows, float32 [TILE, stride]; buffer 0 has its inputs."""
    table = as_i64(net, NUM_ADDRESSES)
    address, stride = buffer_address(table[AT_ACTIVATIONS], table[AT_BUFFER_LAYOUT], index)
    return as_f32(address, TILE * stride).reshape(TILE, stride)


@internal
def activation_grads(net: Any, index: Any) -> Any:
    """Return the gradient by buffer `index` of a network, float32 [TILE, stride]."""
    table = as_i64(net, NUM_ADDRESSES)
    address, stride = buffer_address(table[AT_ACTIVATION_GRADS], table[AT_BUFFER_LAYOUT], index)
    return as_f32(address, TILE * stride).reshape(TILE, stride)
