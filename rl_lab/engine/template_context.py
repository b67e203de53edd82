"""This module gives templates the names that differ from world to world.

A template is a Python file that `compiler.instantiate_templates` executes once for each world, so that numba can
compile its functions for this world's kernels and sizes. The file asks for the context that it is executed in, and
binds by assignment what it needs of it:

    ctx = world_context()
    step, NUM_AGENTS = ctx.kernels.step, ctx.constants.num_agents

numba treats such global names as constants. A template imports other templates as any module does; it gets the versions
that were executed for the same world, because `executed_in` puts them into sys.modules while it is executed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from rl_lab.core.world import Array

F = TypeVar("F", bound=Callable[..., Any])
Kernel = Callable[..., Any]


class Decorator(Protocol):
    """Compiles a function when it is first called; calls look the same."""

    def __call__(self, function: F, /) -> F:
        """Return the function that compiles itself."""


@dataclass(frozen=True)
class Decorators:
    """The ways in which a template's functions are compiled.

    Python may call what is `jit`, `parallel_jit` or `recursive_jit`; the rest has no entry point for it. Machine code
    of `jit` and `parallel_jit` functions is kept on disk.
    """

    inline: Decorator  # compiled into its callers
    internal: Decorator  # called by compiled code alone
    fastmath: Decorator  # internal; sums in any order, but NaN and infinity stay what they are
    jit: Decorator
    parallel_jit: Decorator  # `prange` loops run on numba's threads
    recursive_jit: Decorator  # for functions that call themselves: from numba's cache, they crash


@dataclass(frozen=True)
class Kernels:
    """A world's kernels, compiled or plain; None where the world, or the module that is made, has none."""

    reset: Any
    step: Any
    observe: Any
    action_mask: Any
    expert: Any
    novice: Any
    current_player: Kernel  # (s): the agent whose turn it is
    is_alive: Kernel  # (s, agent): not 0 while the agent has not left its episode
    philox: Kernel  # of core.rng


@dataclass(frozen=True)
class WorldConstants:
    """Numbers, shapes and dtypes of a world that its machine code contains as constants."""

    state: np.dtype[Any]
    params: np.dtype[Any]
    observation: np.dtype[Any]
    observation_shape: tuple[int, ...]
    observation_size: int  # how many numbers an observation has
    has_real_observations: bool  # they can be NaN
    state_words: int  # a state's size in 8-byte words
    rng_words: int  # how many of a state's first 8-byte words are the random stream, which a reset keeps
    log_word: int  # where in a state, in 8-byte words, the log's float64 fields begin
    log_size: int
    num_agents: int
    single_agent: bool  # kernels take no index of an agent
    has_action_mask: bool
    mask_size: int
    is_turn_based: bool
    has_early_termination: bool  # agents can leave before the episode ends
    zero_sum: bool
    forfeit_reward: float
    discrete: bool
    num_actions: Array  # int64 [A], where actions are Discrete; else None
    action_low: Array  # float32 [A, k], bounds of a Box action; else None
    action_high: Array


@dataclass(frozen=True)
class SimdContext:
    """The further names that `templates/simd_step` binds: sizes, and this world's intrinsics of `soa_intrinsics`."""

    block: int  # worlds stepped at a time
    transpose_tile: int  # records that `gather_` and `scatter_` move in one call
    column_bytes: int  # of one number of up to 8 bytes for each world
    state_columns_bytes: int
    params_columns_bytes: int
    gather_states: Kernel  # records of the batch to columns; the names below say what they move, too
    load_state: Kernel
    save_state: Kernel
    scatter_states: Kernel
    gather_params: Kernel
    broadcast_params: Kernel
    load_params: Kernel
    stack_alloc: Kernel
    store_lane: Kernel
    load_lane: Kernel


@dataclass(frozen=True)
class WorldContext:
    """The names that a template may bind if it is compiled for one world."""

    kernels: Kernels
    constants: WorldConstants
    batch_view: Kernel  # (header): the View of the batch whose header lies at this address
    compiled: bool  # False: the template is plain Python, and `batch_view` returns its argument, the View
    simd: SimdContext | None = None  # where worlds are stepped in blocks


@dataclass(frozen=True)
class _Execution:
    """A template that is being executed."""

    module: str
    decorators: Decorators
    world: WorldContext | None


_lock = threading.RLock()  # one set of templates is executed at a time
_executions: list[_Execution] = []


@contextmanager
def executed_in(
    module: str, decorators: Decorators, world: WorldContext | None, importable: dict[str, ModuleType]
) -> Iterator[None]:
    """While the block executes the template `module`, let it find this context, and import the modules `importable`.

    `importable` has the templates that it imports, by their names in the source tree, as they were executed before it.
    They replace the entries of sys.modules until the block ends.
    """
    with _lock:
        replaced = {name: sys.modules.get(name) for name in importable}
        sys.modules.update(importable)
        _executions.append(_Execution(module, decorators, world))
        try:
            yield
        finally:
            _executions.pop()
            for name, other in replaced.items():
                if other is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = other


def decorators() -> Decorators:
    """Return the decorators for the functions of the template that calls this."""
    return _execution().decorators


def world_context() -> WorldContext:
    """Return the context of the world for which the template that calls this is executed."""
    world = _execution().world
    if world is None:
        raise ImportError("this template is executed for a world")
    return world


def _execution() -> _Execution:
    name = sys._getframe(2).f_globals["__name__"]
    if not _executions or _executions[-1].module != name:
        raise ImportError(f"{name} is a template: compiler.instantiate_templates executes it, after those it imports")
    return _executions[-1]
