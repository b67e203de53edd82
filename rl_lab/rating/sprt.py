"""SPRT: whether one entrant is better than another by so much, asked again after every pair, with bounded errors.

H0: the Elo difference is at most elo0; H1: it is at least elo1. The statistic is the logarithm of the greatest
likelihood of the results under an expected score of elo1, over that under elo0, whatever else their distribution is
(the generalised test); it is compared with Wald's bounds log(beta / (1 - alpha)) and log((1 - beta) / alpha).

Source: Wald 1945; Van den Bergh, "A practical introduction to the GSPRT"; fishtest, fastchess
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from .paired import _observed, expected_score
from .results import Floats

_NEVER_SEEN = 1e-3  # counts for results that have not occurred, so that all-win data have a likelihood under H0


@dataclass(frozen=True)
class Verdict:
    """Where the test stands.

    state  "continue"; "H1": better by about elo1, with error rate alpha; or "H0": not, with error rate beta
    llr    log-likelihood ratio, and the bounds, lower to upper, between which the test goes on
    """

    state: str
    llr: float
    lower: float
    upper: float
    trials: int

    def line(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def sprt(
    results: ArrayLike, *, elo0: float = 0.0, elo1: float = 10.0, alpha: float = 0.05, beta: float = 0.05
) -> Verdict:
    """Return where the test stands.

    Args:
        results: counts [5] of pairs (0, 1/2, 1, 3/2 and 2 points) or [3] of games (losses, draws, wins).
        elo0: Elo points.
        elo1: Elo points, above elo0.
        alpha: how often H1 may be accepted at elo0.
        beta: how often H0 may be accepted at elo1.

    Raises ValueError for settings out of range and counts of another shape; no results at all are "continue".
    """
    if not (elo0 < elo1 and 0 < alpha < 0.5 and 0 < beta < 0.5):
        raise ValueError("expected elo0 < elo1, and alpha and beta between 0 and 0.5")
    lower, upper = math.log(beta / (1 - alpha)), math.log((1 - beta) / alpha)
    given = np.asarray(results, np.float64)
    if given.shape in ((3,), (5,)) and not given.any():
        return Verdict("continue", 0.0, lower, upper, 0)
    values, observed = _observed(results)
    llr = log_likelihood_ratio(values, observed, expected_score(elo0), expected_score(elo1))
    state = "H1" if llr >= upper else "H0" if llr <= lower else "continue"
    return Verdict(state, llr, lower, upper, int(observed.sum()))


def log_likelihood_ratio(values: Floats, observed: Floats, score0: float, score1: float) -> float:
    """Return the log-likelihood ratio of two expected scores for results worth values [k] that occurred so often [k].

    For an expected score s the likeliest probabilities are p / (1 + u (values - s)), where p are the frequencies and u
    makes them add up to 1.
    """
    seen = np.maximum(observed, _NEVER_SEEN)
    logs = [np.log1p(_tilt(values, seen / seen.sum(), s) * (values - s)) for s in (score0, score1)]
    return float(seen @ (logs[0] - logs[1]))


def _tilt(values: Floats, frequency: Floats, score: float) -> float:
    """Return the u at which the likeliest distribution of this expected score adds up to 1."""
    gap = values - score
    edge = 1 - 1e-12

    def slope(u: float) -> float:
        return float(frequency @ (gap / (1 + u * gap)))

    return float(brentq(slope, -edge / gap.max(), -edge / gap.min(), xtol=1e-14))
