"""This module checks parameters of foreign environments (`world.params.NAME=VALUE`) against their constructors.

It makes no environment, but executes the file of one that is the user's own.
"""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from rl_lab.adapters import user_env
from rl_lab.adapters.foreign_errors import ForeignError
from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.untrusted import is_finite
from rl_lab.engine import diagnostics, user_code

_OF_MAKE = {"max_episode_steps": 0, "disable_env_checker": False}  # parameters of gymnasium.make itself


def defaults(name: str) -> dict[str, Any]:
    """Return an environment's constructor parameters with their defaults; {} where the signature is unknown.

    A parameter without a default has `inspect.Parameter.empty`. The key "**" is present if any other keyword is taken.
    """
    try:
        constructor, make_parameters = _constructor(name)
        parameters = inspect.signature(constructor).parameters.values()
    except (gymnasium.error.Error, ImportError, TypeError, ValueError, AttributeError):
        return {}
    by_name = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    by_name |= {"**": None} if any(p.kind == p.VAR_KEYWORD for p in parameters) else {}
    return {**by_name, **make_parameters}


def _constructor(name: str) -> tuple[Any, dict[str, Any]]:
    """Return an environment's constructor, and the parameters that gymnasium.make adds to it."""
    if name.startswith("pettingzoo:") or (not name.startswith("gym:") and user_env.interface_of(name) != "gym"):
        from rl_lab.adapters.pettingzoo_registry import find

        return find(name)[1], {}
    entry: Any = user_env.spec_of(name).entry_point
    return (load_env_creator(entry) if isinstance(entry, str) else entry), _OF_MAKE


def check(name: str, params: dict[str, Any]) -> None:
    """Raise UsageError for a parameter that the constructor does not take, or whose value is of another kind."""
    accepted = defaults(name) if params else {}
    for field, value in params.items():
        if accepted and field not in accepted and "**" not in accepted:
            names = ", ".join(accepted) or "none"
            raise UsageError(f"cannot make world {name!r}: it has no parameter {field!r}; it takes {names}")
        _check_kind(name, field, value, accepted.get(field))


def parameter_error(name: str, params: dict[str, Any], error: Exception) -> UsageError:
    """Return the error for an environment whose constructor has raised `error` when it got these parameters."""
    listing = ", ".join(f"{field}={value!r}" for field, value in params.items())
    if isinstance(error, ForeignError):  # its message is one line that names the place
        return UsageError(f"world.params: {name} with {listing}: {str(error).removeprefix(f'{name}: ')}")
    code = user_code.permitted(name)
    location = diagnostics.author_location(error, {code.file}) if code else ""
    message = str(error).partition("\n")[0]
    return UsageError(f"world.params: {name} with {listing}: {location}{type(error).__name__}: {message}")


def _check_kind(name: str, field: str, value: Any, default: Any) -> None:
    if not is_finite(value) and is_finite(default):
        raise UsageError(f"world.params.{field}={one_line(value)}: {name} expects finite numbers")
    is_bool = isinstance(default, bool)
    is_number = isinstance(default, int | float) and not is_bool
    if value is None or (is_number and isinstance(value, int | float) and not isinstance(value, bool)):
        return
    if is_number or (is_bool and not isinstance(value, bool)):
        expected = "true or false" if is_bool else "a number"
        raise UsageError(f"world.params.{field}={one_line(value)}: {name} expects {expected}, by default {default}")
