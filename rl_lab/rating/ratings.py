"""This module has ratings on the Elo scale, with intervals, ranks and probabilities of superiority.

`bradley_terry` and `plackett_luce` fit strengths in log-odds; `build_ratings` converts them to `Ratings`, from which
`tables` makes rows. All functions are pure.

An Elo point is ln(10) / 400 of log-odds: at a difference of 400 points, the odds of a win against a loss are 10 to 1.

Source: Elo 1978, "The rating of chessplayers, past and present"; Mogstad, Romano, Shaikh and Wilhelm 2024, "Inference
for ranks" (rank intervals).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from rl_lab.rating.results import Floats, Ints

ELO_PER_LOG_ODDS = 400 / math.log(10)
_NO_ERROR = 1e-9  # Elo points: a smaller standard error of a difference is 0 but for rounding


@dataclass(frozen=True)
class Effect:
    """A parameter of the model other than a rating (first seat's advantage, draws), and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratings:
    """Ratings of n entrants.

    names       [n], sorted
    elo         [n], Elo points
    low, high   [n], the interval of each rating; the anchor's has no width
    covariance  [n, n], Elo points squared, of differences to the anchor; always the sandwich estimate
    anchor      the entrant whose rating is fixed, or None: then the mean is
    confidence  the nominal coverage of the intervals
    seat        the advantage of the first seat, in Elo points; None if it was not fitted
    draw        Davidson's draw parameter exp(d), the odds of a draw against a win between equals; None without draws
    """

    names: tuple[str, ...]
    elo: Floats
    low: Floats
    high: Floats
    covariance: Floats
    anchor: str | None
    confidence: float
    seat: Effect | None = None
    draw: Effect | None = None

    def rank_intervals(self) -> tuple[Ints, Ints]:
        """Return each entrant's best and worst plausible rank, int [n] each; rank 1 is the best.

        The best is 1 + the number of entrants that are significantly better, the worst is n - the number of those that
        are significantly worse, at this confidence with Bonferroni's correction for n - 1 differences.
        """
        n = len(self.names)
        bound = float(ndtri(1 - (1 - self.confidence) / 2 / max(n - 1, 1)))
        z = self._z_scores()
        return 1 + (z < -bound).sum(axis=1), n - (z > bound).sum(axis=1)

    def superiority(self) -> Floats:
        """Return the probability, [n, n], that the row's entrant is stronger than the column's; 0.5 on the diagonal."""
        probability: Floats = ndtr(self._z_scores())
        return probability

    def _z_scores(self) -> Floats:
        """Return rating differences, row less column, over their standard errors, [n, n].

        They are 0 or infinite where the standard error is 0.
        """
        variance = np.diag(self.covariance)
        error = np.sqrt(np.maximum(variance[:, None] + variance - 2 * self.covariance, 0))
        difference = self.elo[:, None] - self.elo
        infinite = np.where(difference > 0, np.inf, np.where(difference < 0, -np.inf, 0.0))
        z: Floats = np.divide(difference, error, out=infinite, where=error > _NO_ERROR)
        return z


def check_settings(prior: float | None, intervals: str, repetitions: int) -> None:
    """Raise ValueError for settings of a fit that are out of range; see `bradley_terry.fit`."""
    if intervals not in ("sandwich", "bootstrap"):
        raise ValueError(f"intervals={intervals!r}: expected sandwich or bootstrap")
    if prior is not None and not 0 < prior < math.inf or repetitions < 2:
        raise ValueError(f"prior={prior}, repetitions={repetitions}: expected above 0, and at least 2")


def build_ratings(
    names: tuple[str, ...],
    strength: Floats,
    covariance: Floats,
    deviations: Floats | None,
    anchor: str | None,
    anchor_elo: float,
    confidence: float,
    **effects: Any,
) -> Ratings:
    """Return ratings from strengths [n] in log-odds and their covariance [n, n].

    Intervals are normal, or the percentiles of the strengths' bootstrap deviations `deviations` [R, n].
    """
    n = len(names)
    if anchor is not None and anchor not in names:
        from rl_lab.core.errors import nearest

        raise ValueError(f"no entrant {anchor!r} to anchor the ratings at; {nearest(anchor, names)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected between 0 and 1")
    # The origin of the scale is a weighted mean of the strengths: the mean of all, or the anchor's.
    origin = np.full(n, 1 / n) if anchor is None else np.eye(n)[names.index(anchor)]
    contrast = np.eye(n) - origin
    elo = ELO_PER_LOG_ODDS * (strength - strength @ origin) + anchor_elo
    elo_covariance = ELO_PER_LOG_ODDS**2 * contrast @ covariance @ contrast.T
    half_width = ndtri((1 + confidence) / 2) * np.sqrt(np.maximum(np.diag(elo_covariance), 0))
    low, high = elo - half_width, elo + half_width
    if deviations is not None:
        elo_deviations = ELO_PER_LOG_ODDS * (deviations - (deviations @ origin)[:, None])
        low, high = elo + np.quantile(elo_deviations, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    if anchor is not None:
        low[names.index(anchor)] = high[names.index(anchor)] = anchor_elo
    return Ratings(names, elo, low, high, elo_covariance, anchor, confidence, **effects)


def wald_interval(value: float, error: float, confidence: float, scale: float = ELO_PER_LOG_ODDS) -> Effect:
    """Return a parameter and its normal interval, from its standard error, all multiplied by a scale."""
    half_width = float(ndtri((1 + confidence) / 2)) * error
    return Effect(scale * value, scale * (value - half_width), scale * (value + half_width))


def exp_effect(effect: Effect) -> Effect:
    """Return the exponential of an effect and of its interval."""
    return Effect(math.exp(effect.value), math.exp(effect.low), math.exp(effect.high))
