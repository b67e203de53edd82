"""Agents as Stable-Baselines3's own files, for others to load. The lab itself never reads them: they are pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy

from ..batch import Worlds
from .sb3 import LabVecEnv
from .sb3_agent import Sb3Agent

_KINDS: dict[type[Any], type[Any]] = {
    ActorCriticPolicy: PPO,
    MaskableActorCriticPolicy: MaskablePPO,
    DQNPolicy: DQN,
}


def export(agent: Sb3Agent, worlds: Worlds, path: Path) -> dict[str, Path]:
    """Write `path`, which the library's `load` reads, and beside it the statistics of observations, if there are any.

    Returns the files by what they are: "agent" and "normalizer" (for `VecNormalize.load`). `worlds` are any of the
    kind that the agent acts in. Raises ValueError for a policy that is none of the library's.
    """
    policy: Any = agent.policy
    kind = _KINDS.get(type(policy))
    if kind is None:
        raise ValueError(f"{type(policy).__name__} is none of Stable-Baselines3's policies")
    named = ["net_arch", "activation_fn", "features_extractor_class", "features_extractor_kwargs"]
    named += ["log_std_init"] if kind is PPO else []
    more: dict[str, Any] = {"buffer_size": 1} if kind is DQN else {"n_steps": 2, "batch_size": 2}
    if kind is PPO:
        more["use_sde"] = policy.use_sde
    more["policy_kwargs"] = {name: getattr(policy, name) for name in named}
    model = kind("MlpPolicy", None, device="cpu", _init_setup_model=False, **more)
    model.observation_space, model.action_space, model.n_envs = policy.observation_space, policy.action_space, 1
    model._setup_model()
    model.policy.load_state_dict(policy.state_dict())
    model.save(path)
    written = {"agent": path}
    if agent.normalizer is not None:
        normalizer = VecNormalize(
            LabVecEnv(worlds, indicator=agent.indicator > 0), norm_reward=False, training=False, clip_obs=agent.clip
        )
        statistics: Any = normalizer.obs_rms
        statistics.mean, statistics.var = agent.normalizer["mean"], agent.normalizer["var"]
        written["normalizer"] = path.with_suffix(".normalizer.pkl")
        normalizer.save(str(written["normalizer"]))
    return written
