"""This module decides which environments and worlds in the user's own files and modules may run, and loads them.

A name (see `code_names`) that the user gives, on a command line or in an argument of `compose`, may run:
`permit_named`. A name in a file (a run's config.yaml, a recipe, a trace) may run only if this user has given the same
world, in the same file with the same content, before, or if `--allow-code FILE` (`allow`) permits it:
`permit_recorded`. In an allowed file, only objects that the file itself defines may run. `load` then executes the file
and returns the object.

Permissions are kept in dictionaries of this module until `reset_permissions`; what the user has given is also
remembered in a file, see `code_trust`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError, nearest, one_line
from rl_lab.engine.code_names import PREFIXES, is_registered, parse, with_module, with_source_and_member
from rl_lab.engine.code_trust import UserCode as UserCode
from rl_lab.engine.code_trust import forget, is_trusted, trust
from rl_lab.engine.source_modules import digest, locate
from rl_lab.engine.source_modules import refuse_while_loading as refuse_while_loading
from rl_lab.engine.user_modules import FACTORY_NAMES, defines, module_of, only_member

# Whether a recorded value of `UserCode.record` is valid, by its key.
_VALIDATORS: dict[str, Callable[[Any], bool]] = {
    "file": lambda value: isinstance(value, str) and "\0" not in value,
    "sha256": lambda value: isinstance(value, str),
    "entry": lambda value: isinstance(value, str) and (not value or value.isidentifier()),
    "horizon": lambda value: type(value) is int and 0 <= value < 2**62,
    "solved": lambda value: value is None or (type(value) in (int, float) and math.isfinite(value)),
}
RECORDED = tuple(_VALIDATORS)
_permitted: dict[str, UserCode] = {}  # code that may run, by the world's name
_refused: dict[str, str] = {}  # the reasons why code may not run, by the world's name
_allowed: list[Path] = []  # the files of --allow-code


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--allow-code FILE` to a command."""
    help_text = "run FILE, which only a run, a recipe or a tournament names"
    parser.add_argument("--allow-code", action="append", metavar="FILE", type=Path, help=help_text)


def reset_permissions(allowed: Iterable[Path] | None) -> None:
    """Forget all permissions of this process, and allow these files: a command calls it at its beginning.

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


def is_code(name: str) -> bool:
    """Return True if a world's name means the user's code, which must be permitted before it runs."""
    return parse(name) is not None or name in _permitted or name in _refused


def permit_named(name: str) -> UserCode | None:
    """Permit and return the code of a world that the user has named; None if the world is not the user's code.

    Raises UsageError for a missing file, module or name, WorldError for a mistake in the file.
    """
    name = with_module(name)
    parsed = parse(name)
    if parsed is None:
        return _code_of_registered_id(name)
    location, member = parsed
    file = locate(location, Path.cwd())
    if file is None:
        raise UsageError(f"world {name!r}: no {'file' if location.endswith('.py') else 'module'} {location}")
    code = UserCode(with_source_and_member(name, location, member), str(file), digest(file), named_by_user=True)
    trust(code)
    if not member and not name.startswith(PREFIXES):
        code = dataclasses.replace(code, world=with_source_and_member(name, location, only_member(code)))
        trust(code)
    permit(code)
    return code


def permit_recorded(name: str, record: dict[str, Any], source: str) -> UserCode | None:
    """Return the code of a world that a file, `source`, names, and permit it if it is trusted; None if it is no code.

    `record` has the values of `UserCode.record` that the file holds, with paths relative to the file's folder. If it
    has no path, the code is searched in that folder and in the current one. A world that may not run is refused by
    `load`. Raises UsageError for a record with a value of the wrong type.
    """
    record, parsed = _check_record(record, source), parse(name)
    if parsed is None and ("file" not in record or is_registered(name)):
        return _code_of_registered_id(name)
    location = parsed[0] if parsed else str(record["file"])
    base_folder, path = Path(source).absolute().parent, str(record.get("file", ""))
    file = _recorded_file(location, base_folder, path)
    expected = str(record.get("sha256", ""))
    permitted_code = _permitted.get(name)
    if permitted_code is not None and expected and permitted_code.sha256 == expected:
        return permitted_code  # also in a process that has the code from elsewhere
    if file is None:
        missing = f"{source}: the code of world {name!r} is not here, SHA-256 {expected[:16] or 'unknown'}"
        _refuse(name, f"{missing}; say where it is with --allow-code FILE")
        return UserCode(name, str(base_folder / (path or location)), expected)
    fields = {"entry": "entry", "horizon": "horizon", "solved": "reward_threshold"}
    registration = {fields[key]: value for key, value in record.items() if key in fields}
    code = UserCode(name, str(file), digest(file), **registration)
    if permitted_code is not None and not expected:
        return permitted_code
    if _find_allowed(location, path) is not None:
        trust(code)
        permit(code)
    elif (named_by_user := is_trusted(code)) is not None and code.sha256 == (expected or code.sha256):
        permit(dataclasses.replace(code, named_by_user=named_by_user))
    else:
        note = f"it was {expected[:16]}" if expected else "no hash is recorded"
        reason = f"{source} names code, {name}: {file}, SHA-256 {code.sha256[:16]} ({note})"
        _refuse(name, f"{reason}; to run it, add --allow-code {file}")
    return code if not expected else UserCode(name, code.file, expected, **registration)


def _find_allowed(location: str, path: str) -> Path | None:
    """Return the file of `--allow-code` that has the name of a recorded file or module, None if there is none."""
    name = Path(path or location).name if location.endswith(".py") else f"{location.rpartition('.')[2]}.py"
    package = "" if location.endswith(".py") else name.removesuffix(".py")
    candidates = (p for p in _allowed if p.name == name or (p.name == "__init__.py" and p.parent.name == package))
    return next(candidates, None)


def _recorded_file(location: str, base_folder: Path, path: str) -> Path | None:
    """Return the source file of a recorded world: an allowed file, or else `path` in the folder, or else a search."""
    if (allowed := _find_allowed(location, path)) is not None:
        return allowed
    if path and (base_folder / path).is_file():
        return (base_folder / path).resolve()
    return locate(location, base_folder) or locate(location, Path.cwd())


def _check_record(record: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the known values of a record, see `UserCode.record`. Raises UsageError for values of other types."""
    for key in RECORDED:
        value = record.get(key)
        if key in record and not _VALIDATORS[key](value):
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
    permit_recorded(name, {}, str(Path.cwd() / "a file"))
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
    member = named or (only_member(code) if name.startswith("pettingzoo:") else "")
    module = module_of(code)
    if not hasattr(module, member):
        permitted_code = [each for each in vars(module) if not each.startswith("_")]
        raise UsageError(f"{code.file} has no {member!r}; {nearest(member, permitted_code)}")
    value = getattr(module, member)
    if named and not code.named_by_user and named not in FACTORY_NAMES and not defines(module, value):
        raise UsageError(f"{code.file} only imports {member!r}: it may run where you name it yourself, world={name}")
    return value


def _code_of_registered_id(name: str) -> UserCode | None:
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
    code = UserCode(name, str(file), digest(file), member, int(horizon), spec.reward_threshold, named_by_user=True)
    trust(code)
    permit(code)
    return code


@cache
def _plugins() -> frozenset[str]:
    """Return the packages whose ids Gymnasium registers by itself in every process."""
    from importlib import metadata

    entry_points = metadata.entry_points(group="gymnasium.envs")
    return frozenset({"gymnasium", "rl_lab", *(entry.module.partition(".")[0] for entry in entry_points)})
