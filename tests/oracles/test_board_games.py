"""Our board games beside OpenSpiel's and PettingZoo's, and what is exactly known about them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.game_tree import Layer, expected, grow, guaranteed, put, solved, start, uniform

from rl_lab.core.random_actions import fill
from rl_lab.core.record import PlainRecord
from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

GAMES = ["tic_tac_toe", "connect_four", "othello"]
MOVES = 100_000  # at least so many are compared


def boards(planes: Any, name: str) -> Array:
    """OpenSpiel's planes, [empty, second's, first's] of the usual ones, as first sees them here: [rows, columns, 2]."""
    shown = np.asarray(planes)
    if name == "tic_tac_toe":
        return shown[[2, 1]].transpose(1, 2, 0)
    if name == "connect_four":  # first's before second's, the lowest row first
        return shown[:2, ::-1].transpose(1, 2, 0)
    return shown[1:].transpose(1, 2, 0)  # Othello's are black's and white's, for black


@pytest.mark.parametrize("name", GAMES)
def test_whole_games_beside_openspiel(name: str) -> None:
    """Legal actions, whose move it is, boards, ends and returns of random games are the same."""
    pyspiel = pytest.importorskip("pyspiel")
    game, world, n = pyspiel.load_game(name), world_registry.load(name), 128
    batch, chance, moves = Batch(world, n, threads=1, autoreset=AutoresetMode.DISABLED), np.random.default_rng(1), 0
    shape, counted = game.observation_tensor_shape(), np.zeros(3, int)
    while moves < MOVES:
        batch.reset()
        others = [game.new_initial_state() for _ in range(n)]
        while not batch.done.all():
            fill(batch, chance.random(batch.actions.shape))
            going = np.flatnonzero(~batch.done)
            movers = batch.states["to_move"].copy()
            for i in going:
                mover = others[i].current_player()
                assert mover == movers[i] and batch.acting[i].tolist() == [mover == 0, mover == 1]
                assert np.flatnonzero(batch.action_mask[i, mover]).tolist() == others[i].legal_actions()
                others[i].apply_action(int(batch.actions[i, mover]))
            batch.step()
            moves += len(going)
            for i in going:
                assert batch.terminated[i] == others[i].is_terminal()
                assert batch.rewards[i].tolist() == (others[i].returns() if batch.done[i] else [0, 0])
            for i in going[:8]:  # comparing boards takes long
                planes = np.array(others[i].observation_tensor(0)).reshape(shape)
                assert np.array_equal(batch.observations[i, 0], boards(planes, name))
                assert np.array_equal(batch.observations[i, 0], batch.observations[i, 1, :, :, ::-1])
        assert not batch.truncated.any()
        counted += [(batch.episode_returns[:, 0] == result).sum() for result in (1, 0, -1)]
    assert counted.min() > 0 and counted.sum() >= MOVES / world.horizon


@pytest.mark.parametrize("name, module", [("tic_tac_toe", "tictactoe"), ("connect_four", "connect_four")])
def test_whole_games_beside_pettingzoo(name: str, module: str) -> None:
    """Observations, action masks, rewards and ends are the same for both players after every move."""
    other = pytest.importorskip(f"pettingzoo.classic.{module}.{module}").env()
    world, chance = world_registry.load(name), np.random.default_rng(2)
    batch = Batch(world, 1, threads=1, autoreset=AutoresetMode.DISABLED)
    for _ in range(150):
        other.reset()
        batch.reset()
        while True:
            for a, agent in enumerate(other.possible_agents):
                seen = other.observe(agent)
                assert np.array_equal(batch.observations[0, a], seen["observation"])
                assert batch.done[0] or np.array_equal(batch.action_mask[0, a], seen["action_mask"])
                assert batch.rewards[0, a] == other.rewards[agent]
                assert batch.terminated[0] == other.terminations[agent]
            if batch.done[0]:
                break
            assert batch.acting[0, other.possible_agents.index(other.agent_selection)]
            fill(batch, chance.random(batch.actions.shape))
            other.step(int(batch.actions[0, batch.states["to_move"][0]]))
            batch.step()


@pytest.mark.parametrize("name", GAMES)
def test_swapped_seats_see_pay_and_play_what_the_other_would_have(name: str) -> None:
    world, n, chance = world_registry.load(name), 48, np.random.default_rng(3)
    assert world.rotate_seats is not None
    here, there = (Batch(world, n, threads=1, autoreset=AutoresetMode.DISABLED) for _ in range(2))
    here.reset()
    there.reset()
    for _ in range(70):
        there.states[...] = here.states
        for row in there.states:
            world.rotate_seats(PlainRecord(row), PlainRecord(world.Params()[0]))
        there.observe()
        assert np.array_equal(here.observations, there.observations[:, ::-1])
        assert np.array_equal(here.action_mask, there.action_mask[:, ::-1])
        fill(here, chance.random(here.actions.shape))
        there.actions[...] = here.actions[:, ::-1]
        there.done[...] = here.done
        here.step()
        there.step()
        assert np.array_equal(here.rewards, there.rewards[:, ::-1])
        assert np.array_equal(here.done, there.done) and np.array_equal(here.observations, there.observations[:, ::-1])
        there.reset(there.done)
        here.reset(here.done.copy())


def test_outcome_probabilities_of_random_tic_tac_toe_are_exact() -> None:
    """Source: any enumeration of the 255,168 games, such as en.wikipedia.org/wiki/Tic-tac-toe."""
    world = world_registry.load("tic_tac_toe")
    tree = grow(world, start(world), same=("marks", "to_move"))
    assert sum(len(layer.states) for layer in tree) == 5478 - 958  # those that are not ends
    results = lambda rewards: np.stack([rewards[:, 0] == k for k in (1, -1)], axis=1).astype(float)  # noqa: E731
    x_wins, o_wins = expected(tree, uniform, results)[0]
    assert x_wins == pytest.approx(Fraction(737, 1260), abs=1e-14)
    assert o_wins == pytest.approx(Fraction(121, 420), abs=1e-14)
    games = expected(tree, lambda layer: layer.action_mask, results)[0]
    assert games.tolist() == [131_184, 77_904]
    assert solved(tree)[0] == 0


@pytest.mark.parametrize("agent", [0, 1])
def test_expert_at_tic_tac_toe_never_loses(agent: int) -> None:
    """Whatever the other does, and however its own dice fall: all that it was seen to choose, in every position."""
    world = world_registry.load("tic_tac_toe")
    tree = grow(world, start(world), same=("marks", "to_move"))

    def chosen(layer: Layer) -> Array:
        batch, seen = put(world, layer.states), np.zeros(layer.action_mask.shape, bool)
        rows = np.arange(len(seen))
        for dice in range(300):  # of 5 choices alike, one is missed with a chance of 1e-29
            batch.states["rng_counter"] = dice
            seen[rows, batch.scripted_actions()[rows, layer.mover]] = True
        return seen

    assert guaranteed(tree, agent, chosen)[0] == 0


def test_random_connect_four_is_won_as_often_as_published() -> None:
    """Five standard errors, ours and those of the 100,000 published games: passes by luck all but once in a million."""
    world, chance, games = world_registry.load("connect_four"), np.random.default_rng(4), 200_000
    batch, results = Batch(world, 8192, threads=1), []
    batch.reset()
    first = np.ones(batch.num_envs, bool)
    while len(results) * batch.num_envs < games:
        final = np.full(batch.num_envs, np.nan)
        while np.isnan(final).any():  # the first game to end in each world, not the first to end in any
            fill(batch, chance.random(batch.actions.shape))
            batch.step()
            over = batch.done & np.isnan(final)
            final[over] = batch.episode_returns[over, 0]
        results.append(final)
        batch.reset(first)
    for result, published in (1, 0.5575), (-1, 0.4398), (0, 0.0027):
        measured = np.mean(np.concatenate(results) == result)
        assert abs(measured - published) < 5 * np.sqrt(published * (1 - published) * (1 / games + 1 / 100_000))


def test_positions_of_connect_four_are_as_many_as_known() -> None:
    """Source: oeis.org/A212693, positions after k moves, ends included."""
    world, counts, ends = world_registry.load("connect_four"), [1], []
    for layer in grow(world, start(world), same=("discs",), depth=8):
        after = put(world, layer.states[layer.parent])
        after.actions[...] = layer.action[:, None]
        after.step()
        ends.append(len(np.unique(after.states["discs"][after.done], axis=0)))
        counts.append(layer.child.max() + 1 + ends[-1])
    assert counts == [1, 7, 49, 238, 1120, 4263, 16_422, 54_859, 184_275]
    assert ends == [0, 0, 0, 0, 0, 0, 728, 1892]


def test_games_of_othello_are_as_many_as_known() -> None:
    """Source: the usual test of move generators, such as aartbik.com/strategy.php."""
    world = world_registry.load("othello")
    tree = grow(world, start(world), same=("discs", "to_move"), depth=8)
    ways, counts = np.ones(1), []
    for layer in tree:
        counts.append(int(ways[layer.parent].sum()))
        going, onward = layer.child >= 0, np.zeros(layer.child.max() + 1)
        np.add.at(onward, layer.child[going], ways[layer.parent][going])
        ways = onward
    assert counts == [4, 12, 56, 244, 1396, 8200, 55_092, 390_216]
