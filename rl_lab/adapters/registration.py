"""Registers every world with Gymnasium, at `import rl_lab`, and with PettingZoo; so it imports no world."""

from gymnasium.envs.registration import register as register_id
from gymnasium.envs.registration import registry

from .. import worlds

NAMESPACE = "rl_lab"


def register() -> None:
    """Register every world as `rl_lab/<name>-v0`, for gym.make and gym.make_vec."""
    for name in worlds.names():
        identity = f"{NAMESPACE}/{name}-v0"
        if identity not in registry:
            register_id(
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

    for name in worlds.names():
        identity = f"{NAMESPACE}/{name}-v0"
        if identity not in pettingzoo.aec_registry:
            made = {"kwargs": {"world": name}}
            pettingzoo.register("aec", identity, "rl_lab.adapters.pettingzoo:env", **made)
            pettingzoo.register("parallel", identity, "rl_lab.adapters.pettingzoo:parallel_env", **made)
