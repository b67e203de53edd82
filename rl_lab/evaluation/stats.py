"""Statistics of returns for evaluations, tournaments and reports, as pure functions of arrays.

Shapes: E episodes of one agent, S training seeds, K tasks (strata), R bootstrap repetitions. All functions
compute in float64. Every function but `reaches` and `why_no_interval` raises ValueError, in one line, for input
that is empty, not numeric, not finite, out of range, or of another shape than its docstring says.

Percentile intervals of few seeds are too narrow: on normal scores, the 95% interval of the IQM was measured
to cover the truth 50% of the time with 2 seeds, 75% with 3, 90% with 5 and 94% with 10, as `coverage` in
tests/evaluation/test_stats.py measures it.

Source: Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice", and its library, rliable.
"""

import math
from collections.abc import Callable
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Axes = tuple[int, ...]  # of an array
Interval = tuple[float, float]
Statistic = Callable[..., Any]  # see `bootstrap_ci`
JsonDict = dict[str, Any]

# Intervals of fewer seeds come with a warning. Those of three are too narrow, too, see above, but widely reported.
_FEWEST_SEEDS, _ENOUGH_SEEDS = 3, 10
_REL_TOLERANCE, _ABS_TOLERANCE = 1e-7, 1e-9  # of sums of rewards, which an environment may compute in float32
_BLOCK_SCORES = 2**22  # scores resampled at a time; it limits a bootstrap's memory and does not affect its result


@overload
def iqm(scores: ArrayLike, axis: None = None) -> float: ...
@overload
def iqm(scores: ArrayLike, axis: Axes) -> FloatArray: ...
def iqm(scores: ArrayLike, axis: Axes | None = None) -> float | FloatArray:
    """Return the interquartile mean: the mean without the n // 4 lowest and the n // 4 highest scores.

    It equals `scipy.stats.trim_mean(scores, 0.25, axis=None)`; for fewer than four scores it is the mean.

    Args:
        scores: [S], [S, K] or, resampled, [r, S, K].
        axis: axes to reduce, leaving float64 of the remaining shape; by default all, leaving a float.

    Source: Agarwal et al. 2021 (rliable's aggregate_iqm).
    """
    values = _finite("scores", scores, 3)
    axes = tuple(range(values.ndim)) if axis is None else axis
    values = np.moveaxis(values, axes, range(-len(axes), 0))
    values = values.reshape(*values.shape[: -len(axes)], -1)
    n = values.shape[-1]
    # A full sort, not a partition, so that the sum and its rounding do not depend on the order of the seeds.
    middle = np.sort(values, axis=-1)[..., n // 4 : n - n // 4]
    means: FloatArray = np.mean(middle, axis=-1)
    return float(means) if axis is None else means


def reaches(value: float, threshold: float) -> bool:
    """Return whether a return is at least a threshold, up to rounding: the sum of ten times 0.1 reaches 1."""
    return value >= threshold or math.isclose(value, threshold, rel_tol=_REL_TOLERANCE, abs_tol=_ABS_TOLERANCE)


def summary(returns: ArrayLike, lengths: ArrayLike | None = None, success: ArrayLike | None = None) -> JsonDict:
    """Return statistics of the episodes of one agent.

    Args:
        returns: [E] undiscounted episode returns.
        lengths: [E] episode lengths in environment steps, where known.
        success: [E] bool, or 0 and 1, where the world defines success. Other values raise ValueError.

    Returns:
        A dictionary for JSON: `episodes` (int); `mean_return`, `iqm_return`, `median_return`, `min_return`,
        `max_return` and `std_return` (of the population, ddof 0), floats; `mean_length` and `success_rate`
        (0 to 1), None where not given; `ci95` (low, high), the interval of the mean by `bootstrap_ci`; `warning`, a
        line where that is of no width because of one episode or of equal ones, else None.
    """
    scores = _finite("returns", returns, 1)
    means: dict[str, float | None] = {"lengths": None, "success": None}
    for name, optional in (("lengths", lengths), ("success", success)):
        if optional is None:
            continue
        values = _finite(name, optional, 1)
        if len(values) != len(scores):
            raise ValueError(f"{name} has {len(values)} episodes, returns has {len(scores)}")
        if name == "success" and not np.isin(values, (0, 1)).all():
            raise ValueError("success must hold only true and false, or 1 and 0")
        means[name] = float(np.mean(values))
    return {
        "episodes": len(scores),
        "mean_return": float(np.mean(scores)),
        "iqm_return": iqm(scores),
        "median_return": float(np.median(scores)),
        "min_return": float(np.min(scores)),
        "max_return": float(np.max(scores)),
        "std_return": float(np.std(scores)),
        "mean_length": means["lengths"],
        "success_rate": means["success"],
        "ci95": bootstrap_ci(scores, np.mean),
        "warning": why_no_interval(len(scores), float(np.min(scores)), float(np.max(scores)), "episode"),
    }


def why_no_interval(count: int, low: float, high: float, unit: str) -> str | None:
    """Return why samples have no useful interval: there is one sample, or all are equal. Return None otherwise.

    Args:
        count: number of samples.
        low: the least sample.
        high: the greatest sample.
        unit: the name of one sample: "episode", "seed".
    """
    if count == 1:
        return f"no interval from one {unit}"
    return f"no interval: all {count:,} {unit}s gave the same" if low == high else None


def across_seeds(scores: ArrayLike) -> JsonDict:
    """Return statistics of training seeds with one score each.

    Args:
        scores: [S] mean return of each seed.

    Returns:
        A dictionary for JSON: `seeds` (int); `mean`, `iqm`, `median`, `min` and `max`, floats; `ci95` (low, high),
        the interval of the IQM by `bootstrap_ci`; `warning`, a line where S is below 3, or all scores are equal, else
        None.

    Source: Agarwal et al. 2021.
    """
    values = _finite("scores", scores, 1)
    seeds = f"{len(values)} seed{'s' if len(values) > 1 else ''}"
    few = f"the interval of {seeds} covers far less than 95%; want at least {_FEWEST_SEEDS}, better {_ENOUGH_SEEDS}"
    equal = why_no_interval(len(values), float(np.min(values)), float(np.max(values)), "seed")
    return {
        "seeds": len(values),
        "mean": float(np.mean(values)),
        "iqm": iqm(values),
        "median": float(np.median(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "ci95": bootstrap_ci(values, iqm),
        "warning": few if len(values) < _FEWEST_SEEDS else equal,
    }


def bootstrap_ci(
    scores: ArrayLike, statistic: Statistic, *, repetitions: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the percentile interval (low, high) of a statistic by stratified bootstrap over seeds.

    Each column is a stratum: its seeds are drawn with replacement, independently of the other columns.

    Args:
        scores: [S] or [S, K]. With S = 1 nothing varies, and low and high are the statistic itself.
        statistic: called with some of the R resamples at once, as `statistic(resamples, axis=(1, 2))` with
            float64 [r, S, K], to return [r], else ValueError. `numpy.mean`, `numpy.median` and `iqm` fit.
        repetitions: R, at least 1.
        confidence: the nominal coverage, between 0 and 1.
        seed: seed of the resampling; the same seed gives the same interval.

    Source: Agarwal et al. 2021 (rliable's StratifiedBootstrap, method "percentile").
    """
    return _interval(_samples(scores=scores), statistic, repetitions, confidence, seed)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Return the probability that a run of X scores above a run of Y on the same task, averaged over tasks.

    On each task it is P(X > Y) + P(X = Y) / 2: the Mann-Whitney U statistic over the number of pairs.

    Args:
        x: [S] or [S, K] scores of one algorithm.
        y: [S'] or [S', K] scores of the other, of any number of seeds. Another K raises ValueError.

    Source: Agarwal et al. 2021 (rliable's probability_of_improvement).
    """
    first, second = _samples(x=x, y=y)
    return float(_win_rates(first[None], second[None])[0])


def probability_of_improvement_ci(
    x: ArrayLike, y: ArrayLike, *, repetitions: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the percentile interval of `probability_of_improvement`; x and y are resampled independently.

    Arguments are those of `probability_of_improvement` and `bootstrap_ci`. The work grows as R * S * S' * K.

    Source: rliable's StratifiedIndependentBootstrap, method "percentile".
    """
    return _interval(_samples(x=x, y=y), _win_rates, repetitions, confidence, seed)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> float:
    """Return the mean amount by which scores are below the target; scores above it count as the target.

    Args:
        scores: [S] or [S, K], in units that make the target the level aimed at on every task.
        target: 1 for normalised scores.

    Source: Agarwal et al. 2021 (rliable's aggregate_optimality_gap, where the target is `gamma`).
    """
    target = float(_finite("target", [target], 1)[0])
    return float(np.mean(target - np.minimum(_finite("scores", scores, 2), target)))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> FloatArray:
    """Return the fraction of runs that score strictly above each threshold; the runs of all tasks count equally.

    Args:
        scores: [S] or [S, K].
        thresholds: [M] in any order, for float64 [M] fractions between 0 and 1.

    Source: Agarwal et al. 2021 (rliable's score_distributions).
    """
    values = _finite("scores", scores, 2).ravel()
    fractions: FloatArray = np.mean(values > _finite("thresholds", thresholds, 1)[:, None], axis=1)
    return fractions


def _win_rates(x: FloatArray, y: FloatArray, axis: Axes = (1, 2)) -> FloatArray:
    """Return the wins and half of the ties of x [r, S, K] over y [r, S', K] as a fraction of all pairs, [r]."""
    pairs = (*axis, 3)
    x, y = x[:, :, None], y[:, None]
    rates: FloatArray = np.mean(x > y, axis=pairs) + 0.5 * np.mean(x == y, axis=pairs)
    return rates


def _interval(
    samples: tuple[FloatArray, ...], statistic: Statistic, repetitions: int, confidence: float, seed: int
) -> Interval:
    """Return the percentile interval of a statistic of samples [S, K] that are resampled independently."""
    if repetitions < 1 or not 0 < confidence < 1:
        raise ValueError(f"repetitions >= 1, 0 < confidence < 1 needed, got {repetitions}, {confidence}")
    # A generator for each sample: one for all would make the draws depend on where the blocks are cut.
    generators = np.random.default_rng(seed).spawn(len(samples))
    tasks = np.arange(samples[0].shape[1])
    block = max(1, _BLOCK_SCORES // (len(tasks) * math.prod(len(sample) for sample in samples)))
    estimates = np.empty(repetitions)
    for start in range(0, repetitions, block):
        count = min(block, repetitions - start)
        resamples = [
            sample[generator.integers(len(sample), size=(count, *sample.shape)), tasks]
            for sample, generator in zip(samples, generators, strict=True)
        ]
        values = np.asarray(statistic(*resamples, axis=(1, 2)))
        if values.shape != (count,):
            raise ValueError(f"statistic must return shape ({count},), got {values.shape}")
        estimates[start : start + count] = values
    low, high = np.quantile(estimates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _finite(name: str, values: ArrayLike, max_dimensions: int) -> FloatArray:
    """Return values as a float64 array. Raises ValueError where they are not a finite array of numbers."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be an array of numbers") from None
    if not 1 <= array.ndim <= max_dimensions:
        raise ValueError(f"{name} must be an array of at most {max_dimensions}-d, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} is empty, shape {array.shape}")
    if not np.isfinite(array).all():
        index = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise ValueError(f"{name} must be finite, got {array[index]} at {list(index)}")
    return array


def _samples(**scores: ArrayLike) -> tuple[FloatArray, ...]:
    """Return scores [S] or [S, K] as [S, K]. Raises ValueError where K differs."""
    arrays = [_finite(name, values, 2) for name, values in scores.items()]
    samples = tuple(array.reshape(len(array), -1) for array in arrays)
    if len({sample.shape[1] for sample in samples}) > 1:
        raise ValueError(f"{' and '.join(scores)} differ in tasks, got shapes {[a.shape for a in arrays]}")
    return samples
