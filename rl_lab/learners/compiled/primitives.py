"""The primitives of the learners' templates: compiled functions that numba has no Python expression for.

A template binds what it needs at its top, as in `cycles = primitives().cycles`. Only compiled code can call them.
"""

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
    """Functions by what they do; all numbers are int64 but those of `philox`."""

    call: Any  # (address, x, y, z): calls the machine code of f(x, y, z) at an address and returns its int64
    address_to_pointer: Any  # (address): a pointer for `numba.carray`
    cycles: Any  # (): the processor's cycle counter
    without_refcounts: Any  # (tuple of arrays): the same arrays, whose references are not counted; see `intrinsics`
    prefetch: Any  # (address, size): brings bytes that will be read soon to the nearest cache
    philox: Any  # (key, counter): 64 random bits, all uint64; see core.rng
    atomic_add: Any  # (address, n): adds n to an int64 that threads share, and returns what it was before
    atomic_load: Any  # (address): reads an int64 that threads share
    yield_cpu: Any  # (): lets another thread run on this core


@cache
def primitives() -> Primitives:
    """Return the primitives, which are made at the first call."""
    atomic = atomics.atomics()
    return Primitives(
        call=engine_intrinsics.indirect_call(),
        address_to_pointer=engine_intrinsics.address_to_pointer(),
        cycles=intrinsics.make_cycles(),
        without_refcounts=intrinsics.make_without_refcounts(),
        prefetch=intrinsics.make_prefetch(),
        philox=kernel.compile_kernel_graph(rng.philox, compiler.inline_decorator()),
        atomic_add=atomic["add_at"],
        atomic_load=atomic["read_at"],
        yield_cpu=atomic["yield_cpu"],
    )
