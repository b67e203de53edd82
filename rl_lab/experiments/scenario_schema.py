"""The keys of a scenario with their types, and the merging of defaults, recipe and overrides by Hydra.

`compose_typed` first refuses unknown keys, naming the nearest one, and then lets Hydra merge the values and check their
types. Hydra has global state: its ConfigStore entry "scenario" is replaced at each merge. A merge takes a tenth of a
second and commands read the same scenario more than once, so the last ones are kept.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from rl_lab.adapters.make import is_foreign
from rl_lab.core import agent_registry
from rl_lab.engine import world_registry
from rl_lab.experiments.key_synonyms import suggestion
from rl_lab.experiments.scenario import CheckpointConfig, EvaluationConfig
from rl_lab.experiments.scenario_yaml import ScenarioError, explain

# Valid keys that are not in the schema, because they are taken out before: by `multiagent_config` and
# `backbone_config`, from recipe and overrides; and by `scenario_yaml` and `scenario_parsing`, from recipes only.
_PARSED_EARLIER = ("opponent", "policies", "league", "backbone")
_RECIPE_KEYS = ("expect", "tuned", "defaults")
_MAX_MERGES = 64
_merges: dict[tuple[Any, str], dict[str, Any]] = {}  # by what they were made of


@dataclass
class _Schema:
    """The keys that every scenario has, with their types and defaults; `Scenario` says what they mean."""

    name: str = ""
    worlds: int = 8
    budget: int = 100_000
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    run_dir: str | None = None
    video: bool = True
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    cluster: str = "local"
    role: str = ""


def compose_typed(
    target: str, world: dict[str, Any], agent: dict[str, Any], recipe: dict[str, Any], overrides: list[Any]
) -> dict[str, Any]:
    """Return the values of all keys, each of its type: the overrides', else the recipe's, else the defaults.

    `world` and `agent` are mappings with a name. In the result, "world" has the world's parameters, "agent" the Config.
    Raises ScenarioError with one line for an unknown key and for a value of another type.
    """
    try:
        is_third_party = is_foreign(world["name"], world.get("params"))
        config_type = agent_registry.load(agent["name"]).Config
        params = {} if is_third_party else dict(world_registry.load(world["name"]).Params.defaults)
    except ValueError as error:
        raise ScenarioError(str(error)) from None
    defaults = {
        **dataclasses.asdict(_Schema()),
        "world": {"name": world["name"], "params": params},
        "agent": {"name": agent["name"], **dataclasses.asdict(config_type())},
    }
    paths = list(_key_paths(defaults))
    recipe = {**recipe, "world": world, "agent": agent}
    _check_recipe_keys(target, recipe, defaults, paths, any_params=is_third_party)
    for override in overrides:
        _check_override(override, defaults, paths, any_params=is_third_party)
    if is_third_party:  # its parameters are the arguments of its constructor; Hydra would refuse keys without a default
        overrides = _apply_params(world["name"], recipe["world"], overrides)
    for key in ("world", "agent"):
        recipe[key] = {name: value for name, value in recipe[key].items() if name != "name"}
    values = _merge_by_hydra(target, config_type, params, recipe, overrides)
    return {
        **values,
        "evaluation": EvaluationConfig(**values["evaluation"]),
        "checkpoint": CheckpointConfig(**values["checkpoint"]),
        "world": values["world"]["params"],
        "agent": config_type(**values["agent"]),
    }


def _schema_node(config_type: Any, params: dict[str, Any]) -> Any:
    """Return the OmegaConf node with all defaults; its structured parts let OmegaConf check the types of values."""
    from omegaconf import OmegaConf

    root: Any = OmegaConf.structured(_Schema())
    OmegaConf.set_struct(root, False)
    root["agent"] = OmegaConf.structured(config_type())
    root["world"] = OmegaConf.create({"params": params})
    for key in ("agent", "evaluation", "checkpoint"):
        OmegaConf.set_readonly(root[key], False)
    return root


def _merge_by_hydra(
    target: str, config_type: Any, params: dict[str, Any], recipe: dict[str, Any], overrides: list[Any]
) -> dict[str, Any]:
    """Return the merged values as plain data; raise ScenarioError for a value of another type."""
    lines = [override.input_line for override in overrides]
    key = config_type, repr((params, recipe, lines))
    if key not in _merges:
        merged = _merge(target, config_type, params, recipe, lines)
        if len(_merges) == _MAX_MERGES:
            del _merges[next(iter(_merges))]
        _merges[key] = merged
    return copy.deepcopy(_merges[key])


def _merge(
    target: str, config_type: Any, params: dict[str, Any], recipe: dict[str, Any], lines: list[str]
) -> dict[str, Any]:
    from hydra import compose, initialize
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    hydra_of_caller = GlobalHydra.instance().hydra  # a program that uses rl_lab may use Hydra, too
    try:
        node = OmegaConf.merge(_schema_node(config_type, params), recipe)
        ConfigStore.instance().store(name="scenario", node=node)
        GlobalHydra.instance().clear()
        with initialize(config_path=None, version_base="1.3"):
            composed = compose("scenario", overrides=lines)
        return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise ScenarioError(f"{target}: {explain(error)}") from None
    finally:
        GlobalHydra.instance().hydra = hydra_of_caller


def _apply_params(name: str, world: dict[str, Any], overrides: list[Any]) -> list[Any]:
    """Write the overrides of a third-party environment's parameters into `world`; return the other overrides."""
    from rl_lab.adapters.env_parameters import defaults

    others = []
    for override in overrides:
        first, _, field = override.key_or_group.partition(".params.")
        if first != "world" or not field:
            others.append(override)
            continue
        node = world.setdefault("params", {})
        *parents, last = field.split(".")
        for part in parents:
            inner = node.get(part)
            node[part] = node = dict(inner) if isinstance(inner, dict) else {}
        node[last] = override.value()
        if not isinstance(node[last], str) and not parents and isinstance(defaults(name).get(last), str):
            node[last] = override.input_line.partition("=")[2]  # a text is taken as it was typed
    return others


def _key_paths(defaults: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield every key of a scenario in full, with dots between its parts: sections, and the keys inside them."""
    for key, value in defaults.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _key_paths(value, f"{prefix}{key}.")


def _check_recipe_keys(
    target: str,
    recipe: dict[str, Any],
    defaults: dict[str, Any],
    paths: list[str],
    *,
    any_params: bool,
    prefix: str = "",
) -> None:
    """Raise ScenarioError for a key of a recipe, or of its section `prefix`, that `defaults` does not have.

    With `any_params`, the parameters of the world may have any name.
    """
    for key, value in recipe.items():
        if any_params and prefix == "world.params.":
            continue
        if key not in defaults:
            siblings = defaults if prefix else [*defaults, *_PARSED_EARLIER, *_RECIPE_KEYS]
            raise ScenarioError(f"{target}: unknown key {prefix + str(key)!r}; {suggestion(str(key), siblings, paths)}")
        if isinstance(defaults[key], dict):
            if not isinstance(value, dict):
                raise ScenarioError(f"{target}: {prefix}{key} is {value!r}; expected keys {', '.join(defaults[key])}")
            _check_recipe_keys(target, value, defaults[key], paths, any_params=any_params, prefix=f"{prefix}{key}.")


def _check_override(override: Any, defaults: dict[str, Any], paths: list[str], *, any_params: bool) -> None:
    """Raise ScenarioError for an override of a key that `defaults` does not have, or that is a whole section."""
    key = str(override.key_or_group)
    node: Any = defaults
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if any_params and parts[:2] == ["world", "params"] and depth >= 2:
            return
        if parts[0] == "expect":
            raise ScenarioError("expect is a scenario's own: it cannot be overridden")
        if not isinstance(node, dict) or part not in node:
            siblings = [".".join([*parts[:depth], k]) for k in node] if isinstance(node, dict) else []
            siblings += [] if depth else _PARSED_EARLIER
            raise ScenarioError(f"unknown key {key!r}; {suggestion('.'.join(parts[: depth + 1]), siblings, paths)}")
        node = node[part]
    if isinstance(node, dict):
        raise ScenarioError(f"{key} has keys of its own: {', '.join(f'{key}.{k}' for k in node)}")
