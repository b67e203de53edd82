"""The lab's board games against OpenSpiel's and PettingZoo's, and against published counts and probabilities.

`support.game_tree` enumerates games, or their first moves.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.game_tree import (
    Layer,
    batch_from_states,
    build_layers,
    expected_values,
    guaranteed_values,
    initial_state,
    minimax_values,
    uniform,
)

from rl_lab.core.random_actions import write_uniform_actions
from rl_lab.core.record import PlainRecord
from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

GAMES = ["tic_tac_toe", "connect_four", "othello"]
MIN_MOVES = 100_000  # that are compared


def boards(planes: Any, name: str) -> Array:
    """Return OpenSpiel's planes as our first player observes the board, [rows, columns, 2]."""
    array = np.asarray(planes)
    if name == "tic_tac_toe":
        return array[[2, 1]].transpose(1, 2, 0)
    if name == "connect_four":  # first's before second's, the lowest row first
        return array[:2, ::-1].transpose(1, 2, 0)
    return array[1:].transpose(1, 2, 0)  # Othello's are black's and white's, for black


@pytest.mark.parametrize("name", GAMES)
def test_random_games_are_openspiels(name: str) -> None:
    """Legal actions, current player, boards, ends and returns of random games are equal."""
    pyspiel = pytest.importorskip("pyspiel")
    game, world, n = pyspiel.load_game(name), world_registry.load(name), 128
    batch, rng, num_moves = Batch(world, n, threads=1, autoreset=AutoresetMode.DISABLED), np.random.default_rng(1), 0
    shape, result_counts = game.observation_tensor_shape(), np.zeros(3, int)
    while num_moves < MIN_MOVES:
        batch.reset()
        reference_states = [game.new_initial_state() for _ in range(n)]
        while not batch.done.all():
            write_uniform_actions(batch, rng.random(batch.actions.shape))
            running = np.flatnonzero(~batch.done)
            movers = batch.states["to_move"].copy()
            for i in running:
                mover = reference_states[i].current_player()
                assert mover == movers[i] and batch.acting[i].tolist() == [mover == 0, mover == 1]
                assert np.flatnonzero(batch.action_mask[i, mover]).tolist() == reference_states[i].legal_actions()
                reference_states[i].apply_action(int(batch.actions[i, mover]))
            batch.step()
            num_moves += len(running)
            for i in running:
                assert batch.terminated[i] == reference_states[i].is_terminal()
                assert batch.rewards[i].tolist() == (reference_states[i].returns() if batch.done[i] else [0, 0])
            for i in running[:8]:  # comparing boards takes long
                planes = np.array(reference_states[i].observation_tensor(0)).reshape(shape)
                assert np.array_equal(batch.observations[i, 0], boards(planes, name))
                assert np.array_equal(batch.observations[i, 0], batch.observations[i, 1, :, :, ::-1])
        assert not batch.truncated.any()
        result_counts += [(batch.episode_returns[:, 0] == result).sum() for result in (1, 0, -1)]
    assert result_counts.min() > 0 and result_counts.sum() >= MIN_MOVES / world.horizon


@pytest.mark.parametrize("name, module", [("tic_tac_toe", "tictactoe"), ("connect_four", "connect_four")])
def test_random_games_are_pettingzoos(name: str, module: str) -> None:
    """Observations, action masks, rewards and ends are the same for both players after every move."""
    reference = pytest.importorskip(f"pettingzoo.classic.{module}.{module}").env()
    world, rng = world_registry.load(name), np.random.default_rng(2)
    batch = Batch(world, 1, threads=1, autoreset=AutoresetMode.DISABLED)
    for _ in range(150):
        reference.reset()
        batch.reset()
        while True:
            for a, agent in enumerate(reference.possible_agents):
                observation = reference.observe(agent)
                assert np.array_equal(batch.observations[0, a], observation["observation"])
                assert batch.done[0] or np.array_equal(batch.action_mask[0, a], observation["action_mask"])
                assert batch.rewards[0, a] == reference.rewards[agent]
                assert batch.terminated[0] == reference.terminations[agent]
            if batch.done[0]:
                break
            assert batch.acting[0, reference.possible_agents.index(reference.agent_selection)]
            write_uniform_actions(batch, rng.random(batch.actions.shape))
            reference.step(int(batch.actions[0, batch.states["to_move"][0]]))
            batch.step()


@pytest.mark.parametrize("name", GAMES)
def test_after_rotate_seats_each_agent_has_what_the_other_had(name: str) -> None:
    world, n, rng = world_registry.load(name), 48, np.random.default_rng(3)
    assert world.rotate_seats is not None
    batch, rotated = (Batch(world, n, threads=1, autoreset=AutoresetMode.DISABLED) for _ in range(2))
    batch.reset()
    rotated.reset()
    for _ in range(70):
        rotated.states[...] = batch.states
        for row in rotated.states:
            world.rotate_seats(PlainRecord(row), PlainRecord(world.Params()[0]))
        rotated.observe()
        assert np.array_equal(batch.observations, rotated.observations[:, ::-1])
        assert np.array_equal(batch.action_mask, rotated.action_mask[:, ::-1])
        write_uniform_actions(batch, rng.random(batch.actions.shape))
        rotated.actions[...] = batch.actions[:, ::-1]
        rotated.done[...] = batch.done
        batch.step()
        rotated.step()
        assert np.array_equal(batch.rewards, rotated.rewards[:, ::-1])
        assert np.array_equal(batch.done, rotated.done) and np.array_equal(
            batch.observations, rotated.observations[:, ::-1]
        )
        rotated.reset(rotated.done)
        batch.reset(batch.done.copy())


def test_outcome_probabilities_of_random_tic_tac_toe_are_exact() -> None:
    """Source: any enumeration of the 255,168 games, such as en.wikipedia.org/wiki/Tic-tac-toe."""
    world = world_registry.load("tic_tac_toe")
    tree = build_layers(world, initial_state(world), position_fields=("marks", "to_move"))
    assert sum(len(layer.states) for layer in tree) == 5478 - 958  # those that are not ends
    results = lambda rewards: np.stack([rewards[:, 0] == k for k in (1, -1)], axis=1).astype(float)  # noqa: E731
    x_wins, o_wins = expected_values(tree, uniform, results)[0]
    assert x_wins == pytest.approx(Fraction(737, 1260), abs=1e-14)
    assert o_wins == pytest.approx(Fraction(121, 420), abs=1e-14)
    num_games = expected_values(tree, lambda layer: layer.action_mask, results)[0]
    assert num_games.tolist() == [131_184, 77_904]
    assert minimax_values(tree)[0] == 0


@pytest.mark.parametrize("agent", [0, 1])
def test_expert_at_tic_tac_toe_never_loses(agent: int) -> None:
    """In every position, all actions that the expert takes with 300 random numbers are followed, and all answers."""
    world = world_registry.load("tic_tac_toe")
    tree = build_layers(world, initial_state(world), position_fields=("marks", "to_move"))

    def possible_actions(layer: Layer) -> Array:
        batch, was_taken = batch_from_states(world, layer.states), np.zeros(layer.action_mask.shape, bool)
        rows = np.arange(len(was_taken))
        for counter in range(300):  # one of 5 equally probable actions is missed with a probability of 1e-29
            batch.states["rng_counter"] = counter
            was_taken[rows, batch.scripted_actions()[rows, layer.mover]] = True
        return was_taken

    assert guaranteed_values(tree, agent, possible_actions)[0] == 0


def test_results_of_random_connect_four_are_those_published() -> None:
    """Within five standard errors, of our games and of the 100,000 published ones: fails once in a million."""
    world, rng, num_games = world_registry.load("connect_four"), np.random.default_rng(4), 200_000
    batch, results = Batch(world, 8192, threads=1), []
    batch.reset()
    all_worlds = np.ones(batch.num_envs, bool)
    while len(results) * batch.num_envs < num_games:
        final = np.full(batch.num_envs, np.nan)
        while np.isnan(final).any():  # the first game of each world, or short games would be counted more often
            write_uniform_actions(batch, rng.random(batch.actions.shape))
            batch.step()
            newly_done = batch.done & np.isnan(final)
            final[newly_done] = batch.episode_returns[newly_done, 0]
        results.append(final)
        batch.reset(all_worlds)
    for result, expected_share in (1, 0.5575), (-1, 0.4398), (0, 0.0027):
        share = np.mean(np.concatenate(results) == result)
        assert abs(share - expected_share) < 5 * np.sqrt(
            expected_share * (1 - expected_share) * (1 / num_games + 1 / 100_000)
        )


def test_numbers_of_positions_of_connect_four() -> None:
    """Source: oeis.org/A212693, positions after k moves, ends included."""
    world, counts, ends = world_registry.load("connect_four"), [1], []
    for layer in build_layers(world, initial_state(world), position_fields=("discs",), depth=8):
        after = batch_from_states(world, layer.states[layer.parent])
        after.actions[...] = layer.action[:, None]
        after.step()
        ends.append(len(np.unique(after.states["discs"][after.done], axis=0)))
        counts.append(layer.child.max() + 1 + ends[-1])
    assert counts == [1, 7, 49, 238, 1120, 4263, 16_422, 54_859, 184_275]
    assert ends == [0, 0, 0, 0, 0, 0, 728, 1892]


def test_numbers_of_games_of_othello() -> None:
    """Source: the usual test of move generators, such as aartbik.com/strategy.php."""
    world = world_registry.load("othello")
    tree = build_layers(world, initial_state(world), position_fields=("discs", "to_move"), depth=8)
    num_paths, counts = np.ones(1), []
    for layer in tree:
        counts.append(int(num_paths[layer.parent].sum()))
        running, next_paths = layer.child >= 0, np.zeros(layer.child.max() + 1)
        np.add.at(next_paths, layer.child[running], num_paths[layer.parent][running])
        num_paths = next_paths
    assert counts == [4, 12, 56, 244, 1396, 8200, 55_092, 390_216]
