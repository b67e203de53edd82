"""This module fits Plackett-Luce ratings to matches of any number of entrants, from their order of finish.

`fit` is the entry point: `tables.fit_ratings` calls it for matches of more than two entrants. It takes `RankedResults`
and returns a new `Ratings`; it changes nothing else.

With strengths t_i in log-odds, entrant i is the best of a set S with probability exp(t_i) / sum over j in S of
exp(t_j); then the best of the rest is chosen in the same way, and so on. For two entrants it is the Bradley-Terry
model. A tie counts as all orders of the tied entrants, equally weighted, so a draw of two is half a win and half a
loss. The prior of every t_i is normal with mean 0.

The model has no parameter for seats. In the matches of a pair every entrant has every seat, so an advantage of a seat
is balanced; intervals count pairs and not matches. Like any balanced covariate that is left out, it makes differences a
little smaller than between equal seats. The rotation of seats does not balance the neighbours of an entrant: they are
the same in all matches of a pair.

Source: Luce 1959, "Individual choice behavior"; Plackett 1975, "The analysis of permutations"; Hunter 2004, "MM
algorithms for generalized Bradley-Terry models" (its likelihood; the fit here is Newton's method).

Shape letters: M matches, C clusters, n entrants, Z choices of all matches, L members of the largest set.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from rl_lab.rating import ratings, uncertainty
from rl_lab.rating.bradley_terry import PRIOR
from rl_lab.rating.newton import (
    DECREASE_TOLERANCE,
    MAX_HALVINGS,
    MAX_LOG_ODDS,
    MAX_STEPS,
    NOT_CONVERGED,
    STEP_TOLERANCE,
)
from rl_lab.rating.results import Floats, Ints, RankedResults, check_connected

_NOT_FINITE = (
    "the maximum-likelihood ratings are not finite, for example because an entrant won all its matches; use a prior"
)
# For up to this many tied entrants, all subsets are counted. More have too many; `_subsets` then selects some.
_MAX_ENUMERATED_TIES = 8


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
    prior_precision = 0.0 if prior is None else (ratings.ELO_PER_LOG_ODDS / prior) ** 2
    members, weight, match, times_chosen = _choice_sets(matches)
    strength = _maximise_posterior(members, weight, times_chosen, n, prior_precision)
    probs = _probs(members, strength)
    gradients = _cluster_gradients(matches, members, weight, match, probs, n)
    start = np.searchsorted(matches.cluster, np.arange(gradients.shape[0]))  # [C], the first match of each cluster
    clusters = uncertainty.make_clusters(gradients, matches.pairing[start])
    inverse = np.linalg.inv(_posterior_precision(_information(members, weight, probs, n), prior_precision))
    model_weight = weight * clusters.uses_model_variance[matches.pairing[match]]
    model_information = _information(members, model_weight, probs, n)
    covariance = (
        inverse @ (uncertainty.sandwich_meat(clusters) + model_information + prior_precision * np.eye(n)) @ inverse
    )
    deviations = None
    if intervals == "bootstrap":
        deviations = uncertainty.one_step_bootstrap(clusters, inverse, model_information, repetitions, seed)
    return ratings.build_ratings(matches.names, strength, covariance, deviations, anchor, anchor_elo, confidence)


def _choice_sets(matches: RankedResults) -> tuple[Ints, Floats, Ints, Floats]:
    """Return the Z choices of all matches; at each, one entrant of a set of at most L is chosen as the best.

    Returns the sets, int [Z, L], padded with n; their weights, float64 [Z]; the index of each one's match, int [Z]; and
    `times_chosen`, float64 [n], the sum of weights of the choices of each entrant.
    """
    n, max_size = len(matches.names), max(map(len, matches.entrants))
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
    members = np.full((len(sets), max_size), n)
    for row, members_of in zip(members, sets, strict=True):
        row[: len(members_of)] = members_of
    entries = np.concatenate([np.array(entrants) for entrants in matches.entrants])
    # An entrant is chosen once in each match: every entrant, also the last, is the best of those that are left.
    times_chosen = np.bincount(entries, minlength=n).astype(np.float64)
    return members, np.array(weight), np.array(match), times_chosen


def _subsets(tied: list[int], size: int) -> list[tuple[int, ...]]:
    """Return the subsets of this size: all of them or, of too many entrants, those that are adjacent in a circle.

    In the latter, too, each entrant is in equally many subsets.
    """
    if len(tied) <= _MAX_ENUMERATED_TIES:
        return list(combinations(tied, size))
    return [tuple(tied[(k + j) % len(tied)] for j in range(size)) for k in range(len(tied))]


def _probs(members: Ints, strength: Floats) -> Floats:
    """Return the probability that each member is the best, [Z, L]; 0 in the padding."""
    padded = np.append(strength, -np.inf)[members]
    unnormalised = np.exp(padded - padded.max(axis=1, keepdims=True))
    result: Floats = unnormalised / unnormalised.sum(axis=1, keepdims=True)
    return result


def _log_posterior(
    members: Ints, weight: Floats, times_chosen: Floats, strength: Floats, prior_precision: float
) -> float:
    """Return the logarithm of the posterior density of strengths [n], up to a constant."""
    padded = np.append(strength, -np.inf)[members]
    top = padded.max(axis=1)
    sums = top + np.log(np.exp(padded - top[:, None]).sum(axis=1))
    return float(times_chosen @ strength - weight @ sums - prior_precision / 2 * strength @ strength)


def _information(members: Ints, weight: Floats, probs: Floats, n: int) -> Floats:
    """Return the Fisher information [n, n] of these choices."""
    # The covariance of each choice, diag(probs) - probs probs', is added at its members' rows and columns of a flat
    # matrix. Row and column n collect the padding.
    row_start, size = members * (n + 1), (n + 1) ** 2
    total = np.zeros(size)
    for k in range(members.shape[1]):
        product = weight[:, None] * probs[:, [k]] * probs
        total -= np.bincount((row_start[:, [k]] + members).ravel(), product.ravel(), size)
    total += np.bincount((row_start + members).ravel(), (weight[:, None] * probs).ravel(), size)
    return total.reshape(n + 1, n + 1)[:n, :n]


def _posterior_precision(information: Floats, prior_precision: float) -> Floats:
    """Return the precision [n, n] of the posterior, made invertible also where only differences are determined.

    Adding a constant to all strengths changes no likelihood; 1/n in every entry fixes their sum.
    """
    n = len(information)
    return information + prior_precision * np.eye(n) + 1 / n


def _maximise_posterior(members: Ints, weight: Floats, times_chosen: Floats, n: int, prior_precision: float) -> Floats:
    """Return the strengths [n] of greatest posterior density, by a damped Newton's method; they add up to 0.

    Raises ValueError as `davidson.maximise_posterior` does.
    """
    strength = np.zeros(n)
    value = _log_posterior(members, weight, times_chosen, strength, prior_precision)
    for _ in range(MAX_STEPS):
        probs = _probs(members, strength)
        expected = np.bincount(members.ravel(), (weight[:, None] * probs).ravel(), n + 1)[:n]
        gradient = times_chosen - expected - prior_precision * strength
        precision = _posterior_precision(_information(members, weight, probs, n), prior_precision)
        try:
            step = np.asarray(cho_solve(cho_factor(precision), gradient))
        except np.linalg.LinAlgError:
            raise ValueError(NOT_CONVERGED if prior_precision else _NOT_FINITE) from None
        for _ in range(MAX_HALVINGS):
            trial_value = _log_posterior(members, weight, times_chosen, strength + step, prior_precision)
            if trial_value >= value - DECREASE_TOLERANCE * abs(value):
                break
            step = step / 2
        strength, value = strength + step, trial_value
        if not prior_precision and np.abs(strength).max() > MAX_LOG_ODDS:
            raise ValueError(_NOT_FINITE)
        if np.abs(step).max() < STEP_TOLERANCE:
            result: Floats = strength
            return result
    raise ValueError(NOT_CONVERGED)


def _cluster_gradients(
    matches: RankedResults, members: Ints, weight: Floats, match: Ints, probs: Floats, n: int
) -> csr_array:
    """Return each cluster's derivative of the log-likelihood by the strengths, [C, n].

    A match's derivative by a strength is 1, because its entrant is chosen once, less the expected number of choices.
    """
    cluster = matches.cluster
    minus_expected = csr_array(
        (-(weight[:, None] * probs).ravel(), (np.repeat(cluster[match], members.shape[1]), members.ravel())),
        shape=(int(cluster[-1]) + 1, n + 1),
    )
    sizes = [len(each) for each in matches.entrants]
    entrants = np.concatenate([np.array(each) for each in matches.entrants])
    observed = csr_array((np.ones(len(entrants)), (np.repeat(cluster, sizes), entrants)), shape=minus_expected.shape)
    return (minus_expected + observed)[:, :n].tocsr()
