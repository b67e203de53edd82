"""This module turns faults and exceptions of a batch's compiled code into exceptions that name world, field and line.

A step or reset that fails returns a negative outcome, which holds the index of a world and one of `buffers`' faults.
Compiled code reports no line, so the kernels are run once more as plain Python where the line is to be found.
`make_plain(world, num_envs, params, **options)` makes a batch for that; the batch that failed is only read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rl_lab.core import non_finite
from rl_lab.core.endless_loops import LoopError
from rl_lab.core.errors import WorkFailed
from rl_lab.core.kernel import source_location
from rl_lab.core.world import World, WorldError, with_loop_limit
from rl_lab.engine import action_errors, buffers

if TYPE_CHECKING:
    from rl_lab.engine.batch import Batch

_SEARCH_STEPS = 200  # steps in plain Python, in search of an exception that compiled code raised


class NonFiniteError(WorkFailed, ArithmeticError):
    """A reward or observation is NaN or infinite; the message names world, step, field, agent and file."""


def world_of(outcome: int) -> int:
    """Return the index of the world that a negative outcome is about."""
    return int((-outcome - 1) // buffers.FAULTS)


def explain_outcome(batch: Batch, outcome: int, make_plain: Callable[..., Batch]) -> Exception:
    """Return the exception that a negative outcome stands for: ValueError, StuckError, NonFiniteError or WorldError."""
    i, fault = world_of(outcome), (-outcome - 1) % buffers.FAULTS
    world = batch.world
    if fault == buffers.BAD_ACTION:
        return action_errors.explain(batch, i)
    if fault == buffers.RAISED:
        from rl_lab.engine import diagnostics

        return diagnostics.explain_runtime_error(world, lambda: _replay_in_python(batch, make_plain))
    is_reward = fault == buffers.BAD_REWARD
    field, values = ("reward", batch.rewards) if is_reward else ("observation", batch.observations)
    number = non_finite.describe(values[i], world.agents)
    location = source_location(world.step if is_reward else world.observe)
    t = batch.states["t"][i]
    return NonFiniteError(f"{world.name}: non-finite {field} in world {i} at step {t}: {number} ({location})")


def explain_exception(batch: Batch, error: Exception, make_plain: Callable[..., Batch]) -> Exception | None:
    """Return a better exception for one that a compiled function or its compilation has raised, None for others."""
    if isinstance(error, LoopError):
        return WorldError(str(error))
    if batch.plain:
        return None
    from rl_lab.engine import diagnostics

    return diagnostics.explain_compile_error(batch.world, error, lambda: _play_in_python(batch.world, 1, make_plain))


def _play_in_python(world: World, steps: int, make_plain: Callable[..., Batch]) -> None:
    """Step a new batch with random actions."""
    batch = make_plain(with_loop_limit(world), 2)
    batch.reset()
    for _ in range(steps):
        batch.random_actions()
        batch.step()


def _replay_in_python(batch: Batch, make_plain: Callable[..., Batch]) -> None:
    """Step a new batch with random actions, then repeat the last step of this one.

    The states are those that compiled code has left, so the exception may not come again.
    """
    _play_in_python(batch.world, _SEARCH_STEPS, make_plain)
    plain = make_plain(with_loop_limit(batch.world), batch.num_envs, batch.params, illegal=batch.illegal)
    for name in ("states", "actions", "action_mask", "acting"):
        getattr(plain, name)[...] = getattr(batch, name)
    plain.step()
