"""This module has Davidson's model, which extends Bradley-Terry ratings by draws, and finds its maximum.

`bradley_terry` calls it: `build_model` counts results, `maximise_posterior` fits the parameters, and `information` and
`posterior_precision` have the second derivatives from which variances are computed. All functions are pure.

With strengths t_i in log-odds, a first-seat advantage g and a draw parameter d, a game of i (first) against j has

    x = t_i - t_j + g      win : draw : loss  =  exp(x / 2) : exp(d) : exp(-x / 2)

so that exp(x) is the odds of a win against a loss. Without draws it is the model of Bradley and Terry. The priors of
all t_i, g and d are normal and independent, with mean 0 and precision `prior_precision`, which is 0 for no prior. With
a prior, the ratings of entrants that won all games are finite.

Shape letters: M games, K cells (pairs of entrants in the first and second seat), n entrants, p parameters, R replicates
fitted at once. Parameters `beta`, float64 [R, p], are t_0 to t_n-1, then g at index n if it is fitted, then d at index
-1 if it is fitted.

Source: Bradley and Terry 1952, "Rank analysis of incomplete block designs: the method of paired comparisons"; Davidson
1970, "On extending the Bradley-Terry model to accommodate ties in paired comparison experiments"; Davidson and Beaver
1977, "On extending the Bradley-Terry model to incorporate within-pair order effects".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from rl_lab.rating.newton import (
    DECREASE_TOLERANCE,
    MAX_HALVINGS,
    MAX_LOG_ODDS,
    MAX_STEPS,
    NOT_CONVERGED,
    STEP_TOLERANCE,
)
from rl_lab.rating.results import Floats, Ints, PairwiseResults

# For up to this many entrants, Hessians of many replicates are computed by one matrix product with K x n x n numbers.
_MAX_DENSE_ENTRANTS = 32
_NOT_FINITE = (
    "the maximum-likelihood ratings are not finite, for example because an entrant won all its games or because seats "
    "were never swapped; use a prior"
)
_MIN_PROB = 1e-300  # so that the logarithm of a probability that has underflowed is finite


@dataclass(frozen=True)
class DavidsonModel:
    """The data of the likelihood: which parameters are fitted, and the counts of results by cell.

    The functions of this module that have an argument `counts` use it in place of the model's own.
    """

    n: int  # number of entrants
    first: Ints  # [K]: the entrant in the first seat
    second: Ints  # [K]: the entrant in the second seat
    counts: Floats  # [K, 3]: wins, draws and losses of the entrant in the first seat
    fits_seat: bool  # whether g is fitted
    fits_draws: bool  # whether d is fitted

    @property
    def num_parameters(self) -> int:
        """Return p, the number of parameters."""
        return self.n + self.fits_seat + self.fits_draws

    @property
    def design(self) -> csr_array:
        """Return the design matrix [K, n], +1 for the entrant in the first seat and -1 for the one in the second.

        It is the derivative of each cell's x by the strengths.
        """
        k = np.arange(len(self.first))
        values = np.repeat([1.0, -1.0], len(k))
        indices = (np.concatenate([k, k]), np.concatenate([self.first, self.second]))
        return csr_array((values, indices), shape=(len(k), self.n))


def build_model(games: PairwiseResults, seat: bool = True) -> tuple[DavidsonModel, Ints]:
    """Return the model of these games, and the cell of each game, int64 [M]; d is fitted if there are draws."""
    n = len(games.names)
    keys, cell = np.unique(games.first * n + games.second, return_inverse=True)
    cell = cell.reshape(-1)
    column = (2 - 2 * games.outcome).astype(np.int64)
    counts = np.bincount(3 * cell + column, minlength=3 * len(keys)).reshape(-1, 3).astype(np.float64)
    return DavidsonModel(n, keys // n, keys % n, counts, seat, bool(counts[:, 1].any())), cell


def probs(model: DavidsonModel, beta: Floats) -> Floats:
    """Return the probabilities of win, draw and loss, [R, K, 3], under parameters [R, p]."""
    x = beta[:, model.first] - beta[:, model.second]
    if model.fits_seat:
        x = x + beta[:, [model.n]]
    draw_logit = np.broadcast_to(beta[:, [-1]] if model.fits_draws else -np.inf, x.shape)
    logits = np.stack([x / 2, draw_logit, -x / 2], axis=-1)
    unnormalised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = unnormalised / unnormalised.sum(axis=-1, keepdims=True)
    return result


def residuals(counts: Floats, outcome_probs: Floats) -> tuple[Floats, Floats]:
    """Return the derivatives of the log-likelihood by x and by d, [..., K] each.

    `counts` and the outcomes' probabilities are [..., K, 3].
    """
    total = counts.sum(axis=-1)
    expected_margin = outcome_probs[..., 0] - outcome_probs[..., 2]
    by_x = (counts[..., 0] - counts[..., 2] - total * expected_margin) / 2
    return by_x, counts[..., 1] - total * outcome_probs[..., 1]


def information(model: DavidsonModel, total: Floats, outcome_probs: Floats) -> Floats:
    """Return the Fisher information [R, p, p] of total [R, K] games with outcome probabilities [R, K, 3]."""
    expected_margin, draw = outcome_probs[..., 0] - outcome_probs[..., 2], outcome_probs[..., 1]
    info_xx = total * (outcome_probs[..., 0] + outcome_probs[..., 2] - expected_margin**2) / 4
    matrix = np.zeros((len(total), model.num_parameters, model.num_parameters))
    n, design = model.n, model.design
    matrix[:, :n, :n] = _gram(model, info_xx)
    if model.fits_seat:
        matrix[:, n, :n] = matrix[:, :n, n] = (design.T @ info_xx.T).T
        matrix[:, n, n] = info_xx.sum(axis=1)
    if model.fits_draws:
        info_xd = -total * draw * expected_margin / 2
        matrix[:, -1, :n] = matrix[:, :n, -1] = (design.T @ info_xd.T).T
        if model.fits_seat:
            matrix[:, -1, n] = matrix[:, n, -1] = info_xd.sum(axis=1)
        matrix[:, -1, -1] = (total * draw * (1 - draw)).sum(axis=1)
    return matrix


def _gram(model: DavidsonModel, weight: Floats) -> Floats:
    """Return design' diag(weight) design, [R, n, n], for weights [R, K]."""
    n, result = model.n, np.zeros((len(weight), model.n, model.n))
    if len(weight) > 1 and n <= _MAX_DENSE_ENTRANTS:
        rows = model.design.toarray()
        outer = (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)  # [K, n x n]
        gram: Floats = (weight @ outer).reshape(-1, n, n)
        return gram
    # A row of the design has +1 at `first` and -1 at `second`, so its outer product is +1 twice on the diagonal and -1
    # at both places off it.
    for out, w in zip(result, weight, strict=True):
        pairs = np.bincount(model.first * n + model.second, w, n * n).reshape(n, n)
        out[...] = np.diag(np.bincount(model.first, w, n) + np.bincount(model.second, w, n)) - pairs - pairs.T
    return result


def maximise_posterior(
    model: DavidsonModel, counts: Floats, prior_precision: float, start: Floats | None = None
) -> Floats:
    """Return the parameters [R, p] of greatest posterior density for counts [R, K, 3], by a damped Newton's method.

    Strengths add up to 0. `start` [p] is where the search begins, by default at 0.

    Raises:
        ValueError: there is no prior and no finite maximum; or the search does not converge, for example
            because the prior is so wide that the maximum is hundreds of log-odds away.
    """
    beta = np.zeros((len(counts), model.num_parameters))
    if start is not None:
        beta[...] = start
    total, design = counts.sum(axis=-1), model.design
    outcome_probs = probs(model, beta)
    value = _log_posterior(counts, outcome_probs, beta, prior_precision)
    for _ in range(MAX_STEPS):
        gradient = _gradient(model, design, counts, outcome_probs, beta, prior_precision)
        hessian = _add_prior(model, information(model, total, outcome_probs), prior_precision)
        step = _solve(hessian, gradient, NOT_CONVERGED if prior_precision else _NOT_FINITE)
        scale = np.ones(len(beta))
        for _ in range(MAX_HALVINGS):
            trial = beta + scale[:, None] * step
            outcome_probs = probs(model, trial)
            trial_value = _log_posterior(counts, outcome_probs, trial, prior_precision)
            is_lower = trial_value < value - DECREASE_TOLERANCE * np.abs(value)
            if not is_lower.any():
                break
            scale[is_lower] /= 2
        # A step that lowers the posterior even after all halvings is taken too; it is 1e-9 of Newton's.
        beta, value = trial, trial_value
        if not prior_precision and np.abs(beta).max() > MAX_LOG_ODDS:
            raise ValueError(_NOT_FINITE)
        if np.abs(step).max() < STEP_TOLERANCE:
            return beta
    raise ValueError(NOT_CONVERGED)


def _gradient(
    model: DavidsonModel, design: csr_array, counts: Floats, outcome_probs: Floats, beta: Floats, prior_precision: float
) -> Floats:
    """Return the derivative of the log-posterior by the parameters, [R, p], for counts and probabilities [R, K, 3]."""
    by_x, by_d = residuals(counts, outcome_probs)
    gradient: Floats = -prior_precision * beta
    gradient[:, : model.n] += (design.T @ by_x.T).T
    if model.fits_seat:
        gradient[:, model.n] += by_x.sum(axis=1)
    if model.fits_draws:
        gradient[:, -1] += by_d.sum(axis=1)
    return gradient


def posterior_precision(model: DavidsonModel, beta: Floats, prior_precision: float) -> Floats:
    """Return the Hessian [p, p] of minus the log-posterior at parameters [p].

    To the direction (1, ..., 1) of the strengths, which the results do not determine, 1 is added, so that the matrix
    has an inverse without a prior.
    """
    total = model.counts.sum(axis=-1)[None]
    precision: Floats = _add_prior(model, information(model, total, probs(model, beta[None])), prior_precision)[0]
    return precision


def _add_prior(model: DavidsonModel, matrix: Floats, prior_precision: float) -> Floats:
    """Add the prior, and 1 to the direction (1, ..., 1) of strengths, to information [R, p, p] in place; return it."""
    diagonal = np.arange(model.num_parameters)
    matrix[:, diagonal, diagonal] += prior_precision
    matrix[:, : model.n, : model.n] += 1 / model.n
    return matrix


def _solve(matrix: Floats, right: Floats, message: str) -> Floats:
    """Return the solutions [R, p] of R linear systems with matrices [R, p, p] and right sides [R, p].

    Raises ValueError with this message for a singular one.
    """
    try:
        if len(matrix) == 1:
            return np.asarray(cho_solve(cho_factor(matrix[0]), right[0]))[None]
        return np.linalg.solve(matrix, right[..., None])[..., 0]
    except np.linalg.LinAlgError:
        raise ValueError(message) from None


def _log_posterior(counts: Floats, outcome_probs: Floats, beta: Floats, prior_precision: float) -> Floats:
    """Return the logarithm of the posterior density of parameters [R, p], up to a constant, [R]."""
    logs = np.log(np.maximum(outcome_probs, _MIN_PROB))
    value: Floats = np.einsum("rks,rks->r", counts, logs) - prior_precision / 2 * (beta**2).sum(axis=1)
    return value
