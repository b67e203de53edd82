"""This module parses the names of worlds that are the user's own code.

SOURCE is `FILE.py`, with or without folders, or the dotted name of a module. A world is named by its source and,
usually, a member of it. Without a member, the world is the only one in the source. The forms are:

    FILE.py or FILE.py:NAME                      a world of the lab, a class or a factory of environments
    MODULE:NAME                                  the same, in a module
    gym:SOURCE:ID                                an id that the source registers with Gymnasium
    pettingzoo:SOURCE or pettingzoo:SOURCE:NAME  an environment of PettingZoo

`parse` imports nothing. `with_module` imports Gymnasium, whose registry it reads, and searches the current folder's
files for an id.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from rl_lab.core.errors import UsageError
from rl_lab.engine.source_modules import locate

PREFIXES = ("gym:", "pettingzoo:")
_FILE = r"[^:\0]*[^:/\0]\.py"
_MODULE = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_DIRECT = re.compile(
    rf"(?P<source>{_FILE})(?::(?P<member>[A-Za-z_]\w*))?|(?P<module>{_MODULE}):(?P<module_member>[A-Za-z_]\w*)"
)
_GYM = re.compile(rf"gym:(?P<source>{_FILE}|{_MODULE}):(?P<member>[^:]+)")
_ZOO = re.compile(rf"pettingzoo:(?P<source>{_FILE}|{_MODULE})(?::(?P<member>[A-Za-z_]\w*))?")


def parse(name: str) -> tuple[str, str] | None:
    """Return the source and the member of a world's name; None if the world is not the user's code.

    The member is the name of a class, a factory or a world of the lab. After `gym:` it is an id. It is "" if there is
    none. For example, `gym:envs/maze.py:Maze-v0` gives ("envs/maze.py", "Maze-v0").
    """
    for prefix, pattern in (("gym:", _GYM), ("pettingzoo:", _ZOO)):
        if name.startswith(prefix):
            match = pattern.fullmatch(name)
            return (match["source"], match["member"] or "") if match else None
    match = _DIRECT.fullmatch(name)
    return (match["source"] or match["module"], match["member"] or match["module_member"] or "") if match else None


def with_source_and_member(name: str, source: str, member: str) -> str:
    """Return a world's name with another source and member, "" for none; a file's source loses its folders.

    Only the prefix of `name`, such as `gym:`, is kept. For example, `gym:a/maze.py:Maze-v0` with the source "a/maze.py"
    and the member "Maze-v0" gives `gym:maze.py:Maze-v0`.
    """
    prefix = next((p for p in PREFIXES if name.startswith(p)), "")
    source = Path(source).name if source.endswith(".py") else source
    return f"{prefix}{source}:{member}" if member else f"{prefix}{source}"


def with_module(name: str) -> str:
    """Return `gym:NAMESPACE/ID` with the module that registers it added, if Gymnasium does not know the id.

    The module is the one called NAMESPACE, or the only file in this folder that calls `register` with this id. Imports
    Gymnasium if the id has a namespace.

    Raises UsageError if several files register the id.
    """
    identity = name.removeprefix("gym:")
    if not name.startswith("gym:") or "/" not in identity or ":" in identity or is_registered(name):
        return name
    namespace = identity.partition("/")[0]
    if re.fullmatch(_MODULE, namespace) and locate(namespace, Path.cwd()):
        return f"gym:{namespace}:{identity}"
    call = re.compile(rf"""register\(\s*(id\s*=\s*)?["']{re.escape(identity)}["']""")
    files = []
    for file in sorted(Path.cwd().glob("*.py")):
        with contextlib.suppress(OSError, ValueError):
            files += [file.name] if call.search(file.read_text(encoding="utf-8")) else []
    if len(files) > 1:
        raise UsageError(f"{', '.join(files)} register {identity!r}: say which, as gym:{files[0]}:{identity}")
    return f"gym:{files[0]}:{identity}" if files else name


def is_registered(name: str) -> bool:
    """Return True if Gymnasium knows the id of a name, with or without `gym:`; it imports Gymnasium."""
    import gymnasium

    return name.removeprefix("gym:") in gymnasium.registry
