"""The Gymnasium environment of a data set's world, for `recover_environment` of Minari's package."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.error import Error

from rl_lab.adapters.registration import NAMESPACE
from rl_lab.core.protocols import EnvSpec

_GYM = "gym:"


def env_spec(name: str, params: dict[str, Any], world: EnvSpec) -> str:
    """Return Gymnasium's EnvSpec of a world as JSON; "" for worlds that it cannot make: of several agents, or code."""
    if len(world.agents) > 1:
        return ""
    identity = name.removeprefix(_GYM) if name.startswith(_GYM) else f"{NAMESPACE}/{name}-v0"
    try:
        spec = gymnasium.spec(identity)
        return gymnasium.envs.registration.EnvSpec(
            identity,
            entry_point=spec.entry_point,
            max_episode_steps=spec.max_episode_steps,
            kwargs={**spec.kwargs, **params},
        ).to_json()
    except (Error, ValueError, TypeError, ImportError):  # it is not registered, or not written as JSON
        return ""
