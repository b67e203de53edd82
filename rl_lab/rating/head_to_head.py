"""This module compares two entrants: score, Elo difference and their errors, from games or pairs of games.

`tournament.compare` counts results with `count_results` and describes them with `compare`; all functions are pure.

The games of a pair share a seed and swap seats, so pairs are independent and games are not. A pair has five results (0,
1/2, 1, 3/2 and 2 points, "pentanomial"). Their variance is smaller than that of single games if seats or openings
matter, and greater if the seed decides both games. Single games have three results: loss, draw and win ("trinomial").

Source: "Fishtest mathematics", wiki of Stockfish's fishtest, and the chess match program fastchess (the quantities);
Wilson 1927, "Probable inference, the law of succession, and statistical inference" (interval of a proportion).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rl_lab.rating.results import Floats, Ints, PairwiseResults

_NORMALIZED_ELO = 800 / math.log(10)  # Elo points of a mean score that is one standard deviation of a game above 1/2
_MIN_VARIANCE = 1e-18  # of scores: below it, they are equal but for rounding


@dataclass(frozen=True)
class Comparison:
    """A comparison of one entrant with another.

    trials      games, or pairs of games
    score       the mean score of a game, 0 to 1, and its interval low to high
    elo         400 log10(score / (1 - score)), and its interval; None if infinite
    elo_error   half the width of the normal interval of elo, as chess programs print it; None if it is infinite or all
                results are equal
    normalized  (score - 1/2) over the standard deviation of a game, times 800 / ln 10; None if all results are equal
    los         the probability that this entrant is the stronger one ("likelihood of superiority"), by the normal
                distribution; if all results are equal, 1 - 2^-(trials + 1), the posterior probability that a coin of
                unknown bias favours the side that it showed in every trial
    """

    trials: int
    score: float
    low: float
    high: float
    elo: float | None
    elo_low: float | None
    elo_high: float | None
    elo_error: float | None
    normalized: float | None
    los: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        return asdict(self)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a probability, from the number of successes in a number of trials."""
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def elo(score: float) -> float | None:
    """Return the Elo difference for an expected score, 0 to 1; None for 0 and 1, where it is infinite.

    The formula is 400 log10(score / (1 - score)).
    """
    return 400 * math.log10(score / (1 - score)) if 0 < score < 1 else None


def expected_score(difference: float) -> float:
    """Return the expected score, 0 to 1, for an Elo difference: 1 / (1 + 10^(-difference / 400))."""
    return 1 / (1 + 10 ** (-difference / 400))


def count_results(games: PairwiseResults, one: str, other: str) -> tuple[Ints, Ints]:
    """Return counts of the results of complete pairs, int [5], and of games without a counterpart, int [3].

    The first are the pairs in which `one` scored 0, 1/2, 1, 3/2 and 2 points against `other`; the second are the
    losses, draws and wins of `one`. Raises ValueError for unknown names.
    """
    for name in (one, other):
        if name not in games.names:
            raise ValueError(f"no entrant {name!r} in these games")
    a, b = games.names.index(one), games.names.index(other)
    between = ((games.first == a) & (games.second == b)) | ((games.first == b) & (games.second == a))
    points = np.where(games.first == a, games.outcome, 1 - games.outcome)[between]
    cluster, first = games.cluster[between], games.first[between]
    size, in_first_seat = np.bincount(cluster), np.bincount(cluster, first == a)
    is_complete = (size == 2) & (in_first_seat == 1)  # of each cluster: two games, one with `one` in the first seat
    pair_points = np.bincount(cluster, points)[is_complete]
    single_points = points[~is_complete[cluster]]
    pairs, singles = ((2 * half_points).astype(np.int64) for half_points in (pair_points, single_points))
    return np.bincount(pairs, minlength=5), np.bincount(singles, minlength=3)


def compare(results: ArrayLike, confidence: float = 0.95) -> Comparison:
    """Return the comparison from counts of games [3] (losses, draws, wins) or of pairs [5] (see `count_results`).

    Raises ValueError for other shapes, negative counts, and counts that are all 0.
    """
    values, observed = scores_and_counts(results)
    trials = int(observed.sum())
    score = float(observed @ values) / trials
    variance = float(observed @ (values - score) ** 2) / trials
    error = math.sqrt(variance / trials)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    low, high = _score_interval(observed, values, confidence)
    elo_ends = elo(score - z * error), elo(score + z * error)
    # The standard deviation of a game: the mean of a pair has half the variance.
    deviation = math.sqrt(variance * (len(values) - 1) / 2)
    return Comparison(
        trials=trials,
        score=score,
        low=low,
        high=high,
        elo=elo(score),
        elo_low=elo(low),
        elo_high=elo(high),
        elo_error=_half_width(*elo_ends) if error else None,
        normalized=(score - 0.5) / deviation * _NORMALIZED_ELO if deviation else None,
        los=float(stats.norm.cdf((score - 0.5) / error)) if error else _los_of_equal_results(score, trials),
    )


def _half_width(low: float | None, high: float | None) -> float | None:
    """Return half the width of an interval, None if one of its ends is infinite (None)."""
    return None if low is None or high is None else (high - low) / 2


def score_interval(points: Sequence[float] | Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of the expected score from mean scores [C] of independent pairs or games, each 0 to 1.

    It is Wilson's interval for the number of trials at which a binomial proportion has the variance of these scores,
    with Student's quantile in place of the normal one. If all scores are equal, each counts as one trial.
    """
    values, observed = np.unique(np.asarray(points, np.float64), return_counts=True)
    return _score_interval(observed.astype(np.float64), values, confidence)


def _score_interval(observed: Floats, values: Floats, confidence: float) -> tuple[float, float]:
    """Return the interval of `score_interval` from the counts `observed` [k] of the scores `values` [k]."""
    n = float(observed.sum())
    score = float(observed @ values) / n
    trials, z = n, float(stats.norm.ppf((1 + confidence) / 2))
    variance = float(observed @ (values - score) ** 2) / max(n - 1, 1)
    if variance > _MIN_VARIANCE:
        trials *= score * (1 - score) / variance
        z = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    middle = (score + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(score * (1 - score) / trials + z**2 / (4 * trials**2))
    return 0.0 if score == 0 else max(middle - half, 0.0), 1.0 if score == 1 else min(middle + half, 1.0)


def _los_of_equal_results(score: float, trials: int) -> float:
    """Return the likelihood of superiority where all results are equal; `Comparison` has the formula."""
    return 0.5 + math.copysign(0.5 - 0.5 ** (trials + 1), score - 0.5) if score != 0.5 else 0.5


def scores_and_counts(results: ArrayLike) -> tuple[Floats, Floats]:
    """Return the score of each kind of result, and its number of occurrences. Raises ValueError for other shapes."""
    observed = np.asarray(results, np.float64)
    if observed.shape not in ((3,), (5,)) or (observed < 0).any() or not observed.sum():
        raise ValueError(f"expected counts of 3 results of games or of 5 of pairs, got {np.shape(results)}")
    return np.linspace(0, 1, len(observed)), observed
