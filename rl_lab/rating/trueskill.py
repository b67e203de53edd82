"""This module has TrueSkill: each player has a mean and a standard deviation, updated after every match.

The result depends on the order of matches, so tables use `bradley_terry` and `plackett_luce`. TrueSkill is for ratings
during a series of games, and for comparison with published values.

Source: Herbrich, Minka and Graepel 2006; the defaults are those of the paper and of the package trueskill 0.4.5
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from rl_lab.rating.results import Floats

Skill = tuple[float, float]  # mean, standard deviation
NEW: Skill = (25.0, 25 / 3)
_TOLERANCE = 1e-10  # change of a message, in natural parameters, below which the propagation has converged
_MOST_SWEEPS = 1000  # over all differences, forwards and backwards


def update(
    skills: Sequence[Skill],
    ranks: Sequence[float],
    *,
    beta: float = NEW[1] / 2,
    tau: float = NEW[1] / 100,
    draw_probability: float = 0.10,
) -> list[Skill]:
    """Return the players' skills after one match, by expectation propagation; each player plays for itself.

    Args:
        skills: mean and standard deviation of each player.
        ranks: the rank of each player; lower is better, equal ranks are a draw.
        beta: the standard deviation of a player's performance about its skill.
        tau: the standard deviation of a skill's drift before the match.
        draw_probability: the probability of a draw between equal players.

    Raises:
        ValueError: there are fewer than two players, or the ranks have another length.
    """
    if len(skills) != len(ranks) or len(skills) < 2:
        raise ValueError("expected skills of at least two players, and a rank for each")
    order = sorted(range(len(ranks)), key=lambda k: ranks[k])
    margin = math.sqrt(2) * beta * float(ndtri((1 + draw_probability) / 2))
    mean = np.array([skills[k][0] for k in order])
    variance = np.array([skills[k][1] ** 2 + tau**2 for k in order])
    tied = [ranks[a] == ranks[b] for a, b in zip(order, order[1:], strict=False)]
    # Performances in natural parameters (precision, precision times mean): their prior, and the messages from each
    # difference of neighbours to the better one (`above`) and to the worse one (`below`).
    prior = np.array([1 / (variance + beta**2), mean / (variance + beta**2)])
    above, below = np.zeros((2, len(tied))), np.zeros((2, len(tied)))
    for _ in range(_MOST_SWEEPS):
        change = 0.0
        for k in [*range(len(tied)), *reversed(range(len(tied)))]:
            before = above[:, k].copy(), below[:, k].copy()
            posterior = prior.copy()
            posterior[:, :-1] += above
            posterior[:, 1:] += below
            better, worse = posterior[:, k] - above[:, k], posterior[:, k + 1] - below[:, k]
            above[:, k], below[:, k] = _messages(better, worse, margin, tied[k])
            change = max(change, np.abs(above[:, k] - before[0]).max(), np.abs(below[:, k] - before[1]).max())
        if change < _TOLERANCE:
            break
    messages = np.zeros((2, len(order)))
    messages[:, :-1] += above
    messages[:, 1:] += below
    result = list(skills)
    for place, k in enumerate(order):
        message_precision, message_product = messages[:, place]
        shrink = 1 / (1 + message_precision * beta**2)  # converts a message about a performance to one about the skill
        precision = 1 / variance[place] + message_precision * shrink
        updated = (mean[place] / variance[place] + message_product * shrink) / precision
        result[k] = float(updated), math.sqrt(1 / precision)
    return result


def _messages(better: Floats, worse: Floats, margin: float, tied: bool) -> tuple[Floats, Floats]:
    """Return the messages from the order of two performances to both, given the other messages about them.

    All are in natural parameters. The paper's functions V and W give the truncated difference of the performances.
    """
    mean_better, variance_better = better[1] / better[0], 1 / better[0]
    mean_worse, variance_worse = worse[1] / worse[0], 1 / worse[0]
    mean, variance = mean_better - mean_worse, variance_better + variance_worse
    scale = math.sqrt(variance)
    t, e = mean / scale, margin / scale
    v, w = _within(t, e) if tied else _beyond(t, e)
    # The message of the truncation is the truncated difference divided by the difference before.
    new_variance = variance * (1 - w)
    precision = 1 / new_variance - 1 / variance
    product = (mean + scale * v) / new_variance - mean / variance
    difference, difference_variance = product / precision, 1 / precision
    to_better, to_worse = difference_variance + variance_worse, difference_variance + variance_better
    return (
        np.array([1 / to_better, (difference + mean_worse) / to_better]),
        np.array([1 / to_worse, (mean_better - difference) / to_worse]),
    )


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _beyond(t: float, e: float) -> tuple[float, float]:
    """Return the shift of the mean and the relative loss of variance of a normal(t, 1) that is truncated below e."""
    v = _density(t - e) / float(ndtr(t - e))
    return v, v * (v + t - e)


def _within(t: float, e: float) -> tuple[float, float]:
    """Return the same as `_beyond` for a truncation to the interval from -e to e."""
    mass = float(ndtr(e - t) - ndtr(-e - t))
    v = (_density(-e - t) - _density(e - t)) / mass
    return v, v * v + ((e - t) * _density(e - t) + (e + t) * _density(e + t)) / mass
