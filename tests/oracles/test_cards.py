"""Our Kuhn and Leduc poker beside OpenSpiel's: every deal and every way to bet, and what is exactly known about them.

PettingZoo's leduc_holdem_v4 is another game: one player pays 1 and the other 2 before the deal, chance says which of
them begins, checking and calling are two actions, and what has been bet is seen as a sum.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from rl_lab.envs.kuhn_poker import bet_prob_in_thirds
from support.game_tree import Layer, best_response, expected, grow, put, start, uniform

from rl_lab.core.record import PlainRecord
from rl_lab.core.world import Array, World
from rl_lab.engine import world_registry

DEALS = {"kuhn_poker": (3, 2), "leduc_poker": (6, 3)}  # cards in the deck, and of them dealt


def dealt(name: str) -> tuple[World, Array]:
    """Return a world and every deal of it, a state each."""
    world = world_registry.load(name)
    deals = np.array(list(permutations(range(DEALS[name][0]), DEALS[name][1])))
    states = start(world)[np.zeros(len(deals), int)]
    states["cards"] = deals
    return world, states


def begun(game: Any, cards: Array) -> Any:
    """Return OpenSpiel's state after the players' cards were dealt."""
    state = game.new_initial_state()
    for card in cards[:2]:
        state.apply_action(int(card))
    return state


@pytest.mark.parametrize("name", DEALS)
def test_every_hand_beside_openspiel(name: str) -> None:
    """Legal actions, whose move it is, what either knows, ends and returns, also of hands that are over."""
    pyspiel = pytest.importorskip("pyspiel")
    # Ranks alone are observed: OpenSpiel's cards are ranks then, too.
    suits = name == "leduc_poker"
    game = pyspiel.load_game(name, {"suit_isomorphism": True} if suits else {})
    world, states = dealt(name)
    ranks = lambda state: state["cards"] // 2 if suits else state["cards"]  # noqa: E731
    assert world.observation.shape == tuple(game.information_state_tensor_shape())
    others = [begun(game, ranks(state)) for state in states]
    hands = 0
    for layer in grow(world, states):
        for i, other in enumerate(others):
            assert other.current_player() == layer.mover[i]
            assert np.flatnonzero(layer.action_mask[i]).tolist() == other.legal_actions()
            for a in (0, 1):
                assert layer.observations[i, a].tolist() == other.information_state_tensor(a)
        after = put(world, layer.states[layer.parent])
        after.actions[...] = layer.action[:, None]
        after.step()
        onward = {}
        moves = zip(layer.parent, layer.action, layer.child, strict=True)
        for e, (i, action, child) in enumerate(moves):
            other = others[i].child(int(action))
            assert other.is_terminal() == (child < 0)
            if other.is_chance_node():
                other.apply_action(int(ranks(layer.states[i])[2]))
            if child < 0:
                hands += 1
                assert layer.rewards[e].tolist() == other.returns()
                for a in (0, 1):
                    assert after.observations[e, a].tolist() == other.information_state_tensor(a)
            else:
                onward[child] = other
        others = [onward[k] for k in sorted(onward)]
    assert hands == {"kuhn_poker": 6 * 5, "leduc_poker": 120 * 49}[name] and not others


@pytest.mark.parametrize("name", DEALS)
def test_every_deal_is_as_likely(name: str) -> None:
    """Chi-square over 60,000 deals, at an error rate of one in a million; the seed is fixed."""
    stats = pytest.importorskip("scipy.stats")
    world, states = dealt(name)
    batch = put(world, np.repeat(states[:1], 60_000))
    batch.seed(5)
    batch.reset()
    _, counts = np.unique(batch.states["cards"], axis=0, return_counts=True)
    assert len(counts) == len(states) and stats.chisquare(counts).pvalue > 1e-6


def test_kuhn_experts_bet_as_often_as_they_say() -> None:
    """In each position, within 5 standard errors of 9,000 dice."""
    world, states = dealt("kuhn_poker")
    for layer in grow(world, states):
        for state, mover in zip(layer.states, layer.mover, strict=True):
            batch = put(world, np.repeat(state[None], 9000))
            batch.states["rng_counter"] = np.arange(9000)
            bets = batch.scripted_actions()[:, mover].mean()
            share = bet_prob_in_thirds(PlainRecord(state), int(mover)) / 3
            assert abs(bets - share) <= 5 * np.sqrt(share * (1 - share) / 9000)


def nash(layer: Layer) -> Array:
    bets = np.array(
        [bet_prob_in_thirds(PlainRecord(s), int(a)) / 3 for s, a in zip(layer.states, layer.mover, strict=True)]
    )
    return np.stack([1 - bets, bets], axis=1)


def always(action: int) -> Any:
    return lambda layer: np.eye(layer.action_mask.shape[1])[np.full(len(layer.states), action)]


# Source of the rest: Kuhn 1950; Lanctot 2017; OpenSpiel's tests of exploitability and of its sequence-form solver.


@pytest.mark.parametrize("policy, value", [(nash, -1 / 18), (uniform, 1 / 8), (always(1), 0.0), (always(0), 0.0)])
def test_what_kuhn_poker_is_worth(policy: Any, value: float) -> None:
    world, states = dealt("kuhn_poker")
    assert expected(grow(world, states), policy).mean(axis=0) == pytest.approx([value, -value], abs=1e-14)


@pytest.mark.parametrize(
    "policy, regret", [(nash, 0.0), (uniform, 11 / 12), (always(1), 2 / 3), (always(0), 2.0)], ids=range(4)
)
def test_what_best_responses_win_at_kuhn_poker(policy: Any, regret: float) -> None:
    """NashConv, the sum of what each would gain by its best answer, knowing only what it observes."""
    world, states = dealt("kuhn_poker")
    tree = grow(world, states)
    assert best_response(tree, 0, policy) + best_response(tree, 1, policy) == pytest.approx(regret, abs=1e-14)


def test_what_leduc_poker_is_worth() -> None:
    world, states = dealt("leduc_poker")
    tree = grow(world, states)
    assert expected(tree, uniform).mean(axis=0) == pytest.approx([-0.078125, 0.078125], abs=1e-13)
    assert best_response(tree, 0, uniform) + best_response(tree, 1, uniform) == pytest.approx(4.747222222, abs=1e-8)
