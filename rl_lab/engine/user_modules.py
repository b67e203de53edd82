"""This module loads the modules of the user's code, and finds which of their members are worlds.

Permission to run is `user_code`'s concern: a caller passes code that is permitted. `module_of` executes the file.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rl_lab.core.errors import UsageError, one_line
from rl_lab.engine.code_names import parse
from rl_lab.engine.code_trust import UserCode
from rl_lab.engine.source_modules import digest, execute_file

FACTORY_NAMES = ("parallel_env", "env", "raw_env")  # PettingZoo's conventional names of a file's factory functions


def module_of(code: UserCode) -> ModuleType:
    """Return the module of a file, which is executed once for each content.

    Raises UsageError if the file has changed or is missing, WorldError for a mistake in it.
    """
    if digest(Path(code.file)) != code.sha256:
        raise UsageError(f"{code.file} has changed since it was permitted to run")
    parsed = parse(code.world)
    module_name = parsed[0] if parsed and not parsed[0].endswith(".py") else ""
    return execute_file(code.file, code.sha256, module_name)


def defines(module: ModuleType, value: Any) -> bool:
    """Return True if a module defines an object and does not only import it; True for every World."""
    from rl_lab.core.world import World

    name = str(getattr(value, "__module__", None))
    inside = name == module.__name__ or (hasattr(module, "__path__") and name.startswith(f"{module.__name__}."))
    return inside or isinstance(value, World)


def only_member(code: UserCode) -> str:
    """Return the name of the only object in a file that can be a world. Raises UsageError if there are several."""
    from gymnasium import Env

    from rl_lab.core.world import World

    module = module_of(code)
    library: Any = sys.modules.get("pettingzoo")  # a file with a class of its interface has imported it
    pettingzoo_classes = (library.AECEnv, library.ParallelEnv) if library is not None else ()
    members = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    if not code.world.startswith("pettingzoo:") and isinstance(members.get("world"), World):
        return "world"
    for factory in FACTORY_NAMES:
        if callable(members.get(factory)):
            return factory
    classes_allowed = pettingzoo_classes if code.world.startswith("pettingzoo:") else (Env, *pettingzoo_classes)
    classes = [
        name
        for name, value in members.items()
        if inspect.isclass(value) and issubclass(value, classes_allowed) and value.__module__ == module.__name__
    ]
    if len(classes) == 1:
        return classes[0]
    content = f"has {', '.join(classes)}" if classes else "has no environment and no `world = World(...)`"
    raise UsageError(f"{code.file} {content}: name the class or the function that makes it, FILE.py:NAME")


def name_of_object(value: Any) -> str:
    """Return the name, FILE:NAME, of a class, a function or a World that a Python program passes as an argument.

    Raises UsageError if it is not a member of a module with a source file.
    """
    from rl_lab.core.world import World

    if isinstance(value, World):
        module = sys.modules[value.step.__module__]
        name = next((name for name, member in vars(module).items() if member is value), "")
    else:
        module = sys.modules.get(str(getattr(value, "__module__", "")))  # type: ignore[assignment]
        name = str(getattr(value, "__qualname__", ""))
    file = getattr(module, "__file__", None)
    if not file or not name or getattr(module, name, None) is not value:
        text = one_line(repr(value))[:80]
        raise UsageError(f"{text} is no class, function or world at the top of a file: nothing could make it again")
    return f"{file}:{name}"
