"""Checks that a new version of a world must pass before its machine code runs.

Compiled code checks neither indices nor the depth of the stack: a kernel that writes outside of its arrays, or calls
itself for ever, ends the whole process without a message. So the source of a new version is checked, and its kernels
play as plain Python, over arrays that check every index, for at most a second. The folder of the version's machine
code, which is named by a hash of all that goes into it, has an empty file for each check that was passed, so that each
is made once. The file's name has a hash of the checks' own source: another version of them is another check.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rl_lab.core.errors import one_line
from rl_lab.core.time_limit import TimeIsUp, TimeLimit
from rl_lab.core.world import World, WorldError
from rl_lab.engine import compiler, crash_handler
from rl_lab.engine.bounds_checked import OutOfRangeError, OutOfTimeError, with_bounds_checks
from rl_lab.engine.diagnostics import authored_files, explain_plain_error
from rl_lab.engine.kernel_rules import violations

if TYPE_CHECKING:
    from rl_lab.engine.batch import Batch

_SECONDS = 0.5  # of plain Python: for resets, and again for steps
_RESETS, _STEPS, _WORLDS = 8, 200, 2
_CHECKS = ("first_start", "kernel_rules", "kernel_syntax", "bounds_checked")  # the modules that the checks consist of


@cache
def examined_loops(world: World, make_plain: Callable[..., Batch]) -> ModuleType:
    """Return a world's compiled loops. Raises WorldError where its kernels break the rules; `make_plain`: `examine`."""
    try:
        compiler.loops(world)
    except TypeError:  # a function that is no kernel: the rules name the line that calls it
        examine(world, "rules", make_plain)
        raise
    examine_once(world, "rules", make_plain)
    if "rl_lab.cli" in sys.modules:  # a command explains a crash, which the shell only names
        crash_handler.explain_crashes()
    return compiler.loops(world)


@cache
def version_of_the_checks() -> str:
    """Return a hash of the sources of the checks: what has passed earlier ones is examined again."""
    sources = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in _CHECKS]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()[:12]


@cache
def examine_once(world: World, what: str, make_plain: Callable[..., Batch]) -> None:
    """Examine the world's rules, resets or steps, if this version of it has not passed that before."""
    note = Path(str(compiler.loops(world).__file__)).with_name(f"{what}-examined-{version_of_the_checks()}")
    if not note.exists():
        examine(world, what, make_plain)
        with suppress(OSError):
            note.touch()


def examine(world: World, what: str, make_plain: Callable[..., Batch]) -> None:
    """Raise WorldError for a mistake in the source of the world's kernels ("rules"), or one that playing shows.

    "resets" plays resets and observes; "steps" plays episodes with random actions and the world's scripts. Both look
    for kernels that leave an array or the stack, and for names and fields that are not there. `make_plain` makes a
    batch of a world that runs as plain Python.
    """
    if what == "rules":
        for violation in violations(world):
            raise WorldError(str(violation))
    else:
        # The arrays stop a kernel that touches them after _SECONDS; the limit stops a loop that touches none.
        limit = TimeLimit(2 * _SECONDS)
        try:
            with limit:
                _play(world, _STEPS if what == "steps" else 0, make_plain)
        except OutOfTimeError:
            pass
        except TimeIsUp as error:
            if not limit.raised(error):
                raise


def _play(world: World, count: int, make_plain: Callable[..., Batch]) -> None:
    until = time.monotonic() + _SECONDS
    try:
        batch = with_bounds_checks(make_plain(world, _WORLDS, seed=7), until)
        for seed in range(1 if count else _RESETS):
            batch.seed(seed)
            batch.reset()
        for _ in range(count):
            for strength in ("novice", "expert"):
                if getattr(world, strength):
                    batch.scripted_actions(strength)
            scripted = batch.actions[0].copy()
            batch.random_actions()
            if world.expert or world.novice:
                batch.actions[0] = scripted
            batch.step()
    except (OutOfRangeError, RecursionError, AttributeError, NameError) as error:
        if isinstance(error, OutOfRangeError) and error.wraps:
            return  # compiled code counts from the end, too
        if mistake := explain_plain_error(error, authored_files(world)):
            raise WorldError(one_line(mistake)) from None
    except Exception:
        return  # where Python raises, compiled code may continue with infinity; other errors appear there again
