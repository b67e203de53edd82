"""This module has Davidson's model, which extends Bradley-Terry ratings by draws, and finds its maximum.

With strengths t_i in log-odds, a first-seat advantage g and a draw parameter d, a game of i (first) against j has

    x = t_i - t_j + g      win : draw : loss  =  exp(x / 2) : exp(d) : exp(-x / 2)

so that exp(x) is the odds of a win against a loss. Without draws it is the model of Bradley and Terry. The priors of
all t_i, g and d are normal and independent, with mean 0 and precision `ridge`; with a prior, the ratings of entrants
that won all games are finite.

Shape letters: K cells (pairs of entrants in the first and second seat), n entrants, p parameters (t, then g and d if
they are fitted), R replicates fitted at once.

Source: Bradley and Terry 1952; Davidson 1970; Davidson and Beaver 1977 (order effects)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from rl_lab.rating.results import Floats, Ints, PairwiseResults

_DENSE = 32  # the most entrants for which Hessians of many replicates are assembled by one matrix product
_NOT_FINITE = (
    "the maximum-likelihood ratings are not finite, for example because an entrant won all its games or because seats "
    "were never swapped; use a prior"
)
_MOST_STEPS = 200  # Newton steps
_HALVINGS = 30  # of one Newton step
_TOLERANCE = 1e-10  # log-odds: a Newton step below it has converged
_FARTHEST = 15.0  # log-odds: without a prior, a parameter beyond it shows that there is no maximum


@dataclass(frozen=True)
class PairCounts:
    """Counts of results by cell; they determine the likelihood."""

    n: int
    first: Ints  # [K]
    second: Ints  # [K]
    counts: Floats  # [K, 3]: wins, draws and losses of the entrant in the first seat
    seat: bool  # whether g is fitted
    draws: bool  # whether d is fitted

    @property
    def size(self) -> int:
        """Return p, the number of parameters."""
        return self.n + self.seat + self.draws

    @property
    def design(self) -> csr_array:
        """Return the design matrix [K, n], +1 for the entrant in the first seat and -1 for the one in the second."""
        k = np.arange(len(self.first))
        values = np.repeat([1.0, -1.0], len(k))
        indices = (np.concatenate([k, k]), np.concatenate([self.first, self.second]))
        return csr_array((values, indices), shape=(len(k), self.n))


def cells(games: PairwiseResults, seat: bool = True) -> tuple[PairCounts, Ints]:
    """Return the games' cells, and the cell of each game, int [M]."""
    n = len(games.names)
    keys, cell = np.unique(games.first * n + games.second, return_inverse=True)
    cell = cell.reshape(-1)
    column = (2 - 2 * games.outcome).astype(np.int64)
    counts = np.bincount(3 * cell + column, minlength=3 * len(keys)).reshape(-1, 3).astype(np.float64)
    return PairCounts(n, keys // n, keys % n, counts, seat, bool(counts[:, 1].any())), cell


def probs(model: PairCounts, beta: Floats) -> Floats:
    """Return the probabilities of win, draw and loss, [R, K, 3], under parameters [R, p]."""
    x = beta[:, model.first] - beta[:, model.second]
    if model.seat:
        x = x + beta[:, [model.n]]
    middle = np.broadcast_to(beta[:, [-1]] if model.draws else -np.inf, x.shape)
    logits = np.stack([x / 2, middle, -x / 2], axis=-1)
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = odds / odds.sum(axis=-1, keepdims=True)
    return result


def residuals(model: PairCounts, counts: Floats, chance: Floats) -> tuple[Floats, Floats]:
    """Return the derivatives of the log-likelihood by x and by d, [..., K] each, for counts and probs [..., K, 3]."""
    total = counts.sum(axis=-1)
    lead = chance[..., 0] - chance[..., 2]
    return (counts[..., 0] - counts[..., 2] - total * lead) / 2, counts[..., 1] - total * chance[..., 1]


def information(model: PairCounts, total: Floats, chance: Floats) -> Floats:
    """Return the Fisher information [R, p, p] of total [R, K] games with outcome probabilities [R, K, 3]."""
    lead, draw = chance[..., 0] - chance[..., 2], chance[..., 1]
    xx = total * (chance[..., 0] + chance[..., 2] - lead**2) / 4
    blocks = np.zeros((len(total), model.size, model.size))
    n, design = model.n, model.design
    blocks[:, :n, :n] = _gram(model, xx)
    if model.seat:
        blocks[:, n, :n] = blocks[:, :n, n] = (design.T @ xx.T).T
        blocks[:, n, n] = xx.sum(axis=1)
    if model.draws:
        xd = -total * draw * lead / 2
        blocks[:, -1, :n] = blocks[:, :n, -1] = (design.T @ xd.T).T
        if model.seat:
            blocks[:, -1, n] = blocks[:, n, -1] = xd.sum(axis=1)
        blocks[:, -1, -1] = (total * draw * (1 - draw)).sum(axis=1)
    return blocks


def _gram(model: PairCounts, weight: Floats) -> Floats:
    """Return design' diag(weight) design, [R, n, n]."""
    n, result = model.n, np.zeros((len(weight), model.n, model.n))
    if len(weight) > 1 and n <= _DENSE:
        rows = model.design.toarray()
        outer = (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)
        gram: Floats = (weight @ outer).reshape(-1, n, n)
        return gram
    for out, w in zip(result, weight, strict=True):
        pairs = np.bincount(model.first * n + model.second, w, n * n).reshape(n, n)
        out[...] = np.diag(np.bincount(model.first, w, n) + np.bincount(model.second, w, n)) - pairs - pairs.T
    return result


def maximise(model: PairCounts, counts: Floats, ridge: float, start: Floats | None = None) -> Floats:
    """Return the parameters [R, p] of greatest posterior density for counts [R, K, 3], by Newton's method.

    Strengths add up to 0. Raises ValueError if there is no finite maximum, which only happens without a prior.
    """
    beta = (
        np.zeros((len(counts), model.size))
        if start is None
        else np.array(np.broadcast_to(start, (len(counts), model.size)))
    )
    total, design = counts.sum(axis=-1), model.design
    chance = probs(model, beta)
    value = _log_posterior(counts, chance, beta, ridge)
    for _ in range(_MOST_STEPS):
        by_x, by_d = residuals(model, counts, chance)
        gradient = -ridge * beta
        gradient[:, : model.n] += (design.T @ by_x.T).T
        if model.seat:
            gradient[:, model.n] += by_x.sum(axis=1)
        if model.draws:
            gradient[:, -1] += by_d.sum(axis=1)
        hessian = _regularised(model, information(model, total, chance), ridge)
        step = _solve(hessian, gradient)
        scale = np.ones(len(beta))
        for _ in range(_HALVINGS):
            trial = beta + scale[:, None] * step
            chance = probs(model, trial)
            trial_value = _log_posterior(counts, chance, trial, ridge)
            worse = trial_value < value - 1e-9 * np.abs(value)
            if not worse.any():
                break
            scale[worse] /= 2
        beta, value = trial, trial_value
        if not ridge and np.abs(beta).max() > _FARTHEST:
            break
        if np.abs(step).max() < _TOLERANCE:
            return beta
    raise ValueError(_NOT_FINITE)


def posterior_precision(model: PairCounts, beta: Floats, ridge: float) -> Floats:
    """Return the Hessian [p, p] of minus the log-posterior at parameters [p], with the sum of strengths fixed at 0."""
    total = model.counts.sum(axis=-1)[None]
    precision: Floats = _regularised(model, information(model, total, probs(model, beta[None])), ridge)[0]
    return precision


def _regularised(model: PairCounts, blocks: Floats, ridge: float) -> Floats:
    """Add the prior, and 1 to the direction in which all strengths grow alike, which results do not determine."""
    diagonal = np.arange(model.size)
    blocks[:, diagonal, diagonal] += ridge
    blocks[:, : model.n, : model.n] += 1 / model.n
    return blocks


def _solve(matrix: Floats, right: Floats) -> Floats:
    """Return the solutions [R, p] of R linear systems [R, p, p]. Raises ValueError for a singular one."""
    try:
        if len(matrix) == 1:
            return np.asarray(cho_solve(cho_factor(matrix[0]), right[0]))[None]
        return np.linalg.solve(matrix, right[..., None])[..., 0]
    except np.linalg.LinAlgError:
        raise ValueError(_NOT_FINITE) from None


def _log_posterior(counts: Floats, chance: Floats, beta: Floats, ridge: float) -> Floats:
    """Return the logarithm of the posterior density of parameters [R, p], up to a constant, [R]."""
    logs = np.log(np.maximum(chance, 1e-300))
    value: Floats = np.einsum("rks,rks->r", counts, logs) - ridge / 2 * (beta**2).sum(axis=1)
    return value
