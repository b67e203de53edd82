"""This module finds environments and worlds in the user's own files and modules, and decides which of them may run.

A world is named by `FILE.py:NAME`, `MODULE:NAME`, `gym:MODULE:ID` or `pettingzoo:MODULE`. Names on a command line or
in an argument of `compose` may run. A name in a file (a run's config.yaml, a recipe, a trace) may run only if this user
has named the same world, in the same file with the same content, before, or if `--allow-code FILE` (`allow`) permits
it; in an allowed file, only objects that the file itself defines.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rl_lab.core.errors import UsageError, nearest, one_line
from rl_lab.engine.code_trust import UserCode as UserCode
from rl_lab.engine.code_trust import forget, is_trusted, trust
from rl_lab.engine.source_modules import digest, execute_file, locate
from rl_lab.engine.source_modules import refuse_while_loading as refuse_while_loading

_PREFIXES = ("gym:", "pettingzoo:")
_FILE = r"[^:\0]*[^:/\0]\.py"
_MODULE = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_DIRECT = re.compile(rf"(?P<where>{_FILE})(?::(?P<name>[A-Za-z_]\w*))?|(?P<module>{_MODULE}):(?P<member>[A-Za-z_]\w*)")
_GYM = re.compile(rf"gym:(?P<where>{_FILE}|{_MODULE}):(?P<name>[^:]+)")
_ZOO = re.compile(rf"pettingzoo:(?P<where>{_FILE}|{_MODULE})(?::(?P<name>[A-Za-z_]\w*))?")


_KINDS: dict[str, Callable[[Any], bool]] = {
    "file": lambda value: isinstance(value, str) and "\0" not in value,
    "sha256": lambda value: isinstance(value, str),
    "entry": lambda value: isinstance(value, str) and (not value or value.isidentifier()),
    "horizon": lambda value: type(value) is int and 0 <= value < 2**62,
    "solved": lambda value: value is None or (type(value) in (int, float) and math.isfinite(value)),
}
RECORDED = tuple(_KINDS)
_USUAL = ("parallel_env", "env", "raw_env")  # PettingZoo's conventional names of a file's factory functions
_permitted: dict[str, UserCode] = {}  # by the world's name
_refused: dict[str, str] = {}  # the reasons, by the world's name
_allowed: list[Path] = []


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--allow-code FILE` to a command."""
    help_text = "run FILE, which only a run, a recipe or a tournament names"
    parser.add_argument("--allow-code", action="append", metavar="FILE", type=Path, help=help_text)


def begin(allowed: Iterable[Path] | None) -> None:
    """Forget all permissions of this process, and allow these files, at the beginning of a command.

    Raises UsageError for a file that does not exist.
    """
    _permitted.clear()
    _refused.clear()
    forget()
    _allowed.clear()
    for path in allowed or ():
        allow(path)


def allow(path: str | Path) -> None:
    """Permit a file that a run, a recipe or a trace names. Raises UsageError if it does not exist."""
    if not Path(path).is_file():
        raise UsageError(f"--allow-code {path}: no such file")
    _allowed.append(Path(path).resolve())


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


def is_code(name: str) -> bool:
    """Return True if a world's name means the user's code, which must be permitted before it runs."""
    return parse(name) is not None or name in _permitted or name in _refused


def _renamed(name: str, where: str, member: str) -> str:
    """Return a world's name with its file's name without the folders."""
    prefix = next((p for p in _PREFIXES if name.startswith(p)), "")
    where = Path(where).name if where.endswith(".py") else where
    return f"{prefix}{where}:{member}" if member else f"{prefix}{where}"


def name_typed(name: str) -> UserCode | None:
    """Permit and return the code of a world that the user has named; None if the world is not the user's code.

    Raises UsageError for a missing file, module or name, WorldError for a mistake in the file.
    """
    name = _with_module(name)
    parsed = parse(name)
    if parsed is None:
        return _of_registry(name)
    where, member = parsed
    file = locate(where, Path.cwd())
    if file is None:
        raise UsageError(f"world {name!r}: no {'file' if where.endswith('.py') else 'module'} {where}")
    code = UserCode(_renamed(name, where, member), str(file), digest(file), typed=True)
    trust(code)
    if not member and not name.startswith(_PREFIXES):
        code = dataclasses.replace(code, world=_renamed(name, where, _only_member(code)))
        trust(code)
    permit(code)
    return code


def _with_module(name: str) -> str:
    """Return `gym:NAMESPACE/ID` with the module that registers it added, if Gymnasium does not know the id.

    The module is the one called NAMESPACE, or the only file in this folder that calls `register` with this id.
    """
    identity = name.removeprefix("gym:")
    if not name.startswith("gym:") or "/" not in identity or ":" in identity or _is_registered(name):
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


def name_recorded(name: str, record: dict[str, Any], source: str) -> UserCode | None:
    """Return the code of a world that a file, `source`, names, and permit it if it is trusted; None if it is no code.

    `record` has the values of `UserCode.record` that the file holds, with paths relative to the file's folder. If it
    has no path, the code is searched in that folder and in the current one. A world that may not run is refused by
    `load`. Raises UsageError for a record with a value of the wrong type.
    """
    record, parsed = _checked(record, source), parse(name)
    if parsed is None and ("file" not in record or _is_registered(name)):
        return _of_registry(name)
    where = parsed[0] if parsed else str(record["file"])
    folder, path = Path(source).absolute().parent, str(record.get("file", ""))
    file = _recorded_file(where, folder, path)
    expected = str(record.get("sha256", ""))
    known = _permitted.get(name)
    if file is None:
        missing = f"{source}: the code of world {name!r} is not here, SHA-256 {expected[:16] or 'unknown'}"
        _refuse(name, f"{missing}; say where it is with --allow-code FILE")
        return UserCode(name, str(folder / (path or where)), expected)
    registration = {key: record[key] for key in ("entry", "horizon", "solved") if key in record}
    code = UserCode(name, str(file), digest(file), **registration)
    if known is not None and (known.sha256 == expected or not expected):
        return known
    if _find_allowed(where, path) is not None:
        trust(code)
        permit(code)
    elif (typed := is_trusted(code)) is not None and code.sha256 == (expected or code.sha256):
        permit(dataclasses.replace(code, typed=typed))
    else:
        note = f"it was {expected[:16]}" if expected else "no hash is recorded"
        reason = f"{source} names code, {name}: {file}, SHA-256 {code.sha256[:16]} ({note})"
        _refuse(name, f"{reason}; to run it, add --allow-code {file}")
    return code if not expected else UserCode(name, code.file, expected, **registration)


def _find_allowed(where: str, path: str) -> Path | None:
    """Return the file of `--allow-code` that has the name of a recorded file or module, None if there is none."""
    name = Path(path or where).name if where.endswith(".py") else f"{where.rpartition('.')[2]}.py"
    package = "" if where.endswith(".py") else name.removesuffix(".py")
    candidates = (p for p in _allowed if p.name == name or (p.name == "__init__.py" and p.parent.name == package))
    return next(candidates, None)


def _recorded_file(where: str, folder: Path, path: str) -> Path | None:
    """Return the source file of a recorded world: an allowed file, or else `path` in the folder, or else a search."""
    if (allowed := _find_allowed(where, path)) is not None:
        return allowed
    if path and (folder / path).is_file():
        return (folder / path).resolve()
    return locate(where, folder) or locate(where, Path.cwd())


def _checked(record: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the known values of a record, see `UserCode.record`. Raises UsageError for values of other types."""
    for key in RECORDED:
        value = record.get(key)
        if key in record and not _KINDS[key](value):
            raise UsageError(f"{source}: the world's {key} is {one_line(repr(value))[:80]}")
    return {key: record[key] for key in RECORDED if key in record}


def permit(code: UserCode) -> None:
    """Permit the code of a world to run in this process."""
    _refused.pop(code.world, None)
    _permitted[code.world] = code


def _refuse(name: str, reason: str) -> None:
    _permitted.pop(name, None)
    _refused[name] = reason


def permitted(name: str) -> UserCode | None:
    """Return the code of a world; None if the world is not the user's code. Raises UsageError if it may not run."""
    if name in _permitted:
        return _permitted[name]
    if name in _refused:
        raise UsageError(_refused[name])
    if parse(name) is None:
        return None
    name_recorded(name, {}, str(Path.cwd() / "a file"))
    if name not in _permitted:
        reason = _refused.pop(name).partition(" names code, ")[2] or "it is not here"
        raise UsageError(f"world {name!r} is code that may not run without your permission: {reason}")
    return _permitted[name]


def load(name: str) -> Any:
    """Return the object that a world's name means: a World, or a class or function that makes an environment.

    For `gym:` names it is the module, which has registered its ids. Raises UsageError if the code may not run or is
    missing, WorldError for a mistake in the file.
    """
    code, parsed = permitted(name), parse(name)
    assert code is not None
    if name.startswith("gym:") and not code.entry:
        return module_of(code)
    named = code.entry if name.startswith("gym:") else parsed[1] if parsed else ""
    member = named or (_only_member(code) if name.startswith("pettingzoo:") else "")
    module = module_of(code)
    if not hasattr(module, member):
        known = [each for each in vars(module) if not each.startswith("_")]
        raise UsageError(f"{code.file} has no {member!r}; {nearest(member, known)}")
    value = getattr(module, member)
    if named and not code.typed and named not in _USUAL and not _defines(module, value):
        raise UsageError(f"{code.file} only imports {member!r}: it may run where you name it yourself, world={name}")
    return value


def _defines(module: ModuleType, value: Any) -> bool:
    """Return True if a module defines an object and does not only import it; True for every World."""
    from rl_lab.core.world import World

    name = str(getattr(value, "__module__", None))
    inside = name == module.__name__ or (hasattr(module, "__path__") and name.startswith(f"{module.__name__}."))
    return inside or isinstance(value, World)


def module_of(code: UserCode) -> ModuleType:
    """Return the module of a file, which is executed once for each content. Errors are those of `load`."""
    if digest(Path(code.file)) != code.sha256:
        raise UsageError(f"{code.file} has changed since it was permitted to run")
    parsed = parse(code.world)
    dotted = parsed[0] if parsed and not parsed[0].endswith(".py") else ""
    return execute_file(code.file, code.sha256, dotted)


def _only_member(code: UserCode) -> str:
    """Return the name of the only object in a file that can be a world. Raises UsageError if there are several."""
    from gymnasium import Env

    from rl_lab.core.world import World

    module = module_of(code)
    library: Any = sys.modules.get("pettingzoo")  # a file with a class of its interface has imported it
    games = (library.AECEnv, library.ParallelEnv) if library is not None else ()
    members = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    if not code.world.startswith("pettingzoo:") and isinstance(members.get("world"), World):
        return "world"
    for usual in _USUAL:
        if callable(members.get(usual)):
            return usual
    kinds = games if code.world.startswith("pettingzoo:") else (Env, *games)
    classes = [
        name
        for name, value in members.items()
        if inspect.isclass(value) and issubclass(value, kinds) and value.__module__ == module.__name__
    ]
    if len(classes) == 1:
        return classes[0]
    content = f"has {', '.join(classes)}" if classes else "has no environment and no `world = World(...)`"
    raise UsageError(f"{code.file} {content}: name the class or the function that makes it, FILE.py:NAME")


def reference(value: Any) -> str:
    """Return the name, FILE:NAME, of a class, a function or a World that a Python program passes as an argument.

    Raises UsageError if it is not a member of a module with a source file.
    """
    from rl_lab.core.world import World

    if isinstance(value, World):
        module = sys.modules[value.step.__module__]
        name = next((name for name, member in vars(module).items() if member is value), "")
    else:
        module, name = sys.modules.get(value.__module__), str(value.__qualname__)  # type: ignore[assignment]
    file = getattr(module, "__file__", None)
    if not file or getattr(module, name, None) is not value:
        shown = one_line(repr(value))[:80]
        raise UsageError(f"{shown} is no class, function or world at the top of a file: nothing could make it again")
    return f"{file}:{name}"


def _is_registered(name: str) -> bool:
    import gymnasium

    return name.removeprefix("gym:") in gymnasium.registry


def _of_registry(name: str) -> UserCode | None:
    """Return the code behind a Gymnasium id that this program has registered; None for ids of installed plugins."""
    import gymnasium

    spec: Any = gymnasium.registry.get(name.removeprefix("gym:")) if name.startswith("gym:") else None
    if spec is None or spec.entry_point is None:
        return None
    entry = spec.entry_point
    if isinstance(entry, str):
        module_name, _, member = entry.partition(":")
        module = sys.modules.get(module_name)
    else:
        module_name, member = getattr(entry, "__module__", ""), getattr(entry, "__qualname__", "")
        module = sys.modules.get(module_name)
    if module_name.partition(".")[0] in _plugins() or module is None or not getattr(module, "__file__", None):
        return None
    file = Path(str(module.__file__)).resolve()
    if not hasattr(module, member):
        return None  # a lambda or a local function makes it, which no other process can call
    horizon = spec.max_episode_steps or 0
    code = UserCode(name, str(file), digest(file), member, int(horizon), spec.reward_threshold, typed=True)
    trust(code)
    permit(code)
    return code


@cache
def _plugins() -> frozenset[str]:
    """Return the packages whose ids Gymnasium registers by itself in every process."""
    from importlib import metadata

    entry_points = metadata.entry_points(group="gymnasium.envs")
    return frozenset({"gymnasium", "rl_lab", *(entry.module.partition(".")[0] for entry in entry_points)})
