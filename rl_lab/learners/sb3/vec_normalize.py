"""The running statistics of Stable-Baselines3's VecNormalize: copied to compiled rollouts and back, or of some rows.

`ppo.py` copies them around a compiled rollout, which updates them. `ActingRunningMeanStd` replaces SB3's own statistics
in worlds where agents wait or leave.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.world import Array

_NO_STATISTICS = np.zeros((3, 0))


class ActingRunningMeanStd(RunningMeanStd):
    """Running statistics for VecNormalize that leave out rows whose agent waits or has left.

    `attribute` is the mask of a LabVecEnv, bool [B], of the rows that count: "acting" or "reward_is_valid".
    """

    def __init__(self, vec_env: LabVecEnv, attribute: str, like: RunningMeanStd) -> None:
        super().__init__(shape=like.mean.shape)
        self.vec_env, self.attribute = vec_env, attribute

    def update(self, arr: Array) -> None:
        """Update the statistics with the rows of [B, ...] that count."""
        if (mask := getattr(self.vec_env, self.attribute)).any():
            super().update(arr[mask])


def has_default_settings(env: VecEnv) -> bool:
    """Return whether compiled code can do what this vector env does to observations and rewards.

    It can for a VecNormalize with SB3's default settings, and for anything that is no VecNormalize.
    """
    if not isinstance(env, VecNormalize):
        return True
    return env.training and (env.clip_obs, env.clip_reward, env.epsilon) == (10.0, 10.0, 1e-8)


def statistics_of(normalizer: Any, rows: int) -> tuple[Array, Array, Array]:
    """Return the running statistics of observations and of discounted returns, and the discounted returns so far.

    The shapes are float64 [3, D], [3, 1] and [B]. The three rows are mean, variance and count; statistics that do not
    exist have the shape [3, 0].
    """
    if normalizer is None:
        return _NO_STATISTICS, _NO_STATISTICS, np.zeros(rows)
    statistics = []
    # Like SB3, update the statistics of returns whether or not rewards are scaled by them.
    for source in (normalizer.obs_rms if normalizer.norm_obs else None, normalizer.ret_rms):
        if source is None:
            statistics.append(_NO_STATISTICS)
            continue
        mean = np.ravel(source.mean)
        statistics.append(np.stack([mean, np.ravel(source.var), np.full(len(mean), source.count)]))
    return statistics[0], statistics[1], np.array(normalizer.returns, np.float64)


def set_statistics(normalizer: Any, obs_statistics: Array, return_statistics: Array, returns: Array) -> None:
    """Set the statistics of a VecNormalize to those of a compiled rollout; the shapes are those of `statistics_of`."""
    normalizer.returns = returns
    for statistics, name in ((obs_statistics, "obs_rms"), (return_statistics, "ret_rms")):
        if statistics.shape[1]:
            target = getattr(normalizer, name)
            shape = np.shape(target.mean)
            target.mean, target.var = statistics[0].reshape(shape).copy(), statistics[1].reshape(shape).copy()
            target.count = float(statistics[2, 0])
