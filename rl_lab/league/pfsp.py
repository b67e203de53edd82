"""Prioritized fictitious self-play (PFSP): probabilities of opponents by their results, and the table of results.

`matchmaking` and `League` use it. `WinTable` keeps the results; the functions change nothing.

Source: Vinyals et al. 2019, "Grandmaster level in StarCraft II using multi-agent reinforcement learning", Methods:
prioritized fictitious self-play.
"""

from __future__ import annotations

import numpy as np

from rl_lab.core.world import Array
from rl_lab.multiagent.episode_results import DRAWN, WON

SELECTIONS = ("latest", "uniform", "pfsp_hard", "pfsp_var")
PRIOR = (1.0, 1.0)  # parameters of Beta(1, 1), the uniform prior of a win probability; a draw is half a win
DECAY = 0.99  # factor of a pair's earlier results for each new game, because both players change; AlphaStar's


def pfsp(win_rates: Array, weighting: str, power: float = 2.0) -> Array:
    """Return the probability of playing each opponent, float64 [M], from the win rates against them, float64 [M].

    It is proportional to f_hard(x) = (1 - x)^power for "pfsp_hard", and to f_var(x) = x (1 - x) for "pfsp_var". Where
    all weights are 0, it is uniform.
    """
    x = np.asarray(win_rates, np.float64)  # as in the paper
    weights = (1 - x) ** power if weighting == "pfsp_hard" else x * (1 - x)
    total = weights.sum()
    return np.asarray(weights / total) if total > 0 else np.full(len(x), 1.0) / max(len(x), 1)


def sample_support(probs: Array, size: int, generator: np.random.Generator) -> Array:
    """Return random probabilities, float64 [M], with at most `size` nonzero entries, whose mean is `probs`."""
    if np.count_nonzero(probs) <= size:
        return probs
    total = probs.sum()
    sample = generator.choice(len(probs), size=size, p=probs / total)
    return np.asarray(np.bincount(sample, minlength=len(probs)) * (total / size))


class WinTable:
    """Results of L learners against M players: `games`, float64 [L, M, 3], counts of games that fade by DECAY.

    Players have the numbers of `league`, learners first. Axis 2 is LOST, DRAWN, WON of `episode_results`, as seen by
    the learner.
    """

    def __init__(self, num_learners: int) -> None:
        self.games = np.zeros((num_learners, 0, 3))

    def grow(self, num_players: int) -> None:
        """Extend the table to this number of players."""
        num_learners, old_players, _ = self.games.shape
        self.games = np.concatenate([self.games, np.zeros((num_learners, num_players - old_players, 3))], axis=1)

    def add(self, learner: int, results: Array) -> None:
        """Add the results of a learner's last games, int64 [M, 3]."""
        self.games[learner] *= DECAY ** results.sum(axis=1, keepdims=True)
        self.games[learner] += results

    def clear(self, player: int) -> None:
        """Clear the results of a learner that restarts, both as a learner and as an opponent."""
        self.games[player] = 0
        self.games[:, player] = 0

    def win_rates(self, learner: int) -> Array:
        """Return the posterior mean, under PRIOR, of a learner's probability to beat each player, float64 [M]."""
        wins = self.games[learner, :, WON] + self.games[learner, :, DRAWN] / 2
        return np.asarray((PRIOR[0] + wins) / (sum(PRIOR) + self.games[learner].sum(axis=1)))
