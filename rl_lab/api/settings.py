"""Settings given as keyword arguments become overrides, the lines key=value of the command line.

So Python and the command line have the same keys, the same checks and the same messages. Nothing is read or written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rl_lab.core.errors import UsageError
from rl_lab.experiments.overrides import is_text_key, quote_value

_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_MAPPINGS = ("policies",)  # keys whose value is a mapping; other mappings are sections


def override_lines(settings: Mapping[str, Any]) -> list[str]:
    """Return the overrides key=value of settings by key.

    A mapping is a section: `{"agent": {"name": "dqn", "gamma": 0.9}}` gives `agent=dqn` and `agent.gamma=0.9`, as
    `{"agent": "dqn", "agent.gamma": 0.9}` does.

    Raises UsageError for a key that is no name, and for a value that is not a number, a text, a path, True, False,
    None, a list of these, or a mapping.
    """
    return [line for key, value in settings.items() for line in _lines(key, value)]


def _lines(key: str, value: Any) -> list[str]:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise UsageError(f"{key!r} is no key; keys are names with dots between them, as in agent.learning_rate")
    if isinstance(value, Mapping) and key not in _MAPPINGS:
        return [line for name, each in value.items() for line in _lines(_member(key, name), each)]
    if is_text_key(key) and isinstance(value, list | tuple):
        return [f"{key}={','.join(map(str, value))}"]
    if is_text_key(key) and isinstance(value, str | os.PathLike):
        return [f"{key}={os.fspath(value)}"]
    return [f"{key}={_literal(key, value)}"]


def _member(section: str, name: Any) -> str:
    return section if name == "name" else f"{section}.{name}"


def _literal(key: str, value: Any) -> str:
    """Return a value in the grammar of overrides."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        return quote_value(os.fspath(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(_literal(key, each) for each in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_literal(key, each)}" for name, each in value.items()) + "}"
    kinds = "a number, a text, True, False, None, a list or a dictionary"
    raise UsageError(f"{key} cannot be a {type(value).__name__}; a setting is {kinds}")
