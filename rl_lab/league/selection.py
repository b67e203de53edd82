"""Whom to play: the published ways to choose among earlier agents, from a table of how games went.

Source: Vinyals et al. 2019, "Grandmaster level in StarCraft II using multi-agent reinforcement learning", Methods:
prioritized fictitious self-play, and the league's roles.
"""

from __future__ import annotations

import numpy as np

from ..world import Array

SELECTIONS = ("latest", "uniform", "pfsp_hard", "pfsp_var")
PRIOR = (1.0, 1.0)  # of the chance to win: Beta(1, 1), each chance as likely; a draw counts half a win, half a loss
DECAY = 0.99  # of what is known of a pair, with each of its games: both change. Source: AlphaStar's pseudocode


def pfsp(win_rates: Array, weighting: str, power: float = 2.0) -> Array:
    """Return the chance, float64 [M], to meet each opponent whom one beats with these chances, float64 [M].

    In proportion to f_hard(x) = (1 - x)^power, "pfsp_hard", or f_var(x) = x (1 - x), "pfsp_var"; alike where all are 0.
    """
    x = np.asarray(win_rates, np.float64)
    weights = (1 - x) ** power if weighting == "pfsp_hard" else x * (1 - x)
    total = weights.sum()
    return np.asarray(weights / total) if total > 0 else np.full(len(x), 1.0) / max(len(x), 1)


def few(chances: Array, most: int, generator: np.random.Generator) -> Array:
    """Return chances, float64 [M], of which at most `most` are not 0, and whose expected value is `chances`."""
    if np.count_nonzero(chances) <= most:
        return chances
    total = chances.sum()
    drawn = generator.choice(len(chances), size=most, p=chances / total)
    return np.asarray(np.bincount(drawn, minlength=len(chances)) * (total / most))


class WinTable:
    """How each of L learners did against each of M players, float64 [L, M, 3]: lost, drawn, won; older games fade."""

    def __init__(self, learners: int) -> None:
        self.games = np.zeros((learners, 0, 3))

    def grow(self, players: int) -> None:
        """Make room for so many players."""
        learners, known, _ = self.games.shape
        self.games = np.concatenate([self.games, np.zeros((learners, players - known, 3))], axis=1)

    def add(self, learner: int, results: Array) -> None:
        """Count a learner's results, int [M, 3]."""
        self.games[learner] *= DECAY ** results.sum(axis=1, keepdims=True)
        self.games[learner] += results

    def forget(self, player: int) -> None:
        """Forget a learner, also a player of the same number, who begins anew."""
        self.games[player] = 0
        self.games[:, player] = 0

    def win_rates(self, learner: int) -> Array:
        """Return the mean, float64 [M], of what is believed of its chance to beat each, after PRIOR."""
        won = self.games[learner, :, 2] + self.games[learner, :, 1] / 2
        return np.asarray((PRIOR[0] + won) / (sum(PRIOR) + self.games[learner].sum(axis=1)))
