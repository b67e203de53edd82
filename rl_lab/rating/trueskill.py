"""TrueSkill: a mean and a deviation a player, updated match by match, by expectation propagation.

The order of matches matters to it, so tables are rated by `bradley_terry` and `plackett_luce`; this is for a rating
that moves while games are still played, and to compare with what others publish.

Source: Herbrich, Minka and Graepel 2006; the defaults are those of the paper and of the package trueskill 0.4.5
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from .results import Floats

Skill = tuple[float, float]  # mean, standard deviation
NEW: Skill = (25.0, 25 / 3)
_TOLERANCE, _MOST_SWEEPS = 1e-10, 1000


def update(
    skills: Sequence[Skill],
    ranks: Sequence[float],
    *,
    beta: float = NEW[1] / 2,
    tau: float = NEW[1] / 100,
    draw_probability: float = 0.10,
) -> list[Skill]:
    """Return everybody's skill after one match of single players.

    Args:
        skills: of each player, mean and standard deviation.
        ranks: beside them; lower is better, equal ranks are a draw.
        beta: standard deviation of a player's performance about its skill.
        tau: standard deviation by which a skill drifts before the match.
        draw_probability: of a draw between two equals.

    Raises ValueError for fewer than two players or ranks of another length.
    """
    if len(skills) != len(ranks) or len(skills) < 2:
        raise ValueError("expected skills of at least two players, and a rank for each")
    order = sorted(range(len(ranks)), key=lambda k: ranks[k])
    margin = math.sqrt(2) * beta * float(ndtri((1 + draw_probability) / 2))
    mean = np.array([skills[k][0] for k in order])
    variance = np.array([skills[k][1] ** 2 + tau**2 for k in order])
    tied = [ranks[a] == ranks[b] for a, b in zip(order, order[1:], strict=False)]
    # Performances in natural parameters (precision, precision times mean): their prior, and what each difference says
    # about the better and the worse of its two.
    prior = np.array([1 / (variance + beta**2), mean / (variance + beta**2)])
    above, below = np.zeros((2, len(tied))), np.zeros((2, len(tied)))
    for _ in range(_MOST_SWEEPS):
        moved = 0.0
        for k in [*range(len(tied)), *reversed(range(len(tied)))]:
            before = above[:, k].copy(), below[:, k].copy()
            everything = prior.copy()
            everything[:, :-1] += above
            everything[:, 1:] += below
            better, worse = everything[:, k] - above[:, k], everything[:, k + 1] - below[:, k]
            above[:, k], below[:, k] = _learned(better, worse, margin, tied[k])
            moved = max(moved, np.abs(above[:, k] - before[0]).max(), np.abs(below[:, k] - before[1]).max())
        if moved < _TOLERANCE:
            break
    told = np.zeros((2, len(order)))
    told[:, :-1] += above
    told[:, 1:] += below
    result = list(skills)
    for place, k in enumerate(order):
        weight, pull = told[:, place]
        shrink = 1 / (1 + weight * beta**2)  # what is told of a performance, as told of the skill behind it
        precision = 1 / variance[place] + weight * shrink
        updated = (mean[place] / variance[place] + pull * shrink) / precision
        result[k] = float(updated), math.sqrt(1 / precision)
    return result


def _learned(better: Floats, worse: Floats, margin: float, tied: bool) -> tuple[Floats, Floats]:
    """Return what the order of two performances says about each, from what else is known of them."""
    (pa, ta), (pb, tb) = better, worse
    mean, variance = ta / pa - tb / pb, 1 / pa + 1 / pb
    scale = math.sqrt(variance)
    t, e = mean / scale, margin / scale
    v, w = _within(t, e) if tied else _beyond(t, e)
    # The difference, corrected, less what was known of it: the message that its truncation sends.
    new_variance = variance * (1 - w)
    precision = 1 / new_variance - 1 / variance
    pull = (mean + scale * v) / new_variance - mean / variance
    m, s = pull / precision, 1 / precision
    to_better, to_worse = s + 1 / pb, s + 1 / pa
    return (
        np.array([1 / to_better, (m + tb / pb) / to_better]),
        np.array([1 / to_worse, (ta / pa - m) / to_worse]),
    )


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _beyond(t: float, e: float) -> tuple[float, float]:
    """Return by how much a standard normal of mean t moves and narrows once known to exceed e."""
    v = _density(t - e) / float(ndtr(t - e))
    return v, v * (v + t - e)


def _within(t: float, e: float) -> tuple[float, float]:
    """Return the same once it is known to lie within e of 0."""
    mass = float(ndtr(e - t) - ndtr(-e - t))
    v = (_density(-e - t) - _density(e - t)) / mass
    return v, v * v + ((e - t) * _density(e - t) + (e + t) * _density(e + t)) / mass
