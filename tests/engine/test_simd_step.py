"""These tests check that worlds stepped a block at a time have the same bits as worlds stepped one by one."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode

from rl_lab.core.world import Array, World
from rl_lab.engine import vectorization, world_registry
from rl_lab.engine.batch import Batch, NonFiniteError

NUM_ENVS = 2 * vectorization.BLOCK + 2  # two blocks and part of a third
STEPS = 34  # each world ends once, and some twice
IN_BLOCKS = [name for name in world_registry.names() if vectorization.vectorization_plan(world_registry.load(name))]
ARRAYS = "states observations rewards terminated truncated done running_returns episode_returns"
ARRAYS += " episode_lengths log_totals"


def random_actions(world: World, steps: int, n: int) -> Array:
    rng = np.random.default_rng(0)
    shape = (steps, n, 1, *world.action_shape)
    if isinstance(world.action, Discrete):
        return rng.integers(world.action.n, size=shape)
    return rng.uniform(world.action.low, world.action.high, shape).astype(np.float32)


def outputs_of(batch: Batch, low: int = 0, high: int = NUM_ENVS) -> list[bytes]:
    return [getattr(batch, name)[low:high].tobytes() for name in ARRAYS.split()]


def test_some_worlds_are_stepped_in_blocks() -> None:
    assert {"cartpole", "mountain_car", "pendulum"} <= set(IN_BLOCKS)


@pytest.mark.parametrize("own_params", [False, True], ids=["one Params", "own Params"])
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_blocks_do_what_plain_python_does(name: str, mode: AutoresetMode, own_params: bool) -> None:
    world = replace(world_registry.load(name), horizon=25)
    params = world.Params()
    if own_params:
        params = np.repeat(params, NUM_ENVS)
        first = params.dtype.names[0]
        params[first] *= np.linspace(0.5, 1.5, NUM_ENVS).astype(params.dtype[first])
    batches = [
        Batch(world, NUM_ENVS, params, seed=5, autoreset=mode, **how)  # type: ignore[arg-type]
        for how in ({"plain": True}, {"threads": 1}, {"threads": 2})
    ]
    for batch in batches:
        batch.reset()
        batch.states["t"] = np.arange(NUM_ENVS) % 20  # so that they do not end together
    for t, given in enumerate(random_actions(world, STEPS, NUM_ENVS)):
        ended = []
        for batch in batches:
            if mode == AutoresetMode.DISABLED and t % 7 == 0:
                batch.reset(batch.done)
            batch.actions[...] = given
            ended.append(batch.step())
        assert len(set(ended)) == 1
        assert outputs_of(batches[0]) == outputs_of(batches[1]) == outputs_of(batches[2]), f"at step {t}"


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_a_block_and_its_worlds_alone_play_the_same(name: str) -> None:
    world = world_registry.load(name)
    whole = Batch(world, NUM_ENVS, seed=6, threads=1)
    parts = [Batch(world, 9, seed=6, first=first, threads=1) for first in (0, 60, NUM_ENVS - 9)]
    for batch in (whole, *parts):
        batch.reset()
    for given in random_actions(world, 250, NUM_ENVS):
        whole.actions[...] = given
        whole.step()
        for part, first in zip(parts, (0, 60, NUM_ENVS - 9), strict=True):
            part.actions[...] = given[first : first + 9]
            part.step()
            assert outputs_of(part, 0, 9) == outputs_of(whole, first, first + 9)


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_the_lowest_world_that_is_not_finite_is_named(mode: AutoresetMode) -> None:
    batch = Batch(world_registry.load("cartpole"), NUM_ENVS, threads=1, autoreset=mode)
    batch.reset()
    batch.states["x"][[70, 100, NUM_ENVS - 1]] = np.nan
    with pytest.raises(NonFiniteError, match="observation in world 70 at step 1"):
        batch.step()


STRAIGHT = """
    s.x += p.pull * a
    return ONE if s.x > 0 else ONE * 0, s.x > 3
"""


def write_world(tmp_path: Path, step: str) -> World:
    """Return a world of one number whose step has this body, from its fourth line on."""
    lines = ["import math", "from math import sin", "from rl_lab.core.world import *"]
    lines += ["class State(WorldState):", "    x: f4", "    seen: f4[3]", "class Params(Record):", "    pull: f4 = 0.5"]
    lines += ["ONE = f4(1)", "@kernel", "def reset(s, p):", "    s.x = f4(0.5)", "@kernel", "def observe(s, p, out):"]
    lines += ["    out[0] = s.x", "@kernel", "def step(s, a, p):", *step.strip("\n").splitlines()]
    lines += ["world = World(State=State, Params=Params, reset=reset, step=step, observe=observe, action=Discrete(2),"]
    lines += ["    observation=Box(-9, 9, (1,), np.float32), horizon=9)"]
    file = tmp_path / "a_world.py"
    file.write_text("\n".join(["import numpy as np", "from gymnasium.spaces import Box, Discrete", *lines, ""]))
    made = runpy.run_path(str(file))["world"]
    assert isinstance(made, World)
    return made


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("for _ in range(3): s.x += 1", "a loop at line 20"),
        ("while s.x < 0: s.x += 1", "a loop at line 20"),
        ("s.x = s.x % 2", "the operator % at line 20"),
        ("s.x //= 2", "the operator // at line 20"),
        ("s.x = s.x ** 2", "the operator ** at line 20"),
        ("s.x = math.exp(s.x)", "a call of math.exp at line 20"),
        ("s.x = sin(s.x)", "a call of sin at line 20"),
        ("s.x = s.seen[a]", "a computed index, s.seen[a], at line 20"),
        ("s.x = s.seen[1]", "the field seen is an array"),
        ("s.x = math.sqrt(s.x * s.x)", ""),
        ("s.x = s.x * 2**3", ""),
        ("s.x = s.x if a else -s.x", ""),
    ],
)
def test_the_reason_why_a_world_is_not_vectorised_names_its_line(line: str, reason: str, tmp_path: Path) -> None:
    world = write_world(tmp_path, f"    {line}{STRAIGHT}")
    assert vectorization.why_not_vectorized(world) == reason
    assert (vectorization.vectorization_plan(world) is None) == bool(reason)
