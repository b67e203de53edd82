"""This module makes every world an environment of RLlib, for algorithms and env runners that are RLlib's own.

`register` writes to Ray's registry of environments.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rl_lab.adapters.registration import NAMESPACE
from rl_lab.engine import world_registry


def register() -> None:
    """Register every world with Ray as `rl_lab/<name>`, for `AlgorithmConfig.environment`, also in Ray's workers.

    The environment is that of `make_env`; `env_config` has the world's parameters. Worlds of one agent can be
    vectorised by their Gymnasium id instead: `rl_lab:rl_lab/<name>-v0`, with `gym_env_vectorize_mode`
    "vector_entry_point". Importing the world in a worker compiles it, or loads it from the cache of that machine.
    """
    from ray import tune

    for name in world_registry.names():
        tune.register_env(f"{NAMESPACE}/{name}", partial(make_env, name))


def make_env(name: str, config: dict[str, Any]) -> Any:
    """Return one environment: a `gymnasium.Env` for a world of one agent, else a `MultiAgentEnv`.

    Args:
        name: the world's name.
        config: values of the world's parameters, by name.

    Games of turns have PettingZoo's AEC interface within, the others its Parallel one. Where actions can be illegal,
    an observation is a dictionary of "observation" and "action_mask", as RLlib's modules with masks expect it.

    Raises:
        ValueError: there is no such world, or no such parameter.
    """
    from rl_lab.adapters import gymnasium as gymnasium_env
    from rl_lab.adapters import pettingzoo as games

    world = world_registry.load(name)
    if len(world.agents) == 1:
        return gymnasium_env.LabEnv(name, **config)
    from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv, PettingZooEnv

    if world.current_player_field:
        return PettingZooEnv(games.env(name, **config))
    return ParallelPettingZooEnv(games.parallel_env(name, **config))
