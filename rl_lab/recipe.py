"""Recipes: a scenario's YAML as plain data, over what its `defaults` name. Data that could do more is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from . import worlds
from .batch import FOREIGN
from .names import UsageError, nearest

_LONGEST = 100_000  # characters of a YAML file


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
        return {"name": name, **_read(path)}
    if target in names():
        return {"name": target, **_read(folder() / f"{target}.yaml")}
    if target in worlds.names() or target.startswith(FOREIGN):
        return {"name": re.sub(r"[^\w.-]+", "-", target).strip("-."), "world": target}
    raise ScenarioError(f"no scenario {target!r}; {nearest(target, {*names(), *worlds.names()})}")


def _read(path: Path, depth: int = 0) -> dict[str, Any]:
    """Return a file's keys over those of the scenarios its `defaults` name: shipped ones, or files beside it."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if not path.is_file():
            raise ScenarioError(f"no scenario file {path}")
        text = path.read_text(encoding="utf-8")
        if len(text) > _LONGEST or re.search(r"^[^#\n]*(^|[\s:\[{,-])[&*]\w", text, re.MULTILINE):
            raise ScenarioError(f"{path}: YAML of over {_LONGEST:,} characters, and anchors, are refused")
        _check_data(path, yaml.load(text, yaml.BaseLoader))
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
    parents = own.pop("defaults", None)
    if parents is None:
        return own
    if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents) or depth > 8:
        raise ScenarioError(f"{path}: defaults is a list of scenarios' names, and of _self_, without circles")
    merged: Any = {}
    for parent in parents if "_self_" in parents else [*parents, "_self_"]:
        merged = OmegaConf.merge(merged, own if parent == "_self_" else _read(_parent(path, parent), depth + 1))
    return {str(key): value for key, value in OmegaConf.to_container(merged).items()}  # type: ignore[union-attr]


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
