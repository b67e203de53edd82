"""This module counts the learner's results: lost, drawn and won episodes, by opponent and role."""

from __future__ import annotations

import numpy as np

from rl_lab.core.world import Array

LOST, DRAWN, WON = range(3)  # results of the learner, and their indices in the last axis of the counts
_RESULTS = 3


class EpisodeResults:
    """Counts results of N environments, in which K agents of A are the learner's in each of R roles.

    `roles` is int64 [R, K], the agents' indices. The learner wins an episode where the mean return of its agents is
    above that of the other agents.
    """

    def __init__(self, roles: Array, num_envs: int) -> None:
        self._roles = roles
        self._counts = np.zeros((0, len(roles), _RESULTS), np.int64)  # [opponents, R, 3]
        # Of the last episode in each environment, which may have to be counted later in the same step:
        self._opponent = np.zeros(num_envs, np.int64)
        self._seats = np.zeros((num_envs, roles.shape[1]), np.int64)
        self._result = np.zeros(num_envs, np.int64)  # LOST, DRAWN or WON

    def record(self, ended: Array, seats: Array, opponents: Array, own_returns: Array, all_returns: Array) -> None:
        """Record the results of episodes where ended, bool [N], is True; `count` counts them.

        `seats` [N, K] are the learner's agents, `opponents` [N] the opponents' indices, and `own_returns` [N, K] and
        `all_returns` [N, A] the returns of the learner's agents and of all agents.
        """
        num_own, num_agents = seats.shape[1], all_returns.shape[1]
        total = own_returns[ended].sum(axis=1)
        mean_of_others = (all_returns[ended].sum(axis=1) - total) / (num_agents - num_own)
        self._result[ended] = DRAWN + np.sign(total / num_own - mean_of_others)
        self._opponent[ended], self._seats[ended] = opponents[ended], seats[ended]

    def count(self, ended: Array, num_opponents: int) -> None:
        """Count the recorded results where ended, bool [N], is True."""
        index = np.flatnonzero(ended)
        if len(index):
            self._counts = _with_rows(self._counts, num_opponents)
            role = (self._seats[index, None] == self._roles[None]).all(axis=2).argmax(axis=1)
            np.add.at(self._counts, (self._opponent[index], role, self._result[index]), 1)

    def pop(self, num_opponents: int) -> Array:
        """Return the counts since the last call, int64 [opponents, roles, 3]; axis 2 is LOST, DRAWN, WON."""
        counts = _with_rows(self._counts, num_opponents)
        self._counts = np.zeros_like(counts)
        return counts


def _with_rows(counts: Array, num_opponents: int) -> Array:
    """Return counts, int64 [opponents, roles, 3], extended by rows of zeros to this many opponents."""
    return np.concatenate([counts, np.zeros((num_opponents - len(counts), *counts.shape[1:]), np.int64)])
