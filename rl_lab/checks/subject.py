"""This module has the world under test, the budget of a check, and the result of a property.

Properties in `rules`, `world` and `interfaces` get a `WorldUnderTest`. They make batches with `batch` and step them
with the actions that `write_actions` writes: random ones and, in every second environment, the expert's.
"""

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
class PropertyResult:
    """The result of one property: status is pass, fail or skip; findings are the errors, or why it was skipped."""

    name: str
    status: str
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckBudget:
    """The effort for one property."""

    num_envs: int
    steps: int  # of compiled code
    plain_steps: int  # of plain Python
    states: int  # of an episode, from which actions are tried


QUICK, FULL = CheckBudget(3, 60, 10, 4), CheckBudget(8, 400, 100, 30)
# The names of the two properties after whose failure compiled code is not run.
RULES, INDICES = "kernels keep the rules", "indices stay in range"
MAX_FINDINGS = 5  # that are shown for a property, because one error may occur at every step
_REPEATED_STEPS = 16  # for which every third environment repeats its random numbers
_PLAIN_SECONDS = 20.0  # limit of plain Python for a property; it is thousands of times slower than compiled code
# A world with more than MANY_AGENTS agents is tested with FEW_AGENTS, where its module can make that world.
MANY_AGENTS, FEW_AGENTS = 64, 12


class Skip(Exception):
    """The property does not apply to the world; the message says why."""


@dataclass(frozen=True)
class WorldUnderTest:
    """A world under test, and how it is tested; `plain` runs it uncompiled throughout."""

    world: World
    budget: CheckBudget = FULL
    plain: bool = False
    seed: int = 7

    @cached_property
    def short_world(self) -> World:
        """Return the world with a horizon so short that a check has several episodes; its machine code is the same."""
        horizon = max(self.budget.steps // 3, 1)
        horizon = min(self.world.horizon or horizon, horizon)
        return replace(self.world, horizon=horizon)

    def batch(
        self,
        n: int = 0,
        *,
        world: World | None = None,
        no_autoreset: bool = False,
        bounds_checked: bool = False,
        **arguments: Any,
    ) -> Batch:
        """Return a new batch of n environments, by default `budget.num_envs`, on one thread, which has been reset.

        Args:
            n: the number of environments; 0 for the default.
            world: the world; by default `short_world`.
            no_autoreset: leave environments at the end of their episode, instead of resetting them in the same step.
            bounds_checked: run in plain Python, over arrays that check every index.
            arguments: arguments of `Batch`.
        """
        arguments = {"seed": self.seed, "threads": 1, "plain": self.plain or bounds_checked, **arguments}
        mode = AutoresetMode.DISABLED if no_autoreset else AutoresetMode.SAME_STEP
        world = world or self.short_world
        world = with_loop_limit(world) if arguments["plain"] else world
        batch = Batch(world, n or self.budget.num_envs, autoreset=mode, **arguments)
        if bounds_checked:
            with_bounds_checks(batch)
        batch.reset()
        return batch

    def write_actions(self, batch: Batch, steps: int = 0, first: int = 0) -> Iterator[int]:
        """Write the actions of a batch's next step into `batch.actions` and yield the step's number, `steps` times.

        The caller steps the batch. Environments without autoreset are reset before the step after their end. Plain
        batches end early when their time is up.

        Args:
            batch: the batch.
            steps: by default `budget.steps`.
            first: the number of environment 0. The actions of environment i depend on the number first + i alone: those
                of odd numbers are the expert's, where the world has one.
        """
        world, steps = batch.world, steps or self.budget.steps
        shape = (len(world.agents), *world.action_shape)
        uniforms = np.stack([_uniforms(steps, shape, first + i) for i in range(batch.num_envs)], axis=1)
        expert_envs = np.flatnonzero([(first + i) % 2 and world.expert is not None for i in range(batch.num_envs)])
        begin = time.monotonic()
        for t in range(steps):
            if batch.plain and time.monotonic() - begin > _PLAIN_SECONDS:
                return
            if batch.autoreset == AutoresetMode.DISABLED and batch.done.any():
                batch.reset(batch.done.copy())
            if len(expert_envs):
                expert_actions = batch.scripted_actions()[expert_envs].copy()
            write_uniform_actions(batch, uniforms[t])  # writes random actions of all environments
            if len(expert_envs):
                batch.actions[expert_envs] = expert_actions
            yield t


def _uniforms(steps: int, shape: tuple[int, ...], number: int) -> Array:
    """Return the uniform numbers, float64 [steps, *shape], that determine the random actions of one environment."""
    uniforms = np.random.default_rng((5, number)).random((steps, *shape))
    return uniforms[np.arange(steps) // _REPEATED_STEPS * _REPEATED_STEPS] if number % 3 == 2 else uniforms


Property = Callable[[WorldUnderTest], list[str]]
