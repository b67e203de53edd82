"""This module registers every world with Gymnasium, at `import rl_lab`, and with PettingZoo; it imports no world."""

from contextlib import suppress
from typing import Any

from gymnasium.envs.registration import EnvSpec, registry

from rl_lab.engine import world_registry

NAMESPACE = "rl_lab"


class WorldSpec(EnvSpec):
    """A Gymnasium EnvSpec whose `max_episode_steps` is the world's horizon, which is loaded on first access."""

    @property
    def max_episode_steps(self) -> int | None:
        """Return the number of steps after which an episode is truncated, None for never."""
        if "limit" not in vars(self):
            self.limit: int | None = None
            with suppress(Exception):  # an error in a world is reported when the world is made
                self.limit = world_registry.load(self.kwargs["world"]).horizon or None
        return self.limit

    @max_episode_steps.setter
    def max_episode_steps(self, limit: Any) -> None:
        if limit is not None and not isinstance(limit, property):  # None means that no limit was passed
            self.limit = limit


def register() -> None:
    """Register every world as `rl_lab/<name>-v0`, for gym.make and gym.make_vec."""
    for name in world_registry.names():
        identity = f"{NAMESPACE}/{name}-v0"
        if identity not in registry:
            registry[identity] = WorldSpec(
                identity,
                entry_point="rl_lab.adapters.gymnasium:LabEnv",
                vector_entry_point="rl_lab.adapters.gymnasium:LabVectorEnv",
                kwargs={"world": name},
            )


def register_pettingzoo() -> None:
    """Register every world as `rl_lab/<name>-v0`, for pettingzoo.make("aec", ...) and pettingzoo.make("parallel", ...).

    PettingZoo is imported here and not at `import rl_lab`: importing `rl_lab.adapters.pettingzoo` calls this.
    """
    import pettingzoo

    for name in world_registry.names():
        identity = f"{NAMESPACE}/{name}-v0"
        if identity not in pettingzoo.aec_registry:
            arguments = {"kwargs": {"world": name}}
            pettingzoo.register("aec", identity, "rl_lab.adapters.pettingzoo:env", **arguments)
            pettingzoo.register("parallel", identity, "rl_lab.adapters.pettingzoo:parallel_env", **arguments)
