"""This module estimates the variance of ratings: by the clustered sandwich estimator, and by the bootstrap.

`bradley_terry` and `plackett_luce` call it with the gradients of their log-likelihoods. It reads them and writes
nothing.

The games of a pair share a seed, so pairs (clusters) are independent and games are not. The sandwich estimator is
H^-1 V H^-1, where H is the Hessian of minus the log-posterior and V, the "meat", is the variance of the sum of the
clusters' gradients. The schedule is fixed, so V is measured about the mean of each pairing (stratum).

Where V cannot be estimated from the results, the variance that the model predicts (its Fisher information) takes its
place:

- in a pairing of several pairs with equal results, because a few equal results do not prove that there is no variance;
- in pairings of a single pair, if there are fewer than 30 of them. If there are more, the squares of their gradients
  are used without subtracting a mean.

Shape letters: C clusters (pairs), p parameters, S strata (pairings), R repetitions.

Source: Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models" (sandwich by clusters); Rao
and Wu 1988, "Resampling inference with complex survey data" (n - 1 draws of n in each stratum).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rl_lab.rating.results import Floats, Ints

_MIN_SINGLE_CLUSTERS = 30  # strata of one cluster, from which their variance is estimated from the results
_EQUAL = 1e-20  # relative to a stratum's sum of squares: gradients that differ less differ by rounding alone
_MAX_WEIGHTS = 2**24  # bootstrap weights sampled at once, to bound memory


@dataclass(frozen=True)
class Clusters:
    """The gradients of clusters, and which strata use the model's variance; `make_clusters` makes it."""

    gradients: csr_array  # [C, p]: each cluster's derivative of the log-likelihood
    stratum: Ints  # [C], sorted: the stratum of each cluster
    count: Ints  # [S], the number of clusters of each stratum
    uses_model_variance: NDArray[np.bool_]  # [S]


def make_clusters(gradients: csr_array, stratum: Ints) -> Clusters:
    """Return the clusters of gradients [C, p] in strata, int [C], sorted and numbered from 0."""
    count = np.bincount(stratum)
    is_single = count == 1
    centred, uncentred = _squares(_centre(gradients, stratum, count), stratum), _squares(gradients, stratum)
    has_equal_results = ~is_single & (centred <= _EQUAL * uncentred)
    uses_model_variance = has_equal_results | (is_single & (is_single.sum() < _MIN_SINGLE_CLUSTERS))
    return Clusters(gradients, stratum, count, uses_model_variance)


def sandwich_meat(clusters: Clusters) -> Floats:
    """Return the variance [p, p] of the sum of gradients, without the strata that use the model's variance."""
    rows = _centre(clusters.gradients, clusters.stratum, clusters.count)
    count = clusters.count.astype(np.float64)
    factor = np.where(count > 1, count / np.maximum(count - 1, 1), 1.0)  # makes the estimate unbiased
    factor[clusters.uses_model_variance] = 0.0
    scaled = rows.multiply(np.sqrt(factor)[clusters.stratum][:, None]).tocsr()
    result: Floats = (scaled.T @ scaled).toarray()
    return result


def bootstrap_weights(clusters: Clusters, repetitions: int, generator: np.random.Generator) -> Floats:
    """Return each cluster's weight in each bootstrap repetition, [R, C]; 1 on average, 0 for model variance.

    In a stratum of c clusters, c - 1 are sampled, with weight c / (c - 1) each, which makes the variance unbiased.
    Strata of a single cluster are joined to one stratum.
    """
    stratum, is_single = clusters.stratum.copy(), clusters.count == 1
    num_strata = len(clusters.count)
    group = np.where(is_single, num_strata, np.arange(num_strata))[stratum]  # number `num_strata` is the joined stratum
    order = np.argsort(group, kind="stable")
    label, begin, count = np.unique(group[order], return_index=True, return_counts=True)
    joined_uses_model = clusters.uses_model_variance[is_single].any()
    uses_model_variance = np.append(clusters.uses_model_variance, joined_uses_model)[label]
    sample_size = np.where(uses_model_variance, 0, count - 1)
    start, length = np.repeat(begin, sample_size), np.repeat(count, sample_size)  # the stratum of each sample
    factor = count / np.maximum(count - 1, 1)
    weights = np.empty((repetitions, len(stratum)))
    for row in weights:
        sample = start + (generator.random(len(start)) * length).astype(np.int64)
        row[order] = np.bincount(sample, minlength=len(stratum)) * np.repeat(factor, count)
    return weights


def one_step_bootstrap(
    clusters: Clusters, inverse: Floats, model_information: Floats, repetitions: int, seed: int
) -> Floats:
    """Return the deviations of parameters in R bootstrap repetitions, [R, p], by one Newton step from the estimate.

    Args:
        clusters: the gradients at the estimate.
        inverse: [p, p], the inverse of the posterior's Hessian.
        model_information: [p, p], the information of the strata that use the model's variance; their part is sampled
            from a normal distribution.
        repetitions: R.
        seed: the seed of the samples.

    Source: Kline and Santos 2012, "A score based approach to wild bootstrap inference".
    """
    generator = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(model_information)
    root = vectors * np.sqrt(np.maximum(values, 0))  # root @ root.T = model_information
    # The gradients add up to 0 at the estimate, up to the prior, so only the change of a cluster's weight counts.
    original_weights = np.where(clusters.uses_model_variance, 0.0, 1.0)[clusters.stratum]
    gradients = []
    block = max(1, _MAX_WEIGHTS // clusters.gradients.shape[0])
    for first in range(0, repetitions, block):
        size = min(block, repetitions - first)
        change = bootstrap_weights(clusters, size, generator) - original_weights
        model_part = generator.standard_normal((size, len(root))) @ root.T
        gradients.append((clusters.gradients.T @ change.T).T + model_part)
    deviations: Floats = np.concatenate(gradients) @ inverse
    return deviations


def _centre(gradients: csr_array, stratum: Ints, count: Ints) -> csr_array:
    """Return the gradients less the mean of their stratum, in strata of several clusters."""
    if (count == 1).all():
        return gradients
    c, several = len(stratum), (count > 1)[stratum]
    averaging = csr_array((several / count[stratum], (stratum, np.arange(c))), shape=(len(count), c))
    means = (averaging @ gradients).tocsr()
    return (gradients - means[stratum]).tocsr()


def _squares(rows: csr_array, stratum: Ints) -> Floats:
    """Return the sum of squares of the rows of each stratum, [S]."""
    return np.bincount(stratum, np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
