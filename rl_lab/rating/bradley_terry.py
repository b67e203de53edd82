"""This module fits Bradley-Terry ratings to games of two players, with draws and an advantage of the first seat.

The model is `davidson`'s, the fit maximizes the posterior density, and the intervals are those of `uncertainty`. The
order of the games changes no bit of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from rl_lab.rating import davidson, ratings, uncertainty
from rl_lab.rating.davidson import DavidsonModel
from rl_lab.rating.results import Floats, Ints, PairwiseResults, check_connected

PRIOR = 800.0  # Elo points
_REFIT = 32  # the most entrants for which every bootstrap repetition is fitted to convergence


@dataclass(frozen=True)
class _Fit:
    """A fitted model: the games, their cells and clusters, and the parameters of greatest posterior density."""

    model: DavidsonModel
    games: PairwiseResults
    cell: Ints  # [M]: the cell of each game
    beta: Floats  # [p]
    clusters: uncertainty.Clusters
    model_games: Floats  # [K]: the games in each cell whose pairing's variance is the model's
    ridge: float


def fit(
    games: PairwiseResults,
    *,
    anchor: str | None = None,
    anchor_elo: float = 0.0,
    seat: bool = True,
    prior: float | None = PRIOR,
    confidence: float = 0.95,
    intervals: str = "sandwich",
    repetitions: int = 500,
    seed: int = 0,
) -> ratings.Ratings:
    """Return the ratings of all entrants in these games.

    Args:
        games: what `results.duels` returns.
        anchor: the entrant whose rating is `anchor_elo`; by default, the mean rating is.
        anchor_elo: the anchor's rating in Elo points.
        seat: whether to fit the advantage of the first seat.
        prior: the standard deviation, in Elo points, of the normal prior on every strength about their mean, on the
            first seat's advantage and on the draw parameter. At 800, it changes a rating from 100 even games by 0.2 %.
            None means no prior: maximum likelihood, which does not exist for an entrant that won all its games.
        confidence: the nominal coverage of the intervals.
        intervals: "sandwich", normal with the clustered covariance; or "bootstrap", percentiles over resampled pairs,
            fitted to convergence for up to 32 entrants and by one Newton step for more.
        repetitions: the number of bootstrap repetitions.
        seed: the seed of the bootstrap.

    Raises:
        ValueError: the entrants fall into groups that never met, which the message names; the anchor is unknown; a
            setting is out of range; there is no prior and the results have no finite maximum; or the search for it does
            not converge, for example with a very wide prior.

    Source: the model is `davidson`'s; White 1982, "Maximum likelihood estimation of misspecified models" (variance).
    """
    ratings.check_settings(prior, intervals, repetitions)
    check_connected(games.names, games.first, games.second)
    ridge = 0.0 if prior is None else (ratings.POINTS / prior) ** 2
    model, cell = davidson.cells(games, seat)
    beta = davidson.maximise(model, model.counts[None], ridge)[0]
    clusters = uncertainty.clusters(*_scores(model, games, beta, cell))
    inverse = np.linalg.inv(davidson.posterior_precision(model, beta, ridge))
    model_games = _model_games(model, games, cell, clusters.uses_model_variance)
    model_information = davidson.information(model, model_games[None], davidson.probs(model, beta[None]))[0]
    # The prior contributes to the variance like results do, so that without results it is the variance.
    covariance = (
        inverse @ (uncertainty.meat(clusters) + model_information + ridge * np.eye(model.num_parameters)) @ inverse
    )
    n, deviations = model.n, None  # deviations [R, n] of bootstrap repetitions from the strengths beta
    if intervals == "bootstrap":
        if n <= _REFIT:
            fitted = _Fit(model, games, cell, beta, clusters, model_games, ridge)
            deviations = _bootstrap_refits(fitted, repetitions, seed) - beta
        else:
            deviations = uncertainty.one_step(clusters, inverse, model_information, repetitions, seed)
        deviations = deviations[:, :n]
    error = np.sqrt(np.diag(covariance))
    first = ratings.wald_interval(beta[n], error[n], confidence) if seat else None
    draw = ratings.exp_effect(ratings.wald_interval(beta[-1], error[-1], confidence, 1.0)) if model.fits_draws else None
    return ratings.build_ratings(
        games.names, beta[:n], covariance[:n, :n], deviations, anchor, anchor_elo, confidence, seat=first, draw=draw
    )


def strengths(games: PairwiseResults, expected: Floats | None = None, *, seat: bool = True) -> Floats:
    """Return the maximum-likelihood ratings [n] in Elo points, with mean 0 and without a prior.

    Args:
        games: the schedule, and the outcomes unless `expected` is there.
        expected: [M, 3], the probabilities that the entrant in the first seat wins, draws and loses, in place of the
            outcomes. The ratings are then the limit for ever more games of this schedule, whether or not the model is
            right. Confidence intervals should contain this limit.
        seat: as in `fit`.

    Source: White 1982, "Maximum likelihood estimation of misspecified models".
    """
    model, cell = davidson.cells(games, seat)
    if expected is not None:
        counts = np.stack([np.bincount(cell, column, len(model.first)) for column in np.transpose(expected)], axis=1)
        model = DavidsonModel(model.n, model.first, model.second, counts, seat, bool(counts[:, 1].any()))
    beta = davidson.maximise(model, model.counts[None], 0.0)[0, : model.n]
    elo: Floats = ratings.POINTS * (beta - beta.mean())
    return elo


def _scores(model: DavidsonModel, games: PairwiseResults, beta: Floats, cell: Ints) -> tuple[csr_array, Ints]:
    """Return each cluster's derivative of the log-likelihood by the parameters, [C, p], and its pairing [C].

    A game's derivative is that by the strength of the first entrant, of opposite sign for the second; by the advantage
    of the first seat, which is the same; and by the draw parameter.
    """
    probs = davidson.probs(model, beta[None])[0]
    expected_score, draw = probs[:, 0] - probs[:, 2], probs[:, 1]
    by_first = (2 * games.outcome - 1 - expected_score[cell]) / 2
    by_draw = (games.outcome == 0.5) - draw[cell]
    low = np.minimum(games.first, games.second)
    by_low = np.where(games.first == games.second, 0.0, np.where(games.first == low, by_first, -by_first))
    c = int(games.cluster[-1]) + 1
    start = np.searchsorted(games.cluster, np.arange(c))
    columns = [(low[start], by_low, 1.0), (np.maximum(games.first, games.second)[start], by_low, -1.0)]
    columns += [(np.full(c, model.n), by_first, 1.0)] if model.fits_seat else []
    columns += [(np.full(c, model.num_parameters - 1), by_draw, 1.0)] if model.fits_draws else []
    values = np.concatenate([sign * np.bincount(games.cluster, value, c) for _, value, sign in columns])
    indices = np.tile(np.arange(c), len(columns)), np.concatenate([column for column, _, _ in columns])
    return csr_array((values, indices), shape=(c, model.num_parameters)), games.pairing[start]


def _model_games(model: DavidsonModel, games: PairwiseResults, cell: Ints, uses_model_variance: Floats) -> Floats:
    """Return the number of games in each cell [K] that belong to pairings whose variance is the model's."""
    return np.bincount(cell, uses_model_variance[games.pairing].astype(np.float64), len(model.first))


def _bootstrap_refits(fitted: _Fit, repetitions: int, seed: int) -> Floats:
    """Return parameters [R, p] fitted to resampled pairs, and to samples of the model where its variance is used."""
    model, games = fitted.model, fitted.games
    generator = np.random.default_rng(seed)
    times = uncertainty.weights(fitted.clusters, repetitions, generator)
    column = 3 * fitted.cell + (2 - 2 * games.outcome).astype(np.int64)
    shape = (times.shape[1], 3 * len(model.first))
    by_cluster = csr_array((np.ones(len(fitted.cell)), (games.cluster, column)), shape=shape)
    counts = (by_cluster.T @ times.T).T.reshape(repetitions, -1, 3)
    if fitted.model_games.any():
        probs = davidson.probs(model, fitted.beta[None])[0]
        sizes = fitted.model_games.astype(np.int64)
        counts = counts + generator.multinomial(sizes, probs, (repetitions, len(sizes)))
    return davidson.maximise(model, counts, fitted.ridge, fitted.beta)
