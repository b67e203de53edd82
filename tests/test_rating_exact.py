"""Exact values of small games: what is known of them, agents beside policies, and what cannot be walked."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from rl_lab.envs.kuhn_poker import thirds

from rl_lab import catalogue, worlds
from rl_lab.rating import exact, policies
from rl_lab.rating.equilibrium import solve
from rl_lab.rating.tree import tree
from rl_lab.record import PlainRecord
from rl_lab.world import Array

TIC_TAC_TOE = "tic_tac_toe"


def made(name: str, world: str, **settings: Any) -> Any:
    factory = catalogue.load(name)
    return factory.make(factory.Config(**settings), worlds.load(world))


def test_random_tic_tac_toe_is_worth_its_fractions() -> None:
    chances = exact.outcomes(policies.uniform, policies.uniform, TIC_TAC_TOE)
    assert chances == pytest.approx([float(Fraction(x)) for x in ("737/1260", "8/63", "121/420")], abs=1e-14)
    assert exact.values(policies.uniform, policies.uniform, TIC_TAC_TOE)[0] == pytest.approx(chances[0] - chances[2])
    assert exact.perfect_value(worlds.load(TIC_TAC_TOE)) == 0


@pytest.mark.parametrize("seat, value", [(0, "191/192"), (1, "874/945")])
def test_the_best_answer_to_random_play_gets_what_it_promises(seat: int, value: str) -> None:
    answer = exact.best_response(policies.uniform, TIC_TAC_TOE, seat)
    assert answer.value == pytest.approx(float(Fraction(value)), abs=1e-14)
    both = (answer, policies.uniform) if seat == 0 else (policies.uniform, answer)
    assert exact.values(*both, TIC_TAC_TOE)[seat] == pytest.approx(answer.value, abs=1e-14)


def test_minimax_cannot_be_exploited_and_is_asked_like_any_agent() -> None:
    agent = made("minimax", TIC_TAC_TOE)
    assert exact.nash_conv(agent, TIC_TAC_TOE) == pytest.approx(0, abs=1e-12)
    assert exact.values(agent, agent, TIC_TAC_TOE).tolist() == [0, 0]
    value = exact.values(agent, policies.uniform, TIC_TAC_TOE)
    assert 0.9 < value[0] <= 191 / 192 and value.sum() == pytest.approx(0)


@pytest.mark.parametrize("name, value", [("kuhn_poker", -1 / 18), ("leduc_poker", -0.085606424078)])
def test_equilibria_are_worth_what_is_published_and_cannot_be_exploited(name: str, value: float) -> None:
    found = solve(name)
    assert found.value == pytest.approx(value, abs=1e-11)
    assert exact.nash_conv(found, name) == pytest.approx(0, abs=1e-8)
    assert exact.values(found, found, name) == pytest.approx([value, -value], abs=1e-8)


def test_kuhns_own_equilibrium_is_one() -> None:
    """The expert's policy by its thirds; asked 2,000 times, the agent comes near, within 5 standard errors."""

    def thirds_of(seen: Array, legal: Array) -> Array:
        rows = []
        for row in seen:
            state = worlds.load("kuhn_poker").State.zeros(1)[0]
            seat = int(row[1])
            state["cards"][seat] = row[2:5].argmax()
            state["bets"] = sum(int(row[6 + 2 * k]) << k for k in range(3))
            bets = thirds(PlainRecord(state), seat) / 3
            rows.append([1 - bets, bets])
        return np.array(rows)

    assert exact.nash_conv(thirds_of, "kuhn_poker") == pytest.approx(0, abs=1e-12)
    assert exact.nash_conv((thirds_of, policies.uniform), "kuhn_poker") > 0.1
    assert exact.nash_conv(made("scripted", "kuhn_poker"), "kuhn_poker", samples=2000) < 0.08


def test_fictitious_play_on_best_responses_goes_to_equilibrium() -> None:
    """Each answers the other's average of all it has played before: Robinson 1951, on Kuhn poker."""
    plays: list[Any] = [policies.uniform]
    for _ in range(150):
        mean = policies.average(plays, "kuhn_poker")
        plays.append((exact.best_response(mean, "kuhn_poker", 0), exact.best_response(mean, "kuhn_poker", 1)))
    assert exact.nash_conv(mean, "kuhn_poker") < 0.05
    assert exact.values(mean, mean, "kuhn_poker")[0] == pytest.approx(-1 / 18, abs=0.01)


def test_an_average_is_worth_what_drawing_one_of_them_is() -> None:
    """Against everybody; while the mean of probabilities, position by position, is not."""
    caller, bettor = policies.always(1), solve("leduc_poker")
    mean = policies.average([policies.uniform, caller, bettor], "leduc_poker")
    for other in (policies.uniform, caller):
        worth = np.mean([exact.values(p, other, "leduc_poker") for p in (policies.uniform, caller, bettor)], axis=0)
        assert exact.values(mean, other, "leduc_poker") == pytest.approx(worth, abs=1e-12)
        worth = np.mean([exact.values(other, p, "leduc_poker") for p in (policies.uniform, caller, bettor)], axis=0)
        assert exact.values(other, mean, "leduc_poker") == pytest.approx(worth, abs=1e-12)
    flat = policies.mixture(0.5, policies.uniform, caller)
    both = policies.average([policies.uniform, caller], "leduc_poker")
    assert abs((exact.values(flat, bettor, "leduc_poker") - exact.values(both, bettor, "leduc_poker"))[0]) > 0.01


def test_every_deal_is_enumerated_once() -> None:
    for name, deals in (("kuhn_poker", 6), ("leduc_poker", 120), (TIC_TAC_TOE, 1)):
        game = tree(name)
        assert len(game.chance) == deals and game.chance == pytest.approx(np.full(deals, 1 / deals))
        assert tree(worlds.load(name)) is game
    assert sum(len(layer.legal) for layer in tree("leduc_poker").layers) == 288  # OpenSpiel's, of ranks alone


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
        exact.values(policies.uniform, policies.uniform, world)


@pytest.mark.parametrize("policy", [policies.always(0), lambda seen, legal: legal * 1.0, lambda seen, legal: -legal])
def test_policies_that_break_rules_or_do_not_add_up_are_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match="add up to 1, over legal actions only"):
        exact.values(policy, policies.uniform, TIC_TAC_TOE)
    with pytest.raises(ValueError, match="shape"):
        exact.values(lambda seen, legal: legal[0], policies.uniform, TIC_TAC_TOE)
    with pytest.raises(ValueError, match="seat=2"):
        exact.best_response(policies.uniform, TIC_TAC_TOE, 2)


def test_a_game_without_hidden_cards_is_not_solved_by_sequences() -> None:
    with pytest.raises(ValueError, match=r"several ways|forgets"):
        solve(TIC_TAC_TOE)
