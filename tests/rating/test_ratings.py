"""Tests of Bradley-Terry and Plackett-Luce ratings.

They compare the fits with scipy's optimum, check invariances on random tournaments, intervals, and refused input.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rl_lab.rating import bradley_terry, plackett_luce, results
from rl_lab.rating.ratings import ELO_PER_LOG_ODDS, Ratings
from rl_lab.rating.results import PairwiseResults

quick = settings(max_examples=40, deadline=None)
NAMES = "abcd"
Game = tuple[int, int, float, int]


@st.composite
def tournaments(draw: Any, outcomes: tuple[float, ...] = (0.0, 0.5, 1.0)) -> list[Game]:
    """Games of up to four players, all of which have met the first."""
    n = draw(st.integers(2, 4))
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(0, 5)), max_size=12))
    pairings = [(0, k, 9) for k in range(1, n)] + [(a, b, p) for a, b, p in pairs if a != b]
    return [(a, b, draw(st.sampled_from(outcomes)), p) for one, two, p in pairings for a, b in ((one, two), (two, one))]


def games_of(games: list[Game], names: Any = NAMES) -> PairwiseResults:
    first, second, outcome, pair = (np.array(column) for column in zip(*games, strict=True))
    return results.pairwise_results(names[: max(first.max(), second.max()) + 1], first, second, outcome, pair)


def simulate_games(
    generator: np.random.Generator, strength: Any, pairs: int, seat: float = 0.2, draw: float = 0.5
) -> PairwiseResults:
    """Return a round robin whose results are sampled from Davidson's model; strengths are in log-odds."""
    n = len(strength)
    one, other = (np.repeat(k, pairs) for k in np.triu_indices(n, 1))
    first, second = (np.stack(k, axis=1).ravel() for k in ((one, other), (other, one)))
    x = strength[first] - strength[second] + seat
    unnormalised = np.stack([np.exp(x / 2), np.full(len(x), draw), np.exp(-x / 2)], axis=1)
    edges = np.cumsum(unnormalised / unnormalised.sum(axis=1, keepdims=True), axis=1)
    outcome = 1 - (generator.random(len(x))[:, None] > edges[:, :2]).sum(axis=1) / 2
    return results.pairwise_results(
        [f"n{k:04}" for k in range(n)],
        first,
        second,
        outcome,
        np.repeat(np.tile(np.arange(pairs), n * (n - 1) // 2), 2),
    )


def assert_same(one: Ratings, other: Ratings) -> None:
    assert one.names == other.names
    for field in ("elo", "low", "high", "covariance"):
        assert getattr(one, field).tobytes() == getattr(other, field).tobytes()


# --- the fit


def test_the_maximum_is_the_one_that_scipy_finds() -> None:
    """Seat, draws and prior, by an optimizer that knows only the likelihood written out below."""
    games = simulate_games(np.random.default_rng(3), np.array([0.0, 0.7, -0.4, 1.5]), 30)
    prior_precision = (ELO_PER_LOG_ODDS / 400) ** 2

    def loss(beta: Any) -> float:
        x = beta[games.first] - beta[games.second] + beta[4]
        logits = np.stack([-x / 2, np.full(len(x), beta[5]), x / 2])
        outcome_logits = logits[(2 * games.outcome).astype(int), np.arange(len(x))]
        return float(-(outcome_logits - np.log(np.exp(logits).sum(axis=0))).sum() + prior_precision / 2 * beta @ beta)

    theirs = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-9}).x
    ours = bradley_terry.fit(games, prior=400)
    assert ours.seat and ours.draw
    assert ours.elo == pytest.approx(ELO_PER_LOG_ODDS * (theirs[:4] - theirs[:4].mean()), abs=1e-3)
    assert ours.seat.value == pytest.approx(ELO_PER_LOG_ODDS * theirs[4], abs=1e-3)
    assert ours.draw.value == pytest.approx(np.exp(theirs[5]), abs=1e-5)


def test_an_even_prior_pulls_as_little_as_documented() -> None:
    """Of 200 games, 100 at either seat, those of an entrant 40 points ahead or so."""
    games = simulate_games(np.random.default_rng(0), np.array([0.3, 0.0]), 100, draw=1e-9)
    with_prior, without = bradley_terry.fit(games), bradley_terry.fit(games, prior=None)
    assert with_prior.elo[0] == pytest.approx(without.elo[0], rel=0.004) and with_prior.elo[0] > 10


def test_of_two_plackett_luce_is_bradley_terry_where_draws_are_half_wins() -> None:
    generator = np.random.default_rng(1)
    games = simulate_games(generator, np.array([0.0, 0.5, -0.5]), 40, draw=1e-9)
    players = np.stack([games.first, games.second], axis=1).tolist()
    ranks = np.stack([1 - games.outcome, games.outcome], axis=1).tolist()
    orders = results.ranked_results(games.names, players, ranks, games.cluster.tolist())
    one, other = bradley_terry.fit(games, seat=False), plackett_luce.fit(orders)
    for field in ("elo", "low", "high", "covariance"):
        assert getattr(one, field) == pytest.approx(getattr(other, field), abs=1e-6)
    draw = results.ranked_results("ab", [[0, 1]], [[1, 1]])
    halves = results.ranked_results("ab", [[0, 1], [0, 1]], [[1, 2], [2, 1]])
    strength = [plackett_luce.fit(x, anchor="a").elo for x in (draw, halves)]
    assert strength[0] == pytest.approx(strength[1], abs=1e-9)


def test_plackett_luce_of_every_order_as_often_as_it_is_likely_has_its_strengths() -> None:
    """Orders of three by exponential worth 1, 2, 5, counted to one in ten thousand."""
    from itertools import permutations

    exp_strength = np.array([1.0, 2.0, 5.0])
    players, ranks = [], []
    for order in permutations(range(3)):
        probability, remaining = 1.0, exp_strength.sum()
        for k in order:
            probability, remaining = probability * exp_strength[k] / remaining, remaining - exp_strength[k]
        count = round(3000 * probability)
        players += [list(order)] * count
        ranks += [[1, 2, 3]] * count
    result = plackett_luce.fit(results.ranked_results("abc", players, ranks), prior=None, anchor="a")
    assert np.exp(result.elo / ELO_PER_LOG_ODDS) == pytest.approx(exp_strength, rel=2e-3)


def test_ties_of_many_are_no_preference() -> None:
    for n in (3, 10):
        names = [f"n{k}" for k in range(n)]
        result = plackett_luce.fit(results.ranked_results(names, [list(range(n))] * 2, [[1.0] * n] * 2))
        assert result.elo == pytest.approx(np.zeros(n), abs=1e-6) and (result.high > 50).all()


# --- properties


@quick
@given(tournaments(), st.randoms(use_true_random=False), st.sampled_from(["sandwich", "bootstrap"]))
def test_the_order_of_games_changes_no_bit(games: list[Game], random: Any, intervals: str) -> None:
    shuffled = random.sample(games, len(games))
    one, other = (bradley_terry.fit(games_of(g), intervals=intervals, repetitions=20) for g in (games, shuffled))
    assert_same(one, other)
    for pair in (None, [g[3] for g in games]):
        order = random.sample(range(len(games)), len(games))
        orders = [[games[k][:2] for k in o] for o in (range(len(games)), order)]
        ranks = [[(1 - games[k][2], games[k][2]) for k in o] for o in (range(len(games)), order)]
        pairs = [None if pair is None else [pair[k] for k in o] for o in (range(len(games)), order)]
        names = NAMES[: max(max(g[:2]) for g in games) + 1]
        assert_same(
            *(plackett_luce.fit(results.ranked_results(names, *x)) for x in zip(orders, ranks, pairs, strict=True))
        )


@quick
@given(tournaments(), st.permutations(range(4)))
def test_other_names_get_the_same_ratings(games: list[Game], places: list[int]) -> None:
    n = max(max(g[:2]) for g in games) + 1
    renamed = [f"{places.index(k)}" for k in range(4)]
    one, other = bradley_terry.fit(games_of(games)), bradley_terry.fit(games_of(games, renamed))
    order = [other.names.index(renamed[k]) for k in range(n)]
    assert one.elo == pytest.approx(other.elo[order], abs=1e-6)
    assert one.high - one.low == pytest.approx((other.high - other.low)[order], abs=1e-5)


@quick
@given(tournaments(), st.floats(-3000, 3000))
def test_an_anchor_moves_the_scale_and_nothing_else(games: list[Game], elo: float) -> None:
    centred, anchored = (
        bradley_terry.fit(games_of(games)),
        bradley_terry.fit(games_of(games), anchor="a", anchor_elo=elo),
    )
    assert anchored.elo[0] == anchored.low[0] == anchored.high[0] == elo
    assert np.diff(anchored.elo) == pytest.approx(np.diff(centred.elo), abs=1e-6)
    assert anchored.superiority() == pytest.approx(centred.superiority(), abs=1e-4)


@quick
@given(tournaments(), st.sampled_from(["sandwich", "bootstrap"]))
def test_intervals_hold_the_rating_and_ranks_hold_the_place(games: list[Game], intervals: str) -> None:
    result = bradley_terry.fit(games_of(games), intervals=intervals, repetitions=50)
    assert np.isfinite(result.elo).all() and np.isfinite(result.high).all() and (result.low <= result.high).all()
    best, worst = result.rank_intervals()
    place = 1 + (result.elo[:, None] < result.elo - 1e-9).sum(axis=1)
    assert (best <= place).all() and (place <= worst).all()
    probability = result.superiority()
    assert probability + probability.T == pytest.approx(np.ones(probability.shape))
    if intervals == "sandwich":
        assert (result.low <= result.elo).all() and (result.elo <= result.high).all()


@quick
@given(tournaments((0.5,)))
def test_draws_alone_are_equal_and_uncertain(games: list[Game]) -> None:
    result = bradley_terry.fit(games_of(games))
    assert result.elo == pytest.approx(np.zeros(len(result.elo)), abs=1e-6) and (result.high - result.low > 10).all()


@quick
@given(st.integers(1, 60), st.booleans())
def test_all_wins_are_finite_uncertain_and_worth_more_the_more_there_are(pairs: int, swapped: bool) -> None:
    def ratings_after_wins(count: int) -> Ratings:
        return bradley_terry.fit(games_of([(k % 2, 1 - k % 2, 1.0 - k % 2, k // 2) for k in range(2 * count)]))

    one, more = ratings_after_wins(pairs), ratings_after_wins(pairs + 1)
    assert 0 < one.elo[0] < more.elo[0] < 2000
    # What 2 * pairs wins in a row show: not that the chance is above the 60th root or so of 2.5 %.
    rate = 0.025 ** (1 / (2 * pairs))
    assert one.low[0] - one.high[1] < 400 * np.log10(rate / (1 - rate)) + 60


def test_a_single_game_says_little() -> None:
    for intervals in ("sandwich", "bootstrap"):
        result = bradley_terry.fit(games_of([(0, 1, 1.0, 0)]), intervals=intervals)
        assert 0 < result.elo[0] < 400 and result.low[0] < 0 and result.high[1] > 0
    assert result.rank_intervals()[0].tolist() == [1, 1] and result.rank_intervals()[1].tolist() == [2, 2]


# --- intervals


def test_sandwich_and_bootstrap_agree_where_there_is_much() -> None:
    games = simulate_games(np.random.default_rng(5), np.linspace(-1, 1, 5), 60)
    widths = [
        np.ptp([(f := bradley_terry.fit(games, intervals=i, repetitions=2000)).low, f.high], axis=0)
        for i in ("sandwich", "bootstrap")
    ]
    assert widths[1] == pytest.approx(widths[0], rel=0.08)


def test_one_newton_step_of_the_bootstrap_is_nearly_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    games = simulate_games(np.random.default_rng(5), np.linspace(-1, 1, 5), 60)
    refitted = bradley_terry.fit(games, intervals="bootstrap", repetitions=1000)
    monkeypatch.setattr(bradley_terry, "MAX_REFITTED_ENTRANTS", 0)
    step = bradley_terry.fit(games, intervals="bootstrap", repetitions=1000)
    assert step.high - step.low == pytest.approx(refitted.high - refitted.low, rel=0.1)


def test_pairs_that_share_their_luck_widen_the_intervals() -> None:
    """Every game twice: as clusters they are as good as one, as single games they would seem twice as many."""
    generator = np.random.default_rng(2)
    single = [(0, 1, float(x), k) for k, x in enumerate(generator.integers(0, 2, 400))]
    doubled = single + single
    width = lambda games: float(np.ptp([(f := bradley_terry.fit(games_of(games), seat=False)).low[0], f.high[0]]))  # noqa: E731
    assert width(doubled) == pytest.approx(width(single), rel=0.02)
    independent = [(a, b, x, k) for k, (a, b, x, _) in enumerate(doubled)]
    assert width(independent) == pytest.approx(width(single) / np.sqrt(2), rel=0.02)


def test_ranks_are_sure_only_where_differences_are() -> None:
    result = bradley_terry.fit(simulate_games(np.random.default_rng(0), np.array([-3.0, 0.0, 0.0, 3.0]), 60))
    best, worst = result.rank_intervals()
    assert best.tolist() == [4, 2, 2, 1] and worst.tolist() == [4, 3, 3, 1]


# --- refusals


def test_groups_that_never_met_are_named() -> None:
    games = games_of([(0, 1, 1.0, 0), (2, 3, 0.0, 0)])
    with pytest.raises(ValueError, match=r"2 groups that never met, .*: a, b; c, d$"):
        bradley_terry.fit(games)
    with pytest.raises(ValueError, match="3 groups"):
        plackett_luce.fit(results.ranked_results("abcde", [[0, 1, 2]], [[1, 2, 3]]))


def test_all_wins_have_no_rating_without_a_prior() -> None:
    games = games_of([(0, 1, 1.0, 0), (1, 0, 0.0, 0)])
    with pytest.raises(ValueError, match="ratings are not finite, .* use a prior$"):
        bradley_terry.fit(games, prior=None)
    with pytest.raises(ValueError, match="ratings are not finite, .* use a prior$"):
        plackett_luce.fit(results.ranked_results("ab", [[0, 1]], [[1, 2]]), prior=None)


def test_a_search_that_does_not_converge_does_not_ask_for_the_prior_that_it_has() -> None:
    games = games_of([(0, 1, 1.0, 0), (1, 0, 0.0, 0)])
    with pytest.raises(ValueError, match="did not converge; use a prior, or a smaller one$"):
        bradley_terry.fit(games, prior=1e9)
    with pytest.raises(ValueError, match="did not converge; use a prior, or a smaller one$"):
        plackett_luce.fit(results.ranked_results("ab", [[0, 1]], [[1, 2]]), prior=1e9)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"anchor": "z"}, "no entrant 'z' to anchor"),
        ({"intervals": "guess"}, "expected sandwich or bootstrap"),
        ({"prior": 0.0}, "prior=0.0"),
        ({"repetitions": 1}, "repetitions=1"),
        ({"confidence": 1.0}, "confidence=1.0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bradley_terry.fit(games_of([(0, 1, 1.0, 0)]), **options)
    with pytest.raises(ValueError, match=message):
        plackett_luce.fit(results.ranked_results("ab", [[0, 1]], [[1, 2]]), **options)


@pytest.mark.parametrize(
    "first, second, outcome, message",
    [
        ([0], [1], [0.3], "outcome must be 1, 0.5 or 0"),
        ([0], [7], [1.0], "indices of names"),
        ([0, 1], [1], [1.0], "one length"),
        ([], [], [], "at least 1"),
        ([0.0], [1], [1.0], "integers"),
    ],
)
def test_games_of_another_form_are_refused(first: Any, second: Any, outcome: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results.pairwise_results("ab", first, second, outcome)


def test_matches_of_another_form_are_refused() -> None:
    for players, ranks in (([[0]], [[1]]), ([[0, 0]], [[1, 2]]), ([[0, 5]], [[1, 2]]), ([[0, 1]], [[1]]), ([], [])):
        with pytest.raises(ValueError):
            results.ranked_results("ab", players, ranks)
    with pytest.raises(ValueError, match="names must differ"):
        results.ranked_results("aa", [[0, 1]], [[1, 2]])


# --- speed


@pytest.mark.slow
@pytest.mark.parametrize("intervals", ["sandwich", "bootstrap"])
def test_a_thousand_entrants_and_a_million_games_take_less_than_ten_seconds(intervals: str) -> None:
    """And the intervals hold the strengths that the games were drawn from: of 1,000, 93 to 97 %, 3 standard errors."""
    generator, n, pairs = np.random.default_rng(0), 1000, 500_000
    strength = generator.normal(0, 1.2, n)
    one = generator.integers(0, n, pairs)
    other = (one + 1 + generator.integers(0, n - 1, pairs)) % n
    first, second = np.stack([one, other], axis=1).ravel(), np.stack([other, one], axis=1).ravel()
    x = strength[first] - strength[second] + 0.2
    unnormalised = np.stack([np.exp(x / 2), np.full(len(x), 0.5), np.exp(-x / 2)], axis=1)
    edges = np.cumsum(unnormalised / unnormalised.sum(axis=1, keepdims=True), axis=1)
    outcome = 1 - (generator.random(len(x))[:, None] > edges[:, :2]).sum(axis=1) / 2
    begin = time.process_time()
    games = results.pairwise_results(
        [f"n{k:04}" for k in range(n)], first, second, outcome, np.repeat(np.arange(pairs), 2)
    )
    result = bradley_terry.fit(games, intervals=intervals, repetitions=200)
    result.rank_intervals()
    result.superiority()
    assert time.process_time() - begin < 10
    true = ELO_PER_LOG_ODDS * (strength - strength.mean())
    assert 0.93 <= np.mean((result.low <= true) & (true <= result.high)) <= 0.97


def test_a_hundred_entrants_are_rated_at_once() -> None:
    games = simulate_games(np.random.default_rng(0), np.linspace(-2, 2, 100), 4)
    begin = time.process_time()
    result = bradley_terry.fit(games, intervals="bootstrap")
    assert time.process_time() - begin < 5  # measured: 0.3
    assert np.corrcoef(result.elo, np.arange(100))[0, 1] > 0.97
