"""Tests of exact values, best responses and equilibria of small games, against published values and identities."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from rl_lab.envs.kuhn_poker import bet_prob_in_thirds

from rl_lab.core import agent_registry
from rl_lab.core.record import PlainRecord
from rl_lab.core.world import Array
from rl_lab.engine import world_registry
from rl_lab.games import best_response, tabular_policy
from rl_lab.games.game_tree import build_game_tree
from rl_lab.games.sequence_form import solve

TIC_TAC_TOE = "tic_tac_toe"


def make_agent(name: str, world: str, **settings: Any) -> Any:
    factory = agent_registry.load(name)
    return factory.make(factory.Config(**settings), world_registry.load(world))


def test_random_tic_tac_toe_is_worth_its_fractions() -> None:
    probs = best_response.outcome_probs(tabular_policy.uniform, tabular_policy.uniform, TIC_TAC_TOE)
    assert probs == pytest.approx([float(Fraction(x)) for x in ("737/1260", "8/63", "121/420")], abs=1e-14)
    returns = best_response.expected_returns(tabular_policy.uniform, tabular_policy.uniform, TIC_TAC_TOE)
    assert returns[0] == pytest.approx(probs[0] - probs[2])
    assert best_response.minimax_value(world_registry.load(TIC_TAC_TOE)) == 0


@pytest.mark.parametrize("seat, value", [(0, "191/192"), (1, "874/945")])
def test_the_best_answer_to_random_play_gets_what_it_promises(seat: int, value: str) -> None:
    response = best_response.best_response(tabular_policy.uniform, TIC_TAC_TOE, seat)
    assert response.value == pytest.approx(float(Fraction(value)), abs=1e-14)
    policies = (response, tabular_policy.uniform) if seat == 0 else (tabular_policy.uniform, response)
    assert best_response.expected_returns(*policies, TIC_TAC_TOE)[seat] == pytest.approx(response.value, abs=1e-14)


def test_minimax_cannot_be_exploited_and_is_asked_like_any_agent() -> None:
    agent = make_agent("minimax", TIC_TAC_TOE)
    assert best_response.nash_conv(agent, TIC_TAC_TOE) == pytest.approx(0, abs=1e-12)
    assert best_response.expected_returns(agent, agent, TIC_TAC_TOE).tolist() == [0, 0]
    value = best_response.expected_returns(agent, tabular_policy.uniform, TIC_TAC_TOE)
    assert 0.9 < value[0] <= 191 / 192 and value.sum() == pytest.approx(0)


@pytest.mark.parametrize("name, value", [("kuhn_poker", -1 / 18), ("leduc_poker", -0.085606424078)])
def test_equilibria_are_worth_what_is_published_and_cannot_be_exploited(name: str, value: float) -> None:
    equilibrium = solve(name)
    assert equilibrium.value == pytest.approx(value, abs=1e-11)
    assert best_response.nash_conv(equilibrium, name) == pytest.approx(0, abs=1e-8)
    assert best_response.expected_returns(equilibrium, equilibrium, name) == pytest.approx([value, -value], abs=1e-8)


def test_kuhns_own_equilibrium_is_one() -> None:
    """The expert's policy by its thirds; asked 2,000 times, the agent comes near, within 5 standard errors."""

    def thirds_of(observations: Array, action_mask: Array) -> Array:
        rows = []
        for row in observations:
            state = world_registry.load("kuhn_poker").State.zeros(1)[0]
            seat = int(row[1])
            state["cards"][seat] = row[2:5].argmax()
            state["bets"] = sum(int(row[6 + 2 * k]) << k for k in range(3))
            bets = bet_prob_in_thirds(PlainRecord(state), seat) / 3
            rows.append([1 - bets, bets])
        return np.array(rows)

    assert best_response.nash_conv(thirds_of, "kuhn_poker") == pytest.approx(0, abs=1e-12)
    assert best_response.nash_conv((thirds_of, tabular_policy.uniform), "kuhn_poker") > 0.1
    assert best_response.nash_conv(make_agent("scripted", "kuhn_poker"), "kuhn_poker", samples=2000) < 0.08


def test_fictitious_play_on_best_responses_goes_to_equilibrium() -> None:
    """Each seat takes its best response to the other's average so far.

    Source: Robinson 1951, "An iterative method of solving a game".
    """
    past_policies: list[Any] = [tabular_policy.uniform]
    for _ in range(150):
        mean = tabular_policy.average(past_policies, "kuhn_poker")
        past_policies.append(
            (best_response.best_response(mean, "kuhn_poker", 0), best_response.best_response(mean, "kuhn_poker", 1))
        )
    assert best_response.nash_conv(mean, "kuhn_poker") < 0.05
    assert best_response.expected_returns(mean, mean, "kuhn_poker")[0] == pytest.approx(-1 / 18, abs=0.01)


def test_an_average_is_worth_what_drawing_one_of_them_is() -> None:
    """Against every opponent; while the mean of probabilities, position by position, is not."""
    always_bet, equilibrium = tabular_policy.always(1), solve("leduc_poker")
    mean = tabular_policy.average([tabular_policy.uniform, always_bet, equilibrium], "leduc_poker")
    for other in (tabular_policy.uniform, always_bet):
        mean_return = np.mean(
            [
                best_response.expected_returns(p, other, "leduc_poker")
                for p in (tabular_policy.uniform, always_bet, equilibrium)
            ],
            axis=0,
        )
        assert best_response.expected_returns(mean, other, "leduc_poker") == pytest.approx(mean_return, abs=1e-12)
        mean_return = np.mean(
            [
                best_response.expected_returns(other, p, "leduc_poker")
                for p in (tabular_policy.uniform, always_bet, equilibrium)
            ],
            axis=0,
        )
        assert best_response.expected_returns(other, mean, "leduc_poker") == pytest.approx(mean_return, abs=1e-12)
    position_wise_mean = tabular_policy.mixture(0.5, tabular_policy.uniform, always_bet)
    policies = tabular_policy.average([tabular_policy.uniform, always_bet], "leduc_poker")
    returns = [best_response.expected_returns(p, equilibrium, "leduc_poker") for p in (position_wise_mean, policies)]
    assert abs((returns[0] - returns[1])[0]) > 0.01


def test_every_deal_is_enumerated_once() -> None:
    for name, num_deals in (("kuhn_poker", 6), ("leduc_poker", 120), (TIC_TAC_TOE, 1)):
        game = build_game_tree(name)
        assert len(game.chance_probs) == num_deals and game.chance_probs == pytest.approx(
            np.full(num_deals, 1 / num_deals)
        )
        assert build_game_tree(world_registry.load(name)) is game
    # OpenSpiel has as many information sets, if observations show the rank of a card only.
    assert sum(len(layer.action_mask) for layer in build_game_tree("leduc_poker").layers) == 288


@pytest.mark.parametrize(
    "world, message",
    [
        ("cartpole", "not a game of two"),
        ("connect_four", "more than 200,000 positions"),
        ("simple_tag", "not a game of two"),
    ],
)
def test_worlds_that_cannot_be_walked_are_refused(world: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_response.expected_returns(tabular_policy.uniform, tabular_policy.uniform, world)


@pytest.mark.parametrize(
    "policy",
    [
        tabular_policy.always(0),
        lambda observations, action_mask: action_mask * 1.0,
        lambda observations, action_mask: -action_mask,
    ],
)
def test_policies_that_break_rules_or_do_not_add_up_are_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match="add up to 1, over legal actions only"):
        best_response.expected_returns(policy, tabular_policy.uniform, TIC_TAC_TOE)
    with pytest.raises(ValueError, match="shape"):
        best_response.expected_returns(
            lambda observations, action_mask: action_mask[0], tabular_policy.uniform, TIC_TAC_TOE
        )
    with pytest.raises(ValueError, match="seat=2"):
        best_response.best_response(tabular_policy.uniform, TIC_TAC_TOE, 2)


def test_a_game_without_hidden_cards_is_not_solved_by_sequences() -> None:
    with pytest.raises(ValueError, match=r"several ways|does not determine"):
        solve(TIC_TAC_TOE)
