"""These tests check what holds for the worlds pursuit and swarm alone. Shapes: N worlds, A agents."""

from __future__ import annotations

import numpy as np
import pytest
from rl_lab.envs._swarm import MAX_COMPARED_PER_CELL, PUSH_DISTANCE, SIGHT, grid_size
from rl_lab.envs.swarm import make_world

from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

PURSUIT = world_registry.load("pursuit")
PREDATORS, PREY = slice(0, 8), slice(8, 10)


def shift(batch: Batch, by: tuple[float, float], size: tuple[float, float]) -> None:
    """Move all that is in these worlds."""
    for axis, way, side in zip("xy", by, size, strict=True):
        for name in {axis, f"hawk_{axis}"} & set(batch.states.dtype.names or ()):
            batch.states[name] = (batch.states[name] + np.float32(way)) % np.float32(side)


@pytest.mark.parametrize("name", ["pursuit", "swarm"])
def test_no_place_of_the_torus_is_special(name: str) -> None:
    world, size = (PURSUIT, (12.0, 9.0)) if name == "pursuit" else (make_world(12), grid_size(12)[:2])
    here, there = (Batch(world, 50, seed=1, threads=1, plain=name == "swarm") for _ in range(2))
    here.reset()
    there.reset()
    shift(there, (0.37 * size[0], 0.71 * size[1]), size)
    for batch in (here, there):
        batch.actions[...] = np.random.default_rng(0).integers(world.action.n, size=batch.actions.shape)
        batch.step()
    # Rounding may put a bird on the other side of the edge of what is seen: one world in fifty is allowed that.
    equal_observations = np.isclose(here.observations, there.observations, atol=1e-4).all(axis=(1, 2))
    equal_rewards = np.isclose(here.rewards, there.rewards, atol=1e-5).all(axis=1)
    assert equal_observations.sum() >= 49 and equal_rewards.sum() >= 49


def pursuit_batch(predators: tuple[float, float], prey: tuple[float, float]) -> Batch:
    """One world with all predators at one place and prey_0 at another; prey_1 is 4 m east of the predators."""
    batch = Batch(PURSUIT, 1, seed=2, threads=1)
    batch.reset()
    for axis, place, other, far in zip("xy", predators, prey, (4.0, 0.0), strict=True):
        batch.states[axis][0, PREDATORS], batch.states[axis][0, PREY] = place, (other, (place + far) % 12)
    batch.states["distances"][0, PREDATORS, PREY] = 1.0
    batch.states["distances"][0, PREY, PREDATORS] = 1.0
    return batch


def test_a_caught_prey_leaves_and_is_seen_no_more_and_the_last_one_ends_the_episode() -> None:
    batch = pursuit_batch((11.9, 4.0), (0.1, 4.0))  # 0.2 m apart, across the edge
    batch.step()
    assert batch.left_episode[0].tolist() == [False] * 8 + [True, False] and not batch.done[0]
    assert batch.acting[0].tolist() == [True] * 8 + [False, True]
    assert (batch.rewards[0, PREDATORS] > 0.9).all() and batch.rewards[0, 8] < -0.9 and batch.rewards[0, 9] > -0.2
    assert not batch.observations[0, 8].any()
    assert batch.observations[0, 0, [7, 12]].tolist() == [1, 0]  # the first prey slot is taken, the second is not
    where = batch.states["x"][0, 8], batch.states["y"][0, 8]
    batch.actions[0, 8] = 3
    for _ in range(5):
        batch.step()
        assert (batch.states["x"][0, 8], batch.states["y"][0, 8]) == where and batch.rewards[0, 8] == 0
    for axis in "xy":
        batch.states[axis][0, 9] = batch.states[axis][0, 0]
    batch.step()
    assert batch.terminated[0] and batch.log_totals[0].tolist() == [1, 2, 1]


def test_prey_outrun_predators_that_only_chase_and_are_encircled_by_a_pack() -> None:
    cleared = {}
    for strength in ("novice", "expert"):
        batch = Batch(PURSUIT, 60, seed=3)
        batch.reset()
        for _ in range(PURSUIT.horizon):
            flight = batch.scripted_actions()[:, PREY].copy()
            batch.scripted_actions(strength)[:, PREY] = flight
            batch.step()
        totals = batch.log_totals.sum(axis=0)
        cleared[strength] = totals[2] / totals[0]
    assert cleared["novice"] < 0.05 and cleared["expert"] > 0.7, cleared


def swarm_batch(agents: int, spread: float = 1.0) -> Batch:
    """One world of birds, after a step of chance; all within this part of its width and height."""
    batch = Batch(make_world(agents), 1, seed=agents, plain=True)
    batch.reset()
    for axis in "xy":
        batch.states[axis] *= np.float32(spread)
    batch.actions[...] = np.random.default_rng(0).integers(5, size=batch.actions.shape)
    batch.step()
    return batch


def displacements(batch: Batch, axis: str, side: float) -> Array:
    """Return [A, A]: the way from each bird to each other along one axis."""
    there = batch.states[axis][0].astype(np.float64)
    apart: Array = (there - there[:, None] + side / 2) % side - side / 2
    return apart


@pytest.mark.parametrize("agents", [2, 5, 12, 40, 300])
def test_the_grid_finds_the_neighbours_that_comparing_all_finds(agents: int) -> None:
    batch = swarm_batch(agents)
    s = batch.states[0]
    dx, dy = displacements(batch, "x", grid_size(agents)[0]), displacements(batch, "y", grid_size(agents)[1])
    apart = np.hypot(dx, dy) + 9 * np.eye(agents)
    near = apart < float(SIGHT)
    for field, expected in (
        ("num_neighbours", near.sum(axis=1)),
        ("nearest", np.minimum(apart.min(axis=1), float(PUSH_DISTANCE))),
        ("offset_sum_x", (near * dx).sum(axis=1)),
        ("offset_sum_y", (near * dy).sum(axis=1)),
        ("heading_sum_x", (near * s["ux"]).sum(axis=1)),
        ("heading_sum_y", (near * s["uy"]).sum(axis=1)),
    ):
        np.testing.assert_allclose(s[field], expected, atol=2e-4, err_msg=field)
    assert near.any() and sorted(s["birds_by_cell"]) == list(range(agents))


def test_the_work_a_bird_makes_grows_neither_with_their_number_nor_without_bound_in_a_crowd() -> None:
    few, many, crowd = swarm_batch(100), swarm_batch(800), swarm_batch(200, spread=0.01)
    pairs = [batch.states["pairs"][0] / len(batch.world.agents) for batch in (few, many, crowd)]
    assert pairs[1] < 1.2 * pairs[0] and pairs[2] <= 9 * int(MAX_COMPARED_PER_CELL), pairs


def test_birds_are_paid_for_company_and_pay_for_touch_and_claws() -> None:
    batch = Batch(make_world(12), 1, seed=4, plain=True)
    batch.reset()
    s, (width, height) = batch.states[0], grid_size(12)[:2]
    s["x"], s["y"], s["angle"] = width / 2 + 0.25 * (np.arange(12) % 4), height / 2 + 0.25 * (np.arange(12) // 4), 0
    s["hawk_x"], s["hawk_y"] = 0.1, 0.1
    batch.actions[...] = 2
    batch.step()
    assert batch.rewards[0] == pytest.approx(0.01)  # eleven neighbours that all fly its way, none nearer than 0.25 m
    s["x"][0], s["y"][0] = s["x"][1] - 0.1, s["y"][1]
    batch.step()
    assert batch.rewards[0, :2] == pytest.approx(-0.01) and batch.rewards[0, 2:] == pytest.approx(0.01)
    s["hawk_x"], s["hawk_y"] = s["x"][11], s["y"][11]
    batch.step()
    assert batch.rewards[0, 11] == pytest.approx(-0.49)
