"""Linear probes: what a linear model can read from features that do not change.

Numbers are predicted by ridge regression, whose penalty is chosen by leave-one-out errors on the training rows; classes
by logistic regression. The features are standardised.

Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes"
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from rl_lab.core.errors import UsageError
from rl_lab.core.world import Array
from rl_lab.learners.pretraining.probe_targets import ProbeTarget

_PENALTIES = np.logspace(-2, 5, 8)
_MOST_ITERATIONS = 300  # of logistic regression


def require_sklearn() -> None:
    """Raise UsageError where scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UsageError('probes need scikit-learn, which is not installed: pip install "rl-lab[probes]"') from None


def score(features: Array, target: ProbeTarget, train: Array, validation: Array) -> float | None:
    """Return the score of a probe on the validation rows; None where they, or the training rows, have one value only.

    Of classes it is the accuracy; of numbers the share of their variance that is explained (R^2), over all numbers
    together, each divided by its standard deviation. The share is negative where the mean would be a better prediction.

    Args:
        features: float [N, width].
        target: of the same N rows.
        train: int64, rows to fit the probe to.
        validation: int64, rows to score it on.
    """
    (rows, values), (other_rows, other_values) = target.at(train), target.at(validation)
    if not (_varies(values) and _varies(other_values)):
        return None
    predicted = _fit(_pipeline(target.is_class), features[rows], values).predict(features[other_rows])
    if target.is_class:
        return float((predicted == other_values).mean())
    return explained_variance(other_values, predicted.reshape(other_values.shape), values.std(0))


def constant_score(target: ProbeTarget, train: Array, validation: Array) -> float | None:
    """Return the score of what needs no features: the most frequent class, or the mean, of the training rows."""
    (_, values), (_, other_values) = target.at(train), target.at(validation)
    if not (_varies(values) and _varies(other_values)):
        return None
    if target.is_class:
        return float((np.bincount(values).argmax() == other_values).mean())
    return explained_variance(other_values, np.broadcast_to(values.mean(0), other_values.shape), values.std(0))


def explained_variance(values: Array, predicted: Array, deviations: Array) -> float:
    """Return the share of the variance of values [N, m] that predictions explain; numbers are divided by `deviations`.

    Numbers without a deviation do not count.
    """
    weights = np.where(deviations > 1e-9, 1 / np.maximum(deviations, 1e-9), 0.0)
    variance = float(np.square((values - values.mean(0)) * weights).sum())
    errors = float(np.square((values - predicted) * weights).sum())
    return 1 - errors / variance if variance > 0 else 0.0


def _varies(values: Array) -> bool:
    return len(values) > 0 and bool((values != values[0]).any())


def _pipeline(is_class: bool) -> Any:
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=_MOST_ITERATIONS) if is_class else RidgeCV(_PENALTIES)
    )


def _fit(pipeline: Any, features: Array, values: Array) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Where classes can be separated, the last digits take long, and the score does not change.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return pipeline.fit(features.astype(np.float64), values)
