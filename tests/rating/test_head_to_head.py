"""Tests of comparisons of two entrants, of the sequential test and of TrueSkill.

They compare with scipy, check symmetries on random counts, and measure error rates by simulation with fixed seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.optimize import minimize

from rl_lab.rating import head_to_head, results, trueskill
from rl_lab.rating.sprt import sprt

quick = settings(max_examples=60, deadline=None)
counts = st.sampled_from([3, 5]).flatmap(lambda k: st.lists(st.integers(0, 30), min_size=k, max_size=k)).filter(sum)


def test_games_are_paired_in_either_order_of_seats() -> None:
    """Two complete pairs, one that lacks its second game, one of others."""
    games = [("a", "b", 1.0, 0), ("b", "a", 0.0, 0), ("a", "b", 0.5, 1), ("b", "a", 1.0, 1), ("b", "a", 0.5, 2)]
    games += [("a", "c", 1.0, 0), ("c", "a", 1.0, 0)]
    first, second, outcome, pair = zip(*games, strict=True)
    games = results.pairwise_results(
        "abc", ["abc".index(x) for x in first], ["abc".index(x) for x in second], outcome, pair
    )
    pairs, singles = head_to_head.count_results(games, "a", "b")
    assert pairs.tolist() == [0, 1, 0, 0, 1] and singles.tolist() == [0, 1, 0]
    assert [x[::-1].tolist() for x in head_to_head.count_results(games, "b", "a")] == [pairs.tolist(), singles.tolist()]
    with pytest.raises(ValueError, match="no entrant 'z'"):
        head_to_head.count_results(games, "a", "z")


@quick
@given(counts)
def test_a_comparison_seen_from_the_other_side_is_its_mirror(observed: list[int]) -> None:
    one, other = head_to_head.compare(observed), head_to_head.compare(observed[::-1])
    assert one.score == pytest.approx(1 - other.score) and one.los == pytest.approx(1 - other.los, abs=1e-9)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
    assert 0 <= one.low <= one.score <= one.high <= 1
    assert (one.elo is None) == (one.score in (0, 1))
    if one.elo is not None and other.elo is not None:
        assert one.elo == pytest.approx(-other.elo, abs=1e-9)
        assert head_to_head.expected_score(one.elo) == pytest.approx(one.score)
    json.dumps(one.to_dict(), allow_nan=False)


@quick
@given(st.integers(1, 200), st.data())
def test_single_games_without_draws_have_wilsons_interval_nearly(n: int, data: Any) -> None:
    """Their variance is that of a coin but for Student's quantile and n - 1; of games all alike exactly."""
    wins = data.draw(st.integers(0, n))
    comparison, expected = head_to_head.compare([n - wins, 0, wins]), head_to_head.wilson_interval(wins, n)
    if wins in (0, n):
        assert (comparison.low, comparison.high) == pytest.approx(expected)
    elif n > 30:
        # The largest difference is 0.356 / n, of a single win.
        assert (comparison.low, comparison.high) == pytest.approx(expected, abs=0.4 / n)


@pytest.mark.parametrize("observed", [[], [1, 2], [1, -1, 3], [0, 0, 0], [0] * 5])
def test_counts_of_another_form_are_refused(observed: list[int]) -> None:
    with pytest.raises(ValueError, match="expected counts"):
        head_to_head.compare(observed)


def test_the_score_interval_covers_the_truth() -> None:
    """Of 2,000 experiments of 40 correlated pairs: 95 %, whose standard error is 0.5 %; at three scores."""
    generator = np.random.default_rng(0)
    for win, draw in ((0.45, 0.1), (0.7, 0.2), (0.15, 0.05)):
        hits = 0
        for _ in range(2000):
            uniforms = generator.random((40, 2))
            uniforms[::2, 1] = uniforms[::2, 0]
            points = np.where(uniforms < win, 1.0, np.where(uniforms < win + draw, 0.5, 0.0)).mean(axis=1)
            low, high = head_to_head.score_interval(points)
            hits += low <= win + draw / 2 <= high
        assert 0.93 <= hits / 2000 <= 0.97


# --- SPRT


def simulated_acceptance_rate(true: float, elo1: float, experiments: int, seed: int) -> float:
    """Return how often H1: elo1 is accepted, where both games of half of the pairs have the same random number."""
    generator, draw, accepted = np.random.default_rng(seed), 0.3, 0
    win = head_to_head.expected_score(true) - draw / 2
    for _ in range(experiments):
        observed = np.zeros(5)
        while (state := sprt(observed, elo1=elo1).state) == "continue":
            uniforms = generator.random(2)
            if generator.random() < 0.5:
                uniforms[1] = uniforms[0]
            observed[int(2 * (uniforms < win).sum() + ((uniforms >= win) & (uniforms < win + draw)).sum())] += 1
        accepted += state == "H1"
    return accepted / experiments


def test_wrong_verdicts_are_as_rare_as_stated() -> None:
    """5 % at either bound; of 300 experiments the standard error is 1.3 %, and the bound leaves 2.5 of them."""
    assert simulated_acceptance_rate(0, 100, 300, seed=1) <= 0.082
    assert simulated_acceptance_rate(100, 100, 300, seed=2) >= 1 - 0.082


@pytest.mark.slow
def test_wrong_verdicts_are_as_rare_as_stated_over_thousands_of_tests() -> None:
    """Of 3,000 experiments at a bound the standard error is 0.4 %, and 6.2 % leaves 3; beyond, errors are rarer."""
    assert simulated_acceptance_rate(0, 60, 3000, seed=3) <= 0.062
    assert simulated_acceptance_rate(60, 60, 3000, seed=4) >= 1 - 0.062
    assert simulated_acceptance_rate(-60, 60, 500, seed=5) <= 0.005
    assert simulated_acceptance_rate(120, 60, 500, seed=6) >= 0.995


@quick
@given(counts, st.floats(-50, 50), st.floats(1, 100))
def test_the_test_seen_from_the_other_side_is_its_mirror(observed: list[int], elo0: float, width: float) -> None:
    one = sprt(observed, elo0=elo0, elo1=elo0 + width)
    other = sprt(observed[::-1], elo0=-elo0 - width, elo1=-elo0)
    assert math.isfinite(one.llr) and one.llr == pytest.approx(-other.llr, abs=1e-6 * sum(observed) + 1e-9)


@pytest.mark.parametrize("kinds", [3, 5])
def test_all_wins_end_the_test(kinds: int) -> None:
    wins = np.eye(kinds)[-1]
    assert sprt(0 * wins).state == sprt(wins).state == "continue"
    assert sprt(500 * wins).state == "H1" and sprt(500 * wins[::-1]).state == "H0"
    assert sprt(500 * np.eye(kinds)[kinds // 2]).state == "H0"
    ratios = [sprt(n * wins).llr for n in (1, 10, 100, 1000)]
    assert ratios == sorted(ratios)


def test_the_ratio_is_of_the_greatest_likelihoods_that_scipy_finds() -> None:
    observed, values = np.array([3.0, 8, 20, 14, 6]), np.linspace(0, 1, 5)

    def max_log_likelihood(score: float) -> float:
        limits = [{"type": "eq", "fun": lambda p: p.sum() - 1}, {"type": "eq", "fun": lambda p: p @ values - score}]
        loss = lambda p: -observed @ np.log(np.maximum(p, 1e-12))  # noqa: E731
        solution = minimize(
            loss, np.full(5, 0.2), bounds=[(1e-9, 1)] * 5, constraints=limits, method="SLSQP", tol=1e-12
        )
        return float(-solution.fun)

    expected = max_log_likelihood(head_to_head.expected_score(30)) - max_log_likelihood(
        head_to_head.expected_score(-10)
    )
    assert sprt(observed, elo0=-10, elo1=30).llr == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("options", [{"elo0": 5, "elo1": 5}, {"alpha": 0}, {"beta": 0.5}])
def test_settings_of_the_test_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="elo0 < elo1, and alpha and beta"):
        sprt([1, 1, 1], **options)


# --- TrueSkill


def exact_posterior(one: trueskill.Skill, other: trueskill.Skill) -> tuple[float, float]:
    """Return mean and deviation of the winner of one game, by integration."""
    beta, tau, margin = 25 / 6, 25 / 300, math.sqrt(2) * 25 / 6 * stats.norm.ppf(0.55)
    prior = stats.norm(one[0], math.hypot(one[1], tau))
    difference_deviation = math.sqrt(2 * beta**2 + other[1] ** 2 + tau**2)
    density = lambda x: prior.pdf(x) * stats.norm.cdf((x - other[0] - margin) / difference_deviation)  # noqa: E731
    mass, mean, square = (integrate.quad(lambda x, k=k: x**k * density(x), -60, 120, limit=400)[0] for k in (0, 1, 2))
    return mean / mass, math.sqrt(square / mass - (mean / mass) ** 2)


@pytest.mark.parametrize("skills", [((25, 25 / 3), (25, 25 / 3)), ((30, 2), (20, 6)), ((10, 3), (35, 4))])
def test_of_two_the_update_is_exact(skills: Any) -> None:
    assert trueskill.update(skills, [1, 2])[0] == pytest.approx(exact_posterior(*skills), rel=1e-5)


@quick
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(1, 10), st.integers(1, 4)), min_size=2, max_size=6), st.randoms())
def test_the_order_in_which_players_are_given_does_not_matter(players: Sequence[Any], random: Any) -> None:
    """Of players that do not tie: the order of those that do is arbitrary in the chain."""
    players = [(mean, deviation, rank) for rank, (mean, deviation, _) in enumerate(players)]
    shuffled = random.sample(players, len(players))
    results_by_order = [
        dict(zip(order, trueskill.update([p[:2] for p in order], [p[2] for p in order]), strict=True))
        for order in (players, shuffled)
    ]
    for player in players:
        assert results_by_order[0][player] == pytest.approx(results_by_order[1][player])
        assert results_by_order[0][player][1] < math.hypot(player[1], 25 / 300)


def test_matches_of_another_form_have_no_update() -> None:
    for skills, ranks in (([trueskill.INITIAL_SKILL], [1]), ([trueskill.INITIAL_SKILL] * 2, [1])):
        with pytest.raises(ValueError, match="at least two players"):
            trueskill.update(skills, ranks)
