"""Registers every world with Gymnasium; runs at `import rl_lab`, so it imports no world."""

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
