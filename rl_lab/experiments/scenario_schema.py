"""A scenario's keys with their types: Hydra composes a recipe and overrides, and checks each value's type."""

from __future__ import annotations

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

# Valid keys that are no part of the schema: they are taken from the recipe, and some from overrides, before it is used.
_PARSED_BEFORE = ("opponent", "policies", "league", "backbone")
_OF_RECIPES = ("expect", "tuned", "defaults")


@dataclass
class _Schema:
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
    """Return the values of all keys: defaults, over them the recipe's, over them the overrides', all of their types.

    Of `world` and `agent`, mappings with a name, the result has the World's parameters and the agent's Config.
    Raises ScenarioError with one line for an unknown key and for a value of another type.
    """
    try:
        foreign = is_foreign(world["name"], world.get("params"))
        config_type = agent_registry.load(agent["name"]).Config
        params = {} if foreign else dict(world_registry.load(world["name"]).Params.defaults)
    except ValueError as error:
        raise ScenarioError(str(error)) from None
    defaults = {
        **dataclasses.asdict(_Schema()),
        "world": {"name": world["name"], "params": params},
        "agent": {"name": agent["name"], **dataclasses.asdict(config_type())},
    }
    paths = list(_paths(defaults))
    recipe = {**recipe, "world": world, "agent": agent}
    _check_keys(target, recipe, defaults, paths, free=foreign)
    for override in overrides:
        _check_override(override, defaults, paths, free=foreign)
    if foreign:  # its parameters are what its constructor takes: Hydra would refuse keys that it does not know
        overrides = _take_params(world["name"], recipe["world"], overrides)
    for key in ("world", "agent"):
        recipe[key] = {name: value for name, value in recipe[key].items() if name != "name"}
    values = _compose(target, config_type, params, recipe, overrides)
    return {
        **values,
        "evaluation": EvaluationConfig(**values["evaluation"]),
        "checkpoint": CheckpointConfig(**values["checkpoint"]),
        "world": values["world"]["params"],
        "agent": config_type(**values["agent"]),
    }


def _root(config_type: Any, params: dict[str, Any]) -> Any:
    """Return the node that values are merged into; its structured parts let Hydra check types."""
    from omegaconf import OmegaConf

    root: Any = OmegaConf.structured(_Schema())
    OmegaConf.set_struct(root, False)
    root["agent"] = OmegaConf.structured(config_type())
    root["world"] = OmegaConf.create({"params": params})
    for key in ("agent", "evaluation", "checkpoint"):
        OmegaConf.set_readonly(root[key], False)
    return root


def _compose(
    target: str, config_type: Any, params: dict[str, Any], recipe: dict[str, Any], overrides: list[Any]
) -> dict[str, Any]:
    from hydra import compose, initialize
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = OmegaConf.merge(_root(config_type, params), recipe)
        ConfigStore.instance().store(name="scenario", node=node)
        GlobalHydra.instance().clear()
        with initialize(config_path=None, version_base="1.3"):
            composed = compose("scenario", overrides=[override.input_line for override in overrides])
        return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise ScenarioError(f"{target}: {explain(error)}") from None


def _take_params(name: str, world: dict[str, Any], given: list[Any]) -> list[Any]:
    """Write the overrides of a foreign world's parameters into its node of the recipe; return the other overrides."""
    from rl_lab.adapters.env_parameters import defaults

    others = []
    for override in given:
        first, _, field = override.key_or_group.partition(".params.")
        if first != "world" or not field:
            others.append(override)
            continue
        node = world.setdefault("params", {})
        *above, last = field.split(".")
        for part in above:
            inner = node.get(part)
            node[part] = node = dict(inner) if isinstance(inner, dict) else {}
        node[last] = override.value()
        if not isinstance(node[last], str) and not above and isinstance(defaults(name).get(last), str):
            node[last] = override.input_line.partition("=")[2]  # a text is taken as it was typed
    return others


def _paths(known: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield every key of a scenario in full: sections, dots between, and what they hold."""
    for key, value in known.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def _check_keys(
    target: str,
    given: dict[str, Any],
    known: dict[str, Any],
    paths: list[str],
    *,
    free: bool,
    prefix: str = "",
) -> None:
    for key, value in given.items():
        if free and prefix == "world.params.":
            continue
        if key not in known:
            near = suggestion(str(key), known if prefix else [*known, *_PARSED_BEFORE, *_OF_RECIPES], paths)
            raise ScenarioError(f"{target}: unknown key {prefix + str(key)!r}; {near}")
        if isinstance(known[key], dict):
            if not isinstance(value, dict):
                raise ScenarioError(f"{target}: {prefix}{key} is {value!r}; expected keys {', '.join(known[key])}")
            _check_keys(target, value, known[key], paths, free=free, prefix=f"{prefix}{key}.")


def _check_override(override: Any, base: dict[str, Any], paths: list[str], *, free: bool) -> None:
    key = str(override.key_or_group)
    node: Any = base
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if free and parts[:2] == ["world", "params"] and depth >= 2:
            return
        if parts[0] == "expect":
            raise ScenarioError("expect is a scenario's own: it cannot be overridden")
        if not isinstance(node, dict) or part not in node:
            known = [".".join([*parts[:depth], k]) for k in node] if isinstance(node, dict) else []
            known += [] if depth else _PARSED_BEFORE
            raise ScenarioError(f"unknown key {key!r}; {suggestion('.'.join(parts[: depth + 1]), known, paths)}")
        node = node[part]
    if isinstance(node, dict):
        raise ScenarioError(f"{key} has keys of its own: {', '.join(f'{key}.{k}' for k in node)}")
