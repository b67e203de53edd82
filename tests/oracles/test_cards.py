"""The lab's Kuhn and Leduc poker against OpenSpiel's, in all deals and bets, and against published values.

`support.game_tree` enumerates the games. PettingZoo's leduc_holdem_v4 is another game: one player pays 1 and the other
2 before the deal, a random player begins, checking and calling are two actions, and bets are observed as a sum.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from rl_lab.envs.kuhn_poker import bet_prob_in_thirds
from support.game_tree import (
    Layer,
    batch_from_states,
    best_response,
    build_layers,
    expected_values,
    initial_state,
    uniform,
)

from rl_lab.core.record import PlainRecord
from rl_lab.core.world import Array, World
from rl_lab.engine import world_registry

DEALS = {"kuhn_poker": (3, 2), "leduc_poker": (6, 3)}  # number of cards in the deck, and of cards that are dealt


def all_deals(name: str) -> tuple[World, Array]:
    """Return a world and the states after each possible deal, [deals]."""
    world = world_registry.load(name)
    deals = np.array(list(permutations(range(DEALS[name][0]), DEALS[name][1])))
    states = initial_state(world)[np.zeros(len(deals), int)]
    states["cards"] = deals
    return world, states


def after_deal(game: Any, cards: Array) -> Any:
    """Return OpenSpiel's state after the players' cards were dealt."""
    state = game.new_initial_state()
    for card in cards[:2]:
        state.apply_action(int(card))
    return state


@pytest.mark.parametrize("name", DEALS)
def test_every_hand_is_openspiels(name: str) -> None:
    """Legal actions, current player, observations of both, ends and returns are equal in every position."""
    pyspiel = pytest.importorskip("pyspiel")
    # Ranks alone are observed: OpenSpiel's cards are ranks then, too.
    suits = name == "leduc_poker"
    game = pyspiel.load_game(name, {"suit_isomorphism": True} if suits else {})
    world, states = all_deals(name)
    ranks = lambda state: state["cards"] // 2 if suits else state["cards"]  # noqa: E731
    assert world.observation.shape == tuple(game.information_state_tensor_shape())
    reference_states = [after_deal(game, ranks(state)) for state in states]
    num_hands = 0
    for layer in build_layers(world, states):
        for i, reference in enumerate(reference_states):
            assert reference.current_player() == layer.mover[i]
            assert np.flatnonzero(layer.action_mask[i]).tolist() == reference.legal_actions()
            for a in (0, 1):
                assert layer.observations[i, a].tolist() == reference.information_state_tensor(a)
        after = batch_from_states(world, layer.states[layer.parent])
        after.actions[...] = layer.action[:, None]
        after.step()
        next_states = {}
        moves = zip(layer.parent, layer.action, layer.child, strict=True)
        for e, (i, action, child) in enumerate(moves):
            reference = reference_states[i].child(int(action))
            assert reference.is_terminal() == (child < 0)
            if reference.is_chance_node():
                reference.apply_action(int(ranks(layer.states[i])[2]))
            if child < 0:
                num_hands += 1
                assert layer.rewards[e].tolist() == reference.returns()
                for a in (0, 1):
                    assert after.observations[e, a].tolist() == reference.information_state_tensor(a)
            else:
                next_states[child] = reference
        reference_states = [next_states[k] for k in sorted(next_states)]
    assert num_hands == {"kuhn_poker": 6 * 5, "leduc_poker": 120 * 49}[name] and not reference_states


@pytest.mark.parametrize("name", DEALS)
def test_all_deals_have_the_same_probability(name: str) -> None:
    """Chi-square over 60,000 deals, at an error rate of one in a million; the seed is fixed."""
    stats = pytest.importorskip("scipy.stats")
    world, states = all_deals(name)
    batch = batch_from_states(world, np.repeat(states[:1], 60_000))
    batch.seed(5)
    batch.reset()
    _, counts = np.unique(batch.states["cards"], axis=0, return_counts=True)
    assert len(counts) == len(states) and stats.chisquare(counts).pvalue > 1e-6


def test_the_kuhn_expert_bets_with_the_right_probability() -> None:
    """In each position, the share of 9,000 random numbers is within 5 standard errors."""
    world, states = all_deals("kuhn_poker")
    for layer in build_layers(world, states):
        for state, mover in zip(layer.states, layer.mover, strict=True):
            batch = batch_from_states(world, np.repeat(state[None], 9000))
            batch.states["rng_counter"] = np.arange(9000)
            bets = batch.scripted_actions()[:, mover].mean()
            bet_prob = bet_prob_in_thirds(PlainRecord(state), int(mover)) / 3
            assert abs(bets - bet_prob) <= 5 * np.sqrt(bet_prob * (1 - bet_prob) / 9000)


def nash_policy(layer: Layer) -> Array:
    """Return the action probabilities of the world's expert, a Nash equilibrium."""
    bets = np.array(
        [bet_prob_in_thirds(PlainRecord(s), int(a)) / 3 for s, a in zip(layer.states, layer.mover, strict=True)]
    )
    return np.stack([1 - bets, bets], axis=1)


def always_action(action: int) -> Any:
    return lambda layer: np.eye(layer.action_mask.shape[1])[np.full(len(layer.states), action)]


# Source of the rest: Kuhn 1950; Lanctot 2017; OpenSpiel's tests of exploitability and of its sequence-form solver.


@pytest.mark.parametrize(
    "policy, value", [(nash_policy, -1 / 18), (uniform, 1 / 8), (always_action(1), 0.0), (always_action(0), 0.0)]
)
def test_values_of_kuhn_poker(policy: Any, value: float) -> None:
    world, states = all_deals("kuhn_poker")
    assert expected_values(build_layers(world, states), policy).mean(axis=0) == pytest.approx(
        [value, -value], abs=1e-14
    )


@pytest.mark.parametrize(
    "policy, expected_nash_conv",
    [(nash_policy, 0.0), (uniform, 11 / 12), (always_action(1), 2 / 3), (always_action(0), 2.0)],
    ids=range(4),
)
def test_nash_conv_of_kuhn_poker(policy: Any, expected_nash_conv: float) -> None:
    """NashConv is the sum of what each player gains by its best response, which knows what the player observes."""
    world, states = all_deals("kuhn_poker")
    tree = build_layers(world, states)
    assert best_response(tree, 0, policy) + best_response(tree, 1, policy) == pytest.approx(
        expected_nash_conv, abs=1e-14
    )


def test_value_and_nash_conv_of_leduc_poker() -> None:
    world, states = all_deals("leduc_poker")
    tree = build_layers(world, states)
    assert expected_values(tree, uniform).mean(axis=0) == pytest.approx([-0.078125, 0.078125], abs=1e-13)
    assert best_response(tree, 0, uniform) + best_response(tree, 1, uniform) == pytest.approx(4.747222222, abs=1e-8)
