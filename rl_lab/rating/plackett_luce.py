"""This module fits Plackett-Luce ratings to matches of any number of entrants, from their order of finish.

With strengths t_i in log-odds, entrant i is the best of a set S with probability exp(t_i) / sum over j in S of
exp(t_j); then the best of the rest is chosen in the same way, and so on. For two entrants it is the Bradley-Terry
model. A tie counts as all orders of the tied entrants, equally weighted, so a draw of two is half a win and half a
loss. The prior of every t_i is normal with mean 0.

The model has no parameter for seats. In the matches of a pair every entrant has every seat, so an advantage of a seat
is balanced; intervals count pairs and not matches. Like any balanced covariate that is left out, it makes differences a
little smaller than between equal seats. The rotation of seats does not balance the neighbours of an entrant: they are
the same in all matches of a pair.

Source: Luce 1959, "Individual choice behavior"; Plackett 1975, "The analysis of permutations"; Hunter 2004, "MM
algorithms for generalized Bradley-Terry models" (its fit).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from rl_lab.rating import ratings, uncertainty
from rl_lab.rating.bradley_terry import PRIOR
from rl_lab.rating.newton import FARTHEST, HALVINGS, MOST_STEPS, NOT_CONVERGED, TOLERANCE, WORSE
from rl_lab.rating.results import Floats, Ints, RankedResults, check_connected

_NOT_FINITE = (
    "the maximum-likelihood ratings are not finite, for example because an entrant won all its matches; use a prior"
)
_MOST_TIED = 8  # up to this many tied entrants, all subsets are counted; for more, a sample of each size is


def fit(
    matches: RankedResults,
    *,
    anchor: str | None = None,
    anchor_elo: float = 0.0,
    prior: float | None = PRIOR,
    confidence: float = 0.95,
    intervals: str = "sandwich",
    repetitions: int = 500,
    seed: int = 0,
) -> ratings.Ratings:
    """Return the ratings of all entrants in these matches; the arguments are those of `bradley_terry.fit`.

    Bootstrap repetitions are fitted by one Newton step.

    Raises:
        ValueError: the entrants fall into groups that never met, which the message names; the anchor is unknown; a
            setting is out of range; there is no prior and the maximum-likelihood ratings are not finite; or the search
            for them does not converge, for example with a very wide prior.
    """
    ratings.check_settings(prior, intervals, repetitions)
    n = len(matches.names)
    links = np.array([(entrants[0], other) for entrants in matches.entrants for other in entrants[1:]])
    check_connected(matches.names, links[:, 0], links[:, 1])
    ridge = 0.0 if prior is None else (ratings.POINTS / prior) ** 2
    members, weight, match, times_chosen = _choices(matches)
    strength = _maximise(members, weight, times_chosen, n, ridge)
    probs = _probs(members, strength)
    scores = _scores(matches, members, weight, match, probs, n)
    start = np.searchsorted(matches.cluster, np.arange(scores.shape[0]))
    clusters = uncertainty.clusters(scores, matches.pairing[start])
    inverse = np.linalg.inv(_posterior_precision(_information(members, weight, probs, n), ridge))
    model_weight = weight * clusters.uses_model_variance[matches.pairing[match]]
    model_information = _information(members, model_weight, probs, n)
    covariance = inverse @ (uncertainty.meat(clusters) + model_information + ridge * np.eye(n)) @ inverse
    deviations = None
    if intervals == "bootstrap":
        deviations = uncertainty.one_step(clusters, inverse, model_information, repetitions, seed)
    return ratings.build_ratings(matches.names, strength, covariance, deviations, anchor, anchor_elo, confidence)


def _choices(matches: RankedResults) -> tuple[Ints, Floats, Ints, Floats]:
    """Return the Z choices of all matches; at each, one entrant of a set of at most L is chosen as the best.

    Returns the sets, int [Z, L], padded with n; their weights, float64 [Z]; the index of each one's match, int [Z]; and
    `times_chosen`, float64 [n], the sum of weights of the choices of each entrant.
    """
    n, longest = len(matches.names), max(map(len, matches.entrants))
    sets: list[tuple[int, ...]] = []
    weight: list[float] = []
    match: list[int] = []
    for m, (entrants, ranks) in enumerate(zip(matches.entrants, matches.ranks, strict=True)):
        for level in sorted(set(ranks)):
            tied = [e for e, r in zip(entrants, ranks, strict=True) if r == level]
            below = [e for e, r in zip(entrants, ranks, strict=True) if r > level]
            for size in range(len(tied), 0, -1):
                subsets = _subsets(tied, size)
                for subset in subsets:
                    sets.append((*subset, *below))
                    weight.append(1 / len(subsets))
                    match.append(m)
    members = np.full((len(sets), longest), n)
    for row, members_of in zip(members, sets, strict=True):
        row[: len(members_of)] = members_of
    entries = np.concatenate([np.array(entrants) for entrants in matches.entrants])
    # An entrant is chosen once in each match: every entrant, also the last, is the best of those that are left.
    times_chosen = np.bincount(entries, minlength=n).astype(np.float64)
    return members, np.array(weight), np.array(match), times_chosen


def _subsets(tied: list[int], size: int) -> list[tuple[int, ...]]:
    """Return the subsets of this size: all of them or, of too many entrants, those that are adjacent in a circle."""
    if len(tied) <= _MOST_TIED:
        return list(combinations(tied, size))
    return [tuple(tied[(k + j) % len(tied)] for j in range(size)) for k in range(len(tied))]


def _probs(members: Ints, strength: Floats) -> Floats:
    """Return the probability that each member is the best, [Z, L]; 0 in the padding."""
    padded = np.append(strength, -np.inf)[members]
    odds = np.exp(padded - padded.max(axis=1, keepdims=True))
    result: Floats = odds / odds.sum(axis=1, keepdims=True)
    return result


def _log_posterior(members: Ints, weight: Floats, times_chosen: Floats, strength: Floats, ridge: float) -> float:
    """Return the logarithm of the posterior density of strengths [n], up to a constant."""
    padded = np.append(strength, -np.inf)[members]
    top = padded.max(axis=1)
    sums = top + np.log(np.exp(padded - top[:, None]).sum(axis=1))
    return float(times_chosen @ strength - weight @ sums - ridge / 2 * strength @ strength)


def _information(members: Ints, weight: Floats, probs: Floats, n: int) -> Floats:
    """Return the Fisher information [n, n] of these choices."""
    flat, size = members * (n + 1), (n + 1) ** 2
    total = np.zeros(size)
    for k in range(members.shape[1]):
        total -= np.bincount((flat[:, [k]] + members).ravel(), (weight[:, None] * probs[:, [k]] * probs).ravel(), size)
    total += np.bincount((flat + members).ravel(), (weight[:, None] * probs).ravel(), size)
    return total.reshape(n + 1, n + 1)[:n, :n]


def _posterior_precision(information: Floats, ridge: float) -> Floats:
    """Return the precision [n, n] of the posterior, made invertible also where only differences are determined.

    Adding a constant to all strengths changes no likelihood; 1/n in every entry fixes their sum.
    """
    n = len(information)
    return information + ridge * np.eye(n) + 1 / n


def _maximise(members: Ints, weight: Floats, times_chosen: Floats, n: int, ridge: float) -> Floats:
    """Return the strengths [n] of greatest posterior density, by a damped Newton's method; they add up to 0.

    Raises ValueError as `davidson.maximise` does.
    """
    strength = np.zeros(n)
    value = _log_posterior(members, weight, times_chosen, strength, ridge)
    for _ in range(MOST_STEPS):
        probs = _probs(members, strength)
        expected = np.bincount(members.ravel(), (weight[:, None] * probs).ravel(), n + 1)[:n]
        gradient = times_chosen - expected - ridge * strength
        precision = _posterior_precision(_information(members, weight, probs, n), ridge)
        try:
            step = np.asarray(cho_solve(cho_factor(precision), gradient))
        except np.linalg.LinAlgError:
            raise ValueError(NOT_CONVERGED if ridge else _NOT_FINITE) from None
        for _ in range(HALVINGS):
            trial_value = _log_posterior(members, weight, times_chosen, strength + step, ridge)
            if trial_value >= value - WORSE * abs(value):
                break
            step = step / 2
        strength, value = strength + step, trial_value
        if not ridge and np.abs(strength).max() > FARTHEST:
            raise ValueError(_NOT_FINITE)
        if np.abs(step).max() < TOLERANCE:
            maximum: Floats = strength
            return maximum
    raise ValueError(NOT_CONVERGED)


def _scores(matches: RankedResults, members: Ints, weight: Floats, match: Ints, probs: Floats, n: int) -> csr_array:
    """Return each cluster's derivative of the log-likelihood, [C, n]."""
    cluster = matches.cluster
    expected = csr_array(
        (-(weight[:, None] * probs).ravel(), (np.repeat(cluster[match], members.shape[1]), members.ravel())),
        shape=(int(cluster[-1]) + 1, n + 1),
    )
    sizes = [len(each) for each in matches.entrants]
    entrants = np.concatenate([np.array(each) for each in matches.entrants])
    chosen = csr_array((np.ones(len(entrants)), (np.repeat(cluster, sizes), entrants)), shape=expected.shape)
    return (expected + chosen)[:, :n].tocsr()
