"""Ratings on the Elo scale, and what follows from them and their covariance: intervals, ranks, who is stronger.

An Elo point is ln(10) / 400 of log-odds: 400 points are odds of 10 to 1 of a win against a loss.

Source: Elo 1978; Mogstad, Romano, Shaikh and Wilhelm 2024, "Inference for ranks" (rank intervals)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from .results import Floats, Ints

POINTS = 400 / math.log(10)  # Elo points of one unit of log-odds


@dataclass(frozen=True)
class Effect:
    """A number beside the ratings, and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratings:
    """Ratings of n entrants.

    names       [n], sorted
    elo         [n], Elo points
    low, high   [n], the interval of each; of the anchor, of no width
    covariance  [n, n], Elo points squared, of differences to the anchor, by the sandwich whatever the intervals are
    anchor      the entrant whose rating was given, or None: then the mean was
    confidence  the coverage that the intervals aim at
    seat        what the first seat is worth, in Elo points; None where it was not fitted
    draw        Davidson's draw parameter exp(d): between equals, how likely a draw is against a win; None without draws
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
        """Return the best and the worst rank, int [n] each, that an entrant may have: 1 is first.

        One's rank lies between 1 + those who are surely better and n - those who are surely worse, where sure means
        that the difference is significant at this confidence, by Bonferroni over its n - 1 differences.
        """
        n = len(self.names)
        bound = float(ndtri(1 - (1 - self.confidence) / 2 / max(n - 1, 1)))
        z = self._differences()
        return 1 + (z < -bound).sum(axis=1), n - (z > bound).sum(axis=1)

    def superiority(self) -> Floats:
        """Return [n, n], how probably the row's is stronger than the column's, by the normal law; 0.5 with itself."""
        found: Floats = ndtr(self._differences())
        return found

    def _differences(self) -> Floats:
        """Return differences over their standard errors, [n, n]; what does not vary differs surely or not at all."""
        variance = np.diag(self.covariance)
        error = np.sqrt(np.maximum(variance[:, None] + variance - 2 * self.covariance, 0))
        gap = self.elo[:, None] - self.elo
        sure = np.where(gap > 0, np.inf, np.where(gap < 0, -np.inf, 0.0))
        z: Floats = np.divide(gap, error, out=sure, where=error > 1e-9)
        return z


def rated(
    names: tuple[str, ...],
    strength: Floats,
    covariance: Floats,
    moves: Floats | None,
    anchor: str | None,
    anchor_elo: float,
    confidence: float,
    **effects: Any,
) -> Ratings:
    """Return ratings from strengths [n] in log-odds and their covariance [n, n].

    Intervals are normal, or with bootstrap moves [R, n] of the strengths their percentiles.
    """
    n = len(names)
    if anchor is not None and anchor not in names:
        from ..names import nearest

        raise ValueError(f"no entrant {anchor!r} to anchor the ratings at; {nearest(anchor, names)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected between 0 and 1")
    base = np.full(n, 1 / n) if anchor is None else np.eye(n)[names.index(anchor)]
    contrast = np.eye(n) - base
    elo = POINTS * (strength - strength @ base) + anchor_elo
    spread = POINTS**2 * contrast @ covariance @ contrast.T
    half = ndtri((1 + confidence) / 2) * np.sqrt(np.maximum(np.diag(spread), 0))
    low, high = elo - half, elo + half
    if moves is not None:
        shifts = POINTS * (moves - (moves @ base)[:, None])
        low, high = elo + np.quantile(shifts, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    if anchor is not None:
        low[names.index(anchor)] = high[names.index(anchor)] = anchor_elo
    return Ratings(names, elo, low, high, spread, anchor, confidence, **effects)


def effect(value: float, error: float, confidence: float, scale: float = POINTS) -> Effect:
    """Return a parameter and its normal interval, times a scale."""
    half = float(ndtri((1 + confidence) / 2)) * error
    return Effect(scale * value, scale * (value - half), scale * (value + half))


def odds(found: Effect) -> Effect:
    """Return the exponential of an effect."""
    return Effect(math.exp(found.value), math.exp(found.low), math.exp(found.high))
