"""These tests check that a kernel's loop that never ends is an error that names its line, compiled and plain."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_lab.checks.subject import CheckBudget, WorldUnderTest
from rl_lab.checks.suite import run_property
from rl_lab.checks.world import indices_stay_in_range
from rl_lab.core import endless_loops
from rl_lab.core.endless_loops import LoopError, limit_loops
from rl_lab.core.world import World, WorldError, kernel
from rl_lab.engine.batch import Batch
from rl_lab.engine.diagnostics import authored_files

WORLD = """from rl_lab.core.world import Array, Box, Discrete, Record, World, WorldState, i4, kernel


class State(WorldState):
    x: i4


class Params(Record):
    pass


@kernel
def turn(s: State) -> int:
    rounds = 0
    while s.x != 0:  # in turn
        s.x = s.x * 31 % 17 + 1
        rounds += 1
    return rounds


@kernel
def reset(s: State, p: Params) -> None:
    while s.x < 0:  # in reset
        s.x -= 0


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    while s.x == 7:  # in step
        s.x += 0
    s.x = 0
    return float(turn(s)), False


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    x = s.x
    while x == 5:  # in observe
        x = 5
    out[0] = x


@kernel
def expert(s: State, p: Params) -> int:
    while True:  # in expert
        if s.x != 9:
            break
    return 0


world = World(State, Params, reset, step, observe, expert=expert, observation=Box(0, 1, (1,)), action=Discrete(2))
"""
# What makes the loop of this name one without end.
ENDLESS = {
    "turn": ("s.x = 0\n    return", "s.x = 1\n    return"),
    "reset": ("while s.x < 0", "while s.x < 1"),
    "step": ("s.x == 7", "s.t > 3"),
    "observe": ("x == 5", "s.t == x - x + 2"),
    "expert": ("s.x != 9", "s.x > 9"),
}


def load_world(folder: Path, name: str, text: str) -> World:
    """Return the world of this text, in a file."""
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    world: World = module.world
    return world


def expect_endless(where: str, folder: Path) -> tuple[World, str]:
    """Return a world with such a loop, and the file and line that an error has to name."""
    old, new = ENDLESS[where]
    assert WORLD.count(old) == 1
    text = WORLD.replace(old, new)
    line = next(n for n, line in enumerate(text.splitlines(), 1) if line.endswith(f"# in {where}"))
    return load_world(folder, f"endless_{where}", text), f"endless_{where}.py:{line} "


@pytest.mark.parametrize("where", ENDLESS)
def test_compiled_code_names_the_line(where: str, tmp_path: Path) -> None:
    world, place = expect_endless(where, tmp_path)
    with pytest.raises(WorldError) as raised:
        batch = Batch(world, 3, threads=1)
        batch.reset()
        for _ in range(6):
            batch.scripted_actions()
            batch.step()
    assert place in str(raised.value) and "\n" not in str(raised.value)
    assert "does not end" in str(raised.value)


@pytest.mark.parametrize("where", ENDLESS)
def test_check_names_the_line(where: str, tmp_path: Path) -> None:
    world, place = expect_endless(where, tmp_path)
    subject = WorldUnderTest(world, CheckBudget(2, 12, 12, 2))
    result = run_property("indices", lambda: indices_stay_in_range(subject), authored_files(world))
    assert result.status == "fail"
    assert place in result.findings[0] and "does not end" in result.findings[0]


@kernel
def collatz(n: int) -> int:
    steps = 0
    while n != 1:
        if n % 2:
            n = 3 * n + 1
        else:
            n //= 2
        steps += 1
    return steps


@kernel
def nested(n: int) -> int:
    total, k = 0, 0
    while k < n:
        j = 0
        while True:
            if j >= k:
                break
            j += 1
            if j % 3 == 0:
                continue
            total += j
        else:
            total = -1
        k += 1
    else:
        total += 100
    return total


@kernel
def bits(n: int) -> int:
    count = 0
    while n:
        n &= n - 1
        count += 1
    return count


def limited_copy(function: Any, limit: int = 10**6) -> tuple[Callable[[int], int], CodeType]:
    code, needed = limit_loops(function, limit)
    return FunctionType(code, {**function.__globals__, **needed}, function.__name__), code


@pytest.mark.parametrize("function", [collatz, nested, bits])
@given(n=st.integers(1, 300))
def test_loops_that_end_do_what_they_did(function: Any, n: int) -> None:
    assert limited_copy(function)[0](n) == function(n)


@pytest.mark.parametrize(("function", "counted"), [(collatz, True), (nested, True), (bits, False)])
def test_a_count_of_bits_stays_one_instruction(function: Any, counted: bool) -> None:
    """Compilers know that loop, and would not know it with a counter in it."""
    assert (limited_copy(function)[1] is not function.__code__) == counted


def test_the_bound_is_per_entrance_and_exact() -> None:
    assert limited_copy(collatz, 111)[0](27) == 111
    with pytest.raises(LoopError, match="has run 110 iterations"):
        limited_copy(collatz, 110)[0](27)


def test_a_source_that_has_changed_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        endless_loops.inspect,
        "getsource",
        lambda function: "def collatz(n):\n    while n:\n        n -= 1\n    return 0\n",
    )
    assert limit_loops(collatz)[0] is collatz.__code__
