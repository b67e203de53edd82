"""Recipes: a scenario's YAML as plain data, over what its `defaults` name. Data that could do more is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rl_lab.adapters.make import FOREIGN
from rl_lab.core.errors import UsageError, nearest
from rl_lab.engine import code_names, world_registry

_TEXTS = ("name", "device", "run_dir", "role")
_LONGEST = 50_000  # characters of a YAML file
_MOST_FILES = 16  # that one scenario is made of, through its `defaults`
_MOST_NODES = 2_000  # of a YAML file: keys and values, and beginnings of lists and mappings
_DEEPEST = 32  # levels of lists and mappings inside each other
_LONG_NUMBER = re.compile(r"[-+.\d][\w.:+-]{200,}")  # beyond what a float holds, or Python prints
# 1:30 is 90 to YAML 1.1, and 010 is 8: what stands there is not what a reader means.
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
        return {"name": name, **_read(path, [])}
    if target in names():
        return {"name": target, **_read(folder() / f"{target}.yaml", [])}
    if is_world(target):
        known = target.rpartition("/")[2] if code_names.parse(target) and "/" in target.partition(":")[0] else target
        return {"name": re.sub(r"[^\w.-]+", "-", known).strip("-."), "world": target}
    raise ScenarioError(f"no scenario {target!r}; {nearest(target, {*names(), *world_registry.names()})}")


def is_world(target: str) -> bool:
    """Return whether a command's target is a world's name, and no recipe's."""
    path = Path(target)
    if path.suffix in (".yaml", ".yml") or target in names():
        return False
    return target in world_registry.names() or target.startswith(FOREIGN) or code_names.parse(target) is not None


def _read(path: Path, read: list[Path], depth: int = 0) -> dict[str, Any]:
    """Return a file's keys over those of the scenarios its `defaults` name: shipped ones, or files beside it.

    `read` gets the files that are read on the way.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if not path.is_file():
            raise ScenarioError(f"no scenario file {path}")
        read.append(path)
        if len(read) > _MOST_FILES:
            raise ScenarioError(f"{path}: defaults: a scenario is made of {_MOST_FILES} files at most")
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise ScenarioError(f"{path}: YAML of over {_LONGEST:,} characters is refused")
        _check_events(path, text)
        raw = yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))
        _check_data(path, raw)
        several = raw.get("defaults") if isinstance(raw, dict) else None
        if isinstance(several, list) and len(several) > _MOST_FILES:
            raise ScenarioError(f"{path}: defaults has {len(several):,} entries; expected {_MOST_FILES} at most")
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
    own = {str(key): _whole(value) if key in ("worlds", "budget") else value for key, value in recipe.items()}
    # A text is what stands there: YAML reads 2024_05_01 as a number, and `on` as a truth value.
    own |= {key: raw[key] for key in _TEXTS if isinstance(own.get(key), bool | int | float)}
    parents = own.pop("defaults", None)
    if parents is None:
        return own
    if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents) or depth > 8:
        raise ScenarioError(f"{path}: defaults is a list of scenarios' names, and of _self_, without circles")
    merged: Any = {}
    for parent in parents if "_self_" in parents else [*parents, "_self_"]:
        merged = OmegaConf.merge(merged, own if parent == "_self_" else _read(_parent(path, parent), read, depth + 1))
    return {str(key): value for key, value in OmegaConf.to_container(merged).items()}  # type: ignore[union-attr]


def _check_events(path: Path, text: str) -> None:
    """Refuse YAML that is more than data of a bounded size: anchors, aliases, tags, many nodes, many levels.

    The parser says what there is, event by event and without building anything; a pattern over the text could be
    led astray by quotes.
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
            said = f"{event.value} is read as a number of base {60 if ':' in event.value else 8}"
            raise ScenarioError(f"{path}, line {event.start_mark.line + 1}: {said}; write it in decimal, or in quotes")
        if depth > _DEEPEST or nodes > _MOST_NODES:
            most = f"{_MOST_NODES:,} keys and values, {_DEEPEST} levels deep"
            raise ScenarioError(f"{path}: YAML of more than {most} is refused")


def _whole(value: Any) -> Any:
    """Return 1e6, which YAML reads as a float, as the integer it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parent(path: Path, name: str) -> Path:
    beside = path.parent / f"{name}.yaml"
    if re.fullmatch(r"\w[\w.-]*", name) and beside != path and beside.is_file():
        return beside
    if name not in names():
        raise ScenarioError(f"{path}: defaults: no scenario {name!r}; {nearest(name, names())}")
    return folder() / f"{name}.yaml"


def _check_data(path: Path, node: Any) -> None:
    """Refuse what could make Hydra or OmegaConf do more than hold values."""
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
    """Return the first line of what an error says; of YAML that cannot be read, where and why."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    return str(error).strip().partition("\n")[0]


def explain(error: BaseException) -> str:
    """Return in one line what Hydra or OmegaConf found wrong, with the key it is about."""
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    keys = [line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("full_key:")]
    return f"{keys[0]}: {lines[0]}" if keys and keys[0] else lines[0]
