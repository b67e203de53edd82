"""This module constructs the user's own environments for `from_gymnasium` and `from_pettingzoo`.

`interface_of` says which interface a name has, `spec_of` and `pettingzoo_constructor` how the environment is made. They
execute the user's file where `engine.user_code` permits it.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from typing import Any

import gymnasium
import pettingzoo
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from rl_lab.core.errors import UsageError, nearest, one_line
from rl_lab.core.interrupts import is_interruption
from rl_lab.core.world import World, WorldError
from rl_lab.engine import code_names, diagnostics, user_code, user_modules

_interfaces: dict[Any, str] = {}  # "gym", "parallel" or "aec" by factory function, after its first call


def interface_of(name: str, params: dict[str, Any] | None = None) -> str:
    """Return the interface that a world's name means: "lab" for a World, else "gym", "parallel" or "aec".

    Raises UsageError if its code may not run, or makes no environment.
    """
    if name.startswith("gym:"):
        return "gym"
    member = user_code.load(name)
    if isinstance(member, World):
        return "lab"
    if not inspect.isclass(member):
        if not callable(member):
            message = f"{one_line(member)[:60]} is not a class or function that makes an environment"
            raise UsageError(f"world {name!r}: {message}")
        if member not in _interfaces:
            _interfaces[member] = _interface_of_factory(member, name, params or {})
        interface = _interfaces[member]
    else:
        interface = _interface_of_class(member)
    if not interface:
        expected = "gymnasium.Env, pettingzoo.AECEnv or ParallelEnv"
        raise UsageError(f"world {name!r}: {one_line(member)[:60]} makes none of {expected}")
    return interface


def _interface_of_factory(factory: Any, name: str, params: dict[str, Any]) -> str:
    """Return the interface of a function's environments. Raises UsageError for parameters that it does not take."""
    try:
        inspect.signature(factory).bind(**params)
    except TypeError as error:
        raise UsageError(f"world {name!r}: {error} of {factory.__name__}(...)") from None
    except ValueError:  # it is written in C and has no signature
        pass
    try:
        env = factory(**params)
        interface = _interface_of_class(type(env))
        if interface:
            env.close()
    except BaseException as error:  # SystemExit, too: it must not end the command
        if is_interruption(error):
            raise
        code = user_code.permitted(name)
        location = diagnostics.author_location(error, {code.file} if code else None)
        message = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise WorldError(one_line(f"{location}{name} cannot be made: {message}")) from error
    return interface


def _interface_of_class(cls: type) -> str:
    for interface, base in (("gym", gymnasium.Env), ("parallel", pettingzoo.ParallelEnv), ("aec", pettingzoo.AECEnv)):
        if issubclass(cls, base):
            return interface
    return ""


def spec_of(name: str) -> EnvSpec:
    """Return the EnvSpec for `gymnasium.make`. Raises UsageError if the world's code registers no such id."""
    code, identity = user_code.permitted(name), name.partition(":")[2]
    if code is None:
        if ":" in identity:  # Gymnasium would import the module before the colon
            raise UsageError(f"world {name!r}: write gym:ID, or gym:MODULE:ID with a module's name or FILE.py")
        return gymnasium.spec(identity)
    if not name.startswith("gym:"):
        return EnvSpec(id=re.sub(r"[^\w:.-]", "_", name), entry_point=user_code.load(name))
    identity = identity.rpartition(":")[2]
    if identity not in gymnasium.registry or code_names.parse(name) is not None:
        member = user_code.load(name)
        if identity not in gymnasium.registry and code.entry:
            horizon = code.horizon or None
            return EnvSpec(identity, member, max_episode_steps=horizon, reward_threshold=code.reward_threshold)
        if identity not in gymnasium.registry:
            raise UsageError(f"{code.file} registers no id {identity!r}; {nearest(identity, gymnasium.registry)}")
    spec = copy.copy(gymnasium.spec(identity))
    if isinstance(spec.entry_point, str) and code_names.parse(name) is not None:
        # The file is loaded already, and importing it again by its name would register its ids again.
        module, _, attribute = spec.entry_point.partition(":")
        loaded = user_modules.module_of(code)
        if loaded.__name__.rpartition(".")[2] == module and hasattr(loaded, attribute):
            spec.entry_point = getattr(loaded, attribute)
    return spec


def with_render_mode(constructor: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments, with render_mode="rgb_array" if the constructor accepts it."""
    with_mode = {**arguments, "render_mode": "rgb_array"}
    if not callable(constructor):
        return with_mode  # an entry point's name in Gymnasium's registry
    if "rgb_array" not in getattr(constructor, "metadata", {}).get("render_modes", ["rgb_array"]):
        return arguments
    try:
        parameters = inspect.signature(constructor).parameters.values()
    except (TypeError, ValueError):
        return arguments
    if any(each.name == "render_mode" for each in parameters):
        return with_mode
    if not any(each.kind == each.VAR_KEYWORD for each in parameters):
        return arguments
    try:  # it forwards keyword arguments to a function that may not accept this one
        constructor(**with_mode).close()
    except TypeError:
        return arguments
    return with_mode


def pettingzoo_constructor(name: str) -> tuple[str, Callable[..., Any]]:
    """Return "parallel" or "aec" and the environment's constructor. Raises UsageError for a Gymnasium environment."""
    interface = interface_of(name)
    if interface not in ("parallel", "aec"):
        raise UsageError(f"world {name!r} is no environment of PettingZoo")
    return interface, user_code.load(name)


def horizon_of(env: Any) -> int:
    """Return the number of steps after which an environment's TimeLimit truncates, 0 without one."""
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(int(env._max_episode_steps))
        env = env.env
    return min(limits, default=0)
