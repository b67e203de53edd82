"""Uncertainty of ratings: what a pair of games with swapped seats adds to the variance, by sandwich and by bootstrap.

Games of one pair share a seed, so pairs, not games, are independent; and a schedule is fixed, so that pairs vary about
the mean of their own pairing (a stratum). Where that cannot be seen the model's own variance stands in:

- in a pairing of several pairs that all went alike: certainty is not to be had from a few equal results;
- in pairings of a single pair, where they are fewer than 30. Where they are more, their squares count, uncentred.

Shape letters: C clusters (pairs), p parameters, S strata (pairings), R repetitions.

Source: Liang and Zeger 1986 (sandwich by clusters); Rao and Wu 1988 (n - 1 draws of n in each stratum)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .results import Floats, Ints

_ENOUGH_LONE = 30
_ALIKE = 1e-20  # of a stratum's sum of squares: equal scores differ by rounding alone
_BLOCK = 2**24  # weights drawn at once: bounds memory


@dataclass(frozen=True)
class Clusters:
    """Scores of clusters and how their strata are treated; made by `clusters`."""

    scores: csr_array  # [C, p]: each cluster's derivative of the log-likelihood
    stratum: Ints  # [C], sorted
    count: Ints  # [S], clusters in each
    modelled: NDArray[np.bool_]  # [S]: the model's variance is used


def clusters(scores: csr_array, stratum: Ints) -> Clusters:
    """Return clusters of scores [C, p] in strata int [C], sorted from 0."""
    count = np.bincount(stratum)
    lone = count == 1
    spread, size = _squares(_centred(scores, stratum, count), stratum), _squares(scores, stratum)
    alike = ~lone & (spread <= _ALIKE * size)
    return Clusters(scores, stratum, count, alike | (lone & (lone.sum() < _ENOUGH_LONE)))


def meat(found: Clusters) -> Floats:
    """Return the variance [p, p] of the sum of scores, without the part of strata that are `modelled`."""
    rows = _centred(found.scores, found.stratum, found.count)
    count = found.count.astype(np.float64)
    factor = np.where(count > 1, count / np.maximum(count - 1, 1), 1.0)
    factor[found.modelled] = 0.0
    scaled = rows.multiply(np.sqrt(factor)[found.stratum][:, None]).tocsr()
    result: Floats = (scaled.T @ scaled).toarray()
    return result


def weights(found: Clusters, repetitions: int, generator: np.random.Generator) -> Floats:
    """Return how often each cluster counts in each repetition, [R, C]; 1 on average, and 0 in strata `modelled`.

    In a stratum of c clusters c - 1 are drawn, and count c / (c - 1) each. Lone clusters are one stratum.
    """
    stratum, lone = found.stratum.copy(), found.count == 1
    group = np.where(lone, len(found.count), np.arange(len(found.count)))[stratum]
    order = np.argsort(group, kind="stable")
    label, begin, count = np.unique(group[order], return_index=True, return_counts=True)
    modelled = np.append(found.modelled, found.modelled[lone].any())[label]
    drawn = np.where(modelled, 0, count - 1)
    start, length = np.repeat(begin, drawn), np.repeat(count, drawn)
    worth = count / np.maximum(count - 1, 1)
    times = np.empty((repetitions, len(stratum)))
    for row in times:
        picked = start + (generator.random(len(start)) * length).astype(np.int64)
        row[order] = np.bincount(picked, minlength=len(stratum)) * np.repeat(worth, count)
    return times


def one_step(found: Clusters, inverse: Floats, modelled: Floats, repetitions: int, seed: int) -> Floats:
    """Return how parameters move in R bootstrap repetitions, [R, p], by one Newton step from the estimate.

    Args:
        found: the clusters.
        inverse: [p, p], of the posterior's Hessian.
        modelled: [p, p], the information of the strata that are `modelled`: their part is drawn from a normal.
        repetitions: R.
        seed: of the draws.

    Source: Kline and Santos 2012, "A score based approach to wild bootstrap inference".
    """
    generator = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(modelled)
    root = vectors * np.sqrt(np.maximum(values, 0))
    kept = np.where(found.modelled, 0.0, 1.0)[found.stratum]
    pushed = []
    block = max(1, _BLOCK // found.scores.shape[0])
    for done in range(0, repetitions, block):
        r = min(block, repetitions - done)
        more = weights(found, r, generator) - kept
        pushed.append((found.scores.T @ more.T).T + generator.standard_normal((r, len(root))) @ root.T)
    moved: Floats = np.concatenate(pushed) @ inverse
    return moved


def _centred(scores: csr_array, stratum: Ints, count: Ints) -> csr_array:
    """Return scores less the mean of their stratum, in strata of several clusters."""
    if (count == 1).all():
        return scores
    c, several = len(stratum), (count > 1)[stratum]
    member = csr_array((several / count[stratum], (stratum, np.arange(c))), shape=(len(count), c))
    means = (member @ scores).tocsr()
    return (scores - means[stratum]).tocsr()


def _squares(rows: csr_array, stratum: Ints) -> Floats:
    return np.bincount(stratum, np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
