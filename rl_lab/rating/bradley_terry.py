"""Bradley-Terry: ratings from games of two, with what the first seat is worth, draws, and intervals.

The model is `davidson`'s, its fit a maximum of the posterior, its intervals those of `uncertainty`. Everything is a
pure function of the games: their order changes no bit.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array

from . import davidson, ratings, uncertainty
from .davidson import Cells
from .results import Duels, Floats, Ints, check_connected

PRIOR = 800.0  # Elo points
_REFIT = 32  # entrants up to which every bootstrap repetition is fitted to the end


def fit(
    games: Duels,
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
    """Return the ratings of everybody in these games.

    Args:
        games: of `results.duels`.
        anchor: whose rating is `anchor_elo`; by default the mean of all is.
        anchor_elo: Elo points.
        seat: whether to fit what the first seat is worth.
        prior: standard deviation, in Elo points, of the normal prior on every strength about their mean, on the first
            seat's worth and on the draw parameter. At 800 it pulls a rating of 100 even games by 0.2 % of what it is;
            None is none: maximum likelihood, which does not exist for an entrant that won all its games.
        confidence: the coverage that intervals aim at.
        intervals: "sandwich", normal with the clustered covariance; or "bootstrap", percentiles over resampled pairs,
            fitted to the end for up to 32 entrants and by one Newton step for more.
        repetitions: of the bootstrap.
        seed: of the bootstrap.

    Raises ValueError for a schedule of groups that never met, naming them; for an unknown anchor; for settings out of
    range; and without a prior for results that have no finite maximum.

    Source: Bradley and Terry 1952; Davidson 1970; Davidson and Beaver 1977; White 1982 (variance of a wrong model).
    """
    if intervals not in ("sandwich", "bootstrap"):
        raise ValueError(f"intervals={intervals!r}: expected sandwich or bootstrap")
    if prior is not None and not 0 < prior < math.inf or repetitions < 2:
        raise ValueError(f"prior={prior}, repetitions={repetitions}: expected above 0, and at least 2")
    check_connected(games.names, games.first, games.second)
    ridge = 0.0 if prior is None else (ratings.POINTS / prior) ** 2
    model, cell = davidson.cells(games, seat)
    beta = davidson.maximise(model, model.counts[None], ridge)[0]
    found = uncertainty.clusters(*_scores(model, games, beta, cell))
    inverse = np.linalg.inv(davidson.posterior_precision(model, beta, ridge))
    known = _modelled(model, games, cell, found.modelled)
    informed = davidson.information(model, known[None], davidson.chances(model, beta[None]))[0]
    # The prior counts as what it is, a source of results of its own: without any other it alone is left.
    covariance = inverse @ (uncertainty.meat(found) + informed + ridge * np.eye(model.size)) @ inverse
    n, moves = model.n, None
    if intervals == "bootstrap":
        if n <= _REFIT:
            moves = _refitted(model, games, beta, cell, found, known, ridge, repetitions, seed) - beta
        else:
            moves = uncertainty.one_step(found, inverse, informed, repetitions, seed)
        moves = moves[:, :n]
    error = np.sqrt(np.diag(covariance))
    first = ratings.effect(beta[n], error[n], confidence) if seat else None
    draw = ratings.odds(ratings.effect(beta[-1], error[-1], confidence, 1.0)) if model.draws else None
    return ratings.rated(
        games.names, beta[:n], covariance[:n, :n], moves, anchor, anchor_elo, confidence, seat=first, draw=draw
    )


def strengths(games: Duels, expected: Floats | None = None, *, seat: bool = True) -> Floats:
    """Return the maximum-likelihood ratings [n] in Elo points of mean 0, without a prior.

    Args:
        games: their schedule counts, and their outcomes unless these are given otherwise.
        expected: [M, 3], the probabilities of win, draw and loss of who sits first, in place of the outcomes: what
            results are drawn from. The ratings are then those that ever more games of this schedule lead to, whether or
            not the model is right, and what an interval is to contain.
        seat: as in `fit`.

    Source: White 1982, "Maximum likelihood estimation of misspecified models".
    """
    model, cell = davidson.cells(games, seat)
    if expected is not None:
        counts = np.stack([np.bincount(cell, column, len(model.first)) for column in np.transpose(expected)], axis=1)
        model = Cells(model.n, model.first, model.second, counts, seat, bool(counts[:, 1].any()))
    beta = davidson.maximise(model, model.counts[None], 0.0)[0, : model.n]
    elo: Floats = ratings.POINTS * (beta - beta.mean())
    return elo


def _scores(model: Cells, games: Duels, beta: Floats, cell: Ints) -> tuple[csr_array, Ints]:
    """Return each cluster's derivative of the log-likelihood, [C, p], and its pairing [C]."""
    chance = davidson.chances(model, beta[None])[0]
    lead, draw = chance[:, 0] - chance[:, 2], chance[:, 1]
    by_x = (2 * games.outcome - 1 - lead[cell]) / 2
    by_d = (games.outcome == 0.5) - draw[cell]
    low = np.minimum(games.first, games.second)
    toward = np.where(games.first == games.second, 0.0, np.where(games.first == low, by_x, -by_x))
    c = int(games.cluster[-1]) + 1
    start = np.searchsorted(games.cluster, np.arange(c))
    columns = [(low[start], toward, 1.0), (np.maximum(games.first, games.second)[start], toward, -1.0)]
    columns += [(np.full(c, model.n), by_x, 1.0)] if model.seat else []
    columns += [(np.full(c, model.size - 1), by_d, 1.0)] if model.draws else []
    values = np.concatenate([sign * np.bincount(games.cluster, value, c) for _, value, sign in columns])
    places = np.tile(np.arange(c), len(columns)), np.concatenate([column for column, _, _ in columns])
    return csr_array((values, places), shape=(c, model.size)), games.pairing[start]


def _modelled(model: Cells, games: Duels, cell: Ints, modelled: Floats) -> Floats:
    """Return how many games of each cell [K] belong to pairings whose variance is the model's."""
    return np.bincount(cell, modelled[games.pairing].astype(np.float64), len(model.first))


def _refitted(
    model: Cells,
    games: Duels,
    beta: Floats,
    cell: Ints,
    found: uncertainty.Clusters,
    known: Floats,
    ridge: float,
    repetitions: int,
    seed: int,
) -> Floats:
    """Return parameters [R, p] fitted to resampled pairs; in pairings `modelled`, to results drawn from the fit."""
    generator = np.random.default_rng(seed)
    times = uncertainty.weights(found, repetitions, generator)
    column = 3 * cell + (2 - 2 * games.outcome).astype(np.int64)
    shape = (times.shape[1], 3 * len(model.first))
    held = csr_array((np.ones(len(cell)), (games.cluster, column)), shape=shape)
    counts = (held.T @ times.T).T.reshape(repetitions, -1, 3)
    if known.any():
        chance = davidson.chances(model, beta[None])[0]
        drawn = generator.multinomial(known.astype(np.int64), chance, (repetitions, len(known)))
        counts = counts + drawn
    return davidson.maximise(model, counts, ridge, beta)
