"""This module has the suite of `rl-lab check` for worlds: the list of properties that every world must have.

`check_world` runs the properties one after the other and yields a `PropertyResult` for each. Their functions are in
`rules`, `world` and `interfaces`. `run_property` turns an exception into a finding; `third_party` uses it as well.

Actions are random and, in every other environment of a batch, those of the world's expert. Every third environment
repeats its random numbers for some steps, which drives it to the limits of its state.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rl_lab.checks.subject import (
    FEW_AGENTS,
    FULL,
    INDICES,
    MANY_AGENTS,
    MAX_FINDINGS,
    RULES,
    CheckBudget,
    Property,
    PropertyResult,
    Skip,
    WorldUnderTest,
)
from rl_lab.core.endless_loops import LoopError
from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.interrupts import is_interruption
from rl_lab.core.world import World, WorldError
from rl_lab.engine.bounds_checked import OutOfRangeError
from rl_lab.engine.diagnostics import author_location, authored_files, explain_compiler_error, message_with_hint


def run_property(name: str, test: Callable[[], list[str]], files: set[str] | None = None) -> PropertyResult:
    """Return the result of one property; an exception is a finding with its location in the author's `files`."""
    try:
        findings = test()
    except Skip as reason:
        return PropertyResult(name, "skip", (str(reason),))
    except UsageError:
        raise  # the user's input is wrong, so there is nothing to test
    except BaseException as error:  # SystemExit, too: it must not end the command
        if is_interruption(error):
            raise
        findings = [explain_exception(error, files)]
    lines = tuple(one_line(finding) for finding in findings[:MAX_FINDINGS])
    if len(findings) > MAX_FINDINGS:
        lines += (f"and {len(findings) - MAX_FINDINGS} more",)
    return PropertyResult(name, "fail" if findings else "pass", lines)


def explain_exception(error: BaseException, files: set[str] | None) -> str:
    """Return an exception as a finding: file and line in the author's `files`, message, and advice for some errors."""
    if isinstance(error, WorldError | LoopError):
        return str(error)  # the message has file, line and advice
    place, text = author_location(error, files), message_with_hint(error)
    if type(error).__module__.startswith("numba"):
        return explain_compiler_error(str(error), files)
    advice = ""
    if isinstance(error, OutOfRangeError):
        text, advice = str(error), "; compiled code would not notice: check the index, or give its field bounded(...)"
    elif isinstance(error, OverflowError):
        advice = "; compiled code would wrap around: use a wider field type, or keep the value in range"
    elif isinstance(error, ZeroDivisionError):
        advice = "; compiled code would go on with infinity or NaN: exclude 0 first"
    return f"{place}{text}{advice}"


def properties() -> dict[str, Property]:
    """Return the function that tests each property, by the property's name."""
    from rl_lab.checks import interfaces, rules, world

    return {
        RULES: rules.kernels_keep_the_rules,
        INDICES: world.indices_stay_in_range,
        "compiled code equals plain Python": world.compiled_equals_plain,
        "same seed, same episodes": world.same_seed_same_episodes,
        "the same in every slot of a batch": world.same_in_every_slot,
        "the same however a batch is split": world.same_in_any_split,
        "the same on two threads": world.same_on_two_threads,
        "the same in another process": world.same_in_another_process,
        "another seed, another episode": world.seeds_differ,
        "observing changes nothing": world.observing_changes_nothing,
        "states can be saved and branched": world.states_can_be_saved,
        "observations lie in their spaces": rules.observations_lie_in_their_spaces,
        "masks tell the truth": rules.masks_tell_the_truth,
        "agents that left stay away": rules.agents_that_left_stay_away,
        "rewards sum to zero": rules.rewards_sum_to_zero,
        "seats can be swapped": rules.seats_can_be_swapped,
        "it can be drawn": rules.it_can_be_drawn,
        "all interfaces agree": interfaces.all_interfaces_agree,
    }


def with_few_agents(world: World, agents: int = FEW_AGENTS) -> World:
    """Return the world, or one with `agents` agents where it has many and its module has a function `make_world(n)`."""
    make_world = getattr(sys.modules[world.step.__module__], "make_world", None)
    smaller = make_world(agents) if make_world is not None and len(world.agents) > MANY_AGENTS else world
    return smaller if isinstance(smaller, World) else world


def check_world(
    world: World, budget: CheckBudget = FULL, *, plain: bool = False, without: Sequence[str] = ()
) -> Iterator[PropertyResult]:
    """Yield the result of every property except those in `without`, in order.

    After a failure of RULES or INDICES, the others are skipped unless `plain`: machine code might crash the process.
    """
    subject, failed = WorldUnderTest(world, budget, plain), ""
    for name, test in properties().items():
        if name in without:
            continue
        if not failed or plain:
            result = run_property(name, partial(test, subject), authored_files(world))
        else:
            result = PropertyResult(name, "skip", (f"not run before {failed}: compiled code does not check that",))
        failed = name if name in (RULES, INDICES) and result.status == "fail" else failed
        yield result
