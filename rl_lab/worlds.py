"""Worlds by name: the file name in envs/ is the registry."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .names import nearest

if TYPE_CHECKING:
    from .world import World


def names() -> list[str]:
    """Return every world's name, sorted."""
    package = importlib.import_module("rl_lab.envs")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


@cache
def load(name: str) -> World:
    """Return the world of this name. Raises ValueError naming the nearest one, WorldError for a mistake in its file."""
    from .world import World, WorldError

    if name not in names():
        raise ValueError(f"no world {name!r}; {nearest(name, names())}")
    try:
        module = importlib.import_module(f"rl_lab.envs.{name}")
    except Exception as error:
        from . import mistakes

        files = [f for folder in importlib.import_module("rl_lab.envs").__path__ for f in Path(folder).glob("*.py")]
        raise mistakes.of_import(error, set(map(str, files))) from error
    world = getattr(module, "world", None)
    if not isinstance(world, World):
        raise WorldError(f"{module.__file__}: ends without `world = World(...)`")
    return world
