"""This module estimates the variance of ratings by the clustered sandwich estimator and by the bootstrap.

The games of a pair share a seed, so pairs (clusters) are independent and games are not. The schedule is fixed, so the
variance of a pair is about the mean of its pairing (a stratum). The model's variance is used where this one cannot be
estimated:

- in a pairing of several pairs with equal results, because a few equal results do not prove that there is no variance;
- in pairings of a single pair, if there are fewer than 30. If there are more, their uncentred squares are used.

Shape letters: C clusters (pairs), p parameters, S strata (pairings), R repetitions.

Source: Liang and Zeger 1986 (sandwich by clusters); Rao and Wu 1988 (n - 1 draws of n in each stratum)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rl_lab.rating.results import Floats, Ints

_ENOUGH_LONE = 30
_EQUAL = 1e-20  # relative to a stratum's sum of squares: scores that differ less differ by rounding alone
_BLOCK = 2**24  # weights sampled at once, to bound memory


@dataclass(frozen=True)
class Clusters:
    """The scores of clusters, and the kind of variance of each stratum; `clusters` makes it."""

    scores: csr_array  # [C, p]: each cluster's derivative of the log-likelihood
    stratum: Ints  # [C], sorted
    count: Ints  # [S], the number of clusters
    uses_model_variance: NDArray[np.bool_]  # [S]


def clusters(scores: csr_array, stratum: Ints) -> Clusters:
    """Return the clusters of scores [C, p] in strata, int [C], sorted and numbered from 0."""
    count = np.bincount(stratum)
    lone = count == 1
    spread, size = _squares(_centred(scores, stratum, count), stratum), _squares(scores, stratum)
    equal = ~lone & (spread <= _EQUAL * size)
    return Clusters(scores, stratum, count, equal | (lone & (lone.sum() < _ENOUGH_LONE)))


def meat(data: Clusters) -> Floats:
    """Return the variance [p, p] of the sum of scores, without the strata that use the model's variance."""
    rows = _centred(data.scores, data.stratum, data.count)
    count = data.count.astype(np.float64)
    factor = np.where(count > 1, count / np.maximum(count - 1, 1), 1.0)
    factor[data.uses_model_variance] = 0.0
    scaled = rows.multiply(np.sqrt(factor)[data.stratum][:, None]).tocsr()
    result: Floats = (scaled.T @ scaled).toarray()
    return result


def weights(data: Clusters, repetitions: int, generator: np.random.Generator) -> Floats:
    """Return each cluster's weight in each bootstrap repetition, [R, C]; 1 on average, 0 for model variance.

    In a stratum of c clusters, c - 1 are sampled, with weight c / (c - 1) each. Lone clusters are one stratum.
    """
    stratum, lone = data.stratum.copy(), data.count == 1
    group = np.where(lone, len(data.count), np.arange(len(data.count)))[stratum]
    order = np.argsort(group, kind="stable")
    label, begin, count = np.unique(group[order], return_index=True, return_counts=True)
    uses_model_variance = np.append(data.uses_model_variance, data.uses_model_variance[lone].any())[label]
    sample_size = np.where(uses_model_variance, 0, count - 1)
    start, length = np.repeat(begin, sample_size), np.repeat(count, sample_size)
    factor = count / np.maximum(count - 1, 1)
    times = np.empty((repetitions, len(stratum)))
    for row in times:
        sample = start + (generator.random(len(start)) * length).astype(np.int64)
        row[order] = np.bincount(sample, minlength=len(stratum)) * np.repeat(factor, count)
    return times


def one_step(data: Clusters, inverse: Floats, model_information: Floats, repetitions: int, seed: int) -> Floats:
    """Return the deviations of parameters in R bootstrap repetitions, [R, p], by one Newton step from the estimate.

    Args:
        data: the clusters.
        inverse: [p, p], the inverse of the posterior's Hessian.
        model_information: [p, p], the information of the strata that use the model's variance; their part is sampled
            from a normal distribution.
        repetitions: R.
        seed: the seed of the samples.

    Source: Kline and Santos 2012, "A score based approach to wild bootstrap inference".
    """
    generator = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(model_information)
    root = vectors * np.sqrt(np.maximum(values, 0))
    resampled = np.where(data.uses_model_variance, 0.0, 1.0)[data.stratum]
    gradients = []
    block = max(1, _BLOCK // data.scores.shape[0])
    for done in range(0, repetitions, block):
        r = min(block, repetitions - done)
        excess = weights(data, r, generator) - resampled
        gradients.append((data.scores.T @ excess.T).T + generator.standard_normal((r, len(root))) @ root.T)
    deviations: Floats = np.concatenate(gradients) @ inverse
    return deviations


def _centred(scores: csr_array, stratum: Ints, count: Ints) -> csr_array:
    """Return the scores less the mean of their stratum, in strata of several clusters."""
    if (count == 1).all():
        return scores
    c, several = len(stratum), (count > 1)[stratum]
    member = csr_array((several / count[stratum], (stratum, np.arange(c))), shape=(len(count), c))
    means = (member @ scores).tocsr()
    return (scores - means[stratum]).tocsr()


def _squares(rows: csr_array, stratum: Ints) -> Floats:
    return np.bincount(stratum, np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
