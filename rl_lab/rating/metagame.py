"""This module applies game theory to a table of results, for entrants whose strength is not one number.

Shape letters: n entrants. An element of a payoff matrix [n, n] is what its row's entrant gets against its column's. In
an antisymmetric matrix (payoff = -payoff'), such as scores less one half, one entrant's gain is the other's loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog, minimize
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from rl_lab.rating.results import Floats

_EQUAL = 1e-9  # payoffs nearer than this are equal
_PERTURBATION = 1e-10


def alpha_rank(payoffs: ArrayLike, *, alpha: float | None = None, population: int = 50, mixing: bool = False) -> Floats:
    """Return alpha-rank's masses, float64 [n], which add up to 1: the share of time that evolution spends at each.

    A population of m entrants of one kind is invaded by a single mutant of another kind, chosen uniformly. Mutants are
    so rare that one kind has died out before the next mutant comes. Mutants s replace residents r with probability

        (1 - exp(-x)) / (1 - exp(-m x))    where x = alpha (payoff[s, r] - payoff[r, s])

    With `mixing`, each member of the population meets all others. If the mean payoff of one of k mutants exceeds a
    resident's by f(k), the probability is 1 / (1 + sum over l = 1 .. m - 1 of product over k = 1 .. l of
    exp(-alpha f(k))). The masses are the stationary distribution of the Markov chain of kinds.

    Args:
        payoffs: [n, n].
        alpha: intensity of selection, above 0. None means infinite, for zero-sum payoffs: better mutants always take
            over, equal ones with probability 1 / m, and worse ones with 1e-10, so that every set of entrants that
            evolution would never leave has a positive mass.
        population: m, at least 2.
        mixing: see above; it has no effect if alpha is None.

    Source: Omidshafiei et al. 2019, "alpha-rank: multi-agent evaluation by evolution" (one population).
    """
    table = _matrix(payoffs)
    if population < 2 or (alpha is not None and not 0 < alpha < np.inf):
        raise ValueError(f"alpha={alpha}, population={population}: expected above 0, and at least 2")
    n = len(table)
    if n == 1:
        return np.ones(1)
    if alpha is None:
        gap = table.T - table  # [resident, mutant]: the mutant's advantage
        fixation = np.where(gap > _EQUAL, 1.0, np.where(gap < -_EQUAL, _PERTURBATION, 1 / population))
    else:
        fixation = _fixation(table, alpha, population, mixing)
    chain = fixation / (n - 1)
    np.fill_diagonal(chain, 0.0)
    return _stationary(chain)


def maxent_nash(payoffs: ArrayLike) -> tuple[Floats, Floats]:
    """Return the Nash equilibrium of greatest entropy of a symmetric zero-sum game, [n], and all payoffs against it.

    "Nash averaging" weights opponents by it. The payoffs, [n] = payoffs @ nash, are 0 for all entrants that the
    equilibrium plays and at most 0 for the others; copies of an entrant do not change them. Raises ValueError for
    payoffs that are not antisymmetric.

    Source: Balduzzi et al. 2018, "Re-evaluating evaluation".
    """
    table = _matrix(payoffs)
    scale = max(np.abs(table).max(), 1e-300)
    if np.abs(table + table.T).max() > 1e-9 * scale:
        raise ValueError("payoffs must be antisymmetric: what one wins the other loses")
    game, n = table / scale, len(table)
    nash, support = _max_support_equilibrium(game)
    indices = np.flatnonzero(support)
    if len(indices) > 1:
        nash = np.zeros(n)
        nash[indices] = _max_entropy(game[:, indices], support)
    nash /= nash.sum()
    return nash, table @ nash


def condorcet(scores: ArrayLike) -> int | None:
    """Return the index of the entrant that scores above one half against all others, or None.

    Args:
        scores: [n, n], row against column.
    """
    table = _matrix(scores)
    beats = table > 0.5 + _EQUAL
    np.fill_diagonal(beats, True)
    winners = np.flatnonzero(beats.all(axis=1))
    return int(winners[0]) if len(winners) else None


def smith_set(scores: ArrayLike) -> list[int]:
    """Return the smallest set of entrants that all score above one half against every entrant outside; ascending.

    Args:
        scores: [n, n], row against column, between 0 and 1; nan, for two that never met, counts as one half.

    Source: Smith 1973, "Aggregation of preferences with variable electorate".
    """
    table = np.nan_to_num(np.asarray(scores, np.float64), nan=0.5)
    unbeaten = csr_array(table >= 0.5 - _EQUAL)
    count, label = connected_components(unbeaten, connection="strong")
    for group in range(count):
        inside = label == group
        if (table[np.ix_(inside, ~inside)] > 0.5 + _EQUAL).all():
            return [int(k) for k in np.flatnonzero(inside)]
    raise AssertionError("one of two groups is unbeaten by the other, so there is a group that beats all others")


def cyclic_share(payoffs: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the part of an antisymmetric matrix that no ratings explain: 0 if transitive, 1 if purely cyclic.

    It is the weighted sum of squares of payoff[i, j] - (r_i - r_j), for the ratings r that minimize it, over that of
    payoff[i, j]: the curl and harmonic part of the Hodge decomposition. For a matrix of zeros it is 0.

    Args:
        payoffs: [n, n], antisymmetric; log-odds, because ratings are additive in them.
        weights: [n, n], symmetric, such as numbers of games; 0 for two that never met. By default all weights are 1.

    Source: Jiang, Lim, Yao and Ye 2011, "Statistical ranking and combinatorial Hodge theory".
    """
    table = _matrix(payoffs)
    weight = np.ones(table.shape) if weights is None else np.array(weights, np.float64)
    np.fill_diagonal(weight, 0.0)
    total = float((weight * table**2).sum())
    if total <= 0:
        return 0.0
    laplacian = np.diag(weight.sum(axis=1)) - weight
    rating = np.linalg.lstsq(laplacian, (weight * table).sum(axis=1))[0]
    residual = table - (rating[:, None] - rating)
    return min(max(float((weight * residual**2).sum()) / total, 0.0), 1.0)


def worst_opponents(scores: ArrayLike) -> list[tuple[int, float] | None]:
    """Return each entrant's lowest score and the opponent's index, (index, score); None if it met no opponent.

    Args:
        scores: [n, n], row against column, nan for two that never met.
    """
    table = np.array(scores, np.float64)
    np.fill_diagonal(table, np.nan)
    worst: list[tuple[int, float] | None] = []
    for row in table:
        known = ~np.isnan(row)
        k = int(np.argmin(np.where(known, row, np.inf)))
        worst.append((k, float(row[k])) if known.any() else None)
    return worst


def _fixation(table: Floats, alpha: float, population: int, mixing: bool) -> Floats:
    """Return the probabilities that a mutant takes over, [resident, mutant]."""
    k = np.arange(1, population)[:, None, None]
    advantage = np.broadcast_to(table.T - table, (population - 1, *table.shape))
    if mixing:
        diagonal = np.diag(table)
        mutant = (k - 1) * diagonal[None, None, :] + (population - k) * table.T
        resident = k * table + (population - k - 1) * diagonal[None, :, None]
        advantage = (mutant - resident) / (population - 1)
    logs = np.cumsum(-alpha * advantage, axis=0)
    top = np.maximum(logs.max(axis=0), 0.0)
    probs: Floats = np.maximum(np.exp(-top) / (np.exp(-top) + np.exp(logs - top).sum(axis=0)), 1e-300)
    return probs


def _stationary(chain: Floats) -> Floats:
    """Return the stationary distribution of an irreducible Markov chain; its rates are off the diagonal.

    The elimination has no subtractions, so masses smaller than the rounding unit are accurate, too.

    Source: Grassmann, Taksar and Heyman 1985.
    """
    rates, n = chain.copy(), len(chain)
    for k in range(n - 1, 0, -1):
        rates[:k, k] /= max(rates[k, :k].sum(), 1e-300)
        rates[:k, :k] += np.outer(rates[:k, k], rates[k, :k])
    mass = np.zeros(n)
    mass[0] = 1.0
    for k in range(1, n):
        mass[k] = mass[:k] @ rates[:k, k]
        mass[: k + 1] /= mass[: k + 1].sum()
    return mass


def _max_support_equilibrium(game: Floats) -> tuple[Floats, Floats]:
    """Return an equilibrium [n] of greatest support, and the support, bool [n]."""
    n = len(game)
    # A multiple of an equilibrium is a q >= 0 with game q <= 0. Maximize the sum of t <= min(q, 1): each t is 1 or 0.
    cost = np.concatenate([np.zeros(n), -np.ones(n)])
    rows = np.block([[game, np.zeros((n, n))], [-np.eye(n), np.eye(n)]])
    solution = linprog(cost, A_ub=rows, b_ub=np.zeros(2 * n), bounds=[(0, None)] * n + [(0, 1)] * n, method="highs")
    q, t = solution.x[:n], solution.x[n:]
    support = t > 0.5
    nash = np.where(support, q, 0.0)
    return nash / nash.sum(), support


def _max_entropy(game: Floats, support: Floats) -> Floats:
    """Return the distribution x [k] of greatest entropy with game [n, k] @ x = 0 in the support, and <= 0 elsewhere.

    It is proportional to exp(-game' u), where u minimizes the logarithm of the sum of these.
    """

    def dual(u: Floats) -> tuple[float, Floats]:
        logits = -(u @ game)
        top = logits.max()
        odds = np.exp(logits - top)
        return float(top + np.log(odds.sum())), -(game @ (odds / odds.sum()))

    bounds = [(None, None) if each else (0, None) for each in support]
    options = {"maxiter": 5000, "maxfun": 50_000, "ftol": 1e-16, "gtol": 1e-12, "maxcor": 50}
    u = minimize(dual, np.zeros(len(game)), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    logits = -(u @ game)
    odds = np.exp(logits - logits.max())
    result: Floats = odds / odds.sum()
    return result


def _matrix(values: ArrayLike) -> Floats:
    table = np.array(values, np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not len(table) or not np.isfinite(table).all():
        raise ValueError(f"expected a square matrix of finite numbers, got shape {table.shape}")
    return table
