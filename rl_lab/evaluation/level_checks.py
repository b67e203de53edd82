"""Levels of a world: those that it makes itself, and whether its expert solves levels that are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import make
from rl_lab.core.errors import UsageError
from rl_lab.core.levels import COUNT, GRIDS, Levels
from rl_lab.core.record import PlainRecord
from rl_lab.core.world import Array, World
from rl_lab.engine.batch import Batch

_LEVELS_AT_ONCE = 250  # each has a record of parameters of its own while it is played
_MOST_ROUNDS = 20  # of resets after which a world has no more levels than were seen


def levels_of(world: Any) -> Levels:
    """Return what the levels of a world look like. Raises UsageError where the world cannot be given any."""
    levels = getattr(world, "levels", None)
    if levels is None:
        raise UsageError(f"{world.name} declares no levels, which would have to be grids that its Params hold")
    if world.expert is None or world.reward_threshold is None or not world.horizon or len(world.agents) > 1:
        raise UsageError(
            f"{world.name}: levels are checked by an expert, of one agent, with a horizon and a reward_threshold"
        )
    checked: Levels = levels
    return checked


def own_levels(world: World, count: int, seed: int) -> Array:
    """Return `count` different levels that the world makes from seeds below 2**31, u1 [count, H * W].

    They are fewer where the world does not have as many.
    """
    levels = levels_of(world)
    grids: dict[bytes, Array] = {}
    batch = Batch(world, count, make.parameters(world, {}), seed=seed, threads=1)
    for _ in range(_MOST_ROUNDS):
        batch.reset()
        for state in batch.states:
            grid = np.array(levels.encode(PlainRecord(state)), np.uint8)
            grids.setdefault(grid.tobytes(), grid)
            if len(grids) == count:
                return np.stack(list(grids.values()))
    return np.stack(list(grids.values()))


def batch_of(world: World, grids: Array) -> Batch:
    """Return a batch in which world i is in level i of `grids`, u1 [N, H * W], after its reset."""
    params = np.repeat(make.parameters(world, {}), len(grids))
    params[GRIDS][:, 0], params[COUNT] = grids, 1
    batch = Batch(world, len(grids), params, seed=0, threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    return batch


def solve(world: World, grids: Array) -> tuple[Array, Array]:
    """Return whether the expert solves each of N levels, bool [N], and its steps until the episode ends, int64 [N]."""
    levels_of(world)
    threshold = world.reward_threshold or 0.0
    solved, steps = np.zeros(len(grids), bool), np.zeros(len(grids), np.int64)
    for first in range(0, len(grids), _LEVELS_AT_ONCE):
        batch = batch_of(world, grids[first : first + _LEVELS_AT_ONCE])
        total = np.zeros(batch.num_envs)
        part = slice(first, first + batch.num_envs)
        while not batch.done.all():
            live = ~batch.done
            batch.scripted_actions("expert")
            batch.step()
            total += np.where(live, batch.rewards[:, 0], 0.0)
            steps[part] += live
        solved[part] = total >= threshold
    return solved, steps


@dataclass(frozen=True)
class ExaminedLevels:
    """Levels that a model has made: those that are worth playing, some that are not, and what was measured."""

    grids: Array  # u1 [N, H * W], different ones that the expert solves and that were not learned from
    failures: Array  # u1 [M, H * W], that are valid and that the expert does not solve
    figures: dict[str, Any]


def examine(world: World, known: Array, made: Array) -> ExaminedLevels:
    """Compare levels that a model has made with those that it knows, both u1 [N, H * W], and let the expert play them.

    The figures are shares of the levels made (`valid`: each unique symbol is there once; `playable`: the expert solves
    it), shares of the playable ones (`distinct`, `novel`: not among the known ones), and distances of the playable
    ones from the known ones: of the expert's steps (Wasserstein) and of the symbols in a cell (total variation, the
    mean over cells).
    """
    levels = levels_of(world)
    valid = levels.are_valid(made)
    solved, steps = solve(world, made[valid])
    playable, known_steps = made[valid][solved], solve(world, known)[1]
    first = np.sort(np.unique(playable, axis=0, return_index=True)[1])
    distinct = playable[first]
    known_bytes = {grid.tobytes() for grid in known}
    is_novel = np.array([grid.tobytes() not in known_bytes for grid in distinct], bool)
    count = max(len(playable), 1)
    figures: dict[str, Any] = {
        "made": len(made),
        "valid": float(valid.mean()),
        "playable": len(playable) / len(made),
        "distinct": len(distinct) / count,
        "novel": float(is_novel.sum()) / max(len(distinct), 1),
        "written": int(is_novel.sum()),
    }
    if len(playable):
        figures["expert_steps"] = {"known": float(known_steps.mean()), "made": float(steps[solved].mean())}
        figures["expert_steps_distance"] = _wasserstein(known_steps, steps[solved])
        figures["symbols_distance"] = _cell_distance(known, playable, len(levels.symbols))
    return ExaminedLevels(distinct[is_novel], made[valid][~solved], figures)


def _wasserstein(a: Array, b: Array) -> float:
    """Return the mean distance of the quantiles of two samples of numbers."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(a, b))


def _cell_distance(a: Array, b: Array, symbols: int) -> float:
    """Return the total variation between the shares of symbols in a cell, a mean over cells."""
    shares = [(grids[:, :, None] == np.arange(symbols)).mean(axis=0) for grids in (a, b)]
    return float(np.abs(shares[0] - shares[1]).sum(axis=1).mean() / 2)
