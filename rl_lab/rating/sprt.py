"""This module has the sequential probability ratio test: it decides after any pair of games, with bounded error rates.

`tournament.compare` calls `sprt` between matches and stops when the state is "H0" or "H1". All functions are pure.

H0: the Elo difference is at most elo0; H1: it is at least elo1. The statistic is the logarithm of the greatest
likelihood of the results over all distributions with the expected score of elo1, over that of elo0 (the generalized
test). It is compared with Wald's bounds log(beta / (1 - alpha)) and log((1 - beta) / alpha).

Source: Wald 1945, "Sequential tests of statistical hypotheses" (bounds); Van den Bergh, "A practical introduction to
the GSPRT" (the statistic, as in Stockfish's fishtest and in fastchess).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from rl_lab.rating.head_to_head import expected_score, scores_and_counts
from rl_lab.rating.results import Floats

_MIN_COUNT = 1e-3  # for results that have not occurred, so that data of wins alone have a likelihood under H0


@dataclass(frozen=True)
class SprtState:
    """The state of a test.

    state   "continue"; "H1": better by about elo1, with error rate alpha; or "H0": not better, with error rate beta
    llr     the log-likelihood ratio; the test continues while it is between `lower` and `upper`
    trials  pairs, or games, so far
    """

    state: str
    llr: float
    lower: float
    upper: float
    trials: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        return asdict(self)


def sprt(
    results: ArrayLike, *, elo0: float = 0.0, elo1: float = 10.0, alpha: float = 0.05, beta: float = 0.05
) -> SprtState:
    """Return the state of the test; without results it is "continue".

    Args:
        results: counts [5] of pairs (0, 1/2, 1, 3/2 and 2 points) or [3] of games (losses, draws, wins).
        elo0: Elo points.
        elo1: Elo points, above elo0.
        alpha: the probability of accepting H1 at elo0.
        beta: the probability of accepting H0 at elo1.

    Raises:
        ValueError: a setting is out of range, or the counts have another shape.
    """
    if not (elo0 < elo1 and 0 < alpha < 0.5 and 0 < beta < 0.5):
        raise ValueError("expected elo0 < elo1, and alpha and beta between 0 and 0.5")
    lower, upper = math.log(beta / (1 - alpha)), math.log((1 - beta) / alpha)
    counts = np.asarray(results, np.float64)
    if counts.shape in ((3,), (5,)) and not counts.any():
        return SprtState("continue", 0.0, lower, upper, 0)
    values, observed = scores_and_counts(results)
    llr = log_likelihood_ratio(values, observed, expected_score(elo0), expected_score(elo1))
    state = "H1" if llr >= upper else "H0" if llr <= lower else "continue"
    return SprtState(state, llr, lower, upper, int(observed.sum()))


def log_likelihood_ratio(values: Floats, observed: Floats, score0: float, score1: float) -> float:
    """Return the log-likelihood ratio of two expected scores, for results with scores `values` [k] and counts [k].

    For an expected score s, the most likely probabilities are p / (1 + u (values - s)), where p are the frequencies and
    u is such that their mean score is s. Each result changes the log-likelihood of p by -log(1 + u (value - s)).
    """
    counts = np.maximum(observed, _MIN_COUNT)
    frequency = counts / counts.sum()
    losses = [np.log1p(_multiplier(values, frequency, s) * (values - s)) for s in (score0, score1)]
    return float(counts @ (losses[0] - losses[1]))


def _multiplier(values: Floats, frequency: Floats, score: float) -> float:
    """Return the u of `log_likelihood_ratio`, a Lagrange multiplier, at which the mean score is `score`."""
    difference = values - score
    inside = 1 - 1e-12  # of the interval of u in which all probabilities are positive, whose ends have no value

    def mean_difference(u: float) -> float:
        return float(frequency @ (difference / (1 + u * difference)))

    return float(brentq(mean_difference, -inside / difference.max(), -inside / difference.min(), xtol=1e-14))
