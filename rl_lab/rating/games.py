"""Game theory on a table of results: who is worth what where strength is not one number, because some cycles exist.

Shape letters: n entrants. A payoff matrix [n, n] holds what a row gets against a column; where it is antisymmetric
(payoff = -payoff'), as scores less one half are, one entrant's gain is the other's loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog, minimize
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from .results import Floats

_EQUAL = 1e-9  # payoffs nearer than this are equal
_PERTURBATION = 1e-10


def alpha_rank(payoffs: ArrayLike, *, alpha: float | None = None, population: int = 50, mixing: bool = False) -> Floats:
    """Return alpha-rank's masses, float64 [n], that add up to 1: how long evolution stays with each entrant.

    A population of m of one kind is invaded by a single mutant of another, chosen uniformly, so rarely that one kind
    has died out before the next mutant comes. Mutants s take over from residents r with probability

        (1 - exp(-x)) / (1 - exp(-m x))    where x = alpha (payoff[s, r] - payoff[r, s])

    or, with `mixing`, where everybody meets everybody else and, with k mutants, the mean payoff of a mutant exceeds a
    resident's by f(k), 1 / (1 + sum over l = 1 .. m - 1 of product over k = 1 .. l of exp(-alpha f(k))).
    The masses are the stationary ones of the chain of kinds.

    Args:
        payoffs: [n, n].
        alpha: intensity of selection, above 0. None: without limit, for zero-sum payoffs: better mutants always take
            over, equal ones in 1 of m cases, and worse ones in 1e-10, so that where several sets of entrants would
            never be left each has its share.
        population: m, at least 2.
        mixing: see above; it matters where alpha is given.

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
        taken = np.where(gap > _EQUAL, 1.0, np.where(gap < -_EQUAL, _PERTURBATION, 1 / population))
    else:
        taken = _fixation(table, alpha, population, mixing)
    chain = taken / (n - 1)
    np.fill_diagonal(chain, 0.0)
    return _stationary(chain)


def maxent_nash(payoffs: ArrayLike) -> tuple[Floats, Floats]:
    """Return the Nash equilibrium of greatest entropy of a symmetric zero-sum game, [n], and everybody's value to it.

    It is what "Nash averaging" weighs opponents by: copies of an entrant change nobody's value, [n] = payoffs @ nash,
    which is 0 for all whom the equilibrium plays and at most 0 for the others. Raises ValueError for payoffs that are
    not antisymmetric.

    Source: Balduzzi et al. 2018, "Re-evaluating evaluation".
    """
    table = _matrix(payoffs)
    scale = max(np.abs(table).max(), 1e-300)
    if np.abs(table + table.T).max() > 1e-9 * scale:
        raise ValueError("payoffs must be antisymmetric: what one wins the other loses")
    game, n = table / scale, len(table)
    nash, played = _widest(game)
    support = np.flatnonzero(played)
    if len(support) > 1:
        nash = np.zeros(n)
        nash[support] = _most_entropy(game[:, support], played)
    nash /= nash.sum()
    return nash, table @ nash


def condorcet(scores: ArrayLike) -> int | None:
    """Return who scores above one half against everybody else, an index, or None; scores [n, n], row against column."""
    table = _matrix(scores)
    beats = table > 0.5 + _EQUAL
    np.fill_diagonal(beats, True)
    winners = np.flatnonzero(beats.all(axis=1))
    return int(winners[0]) if len(winners) else None


def smith_set(scores: ArrayLike) -> list[int]:
    """Return the smallest set of entrants each of whom scores above one half against everybody outside; ascending.

    Args:
        scores: [n, n], row against column, between 0 and 1; nan where two never met counts as even.

    Source: Smith 1973, "Aggregation of preferences with variable electorate".
    """
    table = np.nan_to_num(np.asarray(scores, np.float64), nan=0.5)
    unbeaten = csr_array(table >= 0.5 - _EQUAL)
    count, label = connected_components(unbeaten, connection="strong")
    for group in range(count):
        inside = label == group
        if (table[np.ix_(inside, ~inside)] > 0.5 + _EQUAL).all():
            return [int(k) for k in np.flatnonzero(inside)]
    raise AssertionError("of two entrants one is unbeaten by the other, so one group beats all others")


def cyclic_share(payoffs: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return how much of an antisymmetric matrix no rating explains: 0 purely transitive, 1 purely cyclic.

    It is the weighted sum of squares of payoff[i, j] - (r_i - r_j) over that of payoff[i, j], at the ratings r that
    make it least: the curl and harmonic part of the Hodge decomposition. Of a matrix of zeros it is 0.

    Args:
        payoffs: [n, n], antisymmetric; log-odds are what ratings add up in.
        weights: [n, n], symmetric, such as games played; 0 where two never met. By default all count alike.

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
    left = table - (rating[:, None] - rating)
    return min(max(float((weight * left**2).sum()) / total, 0.0), 1.0)


def worst_opponents(scores: ArrayLike) -> list[tuple[int, float] | None]:
    """Return, for each entrant, whom it scores least against and that score; None where it met nobody.

    scores: [n, n], row against column, nan where two never met.
    """
    table = np.array(scores, np.float64)
    np.fill_diagonal(table, np.nan)
    found: list[tuple[int, float] | None] = []
    for row in table:
        met = ~np.isnan(row)
        k = int(np.argmin(np.where(met, row, np.inf)))
        found.append((k, float(row[k])) if met.any() else None)
    return found


def _fixation(table: Floats, alpha: float, population: int, mixing: bool) -> Floats:
    """Return how likely a mutant takes over, [resident, mutant]."""
    k = np.arange(1, population)[:, None, None]
    advantage = np.broadcast_to(table.T - table, (population - 1, *table.shape))
    if mixing:
        own = np.diag(table)
        mutant = (k - 1) * own[None, None, :] + (population - k) * table.T
        resident = k * table + (population - k - 1) * own[None, :, None]
        advantage = (mutant - resident) / (population - 1)
    logs = np.cumsum(-alpha * advantage, axis=0)
    top = np.maximum(logs.max(axis=0), 0.0)
    taken: Floats = np.maximum(np.exp(-top) / (np.exp(-top) + np.exp(logs - top).sum(axis=0)), 1e-300)
    return taken


def _stationary(chain: Floats) -> Floats:
    """Return the stationary masses of a chain of transition rates, off the diagonal, that can reach everything.

    By elimination without subtraction, which keeps masses accurate that are smaller than rounding.

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


def _widest(game: Floats) -> tuple[Floats, Floats]:
    """Return an equilibrium [n] that plays everybody whom any equilibrium plays, and who that is, bool [n]."""
    n = len(game)
    # Equilibria times any number are q >= 0 with game q <= 0. Maximise the sum of t <= min(q, 1): t is 1 or 0.
    cost = np.concatenate([np.zeros(n), -np.ones(n)])
    rows = np.block([[game, np.zeros((n, n))], [-np.eye(n), np.eye(n)]])
    found = linprog(cost, A_ub=rows, b_ub=np.zeros(2 * n), bounds=[(0, None)] * n + [(0, 1)] * n, method="highs")
    q, t = found.x[:n], found.x[n:]
    played = t > 0.5
    nash = np.where(played, q, 0.0)
    return nash / nash.sum(), played


def _most_entropy(game: Floats, played: Floats) -> Floats:
    """Return the distribution [k] of greatest entropy with game [n, k] times it 0 where played, else at most 0.

    It is proportional to exp(-game' u), where u minimises the logarithm of the sum of these.
    """

    def dual(u: Floats) -> tuple[float, Floats]:
        logits = -(u @ game)
        top = logits.max()
        odds = np.exp(logits - top)
        return float(top + np.log(odds.sum())), -(game @ (odds / odds.sum()))

    bounds = [(None, None) if each else (0, None) for each in played]
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
