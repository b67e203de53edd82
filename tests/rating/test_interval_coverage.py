"""Whether 95 % intervals hold the truth 95 % of the time, in tournaments whose exact probabilities are known.

Six tic-tac-toe policies, mixtures of random play, of a best answer to it and of taking the first cell, meet each other
in pairs of swapped seats. Every result is drawn from the exact outcome distribution of its two entrants in their seats;
half of the pairs share their luck, as games of one seed may. No rating model is right about them, so the truth is what
ever more games of the schedule would lead to: the maximum-likelihood ratings of the exact expected results.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from rl_lab.core.world import Array
from rl_lab.games import best_response, tabular_policy
from rl_lab.rating import bradley_terry, head_to_head, results

WORLD, SHARED = "tic_tac_toe", 0.5


@cache
def field() -> tuple[list[str], Array]:
    """Return the policies' names, and the probabilities of win, draw and loss of a row as x against a column as o."""
    random, share = tabular_policy.uniform, tabular_policy.mixture
    answers = [best_response.best_response(random, WORLD, seat) for seat in (0, 1)]
    good = best_response.Response(0, 0.0, answers[0].actions | answers[1].actions)

    def first(seen: Array, action_mask: Array) -> Array:
        return np.eye(9)[action_mask.argmax(axis=1)]

    entrants: dict[str, Any] = {f"good {p}": share(p, good, random) for p in (0.3, 0.6, 0.85)}
    entrants |= {"random": random, "first": share(0.5, first, random), "first or good": share(0.8, first, good)}
    table = [[best_response.outcomes(one, other, WORLD) for other in entrants.values()] for one in entrants.values()]
    return list(entrants), np.array(table)


def tournament(generator: np.random.Generator, pairs: int) -> tuple[results.PairwiseResults, Array, Array]:
    """Return a round robin, the probabilities behind each of its games, and points a pair: [pairings, pairs]."""
    names, table = field()
    n = len(names)
    one, other = (np.repeat(k, pairs) for k in np.triu_indices(n, 1))
    dice = generator.random((len(one), 2))
    shared = generator.random(len(one)) < SHARED
    dice[shared, 1] = dice[shared, 0]
    dice[:, 1] = 1 - dice[:, 1]  # the same luck, seen from the other seat
    first, second = (np.stack(k, axis=1).ravel() for k in ((one, other), (other, one)))
    chance = table[first, second]
    edges, luck = np.cumsum(chance, axis=1), dice.ravel()
    outcome = np.where(luck < edges[:, 0], 1.0, np.where(luck < edges[:, 1], 0.5, 0.0))
    number = np.repeat(np.tile(np.arange(pairs), len(one) // pairs), 2)
    points = np.where(first < second, outcome, 1 - outcome).reshape(-1, pairs, 2).mean(axis=2)
    games = results.duels(names, first, second, outcome, number)
    index = [names.index(name) for name in games.names]
    return games, table[np.ix_(index, index)][games.first, games.second], points


def coverage(tournaments: int, pairs: int, **options: Any) -> tuple[Array, Array]:
    """Return how often intervals hold the truth: of each entrant's rating, and of each pairing's expected score."""
    generator, table = np.random.default_rng(2026), field()[1]
    mean = table[..., 0] + table[..., 1] / 2
    expected = ((mean + 1 - mean.T) / 2)[np.triu_indices(len(mean), 1)]
    ratings, scores, truth = [], [], None
    for _ in range(tournaments):
        games, chance, points = tournament(generator, pairs)
        found = bradley_terry.fit(games, **options)
        if truth is None:
            truth = bradley_terry.strengths(games, chance)
            truth = truth - (truth[found.names.index(found.anchor)] if found.anchor else 0)
        ratings.append((found.low <= truth) & (truth <= found.high))
        ends = np.array([head_to_head.score_interval(row) for row in points])
        scores.append((ends[:, 0] <= expected) & (expected <= ends[:, 1]))
    return np.mean(ratings, axis=0), np.mean(scores, axis=0)


def test_intervals_hold_the_truth_in_two_hundred_tournaments() -> None:
    """Of 200 x 6 ratings, at most independent, the standard error is 0.6 to 1.5 %: bounds of 2 of the greatest."""
    ratings, scores = coverage(200, pairs=20)
    assert 0.92 <= ratings.mean() <= 0.98 and 0.92 <= scores.mean() <= 0.98


def test_without_clusters_they_would_not() -> None:
    """What is not seen of the luck that pairs share makes intervals too narrow: the test above has teeth."""
    generator, hits = np.random.default_rng(1), []
    for _ in range(200):
        games, chance, _ = tournament(generator, 20)
        alone = results.duels(games.names, games.first, games.second, games.outcome)
        found, truth = bradley_terry.fit(alone), bradley_terry.strengths(games, chance)
        hits.append((found.low <= truth) & (truth <= found.high))
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
    names, anchor = sorted(field()[0]), options.get("anchor")
    rated = np.array([share for name, share in zip(names, ratings, strict=True) if name != anchor])
    with capsys.disabled():
        shown = f"{rated.mean():.2%} ({rated.min():.1%} to {rated.max():.1%}), of scores {scores.mean():.2%}"
        print(f"\n{pairs} pairs {options or 'sandwich'}: ratings {shown}")
    assert 0.93 <= rated.mean() <= 0.97 and rated.min() >= 0.92 and rated.max() <= 0.98
    # Intervals of a score from very few pairs are too wide rather than too narrow.
    assert scores.mean() >= 0.93 and (pairs < 10 or scores.mean() <= 0.97)
