"""The world under test, the budget of a check, and the result of a property."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.core.random_actions import write_uniform_actions
from rl_lab.core.world import Array, World, with_loop_limit
from rl_lab.engine.batch import Batch
from rl_lab.engine.bounds_checked import with_bounds_checks


@dataclass(frozen=True)
class Result:
    """The result of one property: status is pass, fail or skip; findings are the errors, or why it was skipped."""

    name: str
    status: str
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckBudget:
    """The budget of a property: numbers of environments, of compiled steps, of plain steps, and of branched states."""

    num_envs: int
    steps: int
    plain_steps: int
    states: int


QUICK, FULL = CheckBudget(3, 60, 10, 4), CheckBudget(8, 400, 100, 30)
RULES, INDICES = "kernels keep the rules", "indices stay in range"
MOST = 5  # maximum of findings that are shown for a property, because one error may occur at every step
_HOLD = 16  # steps for which every third environment repeats its random numbers
_PLAIN_SECONDS = 20.0  # limit of plain Python for a property; it is thousands of times slower than compiled code
# A world with more than MANY_AGENTS agents is tested with FEW_AGENTS, where its module can make that world.
MANY_AGENTS, FEW_AGENTS = 64, 12


class Skip(Exception):
    """The property does not apply to the world; the message says why."""


@dataclass(frozen=True)
class WorldUnderTest:
    """A world under test; `plain` runs it uncompiled throughout."""

    world: World
    effort: CheckBudget = FULL
    plain: bool = False
    seed: int = 7

    @cached_property
    def short(self) -> World:
        """Return the world with a horizon so short that a check has several episodes; its machine code is the same."""
        horizon = max(self.effort.steps // 3, 1)
        horizon = min(self.world.horizon or horizon, horizon)
        return replace(self.world, horizon=horizon)

    def batch(
        self, n: int = 0, *, world: World | None = None, disabled: bool = False, guarded: bool = False, **arguments: Any
    ) -> Batch:
        """Return a batch of n environments, by default `effort.num_envs`, on one thread, which has been reset.

        With `guarded`, its arrays check every index, and it runs in plain Python.
        """
        arguments = {"seed": self.seed, "threads": 1, "plain": self.plain or guarded, **arguments}
        mode = AutoresetMode.DISABLED if disabled else AutoresetMode.SAME_STEP
        tested = world or self.short
        tested = with_loop_limit(tested) if arguments["plain"] else tested
        batch = Batch(tested, n or self.effort.num_envs, autoreset=mode, **arguments)
        if guarded:
            with_bounds_checks(batch)
        batch.reset()
        return batch

    def acts(self, batch: Batch, steps: int = 0, first: int = 0) -> Iterator[int]:
        """Write the actions of a batch's next step and yield its number, `steps` times.

        Environments without autoreset are reset before the step after their end. The actions of environment i depend on
        the number first + i alone.
        """
        world, steps = batch.world, steps or self.effort.steps
        shape = (len(world.agents), *world.action_shape)
        uniforms = np.stack([_uniforms(steps, shape, first + i) for i in range(batch.num_envs)], axis=1)
        scripted = np.flatnonzero([(first + i) % 2 and world.expert is not None for i in range(batch.num_envs)])
        begin = time.monotonic()
        for t in range(steps):
            if batch.plain and time.monotonic() - begin > _PLAIN_SECONDS:
                return
            if batch.autoreset == AutoresetMode.DISABLED and batch.done.any():
                batch.reset(batch.done.copy())
            if len(scripted):
                script = batch.scripted_actions()[scripted].copy()
            write_uniform_actions(batch, uniforms[t])
            if len(scripted):
                batch.actions[scripted] = script
            yield t


def _uniforms(steps: int, shape: tuple[int, ...], number: int) -> Array:
    """Return the uniform numbers, float64 [steps, *shape], from which an environment's random actions follow."""
    uniforms = np.random.default_rng((5, number)).random((steps, *shape))
    return uniforms[np.arange(steps) // _HOLD * _HOLD] if number % 3 == 2 else uniforms


Property = Callable[[WorldUnderTest], list[str]]
