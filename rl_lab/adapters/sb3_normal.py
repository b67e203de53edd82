"""Stable-Baselines3's VecNormalize as compiled rollouts know it: running statistics, in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ..world import Array

_NONE = np.zeros((3, 0))


def usual(env: VecEnv) -> bool:
    """Say whether compiled code scales as this VecNormalize does, if it is one: with the defaults, and learning."""
    if not isinstance(env, VecNormalize):
        return True
    return env.training and (env.clip_obs, env.clip_reward, env.epsilon) == (10.0, 10.0, 1e-8)


def statistics_of(normalizer: Any, rows: int) -> tuple[Array, Array, Array]:
    """Return running statistics of observations and of discounted returns as `ppo.collect` wants them."""
    if normalizer is None:
        return _NONE, _NONE, np.zeros(rows)
    made = []
    for name in ("norm_obs", "norm_reward"):
        if not getattr(normalizer, name):
            made.append(_NONE)
            continue
        source = normalizer.obs_rms if name == "norm_obs" else normalizer.ret_rms
        mean = np.ravel(source.mean)
        made.append(np.stack([mean, np.ravel(source.var), np.full(len(mean), source.count)]))
    return made[0], made[1], np.array(normalizer.returns, np.float64)


def give_statistics(normalizer: Any, statistics: Array, paid: Array, running: Array) -> None:
    """Let VecNormalize go on from what `ppo.collect` has made of its statistics."""
    normalizer.returns = running
    for given, name in ((statistics, "obs_rms"), (paid, "ret_rms")):
        if given.shape[1]:
            target = getattr(normalizer, name)
            shape = np.shape(target.mean)
            target.mean, target.var = given[0].reshape(shape).copy(), given[1].reshape(shape).copy()
            target.count = float(given[2, 0])
