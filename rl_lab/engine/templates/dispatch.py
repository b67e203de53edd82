"""Steps all worlds of a batch, on one thread or on several: compiled once, for every world.

A template that depends on no world, so that its machine code is kept on disk. A world's `check_range` and `step_range`
are called by address.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, prange

from rl_lab.engine import intrinsics
from rl_lab.engine.buffers import BLOCK_SIZE, CHECK, HEADER_SIZE, STEP, N
from rl_lab.engine.template_context import decorators

jit, parallel_jit = decorators().jit, decorators().parallel_jit
call, address_to_pointer = intrinsics.indirect_call(), intrinsics.address_to_pointer()


@jit
def step_serial(batch: Any) -> Any:
    """Step every world on the calling thread; return the outcome. Nothing moves if any action is outside its space."""
    header = carray(address_to_pointer(batch), (HEADER_SIZE,), np.int64)
    outcome = call(header[CHECK], 0, header[N], batch)
    return call(header[STEP], 0, header[N], batch) if outcome == 0 else outcome


@parallel_jit
def step_parallel(batch: Any, outcomes: Any) -> Any:
    """Do what `step_serial` does, one chunk of whole grains a thread; outcomes int64 [threads] is scratch."""
    header = carray(address_to_pointer(batch), (HEADER_SIZE,), np.int64)
    n, grain, step, chunks = header[N], header[BLOCK_SIZE], header[STEP], len(outcomes)
    outcome = call(header[CHECK], 0, n, batch)
    if outcome < 0:
        return outcome
    blocks = -(-n // grain)
    for k in prange(chunks):
        low, high = k * blocks // chunks * grain, (k + 1) * blocks // chunks * grain
        outcomes[k] = call(step, low, min(high, n), batch)
    for k in range(chunks):
        if outcomes[k] < 0:
            return outcomes[k]  # the lowest world's: chunks are in order
        outcome += outcomes[k]
    return outcome
