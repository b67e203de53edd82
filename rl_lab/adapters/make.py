"""This module makes a batch of environments by name: of the lab's worlds, or of Gymnasium's or PettingZoo's.

`make` is what commands and training use. It imports the adapter that the name needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.adapters import level_files
from rl_lab.core.errors import nearest
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.world import Array, World
from rl_lab.engine import user_code, world_registry
from rl_lab.engine.batch import Batch

FOREIGN = ("gym:", "pettingzoo:")


def make(
    name: str,
    num_envs: int,
    params: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    autoreset: AutoresetMode = AutoresetMode.SAME_STEP,
    threads: int | None = None,
    render: bool = False,
) -> BatchedEnv:
    """Return a batch of `num_envs` environments.

    Args:
        name: a world of the lab; `gym:ID` or `pettingzoo:FAMILY/ID`; or code of the user, FILE.py:NAME, MODULE:NAME,
            gym:MODULE:ID or pettingzoo:MODULE (see `user_code`).
        num_envs: N.
        params: values of the world's Params by field, or keyword arguments of the environment's constructor.
        seed: the batch's seed.
        autoreset: when an environment begins its next episode.
        threads: threads that step the lab's worlds; None lets the engine choose.
        render: make foreign environments with pictures; worlds of the lab can always be drawn.

    Raises:
        ValueError: the name or a parameter is unknown; the message has the nearest one.
    """
    if is_foreign(name, params):
        if (user_code.is_code(name) and _interface(name, params) != "gym") or name.startswith("pettingzoo:"):
            from rl_lab.adapters.from_pettingzoo import ForeignPettingZooBatch as Foreign
        else:
            from rl_lab.adapters.from_gymnasium import ForeignBatch as Foreign  # type: ignore[assignment]
        from rl_lab.adapters import env_parameters

        env_parameters.check(name, params or {})
        try:
            return Foreign(name, num_envs, params or {}, seed=seed, autoreset=autoreset, render=render)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            if not params:
                raise
            raise env_parameters.parameter_error(name, params, error) from error
    world = world_registry.load(name)
    return Batch(world, num_envs, parameters(world, params or {}), seed=seed, threads=threads, autoreset=autoreset)


def is_foreign(name: str, params: dict[str, Any] | None = None) -> bool:
    """Return True if a name means an environment with Gymnasium's or PettingZoo's interface, not a world of the lab.

    Raises UsageError if that depends on code which may not run.
    """
    if name.startswith(FOREIGN):
        return True
    return user_code.is_code(name) and _interface(name, params) != "lab"


def _interface(name: str, params: dict[str, Any] | None) -> str:
    """Return "lab", "gym", "parallel" or "aec" for the user's own code; imports PettingZoo only where it is needed."""
    from rl_lab.adapters.user_env import interface_of

    return interface_of(name, params)


def is_world(name: str, world: EnvSpec) -> bool:
    """Return True if a scenario or a run means this world by this name."""
    return world.name == name or (
        isinstance(world, World) and user_code.is_code(name) and world_registry.load(name) is world
    )


def parameters(world: World, params: dict[str, Any]) -> Array:
    """Return the world's Params record, shape [1], with these values in place of the defaults.

    Raises ValueError with the world, the field and the nearest valid one.
    """
    fields = world.Params.dtype.names or ()
    for field in params:
        if field not in fields:
            raise ValueError(f"{world.name} has no parameter {field!r}; {nearest(field, fields)}")
    try:
        return np.asarray(world.Params(**level_files.expand(world, params)))
    except ValueError as error:
        raise ValueError(f"{world.name}: parameter {error}") from None
