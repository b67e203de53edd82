"""Parse a scenario: a YAML recipe and command-line overrides become one frozen, typed `Scenario`.

The steps are in this order: overrides become objects of Hydra (`overrides`), the recipe is read (`scenario_yaml`),
opponent, policies and league are taken out of both (`multiagent_config`), Hydra merges the rest and checks types
(`scenario_schema`), and ranges are checked (`scenario_validation`). `compose.compose` adds the hash of a trained
opponent.

Config is data. Names resolve to files in envs/ and agents/ only; unknown keys, `_target_` and resolver calls are
refused, so a scenario from a stranger can be run without reading it first. Code of a user's own that is named on the
command line is permitted to run from then on, see `user_code`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rl_lab.core import agent_registry
from rl_lab.core.errors import UsageError, nearest
from rl_lab.engine import user_code, user_modules
from rl_lab.experiments import backbone_config, multiagent_config
from rl_lab.experiments.overrides import parse_overrides
from rl_lab.experiments.scenario import Expectation, Scenario
from rl_lab.experiments.scenario_schema import compose_typed
from rl_lab.experiments.scenario_validation import validate
from rl_lab.experiments.scenario_yaml import ScenarioError, is_world, recipe_of

PER_AGENT = ("worlds", "budget", "evaluation")  # keys that `tuned` may set for one agent besides its hyperparameters


def parse(target: Any, lines: Iterable[str] = ()) -> Scenario:
    """Return the scenario of a name, of a YAML file's path, or of a world's name without one, with overrides applied.

    From Python, `target` may also be a World, or the class or function that makes an environment. Code that the target
    or an override names may run from then on; code that a file names only if it is trusted, see `user_code`.

    Raises ScenarioError with one line: unknown scenario, world, agent or key (and the nearest there is), a value of
    the wrong type or range, malformed YAML. A trained opponent is a path: `experiments.compose` looks it up.
    """
    target = target if isinstance(target, str) else user_modules.name_of_object(target)
    lines = tuple(lines)
    overrides = parse_overrides(lines)
    composed = recipe_of(target)
    if composed.get("cluster", "local") not in ("local", "auto"):
        # Machines that join a cluster run code that they receive from it.
        raise ScenarioError(
            f"{target}: names a cluster's address; only you do: cluster=HOST:PORT, or RAY_ADDRESS and auto"
        )
    recipe, backbone = dict(composed), None
    multiagent: dict[str, Any] = {}
    keys = {*recipe, *(override.key_or_group.partition(".")[0] for override in overrides)}
    if not keys.isdisjoint(multiagent_config.KEYS):
        multiagent, recipe, overrides = multiagent_config.parse_multiagent(target, recipe, overrides)
    if not keys.isdisjoint(backbone_config.KEYS):
        backbone, recipe, overrides = backbone_config.parse_backbone(target, recipe, overrides)
    # Whether the user has typed the name of the world: its code may then run.
    is_typed = is_world(target) or any(override.key_or_group == "world" for override in overrides)
    world, overrides = _named_node(target, "world", recipe.pop("world", None), overrides)
    agent, overrides = _named_node(target, "agent", recipe.pop("agent", None), overrides)
    agent, recipe = _apply_tuned(target, {"name": "ppo", **agent}, recipe)
    if not world.get("name"):
        raise ScenarioError(f"{target}: names no world; add world=NAME")
    world, code = _world_code(target, world, is_typed)
    expect = _expectations(target, recipe.pop("expect", {}))
    values = compose_typed(target, world, agent, recipe, overrides)
    params, config = values.pop("world"), values.pop("agent")
    if backbone is not None:
        is_single = not multiagent.get("policies") and not multiagent.get("league")
        backbone_config.require_supported(agent["name"], is_single)
    return validate(
        Scenario(
            world=world["name"],
            params=params,
            agent=agent["name"],
            config=config,
            expect=expect,
            code=code,
            backbone=backbone,
            overrides=lines,
            **multiagent,
            **values,
        )
    )


def _named_node(target: str, key: str, node: Any, overrides: list[Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return the world or agent (`key`) as a mapping with a name, and the overrides without those of its name.

    The recipe gives it as `node`, a name or a mapping; an override `key=NAME` replaces that.
    """
    name = node.get("name", "") if isinstance(node, dict) else node
    if not isinstance(name, str | None):
        raise ScenarioError(f"{target}: {key} is {node!r}; expected a name, or a mapping with one")
    node = {"name": node} if isinstance(node, str) else dict(node or {})
    if node.get("name", "") is None:  # name: null is the same as no name
        del node["name"]
    typed = [override for override in overrides if override.key_or_group == key]
    if typed and (name := str(typed[-1].value())) != node.get("name"):
        node = {"name": name}  # the recipe's parameters or hyperparameters were those of another one
    return node, [override for override in overrides if override.key_or_group != key]


def _apply_tuned(target: str, agent: dict[str, Any], recipe: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the agent with its hyperparameters in the recipe's `tuned`, and the recipe with its other keys there."""
    tuned = recipe.get("tuned") or {}
    if not isinstance(tuned, dict) or not isinstance(tuned.get(agent["name"], {}), dict):
        raise ScenarioError(f"{target}: tuned is a mapping of an agent to its hyperparameters")
    for name in tuned:
        if name not in agent_registry.names():
            raise ScenarioError(f"{target}: tuned: no agent {name!r}; {nearest(str(name), agent_registry.names())}")
    hyperparameters = dict(tuned.get(agent["name"], {}))
    per_agent = {key: hyperparameters.pop(key) for key in PER_AGENT if key in hyperparameters}
    return {**hyperparameters, **agent}, {key: value for key, value in recipe.items() if key != "tuned"} | per_agent


def _world_code(target: str, world: dict[str, Any], is_typed: bool) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the world by its short name, and the record of its code if it is a user's own, None for one of the lab.

    Raises ScenarioError where the code may not run.
    """
    record = {key: world[key] for key in user_code.RECORDED if key in world}
    name, world = world["name"], {key: value for key, value in world.items() if key not in record}
    try:
        code = user_code.permit_named(name) if is_typed else user_code.permit_recorded(name, record, target)
    except UsageError as error:
        raise ScenarioError(str(error)) from None
    return (world, None) if code is None else ({**world, "name": code.world}, code.record())


def _expectations(target: str, node: Any) -> dict[str, Expectation]:
    """Return the recipe's `expect`, typed, by agent."""
    for agent in node if isinstance(node, dict) else ():
        if agent not in agent_registry.names():
            raise ScenarioError(
                f"{target}: expect names no agent {agent!r}; {nearest(str(agent), agent_registry.names())}"
            )
    try:
        if not all(math.isfinite(float(v["mean_return"])) for v in node.values()):
            raise ValueError
        return {str(k): Expectation(float(v["mean_return"]), str(v["source"])) for k, v in node.items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise ScenarioError(
            f"{target}: expect is a mapping of an agent to mean_return (a number) and source (a text)"
        ) from None
