"""This module parses the names of worlds that are the user's own code.

Such a world is named `FILE.py:NAME`, `MODULE:NAME`, `gym:MODULE:ID` or `pettingzoo:MODULE`. Parsing imports nothing;
`with_module` searches the current folder's files for an id.
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
_DIRECT = re.compile(rf"(?P<where>{_FILE})(?::(?P<name>[A-Za-z_]\w*))?|(?P<module>{_MODULE}):(?P<member>[A-Za-z_]\w*)")
_GYM = re.compile(rf"gym:(?P<where>{_FILE}|{_MODULE}):(?P<name>[^:]+)")
_ZOO = re.compile(rf"pettingzoo:(?P<where>{_FILE}|{_MODULE})(?::(?P<name>[A-Za-z_]\w*))?")


def parse(name: str) -> tuple[str, str] | None:
    """Return FILE.py or the module of a world's code, and the name in it; None if the world is not the user's code.

    The name is that of a class, a factory or a lab world; after `gym:` it is an id; it is "" if there is none.
    """
    for prefix, pattern in (("gym:", _GYM), ("pettingzoo:", _ZOO)):
        if name.startswith(prefix):
            match = pattern.fullmatch(name)
            return (match["where"], match["name"] or "") if match else None
    match = _DIRECT.fullmatch(name)
    return (match["where"] or match["module"], match["name"] or match["member"] or "") if match else None


def without_folders(name: str, location: str, member: str) -> str:
    """Return a world's name with other parts: FILE.py without its folders, or the module, and the member if any."""
    prefix = next((p for p in PREFIXES if name.startswith(p)), "")
    location = Path(location).name if location.endswith(".py") else location
    return f"{prefix}{location}:{member}" if member else f"{prefix}{location}"


def with_module(name: str) -> str:
    """Return `gym:NAMESPACE/ID` with the module that registers it added, if Gymnasium does not know the id.

    The module is the one called NAMESPACE, or the only file in this folder that calls `register` with this id.
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
    """Return True if Gymnasium knows the id of a name, with or without `gym:`."""
    import gymnasium

    return name.removeprefix("gym:") in gymnasium.registry
