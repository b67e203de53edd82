"""The lab's own suite for worlds: properties that hold whatever is simulated, and where a file breaks one.

What is played is random and, in every other world of a batch, the expert's; every third world keeps each random choice
for a while, which drives it to its ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from .chance import fill
from .engine import Batch
from .guard import OutOfRangeError, guard
from .mistakes import advised, authored_files, of_compiler, place_of
from .names import UsageError, one_line
from .world import Array, World, WorldError


@dataclass(frozen=True)
class Result:
    """What came of one property: status is pass, fail or skip; findings say what is wrong, or why it was left out."""

    name: str
    status: str
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effort:
    """How long to look: N worlds, T steps compiled and in plain Python, states to branch from."""

    worlds: int
    steps: int
    plain_steps: int
    states: int


QUICK, FULL = Effort(3, 60, 10, 4), Effort(8, 400, 100, 30)
INDICES = "indices stay in range"
MOST = 5  # findings of a property: one mistake shows at every step
_HOLD = 16  # steps
_PATIENCE = 20.0  # seconds of plain Python a property, which is thousands of times slower
_CROWD, _FEW = 64, 12  # agents: of a world for any number, one for a few is tested


class Skip(Exception):
    """A property that does not apply; the message says why."""


@dataclass(frozen=True)
class Subject:
    """A world under test; `plain` runs it uncompiled throughout."""

    world: World
    effort: Effort = FULL
    plain: bool = False
    seed: int = 7

    @property
    def short(self) -> World:
        """The world with a horizon so short that several episodes fit in; the same machine code."""
        horizon = max(self.effort.steps // 3, 1)
        horizon = min(self.world.horizon or horizon, horizon)
        return replace(self.world, horizon=horizon)

    def batch(
        self, n: int = 0, *, world: World | None = None, disabled: bool = False, guarded: bool = False, **arguments: Any
    ) -> Batch:
        """Return a batch that has been reset: of `effort.worlds` worlds, on one thread; guarded means plain, too."""
        arguments = {"seed": self.seed, "threads": 1, "plain": self.plain or guarded, **arguments}
        mode = AutoresetMode.DISABLED if disabled else AutoresetMode.SAME_STEP
        batch = Batch(world or self.short, n or self.effort.worlds, autoreset=mode, **arguments)
        if guarded:
            guard(batch)
        batch.reset()
        return batch

    def acts(self, batch: Batch, steps: int = 0, first: int = 0) -> Iterator[int]:
        """Write actions for a batch's next step, `steps` times; ended worlds that do not reset begin again before.

        What world first + i does depends on that number alone.
        """
        world, steps = batch.world, steps or self.effort.steps
        shape = (len(world.agents), *world.action_shape)
        chance = np.stack([_chances(steps, shape, first + i) for i in range(batch.n)], axis=1)
        scripted = np.flatnonzero([(first + i) % 2 and world.expert is not None for i in range(batch.n)])
        began = time.monotonic()
        for t in range(steps):
            if batch.plain and time.monotonic() - began > _PATIENCE:
                return
            if batch.autoreset == AutoresetMode.DISABLED and batch.ended.any():
                batch.reset(batch.ended.copy())
            if len(scripted):
                script = batch.scripted_actions()[scripted].copy()
            fill(batch, chance[t])
            if len(scripted):
                batch.actions[scripted] = script
            yield t


def _chances(steps: int, shape: tuple[int, ...], number: int) -> Array:
    chance = np.random.default_rng((5, number)).random((steps, *shape))
    return chance[np.arange(steps) // _HOLD * _HOLD] if number % 3 == 2 else chance


Property = Callable[[Subject], list[str]]


def run(name: str, test: Callable[[], list[str]], files: set[str] | None = None) -> Result:
    """Return what comes of one property; whatever is raised is a finding, with its place in the author's files."""
    try:
        findings = test()
    except Skip as reason:
        return Result(name, "skip", (str(reason),))
    except UsageError:
        raise  # there is nothing to test
    except Exception as error:
        findings = [explained(error, files)]
    shown = tuple(one_line(finding) for finding in findings[:MOST])
    if len(findings) > MOST:
        shown += (f"and {len(findings) - MOST} more",)
    return Result(name, "fail" if findings else "pass", shown)


def explained(error: BaseException, files: set[str] | None) -> str:
    """Return an error as a finding: file, line, what happened, and what to do about it where that is known."""
    if isinstance(error, WorldError):
        return str(error)  # it has them
    place, text = place_of(error, files), advised(error)
    if type(error).__module__.startswith("numba"):
        return of_compiler(str(error), files)
    advice = ""
    if isinstance(error, OutOfRangeError):
        text, advice = str(error), "; compiled code would not notice: check the index, or give its field bounded(...)"
    elif isinstance(error, OverflowError):
        advice = "; compiled code would wrap around: use a wider field type, or keep the value in range"
    elif isinstance(error, ZeroDivisionError):
        advice = "; compiled code would go on with infinity or NaN: exclude 0 first"
    return f"{place}{text}{advice}"


def properties() -> dict[str, Property]:
    """Return every property's name, and the function that tests it."""
    from . import check_faces, check_rules, check_world

    return {
        INDICES: check_world.indices_stay_in_range,
        "compiled code equals plain Python": check_world.compiled_equals_plain,
        "same seed, same episodes": check_world.same_seed_same_episodes,
        "the same in every slot of a batch": check_world.same_in_every_slot,
        "the same however a batch is split": check_world.same_however_split,
        "the same on two threads": check_world.same_on_two_threads,
        "the same in another process": check_world.same_in_another_process,
        "another seed, another episode": check_world.seeds_differ,
        "observing changes nothing": check_world.observing_changes_nothing,
        "states can be saved and branched": check_world.states_can_be_kept,
        "observations lie in their spaces": check_rules.observations_lie_in_their_spaces,
        "masks tell the truth": check_rules.masks_tell_the_truth,
        "who left stays away": check_rules.who_left_stays_away,
        "rewards sum to zero": check_rules.rewards_sum_to_zero,
        "seats can be swapped": check_rules.seats_can_be_swapped,
        "all interfaces agree": check_faces.all_interfaces_agree,
    }


def manageable(world: World, agents: int = _FEW) -> World:
    """Return the world or, of a crowd whose module makes it for any number of agents with `sized(n)`, one for these."""
    sized = getattr(sys.modules[world.step.__module__], "sized", None)
    few = sized(agents) if sized is not None and len(world.agents) > _CROWD else world
    return few if isinstance(few, World) else world


def check_world(
    world: World, effort: Effort = FULL, *, plain: bool = False, without: Sequence[str] = ()
) -> Iterator[Result]:
    """Yield what comes of every property but those in `without`, in order."""
    subject, safe = Subject(world, effort, plain), True
    for name, test in properties().items():
        if name in without:
            continue
        if safe or plain:
            result = run(name, partial(test, subject), authored_files(world))
        else:
            result = Result(name, "skip", (f"not run before {INDICES}: compiled code does not check them",))
        safe = safe and not (name == INDICES and result.status == "fail")
        yield result
