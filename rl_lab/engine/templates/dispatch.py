"""This template steps all worlds of a batch, on one thread or on several. It is compiled once, for every world.

It depends on no world, because it calls a world's `check_range` and `step_range` by their addresses, which stand in the
batch's header. `handle` is the address of the header.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, prange

from rl_lab.engine import intrinsics
from rl_lab.engine.buffers import BLOCK_SIZE, CHECK, HEADER_SIZE, NUM_ENVS, STEP
from rl_lab.engine.template_context import decorators

jit, parallel_jit = decorators().jit, decorators().parallel_jit
call, address_to_pointer = intrinsics.indirect_call(), intrinsics.address_to_pointer()


@jit
def step_serial(handle: Any) -> Any:
    """Step every world on the calling thread; return the outcome. Nothing moves if any action is outside its space."""
    header = carray(address_to_pointer(handle), (HEADER_SIZE,), np.int64)
    outcome = call(header[CHECK], 0, header[NUM_ENVS], handle)
    return call(header[STEP], 0, header[NUM_ENVS], handle) if outcome == 0 else outcome


@parallel_jit
def step_parallel(handle: Any, outcomes: Any) -> Any:
    """Do what `step_serial` does, one chunk of whole grains a thread; outcomes int64 [threads] is scratch."""
    header = carray(address_to_pointer(handle), (HEADER_SIZE,), np.int64)
    n, block_size, step, chunks = header[NUM_ENVS], header[BLOCK_SIZE], header[STEP], len(outcomes)
    outcome = call(header[CHECK], 0, n, handle)
    if outcome < 0:
        return outcome
    blocks = -(-n // block_size)
    for k in prange(chunks):
        low, high = k * blocks // chunks * block_size, (k + 1) * blocks // chunks * block_size
        outcomes[k] = call(step, low, min(high, n), handle)
    for k in range(chunks):
        if outcomes[k] < 0:
            return outcomes[k]  # the lowest world's: chunks are in order
        outcome += outcomes[k]
    return outcome
