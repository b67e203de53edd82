"""Plackett-Luce: ratings from matches of any number of entrants, by the whole order in which they finished.

With strengths t_i in log-odds the best of a set S is i with probability exp(t_i) / sum over j in S of exp(t_j), then
the best of those left, and so on; of two it is Bradley and Terry's model. A tie counts as every order of those tied,
equally weighted, so that a draw of two is half a win and half a loss. The prior is normal, of mean 0, on every t_i.

Seats have no part in it. The matches of a pair take everybody through all seats, so what a seat is worth adds as much
to everybody's chances and favours nobody; pairs, not matches, are what intervals count. Left out like any balanced
covariate, it makes differences come out a little smaller than in matches from equal seats. What rotation does not
balance is who follows whom: seats are a circle that turns, and neighbours stay neighbours.

Source: Luce 1959; Plackett 1975; Hunter 2004 (its fit)
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from . import ratings, uncertainty
from .bradley_terry import PRIOR
from .results import Floats, Ints, Standings, check_connected

_MOST_STEPS, _HALVINGS, _TOLERANCE, _FARTHEST = 200, 30, 1e-10, 15.0
_MOST_TIED = 8  # whose orders are all counted, 2^8 sets; of more, as if sets of one size were equally strong


def fit(
    matches: Standings,
    *,
    anchor: str | None = None,
    anchor_elo: float = 0.0,
    prior: float | None = PRIOR,
    confidence: float = 0.95,
    intervals: str = "sandwich",
    repetitions: int = 500,
    seed: int = 0,
) -> ratings.Ratings:
    """Return the ratings of everybody in these matches; arguments and errors are those of `bradley_terry.fit`.

    Bootstrap repetitions are fitted by one Newton step.
    """
    if intervals not in ("sandwich", "bootstrap"):
        raise ValueError(f"intervals={intervals!r}: expected sandwich or bootstrap")
    if prior is not None and not 0 < prior < math.inf or repetitions < 2:
        raise ValueError(f"prior={prior}, repetitions={repetitions}: expected above 0, and at least 2")
    n = len(matches.names)
    links = np.array([(who[0], other) for who in matches.entrants for other in who[1:]])
    check_connected(matches.names, links[:, 0], links[:, 1])
    ridge = 0.0 if prior is None else (ratings.POINTS / prior) ** 2
    members, weight, match, won = _stages(matches)
    strength = _maximise(members, weight, won, n, ridge)
    chance = _chances(members, strength)
    scores = _scores(matches, members, weight, match, chance, n)
    start = np.searchsorted(matches.cluster, np.arange(scores.shape[0]))
    found = uncertainty.clusters(scores, matches.pairing[start])
    inverse = np.linalg.inv(_pinned(_information(members, weight, chance, n), ridge))
    informed = _information(members, weight * found.modelled[matches.pairing[match]], chance, n)
    covariance = inverse @ (uncertainty.meat(found) + informed + ridge * np.eye(n)) @ inverse
    moves = None
    if intervals == "bootstrap":
        moves = uncertainty.one_step(found, inverse, informed, repetitions, seed)
    return ratings.rated(matches.names, strength, covariance, moves, anchor, anchor_elo, confidence)


def _stages(matches: Standings) -> tuple[Ints, Floats, Ints, Floats]:
    """Return every choice of a best one: of whom, its weight and match; and how often each entrant was chosen [n]."""
    n, longest = len(matches.names), max(map(len, matches.entrants))
    sets: list[tuple[int, ...]] = []
    weight: list[float] = []
    match: list[int] = []
    for m, (who, ranks) in enumerate(zip(matches.entrants, matches.ranks, strict=True)):
        for level in sorted(set(ranks)):
            tied = [w for w, r in zip(who, ranks, strict=True) if r == level]
            below = [w for w, r in zip(who, ranks, strict=True) if r > level]
            for size in range(len(tied), 0, -1):
                chosen = _subsets(tied, size)
                for subset in chosen:
                    sets.append((*subset, *below))
                    weight.append(1 / len(chosen))
                    match.append(m)
    members = np.full((len(sets), longest), n)
    for row, members_of in zip(members, sets, strict=True):
        row[: len(members_of)] = members_of
    won = np.bincount(np.concatenate([np.array(who) for who in matches.entrants]), minlength=n).astype(np.float64)
    return members, np.array(weight), np.array(match), won


def _subsets(tied: list[int], size: int) -> list[tuple[int, ...]]:
    """Return the sets of those still to be placed: all, or where too many tie, every run of them in a circle."""
    if len(tied) <= _MOST_TIED:
        return list(combinations(tied, size))
    return [tuple(tied[(k + j) % len(tied)] for j in range(size)) for k in range(len(tied))]


def _chances(members: Ints, strength: Floats) -> Floats:
    """Return how likely each member is the best, [Z, L]; 0 where padded."""
    padded = np.append(strength, -np.inf)[members]
    odds = np.exp(padded - padded.max(axis=1, keepdims=True))
    result: Floats = odds / odds.sum(axis=1, keepdims=True)
    return result


def _value(members: Ints, weight: Floats, won: Floats, strength: Floats, ridge: float) -> float:
    padded = np.append(strength, -np.inf)[members]
    top = padded.max(axis=1)
    sums = top + np.log(np.exp(padded - top[:, None]).sum(axis=1))
    return float(won @ strength - weight @ sums - ridge / 2 * strength @ strength)


def _information(members: Ints, weight: Floats, chance: Floats, n: int) -> Floats:
    """Return the Fisher information [n, n] of these stages."""
    flat, size = members * (n + 1), (n + 1) ** 2
    total = np.zeros(size)
    for k in range(members.shape[1]):
        total -= np.bincount(
            (flat[:, [k]] + members).ravel(), (weight[:, None] * chance[:, [k]] * chance).ravel(), size
        )
    total += np.bincount((flat + members).ravel(), (weight[:, None] * chance).ravel(), size)
    return total.reshape(n + 1, n + 1)[:n, :n]


def _pinned(matrix: Floats, ridge: float) -> Floats:
    n = len(matrix)
    return matrix + ridge * np.eye(n) + 1 / n


def _maximise(members: Ints, weight: Floats, won: Floats, n: int, ridge: float) -> Floats:
    """Return the strengths [n] of greatest posterior density, by Newton's method; they add up to 0."""
    strength = np.zeros(n)
    value = _value(members, weight, won, strength, ridge)
    for _ in range(_MOST_STEPS):
        chance = _chances(members, strength)
        expected = np.bincount(members.ravel(), (weight[:, None] * chance).ravel(), n + 1)[:n]
        slope = won - expected - ridge * strength
        move = np.asarray(cho_solve(cho_factor(_pinned(_information(members, weight, chance, n), ridge)), slope))
        for _ in range(_HALVINGS):
            reached = _value(members, weight, won, strength + move, ridge)
            if reached >= value - 1e-9 * abs(value):
                break
            move = move / 2
        strength, value = strength + move, reached
        if not ridge and np.abs(strength).max() > _FARTHEST:
            break
        if np.abs(move).max() < _TOLERANCE:
            found: Floats = strength
            return found
    raise ValueError("results such as all wins have no finite rating without a prior")


def _scores(matches: Standings, members: Ints, weight: Floats, match: Ints, chance: Floats, n: int) -> csr_array:
    """Return each cluster's derivative of the log-likelihood, [C, n]."""
    cluster = matches.cluster
    lost = csr_array(
        (-(weight[:, None] * chance).ravel(), (np.repeat(cluster[match], members.shape[1]), members.ravel())),
        shape=(int(cluster[-1]) + 1, n + 1),
    )
    sizes = [len(who) for who in matches.entrants]
    who = np.concatenate([np.array(each) for each in matches.entrants])
    placed = csr_array((np.ones(len(who)), (np.repeat(cluster, sizes), who)), shape=lost.shape)
    return (lost + placed)[:, :n].tocsr()
