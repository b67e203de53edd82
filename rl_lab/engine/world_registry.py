"""This module finds worlds by name: a world's name is its file's name in envs/, or names the user's own code.

Loading imports the file, once.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rl_lab.core.errors import nearest
from rl_lab.core.interrupts import is_interruption

if TYPE_CHECKING:
    from rl_lab.core.world import World


def names() -> list[str]:
    """Return every world's name, sorted."""
    package = importlib.import_module("rl_lab.envs")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(name: str) -> World:
    """Return the world of this name, or of a file, `FILE.py:NAME`, that may run.

    Raises ValueError naming the nearest one, WorldError for a mistake in its file.
    """
    from rl_lab.core.world import World
    from rl_lab.engine import user_code

    if not user_code.is_code(name):
        return _of_envs(name)
    world = user_code.load(name)
    if not isinstance(world, World):
        raise ValueError(f"{name} is no `world = World(...)`")
    return world


@cache
def _of_envs(name: str) -> World:
    from rl_lab.core.world import World, WorldError

    if name not in names():
        raise ValueError(f"no world {name!r}; {nearest(name, names())}")
    try:
        module = importlib.import_module(f"rl_lab.envs.{name}")
    except BaseException as error:  # sys.exit at import, too
        if is_interruption(error):
            raise
        from rl_lab.engine import diagnostics

        files = [f for folder in importlib.import_module("rl_lab.envs").__path__ for f in Path(folder).glob("*.py")]
        raise diagnostics.explain_import_error(error, set(map(str, files))) from error
    world = getattr(module, "world", None)
    if not isinstance(world, World):
        raise WorldError(f"{module.__file__}: ends without `world = World(...)`")
    return world
