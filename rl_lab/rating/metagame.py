"""This module applies game theory to a table of results, for entrants whose strength is not one number.

`tables.game_theory` calls it. All functions are pure, and independent of each other:
alpha-rank, the Nash equilibrium of greatest entropy, Condorcet winner, Smith set, cyclic share, worst opponents.

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
_WORSE_MUTANT_PROB = 1e-10  # of alpha-rank with infinite alpha: the probability that a worse mutant takes over
_MIN_PROB = 1e-300  # so that no division is by 0


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
        advantage = table.T - table  # [resident, mutant]: the mutant's advantage
        is_better, is_worse = advantage > _EQUAL, advantage < -_EQUAL
        fixation = np.where(is_better, 1.0, np.where(is_worse, _WORSE_MUTANT_PROB, 1 / population))
    else:
        fixation = _fixation_probs(table, alpha, population, mixing)
    transitions = fixation / (n - 1)
    np.fill_diagonal(transitions, 0.0)
    return _stationary_distribution(transitions)


def maxent_nash(payoffs: ArrayLike) -> tuple[Floats, Floats]:
    """Return the Nash equilibrium of greatest entropy of a symmetric zero-sum game, [n], and all payoffs against it.

    "Nash averaging" weights opponents by it. The payoffs, [n] = payoffs @ nash, are 0 for all entrants that the
    equilibrium plays and at most 0 for the others; copies of an entrant do not change them. Raises ValueError for
    payoffs that are not antisymmetric.

    Source: Balduzzi et al. 2018, "Re-evaluating evaluation".
    """
    table = _matrix(payoffs)
    scale = max(np.abs(table).max(), _MIN_PROB)
    if np.abs(table + table.T).max() > 1e-9 * scale:
        raise ValueError("payoffs must be antisymmetric: what one wins the other loses")
    scaled, n = table / scale, len(table)
    nash, support = _max_support_equilibrium(scaled)
    indices = np.flatnonzero(support)
    if len(indices) > 1:
        nash = np.zeros(n)
        nash[indices] = _max_entropy(scaled[:, indices], support)
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
        has_met = ~np.isnan(row)
        k = int(np.argmin(np.where(has_met, row, np.inf)))
        worst.append((k, float(row[k])) if has_met.any() else None)
    return worst


def _fixation_probs(table: Floats, alpha: float, population: int, mixing: bool) -> Floats:
    """Return the probabilities that a mutant takes over, [resident, mutant]; `alpha_rank` has the formula."""
    k = np.arange(1, population)[:, None, None]  # numbers of mutants
    advantage = np.broadcast_to(table.T - table, (population - 1, *table.shape))
    if mixing:
        diagonal = np.diag(table)
        mutant = (k - 1) * diagonal[None, None, :] + (population - k) * table.T
        resident = k * table + (population - k - 1) * diagonal[None, :, None]
        advantage = (mutant - resident) / (population - 1)
    log_products = np.cumsum(-alpha * advantage, axis=0)
    top = np.maximum(log_products.max(axis=0), 0.0)  # subtracted from the exponents, so that none overflows
    denominator = np.exp(-top) + np.exp(log_products - top).sum(axis=0)
    probs: Floats = np.maximum(np.exp(-top) / denominator, _MIN_PROB)
    return probs


def _stationary_distribution(transitions: Floats) -> Floats:
    """Return the stationary distribution [n] of an irreducible Markov chain.

    `transitions`, [n, n], has the probabilities to go from a row's state to a column's; the diagonal is not read. The
    states are eliminated from the last to the first, without subtractions, so masses smaller than the rounding unit
    are accurate, too.

    Source: Grassmann, Taksar and Heyman 1985, "Regenerative analysis and steady state distributions for Markov chains".
    """
    rates, n = transitions.copy(), len(transitions)
    for k in range(n - 1, 0, -1):
        rates[:k, k] /= max(rates[k, :k].sum(), _MIN_PROB)
        rates[:k, :k] += np.outer(rates[:k, k], rates[k, :k])
    mass = np.zeros(n)
    mass[0] = 1.0
    for k in range(1, n):
        mass[k] = mass[:k] @ rates[:k, k]
        mass[: k + 1] /= mass[: k + 1].sum()
    return mass


def _max_support_equilibrium(payoffs: Floats) -> tuple[Floats, Floats]:
    """Return an equilibrium [n] of greatest support for antisymmetric payoffs [n, n], and the support, bool [n].

    A multiple q of an equilibrium is a vector with q >= 0 and payoffs @ q <= 0. The linear program maximizes the sum of
    t, where t <= q and t <= 1. Because q may be scaled up, t is 1 in the greatest support and 0 elsewhere.
    """
    n = len(payoffs)
    cost = np.concatenate([np.zeros(n), -np.ones(n)])
    rows = np.block([[payoffs, np.zeros((n, n))], [-np.eye(n), np.eye(n)]])
    solution = linprog(cost, A_ub=rows, b_ub=np.zeros(2 * n), bounds=[(0, None)] * n + [(0, 1)] * n, method="highs")
    q, t = solution.x[:n], solution.x[n:]
    support = t > 0.5
    nash = np.where(support, q, 0.0)
    return nash / nash.sum(), support


def _max_entropy(payoffs: Floats, support: Floats) -> Floats:
    """Return the distribution x [k] of greatest entropy with payoffs @ x = 0 in the support, and <= 0 elsewhere.

    `payoffs` [n, k] has a column for each entrant of the support, bool [n]. By duality, x is proportional to
    exp(-payoffs' u), where u minimizes the logarithm of the sum of these.
    """

    def dual(u: Floats) -> tuple[float, Floats]:
        """Return the dual function and its gradient."""
        logits = -(u @ payoffs)
        top = logits.max()
        unnormalised = np.exp(logits - top)
        value = float(top + np.log(unnormalised.sum()))
        return value, -(payoffs @ (unnormalised / unnormalised.sum()))

    bounds = [(None, None) if each else (0, None) for each in support]
    options = {"maxiter": 5000, "maxfun": 50_000, "ftol": 1e-16, "gtol": 1e-12, "maxcor": 50}
    u = minimize(dual, np.zeros(len(payoffs)), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    logits = -(u @ payoffs)
    unnormalised = np.exp(logits - logits.max())
    result: Floats = unnormalised / unnormalised.sum()
    return result


def _matrix(values: ArrayLike) -> Floats:
    """Return a copy as float64 [n, n]. Raises ValueError for other shapes and numbers that are not finite."""
    table = np.array(values, np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not len(table) or not np.isfinite(table).all():
        raise ValueError(f"expected a square matrix of finite numbers, got shape {table.shape}")
    return table
