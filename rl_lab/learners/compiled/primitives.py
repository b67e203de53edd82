"""The compiled functions and intrinsics that the templates of the learners bind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from rl_lab.core import kernel, rng
from rl_lab.engine import atomics, compiler
from rl_lab.engine import intrinsics as engine_intrinsics
from rl_lab.learners.compiled import intrinsics


@dataclass(frozen=True)
class Primitives:
    """What numba has no words for; compiled code alone calls these."""

    call: Any  # (function, low, high, batch): calls int64 f(int64, int64, int64) at an address
    address_to_pointer: Any  # (address)
    cycles: Any  # (): the processor's cycle counter
    uncounted: Any  # (record): its arrays without reference counts, which the caller keeps alive
    fetch: Any  # (address): asks for a cache line ahead of its use
    philox: Any  # of core.rng
    add_at: Any  # (address, n): adds to an int64 that threads share
    read_at: Any  # (address): reads an int64 that threads share
    yield_cpu: Any  # (): lets another thread run on this core


@cache
def primitives() -> Primitives:
    """Return the primitives, which are made at the first call."""
    atomic = atomics.atomics()
    return Primitives(
        call=engine_intrinsics.indirect_call(),
        address_to_pointer=engine_intrinsics.address_to_pointer(),
        cycles=intrinsics.clock(),
        uncounted=intrinsics.uncounted(),
        fetch=intrinsics.prefetch(),
        philox=kernel.compile_kernel_graph(rng.philox, compiler.inline_decorator()),
        add_at=atomic["add_at"],
        read_at=atomic["read_at"],
        yield_cpu=atomic["yield_cpu"],
    )
