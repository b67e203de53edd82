"""Tests that 95 % intervals contain the truth 95 % of the time, in tournaments whose exact probabilities are known.

Six tic-tac-toe policies, mixtures of random play, of a best response to it and of taking the first cell, meet each
other in pairs of swapped seats. Every result is sampled from the exact outcome distribution of its two entrants in
their seats; both games of half of the pairs have the same random number, as games of one seed may. No rating model is
right about them, so the truth is what ever more games of the schedule would lead to: the maximum-likelihood ratings of
the exact expected results.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from rl_lab.core.world import Array
from rl_lab.games import best_response, tabular_policy
from rl_lab.rating import bradley_terry, head_to_head, results

WORLD, SHARED_SEED_PROBABILITY = "tic_tac_toe", 0.5


@cache
def outcome_table() -> tuple[list[str], Array]:
    """Return the policies' names, and the probabilities of win, draw and loss of a row as x against a column as o."""
    random, share = tabular_policy.uniform, tabular_policy.mixture
    answers = [best_response.best_response(random, WORLD, seat) for seat in (0, 1)]
    best_responder = best_response.Response(0, 0.0, answers[0].actions | answers[1].actions)

    def first(observations: Array, action_mask: Array) -> Array:
        return np.eye(9)[action_mask.argmax(axis=1)]

    entrants: dict[str, Any] = {f"good {p}": share(p, best_responder, random) for p in (0.3, 0.6, 0.85)}
    entrants |= {
        "random": random,
        "first": share(0.5, first, random),
        "first or good": share(0.8, first, best_responder),
    }
    table = [
        [best_response.outcome_probs(one, other, WORLD) for other in entrants.values()] for one in entrants.values()
    ]
    return list(entrants), np.array(table)


def tournament(generator: np.random.Generator, pairs: int) -> tuple[results.PairwiseResults, Array, Array]:
    """Return a round robin, the probabilities behind each of its games, and points a pair: [pairings, pairs]."""
    names, table = outcome_table()
    n = len(names)
    one, other = (np.repeat(k, pairs) for k in np.triu_indices(n, 1))
    uniforms = generator.random((len(one), 2))
    has_shared_seed = generator.random(len(one)) < SHARED_SEED_PROBABILITY
    uniforms[has_shared_seed, 1] = uniforms[has_shared_seed, 0]
    uniforms[:, 1] = 1 - uniforms[:, 1]  # a number that is good for the first seat is bad for the other one
    first, second = (np.stack(k, axis=1).ravel() for k in ((one, other), (other, one)))
    outcome_probs = table[first, second]
    edges, uniform = np.cumsum(outcome_probs, axis=1), uniforms.ravel()
    outcome = np.where(uniform < edges[:, 0], 1.0, np.where(uniform < edges[:, 1], 0.5, 0.0))
    pair_number = np.repeat(np.tile(np.arange(pairs), len(one) // pairs), 2)
    points = np.where(first < second, outcome, 1 - outcome).reshape(-1, pairs, 2).mean(axis=2)
    games = results.pairwise_results(names, first, second, outcome, pair_number)
    index = [names.index(name) for name in games.names]
    return games, table[np.ix_(index, index)][games.first, games.second], points


def coverage(tournaments: int, pairs: int, **options: Any) -> tuple[Array, Array]:
    """Return how often intervals hold the truth: of each entrant's rating, and of each pairing's expected score."""
    generator, table = np.random.default_rng(2026), outcome_table()[1]
    mean = table[..., 0] + table[..., 1] / 2
    expected = ((mean + 1 - mean.T) / 2)[np.triu_indices(len(mean), 1)]
    ratings, scores, truth = [], [], None
    for _ in range(tournaments):
        games, outcome_probs, points = tournament(generator, pairs)
        result = bradley_terry.fit(games, **options)
        if truth is None:
            truth = bradley_terry.strengths(games, outcome_probs)
            truth = truth - (truth[result.names.index(result.anchor)] if result.anchor else 0)
        ratings.append((result.low <= truth) & (truth <= result.high))
        ends = np.array([head_to_head.score_interval(row) for row in points])
        scores.append((ends[:, 0] <= expected) & (expected <= ends[:, 1]))
    return np.mean(ratings, axis=0), np.mean(scores, axis=0)


def test_intervals_hold_the_truth_in_two_hundred_tournaments() -> None:
    """Of 200 x 6 ratings, at most independent, the standard error is 0.6 to 1.5 %: bounds of 2 of the greatest."""
    ratings, scores = coverage(200, pairs=20)
    assert 0.92 <= ratings.mean() <= 0.98 and 0.92 <= scores.mean() <= 0.98


def test_without_clusters_they_would_not() -> None:
    """Intervals that count games as independent are too narrow, so the test above can fail."""
    generator, hits = np.random.default_rng(1), []
    for _ in range(200):
        games, outcome_probs, _ = tournament(generator, 20)
        unclustered = results.pairwise_results(games.names, games.first, games.second, games.outcome)
        result, truth = bradley_terry.fit(unclustered), bradley_terry.strengths(games, outcome_probs)
        hits.append((result.low <= truth) & (truth <= result.high))
    assert np.mean(hits) < 0.93


@pytest.mark.slow
@pytest.mark.parametrize(
    "pairs, options",
    [(4, {}), (10, {}), (40, {}), (10, {"intervals": "bootstrap", "repetitions": 300}), (10, {"anchor": "random"})],
    ids=str,
)
def test_intervals_hold_the_truth_93_to_97_percent_of_the_time(
    pairs: int, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 2,000 tournaments: each entrant's standard error is 0.5 %, of the mean over entrants 0.2 to 0.5 %."""
    ratings, scores = coverage(2000, pairs, **options)
    names, anchor = sorted(outcome_table()[0]), options.get("anchor")
    rating_coverage = np.array([share for name, share in zip(names, ratings, strict=True) if name != anchor])
    with capsys.disabled():
        ratings_text = f"{rating_coverage.mean():.2%} ({rating_coverage.min():.1%} to {rating_coverage.max():.1%})"
        print(f"\n{pairs} pairs {options or 'sandwich'}: ratings {ratings_text}, of scores {scores.mean():.2%}")
    assert 0.93 <= rating_coverage.mean() <= 0.97 and rating_coverage.min() >= 0.92 and rating_coverage.max() <= 0.98
    # Intervals of a score from very few pairs are too wide rather than too narrow.
    assert scores.mean() >= 0.93 and (pairs < 10 or scores.mean() <= 0.97)
