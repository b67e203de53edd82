"""This module finds agents by name: an agent's name is its file's name in agents/. Loading imports that file."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from rl_lab.core.errors import nearest


def names() -> list[str]:
    """Return every agent's name, sorted."""
    package = importlib.import_module("rl_lab.agents")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and not m.name.startswith("_"))


def load(name: str) -> Any:
    """Return the module agents/<name>.py, an `agent.Factory`. Raises ValueError with the nearest name."""
    if name not in names():
        raise ValueError(f"no agent {name!r}; {nearest(name, names())}")
    return importlib.import_module(f"rl_lab.agents.{name}")


def learns(name: str) -> bool:
    """Return True if the agent is trained, False if it needs no training."""
    return hasattr(load(name), "learner")
