"""This module has TrueSkill: each player has a mean and a standard deviation, updated after every match.

`update` is the entry point; all functions are pure. The result depends on the order of matches, so tables use
`bradley_terry` and `plackett_luce`. TrueSkill is for ratings during a series of games, and for comparison with
published values.

A skill plus normal noise is a performance, and the order of finish is the order of performances. The update is
expectation propagation on the chain of performances in that order: messages about the differences of neighbours are
exchanged until they no longer change.

Source: Herbrich, Minka and Graepel 2006, "TrueSkill: a Bayesian skill rating system"; the defaults are those of the
paper and of the package trueskill 0.4.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from rl_lab.rating.results import Floats

Skill = tuple[float, float]  # mean, standard deviation
INITIAL_SKILL: Skill = (25.0, 25 / 3)
_TOLERANCE = 1e-10  # change of a message, in natural parameters, below which the propagation has converged
_MAX_SWEEPS = 1000  # over all differences, forwards and backwards


def update(
    skills: Sequence[Skill],
    ranks: Sequence[float],
    *,
    beta: float = INITIAL_SKILL[1] / 2,
    tau: float = INITIAL_SKILL[1] / 100,
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
    order = sorted(range(len(ranks)), key=lambda k: ranks[k])  # players from the best to the worst
    draw_margin = math.sqrt(2) * beta * float(ndtri((1 + draw_probability) / 2))
    mean = np.array([skills[k][0] for k in order])
    variance = np.array([skills[k][1] ** 2 + tau**2 for k in order])
    tied = [ranks[a] == ranks[b] for a, b in zip(order, order[1:], strict=False)]
    messages = _propagate(mean, variance + beta**2, draw_margin, tied)
    result = list(skills)
    for place, k in enumerate(order):
        message_precision, message_product = messages[:, place]
        shrink = 1 / (1 + message_precision * beta**2)  # converts a message about a performance to one about the skill
        precision = 1 / variance[place] + message_precision * shrink
        updated = (mean[place] / variance[place] + message_product * shrink) / precision
        result[k] = float(updated), math.sqrt(1 / precision)
    return result


def _propagate(mean: Floats, performance_variance: Floats, draw_margin: float, tied: Sequence[bool]) -> Floats:
    """Return what the order of finish says about each performance, [2, players], players from the best to the worst.

    Messages are in natural parameters: row 0 is the precision, row 1 the precision times the mean. `tied`, one shorter,
    is whether a player and the next one have equal ranks.
    """
    prior = np.array([1 / performance_variance, mean / performance_variance])
    # The messages from the difference of players k and k + 1 to the better one and to the worse one.
    to_better, to_worse = np.zeros((2, len(tied))), np.zeros((2, len(tied)))
    for _ in range(_MAX_SWEEPS):
        change = 0.0
        for k in [*range(len(tied)), *reversed(range(len(tied)))]:
            before = to_better[:, k].copy(), to_worse[:, k].copy()
            posterior = prior.copy()
            posterior[:, :-1] += to_better
            posterior[:, 1:] += to_worse
            better, worse = posterior[:, k] - to_better[:, k], posterior[:, k + 1] - to_worse[:, k]
            to_better[:, k], to_worse[:, k] = _messages(better, worse, draw_margin, tied[k])
            change = max(change, np.abs(to_better[:, k] - before[0]).max(), np.abs(to_worse[:, k] - before[1]).max())
        if change < _TOLERANCE:
            break
    messages = np.zeros((2, len(mean)))
    messages[:, :-1] += to_better
    messages[:, 1:] += to_worse
    return messages


def _messages(better: Floats, worse: Floats, draw_margin: float, tied: bool) -> tuple[Floats, Floats]:
    """Return the messages from the order of two performances to both, given the other messages about them.

    All are in natural parameters. The difference of the performances is truncated to values above the draw margin, or
    to values within it for a tie; `v` and `w` are the paper's functions V and W.
    """
    mean_better, variance_better = better[1] / better[0], 1 / better[0]
    mean_worse, variance_worse = worse[1] / worse[0], 1 / worse[0]
    mean, variance = mean_better - mean_worse, variance_better + variance_worse
    scale = math.sqrt(variance)
    t, e = mean / scale, draw_margin / scale
    v, w = _truncate_to_interval(t, e) if tied else _truncate_below(t, e)
    # The message of the truncation is the truncated difference divided by the difference before.
    new_variance = variance * (1 - w)
    precision = 1 / new_variance - 1 / variance
    product = (mean + scale * v) / new_variance - mean / variance
    difference, difference_variance = product / precision, 1 / precision
    better_variance, worse_variance = difference_variance + variance_worse, difference_variance + variance_better
    return (
        np.array([1 / better_variance, (difference + mean_worse) / better_variance]),
        np.array([1 / worse_variance, (mean_better - difference) / worse_variance]),
    )


def _density(x: float) -> float:
    """Return the density of the standard normal distribution."""
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _truncate_below(t: float, e: float) -> tuple[float, float]:
    """Return the shift of the mean and the relative loss of variance of a normal(t, 1) that is truncated below e."""
    v = _density(t - e) / float(ndtr(t - e))
    return v, v * (v + t - e)


def _truncate_to_interval(t: float, e: float) -> tuple[float, float]:
    """Return the same as `_truncate_below` for a truncation to the interval from -e to e."""
    mass = float(ndtr(e - t) - ndtr(-e - t))
    v = (_density(-e - t) - _density(e - t)) / mass
    return v, v * v + ((e - t) * _density(e - t) + (e + t) * _density(e + t)) / mass
