"""The grid worlds: every level of keys and doors can be solved, and the T-maze shows its sign only once."""

from __future__ import annotations

import hashlib
from itertools import product
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from rl_lab.core.random_actions import write_uniform_actions
from rl_lab.core.symmetry import Symmetry
from rl_lab.core.world import Array
from rl_lab.core.world_errors import WorldError
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch


def new_batch(name: str, num_envs: int, **params: int) -> Batch:
    """Return a batch after its reset, whose worlds stop at the end of their first episode."""
    world = world_registry.load(name)
    batch = Batch(world, num_envs, world.Params(**params), seed=4, threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    return batch


def play(batch: Batch, steps: int, strength: str) -> Array:
    """Return the sum of rewards f8 [N] of so many steps of the expert, or of random actions for "chance"."""
    rng, total = np.random.default_rng(0), np.zeros(batch.num_envs)
    for _ in range(steps):
        if strength == "chance":
            write_uniform_actions(batch, rng.random(batch.actions.shape))
        else:
            batch.scripted_actions(strength)
        batch.step()
        total += batch.rewards[:, 0]
    return total


def test_the_expert_solves_every_level_and_chance_almost_none() -> None:
    assert (play(new_batch("keys_and_doors", 3000), 70, "expert") == 1).all()
    assert play(new_batch("keys_and_doors", 3000), 199, "chance").mean() < 0.01


def test_things_lie_in_cells_of_their_own_outside_of_walls() -> None:
    states = new_batch("keys_and_doors", 3000).states
    things = np.concatenate([states["cell"][:, None], states["exit"][:, None], states["keys"], states["doors"]], axis=1)
    assert all(len(set(row)) == len(row) for row in things.tolist())
    assert not states["walls"][np.arange(3000)[:, None], things].any()


def test_the_agent_sees_the_whole_board_from_the_middle_of_its_view() -> None:
    batch = new_batch("keys_and_doors", 300)
    for _ in range(12):
        view, states = batch.observations[:, 0].copy(), batch.states
        assert not view[:, 4, 4, 0].any()  # no wall where the agent stands
        # Each thing is as many rows and columns away as on the board, modulo the 8 of the view.
        for channel, cells in ((1, states["exit"]), (2, states["keys"][:, 0]), (7, states["doors"][:, 2])):
            there = np.flatnonzero(cells >= 0)
            rows, columns = ((4 + cells // size % 7 - states["cell"] // size % 7) % 8 for size in (7, 1))
            assert (view[there, rows[there], columns[there], channel] == 1).all()
            assert (view[..., channel].sum(axis=(1, 2)) == (cells >= 0)).all()
        walls = states["walls"].sum(axis=1) + (states["doors"] >= 0).sum(axis=1)
        assert (view[..., 0].sum(axis=(1, 2)) == walls + 15).all()  # and the wall around the board
        batch.scripted_actions("expert")
        batch.step()


def in_form(batch: Batch, view: Array) -> None:
    """Give each world of a batch the state that it must be in where its agent has this view, u1 [N, 8, 8, 8]."""
    for state, seen in zip(batch.states, view, strict=True):
        # The wall around the board is the one row, and the one column, that is all wall and has no door.
        is_wall = seen[..., 0] - seen[..., 5:].sum(axis=-1)
        row, column = (int(np.flatnonzero(is_wall.all(axis=axis))[0]) for axis in (1, 0))
        board = np.roll(seen, (7 - row, 7 - column), axis=(0, 1))[:7, :7]
        state["cell"] = (4 + 7 - row) % 8 * 7 + (4 + 7 - column) % 8
        cells = [np.flatnonzero(board[..., channel]) for channel in range(8)]
        things = [cell[0] if len(cell) else -1 for cell in cells[1:]]
        state["exit"], state["keys"], state["doors"] = things[0], things[1:4], things[4:]
        state["walls"] = board[..., 0].reshape(-1)
        state["walls"][[door for door in things[4:] if door >= 0]] = 0


def test_a_mirrored_board_behaves_as_its_symmetries_say() -> None:
    batch, mirrored = (new_batch("keys_and_doors", 40) for _ in range(2))
    rng = np.random.default_rng(0)
    assert len({each.observation.tobytes() for each in batch.world.symmetries}) == 7
    for step in range(60):
        symmetry = batch.world.symmetries[step % 7]
        view = batch.observations[:, 0].reshape(40, -1)
        in_form(mirrored, view[:, symmetry.observation].reshape(40, 8, 8, 8))
        batch.scripted_actions("expert")
        is_random = rng.random(40) < 0.3
        batch.actions[is_random] = rng.integers(6, size=batch.actions[is_random].shape)
        mirrored.actions[...] = symmetry.actions[batch.actions]
        for each in (batch, mirrored):
            each.step()
        assert np.array_equal(batch.rewards, mirrored.rewards) and np.array_equal(batch.terminated, mirrored.terminated)
        expected = batch.observations[:, 0].reshape(40, -1)[:, symmetry.observation]
        live = ~batch.done
        assert np.array_equal(mirrored.observations[:, 0].reshape(40, -1)[live], expected[live])
        if batch.done.all():
            break
    assert batch.done.mean() > 0.5


@pytest.mark.parametrize("wrong", [[1, 0], np.array([1.0, 0.0]), np.array([0, 0]), np.array([0, 1, 2])])
def test_a_symmetry_that_is_no_permutation_is_refused(wrong: Any) -> None:
    right = np.array([1, 0])
    for symmetry in (Symmetry(wrong, right), Symmetry(right, wrong)):
        with pytest.raises(WorldError, match="of a symmetry is"):
            symmetry.check("my_world", Box(0, 1, (2,)), Discrete(2))


def test_the_number_of_levels_can_be_limited() -> None:
    few, all_levels = (new_batch("keys_and_doors", 3000, levels=levels).observations for levels in (10, 0))
    assert len({row.tobytes() for row in few}) == 10
    assert len({row.tobytes() for row in all_levels}) > 2500


def test_the_levels_of_a_seed_are_those_of_earlier_versions() -> None:
    batch = Batch(world_registry.load("keys_and_doors"), 20, seed=3, threads=1)
    batch.reset()
    assert hashlib.sha256(batch.observations.tobytes()).hexdigest()[:16] == "60e98a6afbefbd32"


def test_the_sign_is_seen_in_the_first_step_alone_and_decides_the_reward() -> None:
    batch = new_batch("t_maze", 200, length=5)
    signs = batch.observations[:, 0, :2].copy()
    assert (signs.sum(axis=1) == 1).all() and 60 < signs[:, 0].sum() < 140
    batch.actions[...] = 0
    for _ in range(5):
        batch.step()
        assert not batch.observations[:, 0, :2].any()
    assert (batch.observations == batch.observations[0]).all()  # so a policy without memory treats both signs alike
    batch.actions[...] = 1
    batch.step()
    assert batch.terminated.all() and np.array_equal(batch.rewards[:, 0], signs[:, 0])


def test_no_policy_without_memory_turns_the_right_way_in_more_than_half_of_the_episodes() -> None:
    """Play every deterministic policy in a corridor of two cells.

    A policy that samples has the return (r * v + s * (1 - v)) / 2, where r and s are the probabilities that it turns at
    all after each of the signs, and v that it then turns up. This is largest where r, s and v are 0 or 1.
    """
    policies = np.array(list(product(range(3), repeat=5)))  # actions by observation: two signs, three positions
    worlds_per_policy = 16
    batch = new_batch("t_maze", len(policies) * worlds_per_policy, length=2)
    signs, policy_of_world = batch.states["sign"].copy(), np.repeat(np.arange(len(policies)), worlds_per_policy)
    total = np.zeros(batch.num_envs)
    for _ in range(6):  # enough: from the second step on, a policy that does not move ahead stays where it is
        seen = batch.observations[:, 0]
        index = np.select([seen[:, 0] == 1, seen[:, 1] == 1], [0, 1], 2 + np.rint(2 * seen[:, 2]).astype(int))
        batch.actions[:, 0] = policies[policy_of_world, index]
        batch.step()
        total += batch.rewards[:, 0]
    by_policy, is_up = total.reshape(len(policies), -1), (signs == 1).reshape(len(policies), -1)
    assert is_up.any(axis=1).all() and not is_up.all(axis=1).any()
    after_up, after_down = (np.where(mask, by_policy, 0).max(axis=1) for mask in (is_up, ~is_up))
    assert np.array_equal(by_policy, np.where(is_up, after_up[:, None], after_down[:, None]))  # nothing else is random
    assert ((after_up + after_down) / 2).max() == 0.5
