"""Statistics of learning curves: scores along the budget, steps to a score, and the speed-up against another arm.

Shapes: S seeds, K points of a curve, r resamples of the bootstrap. Intervals are 95 % percentile intervals of
`evaluation.stats.bootstrap_ci` over seeds; each arm is a stratum, so its seeds are drawn independently of the others'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_lab.evaluation.stats import bootstrap_ci, iqm, reaches

FloatArray = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """The learning curve of one seed: ascending steps [K], scores [K], and the score before training."""

    steps: Sequence[float]
    scores: Sequence[float]
    start: float

    def at(self, steps: Sequence[float]) -> FloatArray:
        """Return the scores after so many steps, interpolated linearly; the last one holds beyond the last step."""
        scores = np.interp(np.asarray(steps, float), [0.0, *self.steps], [self.start, *self.scores])
        return np.asarray(scores, np.float64)

    def steps_to(self, score: float) -> float:
        """Return the steps of the first measurement in training that reaches this score; infinity where none does.

        The score before training does not count: a speed-up would be infinite.
        """
        return next((s for s, value in zip(self.steps, self.scores, strict=True) if reaches(value, score)), math.inf)


def estimate(values: Sequence[float] | FloatArray) -> dict[str, Any]:
    """Return the IQM of one value for each seed, with its interval."""
    return {"iqm": iqm(values), "ci95": bootstrap_ci(values, iqm)}


def difference(arm: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Return the IQM of an arm less that of the baseline, with its interval; both have S seeds."""
    pairs = np.column_stack([arm, baseline])

    def statistic(resamples: FloatArray, axis: tuple[int, ...]) -> FloatArray:
        return iqm(resamples[:, :, 0], axis=(1,)) - iqm(resamples[:, :, 1], axis=(1,))

    return {"iqm": iqm(pairs[:, 0]) - iqm(pairs[:, 1]), "ci95": bootstrap_ci(pairs, statistic)}


def dip(curve: Curve) -> float:
    """Return by how much the score fell below that before training, at its lowest; 0 where it never did."""
    return max(0.0, curve.start - min(curve.scores))


@dataclass(frozen=True)
class StepsTo:
    """The steps of S seeds to a score. Seeds that never reach it are censored: they count with the whole budget."""

    steps: FloatArray
    censored: int

    @property
    def is_bound(self) -> bool:
        """Return whether the IQM depends on censored seeds, so that it is a lower bound of the steps.

        The IQM drops the S // 4 largest values, so that few censored seeds do not affect it.
        """
        return self.censored > len(self.steps) // 4

    def as_json(self) -> dict[str, Any]:
        """Return the IQM, its interval and the censored seeds as data for JSON."""
        return {
            **estimate(self.steps),
            "bound": "at least" if self.is_bound else "exact",
            "reached": len(self.steps) - self.censored,
            "seeds": len(self.steps),
        }


def steps_to(curves: Sequence[Curve], score: float, budget: float, extra: float = 0.0) -> StepsTo:
    """Return the steps of each seed to a score, with `extra` steps that were spent before training."""
    steps = np.array([curve.steps_to(score) for curve in curves])
    censored = int(np.isinf(steps).sum())
    return StepsTo(np.where(np.isinf(steps), budget, steps) + extra, censored)


def speed_up(baseline: StepsTo, arm: StepsTo) -> dict[str, Any] | None:
    """Return the baseline's steps over those of the arm, with its interval; None where neither reaches the score.

    `bound` says what censored seeds make of it: "at least" where the baseline's IQM depends on them, "at most" where
    that of the arm does, "unknown" where both do, else "exact". It holds for the interval, too.
    """
    if baseline.censored == len(baseline.steps) and arm.censored == len(arm.steps):
        return None
    pairs = np.column_stack([baseline.steps, arm.steps])

    def statistic(resamples: FloatArray, axis: tuple[int, ...]) -> FloatArray:
        return iqm(resamples[:, :, 0], axis=(1,)) / iqm(resamples[:, :, 1], axis=(1,))

    bounds = {(False, False): "exact", (True, False): "at least", (False, True): "at most", (True, True): "unknown"}
    return {
        "ratio": iqm(pairs[:, 0]) / iqm(pairs[:, 1]),
        "ci95": bootstrap_ci(pairs, statistic),
        "bound": bounds[baseline.is_bound, arm.is_bound],
    }
