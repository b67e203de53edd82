"""This module fits Bradley-Terry ratings to games of two players, with draws and an advantage of the first seat.

`fit` is the entry point: `tables.fit_ratings` calls it for tournaments. It takes `PairwiseResults` and returns a new
`Ratings`; it changes nothing else. The model and its maximum are `davidson`'s, the variances are those of
`uncertainty`, and `ratings` converts log-odds to Elo points and intervals. The order of the games changes no bit of the
result.

Shape letters: M games, K cells (ordered pairs of entrants, see `davidson`), C clusters, n entrants, p parameters, R
bootstrap repetitions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from rl_lab.rating import davidson, ratings, uncertainty
from rl_lab.rating.davidson import DavidsonModel
from rl_lab.rating.results import Floats, Ints, PairwiseResults, check_connected

PRIOR = 800.0  # Elo points, the default standard deviation of the prior
MAX_REFITTED_ENTRANTS = 32  # with more, bootstrap repetitions are one Newton step and not fitted to convergence


@dataclass(frozen=True)
class _Fit:
    """The data from which bootstrap repetitions start: the games, and the parameters of greatest posterior density."""

    model: DavidsonModel
    games: PairwiseResults
    cell: Ints  # [M]: the cell of each game
    beta: Floats  # [p]
    clusters: uncertainty.Clusters
    model_games: Floats  # [K]: the number of games in each cell whose pairing uses the model's variance
    prior_precision: float


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
        games: what `results.pairwise_results` returns.
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
    prior_precision = 0.0 if prior is None else (ratings.ELO_PER_LOG_ODDS / prior) ** 2
    model, cell = davidson.build_model(games, seat)
    beta = davidson.maximise_posterior(model, model.counts[None], prior_precision)[0]
    clusters = uncertainty.make_clusters(*_cluster_gradients(model, games, beta, cell))
    inverse = np.linalg.inv(davidson.posterior_precision(model, beta, prior_precision))
    model_games = _model_games(model, games, cell, clusters.uses_model_variance)
    model_information = davidson.information(model, model_games[None], davidson.probs(model, beta[None]))[0]
    # The prior contributes to the variance like results do, so that without results it is the variance.
    prior_information = prior_precision * np.eye(model.num_parameters)
    covariance = inverse @ (uncertainty.sandwich_meat(clusters) + model_information + prior_information) @ inverse
    n, deviations = model.n, None  # deviations [R, n] of bootstrap repetitions from the strengths beta
    if intervals == "bootstrap":
        if n <= MAX_REFITTED_ENTRANTS:
            fitted = _Fit(model, games, cell, beta, clusters, model_games, prior_precision)
            deviations = _bootstrap_refits(fitted, repetitions, seed) - beta
        else:
            deviations = uncertainty.one_step_bootstrap(clusters, inverse, model_information, repetitions, seed)
        deviations = deviations[:, :n]
    effects = _effects(model, beta, np.sqrt(np.diag(covariance)), confidence, seat)
    return ratings.build_ratings(
        games.names, beta[:n], covariance[:n, :n], deviations, anchor, anchor_elo, confidence, **effects
    )


def _effects(
    model: DavidsonModel, beta: Floats, error: Floats, confidence: float, seat: bool
) -> dict[str, ratings.Effect | None]:
    """Return the advantage of the first seat and the draw parameter with their intervals; None for one not fitted."""
    seat_effect = ratings.wald_interval(beta[model.n], error[model.n], confidence) if seat else None
    draw_effect = None
    if model.fits_draws:
        draw_effect = ratings.exp_effect(ratings.wald_interval(beta[-1], error[-1], confidence, 1.0))
    return {"seat": seat_effect, "draw": draw_effect}


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
    model, cell = davidson.build_model(games, seat)
    if expected is not None:
        counts = np.stack([np.bincount(cell, column, len(model.first)) for column in np.transpose(expected)], axis=1)
        model = DavidsonModel(model.n, model.first, model.second, counts, seat, bool(counts[:, 1].any()))
    beta = davidson.maximise_posterior(model, model.counts[None], 0.0)[0, : model.n]
    elo: Floats = ratings.ELO_PER_LOG_ODDS * (beta - beta.mean())
    return elo


def _cluster_gradients(
    model: DavidsonModel, games: PairwiseResults, beta: Floats, cell: Ints
) -> tuple[csr_array, Ints]:
    """Return each cluster's derivative of the log-likelihood by the parameters, [C, p], and its pairing [C].

    A game's derivative is that by the strength of the first entrant, of opposite sign for the second; by the advantage
    of the first seat, which is the same; and by the draw parameter.
    """
    probs = davidson.probs(model, beta[None])[0]
    expected_margin, draw = probs[:, 0] - probs[:, 2], probs[:, 1]
    by_first = (2 * games.outcome - 1 - expected_margin[cell]) / 2  # [M], by the strength of the first entrant
    by_draw = (games.outcome == 0.5) - draw[cell]  # [M], by the draw parameter
    # The games of a cluster are between the same two entrants: `low` has the smaller index, `high` the larger one.
    low, high = np.minimum(games.first, games.second), np.maximum(games.first, games.second)
    by_low = np.where(games.first == games.second, 0.0, np.where(games.first == low, by_first, -by_first))
    c = int(games.cluster[-1]) + 1
    start = np.searchsorted(games.cluster, np.arange(c))  # [C], the first game of each cluster
    # The nonzero entries of each row of the result: (column [C], derivative by game [M], sign).
    entries = [(low[start], by_low, 1.0), (high[start], by_low, -1.0)]
    entries += [(np.full(c, model.n), by_first, 1.0)] if model.fits_seat else []
    entries += [(np.full(c, model.num_parameters - 1), by_draw, 1.0)] if model.fits_draws else []
    values = np.concatenate([sign * np.bincount(games.cluster, by_game, c) for _, by_game, sign in entries])
    indices = np.tile(np.arange(c), len(entries)), np.concatenate([column for column, _, _ in entries])
    return csr_array((values, indices), shape=(c, model.num_parameters)), games.pairing[start]


def _model_games(model: DavidsonModel, games: PairwiseResults, cell: Ints, uses_model_variance: Floats) -> Floats:
    """Return the number of games in each cell, [K], that belong to pairings which use the model's variance."""
    return np.bincount(cell, uses_model_variance[games.pairing].astype(np.float64), len(model.first))


def _bootstrap_refits(fitted: _Fit, repetitions: int, seed: int) -> Floats:
    """Return parameters [R, p] fitted to resampled pairs, and to samples of the model where its variance is used."""
    model, games = fitted.model, fitted.games
    generator = np.random.default_rng(seed)
    weights = uncertainty.bootstrap_weights(fitted.clusters, repetitions, generator)  # [R, C]
    column = 3 * fitted.cell + (2 - 2 * games.outcome).astype(np.int64)  # [M], the cell and its win, draw or loss
    shape = (weights.shape[1], 3 * len(model.first))
    by_cluster = csr_array((np.ones(len(fitted.cell)), (games.cluster, column)), shape=shape)
    counts = (by_cluster.T @ weights.T).T.reshape(repetitions, -1, 3)
    if fitted.model_games.any():
        probs = davidson.probs(model, fitted.beta[None])[0]
        sizes = fitted.model_games.astype(np.int64)
        counts = counts + generator.multinomial(sizes, probs, (repetitions, len(sizes)))
    return davidson.maximise_posterior(model, counts, fitted.prior_precision, fitted.beta)
