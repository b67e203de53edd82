"""Read the recipe of a scenario: its YAML file as plain data, merged with the scenarios that its `defaults` list names.

A recipe may come from a stranger. YAML that is too large or too deep, or that could make YAML, OmegaConf or Hydra do
more than hold values (anchors, tags, interpolation, `_target_`), is refused. `ScenarioError` is the error of everything
that is wrong with a scenario. Files are read, and none is written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rl_lab.adapters.make import FOREIGN
from rl_lab.core.errors import UsageError, nearest
from rl_lab.engine import code_names, world_registry

_TEXT_KEYS = ("name", "device", "run_dir", "role")  # keys whose values are always text
_MAX_CHARACTERS = 50_000  # of a YAML file
_MAX_FILES = 16  # of which one scenario consists, through its `defaults`
_MAX_INHERITANCE = 8  # levels of `defaults`
_MAX_NODES = 2_000  # of a YAML file: keys, values, lists and mappings
_MAX_DEPTH = 32  # levels of lists and mappings inside each other
_LONG_NUMBER = re.compile(r"[-+.\d][\w.:+-]{200,}")  # no float has so many digits, and Python refuses to print some
# YAML 1.1 reads 1:30 as 90 (base 60) and 010 as 8 (base 8), which is not what the writer means.
_OTHER_BASE = re.compile(r"[-+]?(\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?|0[\d_]*\d)")


class ScenarioError(UsageError):
    """The scenario or an override is wrong; the message is one line."""


def folder() -> Path:
    """Return the folder of the scenarios that come with the lab."""
    import importlib.resources

    return Path(str(importlib.resources.files("rl_lab.scenarios")))


def names() -> list[str]:
    """Return every scenario's name, sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def recipe_of(target: str) -> dict[str, Any]:
    """Return the recipe of a scenario's name, a YAML file's path or a world's name. Raises ScenarioError."""
    path = Path(target)
    if path.suffix in (".yaml", ".yml"):
        name = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") or "scenario"
        return {"name": name, **_read_with_defaults(path, [])}
    if target in names():
        return {"name": target, **_read_with_defaults(folder() / f"{target}.yaml", [])}
    if is_world(target):
        is_in_folder = code_names.parse(target) and "/" in target.partition(":")[0]
        name = target.rpartition("/")[2] if is_in_folder else target
        return {"name": re.sub(r"[^\w.-]+", "-", name).strip("-."), "world": target}
    raise ScenarioError(f"no scenario {target!r}; {nearest(target, {*names(), *world_registry.names()})}")


def is_world(target: str) -> bool:
    """Return whether a command's target is a world's name, and no recipe's."""
    path = Path(target)
    if path.suffix in (".yaml", ".yml") or target in names():
        return False
    return target in world_registry.names() or target.startswith(FOREIGN) or code_names.parse(target) is not None


def _read_with_defaults(path: Path, files_read: list[Path], depth: int = 0) -> dict[str, Any]:
    """Return the keys of a recipe's file, merged over those of the scenarios that its `defaults` names.

    These are scenarios of the lab, or files in the same folder; they may have `defaults` themselves. Each file is
    appended to `files_read`.
    """
    from omegaconf import OmegaConf

    own_keys = _read_file(path, files_read)
    parents = own_keys.pop("defaults", None)
    if parents is None:
        return own_keys
    if (
        not isinstance(parents, list)
        or not all(isinstance(parent, str) for parent in parents)
        or depth > _MAX_INHERITANCE
    ):
        raise ScenarioError(f"{path}: defaults is a list of scenarios' names, and of _self_, without circles")
    merged: Any = {}
    for parent in parents if "_self_" in parents else [*parents, "_self_"]:
        is_self = parent == "_self_"
        values = own_keys if is_self else _read_with_defaults(_parent_file(path, parent), files_read, depth + 1)
        merged = OmegaConf.merge(merged, values)
    return {str(key): value for key, value in OmegaConf.to_container(merged).items()}  # type: ignore[union-attr]


def _read_file(path: Path, files_read: list[Path]) -> dict[str, Any]:
    """Return the keys of one recipe's file, and append the path to `files_read`. Raises ScenarioError."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if not path.is_file():
            raise ScenarioError(f"no scenario file {path}")
        files_read.append(path)
        if len(files_read) > _MAX_FILES:
            raise ScenarioError(f"{path}: defaults: a scenario is made of {_MAX_FILES} files at most")
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_CHARACTERS + 1)
        if len(text) > _MAX_CHARACTERS:
            raise ScenarioError(f"{path}: YAML of over {_MAX_CHARACTERS:,} characters is refused")
        _check_events(path, text)
        texts = yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # all values as they are written
        _check_data(path, texts)
        parents = texts.get("defaults") if isinstance(texts, dict) else None
        if isinstance(parents, list) and len(parents) > _MAX_FILES:
            raise ScenarioError(f"{path}: defaults has {len(parents):,} entries; expected {_MAX_FILES} at most")
        node = OmegaConf.create(text)
        recipe = OmegaConf.to_container(node) if text.strip() else {}
    except (
        OmegaConfBaseException,
        yaml.YAMLError,
        ValueError,
        TypeError,
        AssertionError,
        RecursionError,
        OSError,
    ) as error:
        if isinstance(error, ScenarioError):
            raise
        raise ScenarioError(f"{path}: {first_line(error) or type(error).__name__}") from None
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise ScenarioError(f"{path}: expected a mapping of keys to values")
    own_keys = {str(key): _as_integer(value) if key in ("worlds", "budget") else value for key, value in recipe.items()}
    # A text stays as it is written: YAML reads 2024_05_01 as a number, and `on` as a truth value.
    return own_keys | {key: texts[key] for key in _TEXT_KEYS if isinstance(own_keys.get(key), bool | int | float)}


def _check_events(path: Path, text: str) -> None:
    """Raise ScenarioError for YAML with anchors, aliases, tags, too many nodes or levels, or misleading numbers.

    YAML's parser yields events and builds nothing, so that a small file that would expand to gigabytes does no harm. A
    regular expression over the text would be wrong where there are quotes.
    """
    import yaml

    depth = nodes = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        for name in ("anchor", "tag"):  # an alias has an anchor
            if getattr(event, name, None) is not None:
                line = event.start_mark.line + 1
                raise ScenarioError(f"{path}, line {line}: YAML with anchors, aliases or tags is refused")
        if isinstance(event, yaml.ScalarEvent) and not event.style and _LONG_NUMBER.fullmatch(event.value):
            raise ScenarioError(
                f"{path}, line {event.start_mark.line + 1}: a number of {len(event.value):,} characters"
            )
        if isinstance(event, yaml.ScalarEvent) and not event.style and _OTHER_BASE.fullmatch(event.value):
            reason = f"{event.value} is read as a number of base {60 if ':' in event.value else 8}"
            raise ScenarioError(
                f"{path}, line {event.start_mark.line + 1}: {reason}; write it in decimal, or in quotes"
            )
        if depth > _MAX_DEPTH or nodes > _MAX_NODES:
            limits = f"{_MAX_NODES:,} keys and values, {_MAX_DEPTH} levels deep"
            raise ScenarioError(f"{path}: YAML of more than {limits} is refused")


def _as_integer(value: Any) -> Any:
    """Return a float that is an integer as an int, because YAML reads 1e6 as a float, and other values as they are."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parent_file(path: Path, name: str) -> Path:
    """Return the file that `name` means in the `defaults` of this file: one in its folder, else one of the lab."""
    beside = path.parent / f"{name}.yaml"
    if re.fullmatch(r"\w[\w.-]*", name) and beside != path and beside.is_file():
        return beside
    if name not in names():
        raise ScenarioError(f"{path}: defaults: no scenario {name!r}; {nearest(name, names())}")
    return folder() / f"{name}.yaml"


def _check_data(path: Path, node: Any) -> None:
    """Raise ScenarioError for keys and texts that could make Hydra or OmegaConf do more than hold values."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("_target_", "hydra") or (isinstance(key, str) and key.startswith(("hydra/", "hydra:"))):
                raise ScenarioError(f"{path}: {key} is refused: config is data")
            _check_data(path, value)
    elif isinstance(node, list):
        for value in node:
            _check_data(path, value)
    elif isinstance(node, str) and "${" in node:
        raise ScenarioError(f"{path}: {node} is refused: config is data, and interpolation can read more than it")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; of an error of YAML's parser, line, column and problem."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    return str(error).strip().partition("\n")[0]


def explain(error: BaseException) -> str:
    """Return the message of an error of Hydra or OmegaConf in one line, after the key that it is about."""
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    keys = [line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("full_key:")]
    return f"{keys[0]}: {lines[0]}" if keys and keys[0] else lines[0]
