"""This module has the checks that a new version of a world must pass before its machine code runs.

Compiled code checks neither indices nor the depth of the stack: a kernel that writes outside of its arrays, or calls
itself without end, ends the whole process without a message. So the source of a new version is checked, and its kernels
play as plain Python, over arrays that check every index, for at most a second.

Each check is made once: the folder of the version's machine code, which is named by a hash of all that goes into it,
gets an empty file for each check that was passed. The file's name has a hash of the checks' own source, so another
version of the checks examines the world again.
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

_MAX_SECONDS = 0.5  # of plain Python: for resets, and again for steps
_NUM_RESETS, _NUM_STEPS, _NUM_WORLDS = 8, 200, 2
# The modules by which a new version is checked; their sources are hashed.
_CHECK_MODULES = ("first_start", "kernel_rules", "kernel_source", "kernel_syntax", "syntax_tree", "bounds_checked")


@cache
def examined_loops(world: World, make_plain: Callable[..., Batch]) -> ModuleType:
    """Return a world's compiled loops, after its source was checked; raise WorldError where it breaks the rules."""
    try:
        compiler.compiled_loops(world)
    except TypeError:  # a function that is no kernel: the rules name the line that calls it
        check_plain_execution(world, "rules", make_plain)
        raise
    examine_once(world, "rules", make_plain)
    if "rl_lab.cli" in sys.modules:  # a command explains a crash, which the shell only names
        crash_handler.explain_crashes()
    return compiler.compiled_loops(world)


@cache
def version_of_the_checks() -> str:
    """Return a hash of the sources of the checks: what has passed earlier ones is examined again."""
    sources = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in _CHECK_MODULES]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()[:12]


@cache
def examine_once(world: World, check: str, make_plain: Callable[..., Batch]) -> None:
    """Examine the world's "rules", "resets" or "steps", unless a marker file says that this version has passed."""
    folder = Path(str(compiler.compiled_loops(world).__file__)).parent
    passed_marker = folder / f"{check}-examined-{version_of_the_checks()}"
    if not passed_marker.exists():
        check_plain_execution(world, check, make_plain)
        with suppress(OSError):
            passed_marker.touch()


def check_plain_execution(world: World, check: str, make_plain: Callable[..., Batch]) -> None:
    """Raise WorldError for a mistake in the source of the world's kernels ("rules"), or one that playing shows.

    "resets" plays resets and observes; "steps" plays episodes with random actions and the world's scripts. Both look
    for kernels that leave an array or the stack, and for names and fields that are not there. `make_plain` makes a
    batch of a world that runs as plain Python.
    """
    if check == "rules":
        for violation in violations(world):
            raise WorldError(str(violation))
    else:
        # The arrays stop a kernel that touches them after _MAX_SECONDS; the limit stops a loop that touches none.
        limit = TimeLimit(2 * _MAX_SECONDS)
        try:
            with limit:
                _play(world, _NUM_STEPS if check == "steps" else 0, make_plain)
        except OutOfTimeError:
            pass
        except TimeIsUp as error:
            if not limit.raised(error):
                raise


def _play(world: World, num_steps: int, make_plain: Callable[..., Batch]) -> None:
    """Play random and scripted actions as plain Python, or only resets if `num_steps` is 0; raise WorldError."""
    deadline = time.monotonic() + _MAX_SECONDS
    try:
        batch = with_bounds_checks(make_plain(world, _NUM_WORLDS, seed=7), deadline)
        for seed in range(1 if num_steps else _NUM_RESETS):
            batch.seed(seed)
            batch.reset()
        for _ in range(num_steps):
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
