"""Scenarios: a YAML recipe and command-line overrides, composed by Hydra into one frozen, typed object.

Config is data. Names resolve to files in envs/ and agents/ only; unknown keys, `_target_` and resolver calls are
refused, so a scenario from a stranger can be run without reading it first.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from . import catalogue, worlds
from .batch import FOREIGN, parameters
from .casting import league_node, opponent_node, policies_node, seated
from .league.config import LeagueConfig
from .names import nearest
from .recipe import ScenarioError, explain, first_line, recipe_of

_WHOLE = ("worlds", "budget", "checkpoint.steps", "evaluation.episodes", "evaluation.selection_episodes")
PER_AGENT = ("worlds", "budget", "evaluation")  # keys of a scenario that `tuned` may set for one agent
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class EvaluationConfig:
    """How the agent is measured: in the end, and on other seeds while it learns to choose the one that is kept."""

    episodes: int = 100
    selections: int = 10  # times during training
    selection_episodes: int = 20
    deterministic: bool = True


@dataclass(frozen=True)
class CheckpointConfig:
    """When the whole state is saved: by time, never more than 1 % of it, or at every so many steps if not 0."""

    seconds: float = 30.0
    steps: int = 0
    keep_last: int = 3


@dataclass(frozen=True)
class Expectation:
    """What the scenario must reach with an agent, and where the figure is from."""

    mean_return: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Scenario:
    """A fully resolved recipe."""

    name: str
    world: str
    params: dict[str, Any]
    agent: str
    config: Any  # the agent's own Config
    worlds: int
    budget: int
    seed: int
    device: str
    threads: int  # torch's, which its results depend on; the engine and compiled PPO have their own, and do not
    run_dir: str | None
    video: bool
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    expect: dict[str, Expectation]
    opponent: dict[str, Any] | None = None  # the agent at the other seats: its name and hyperparameters
    role: str = ""  # the learner's against an opponent; each in turn if empty
    policies: dict[str, list[str]] = field(default_factory=dict)  # of each policy, whose it is: agents or roles
    league: LeagueConfig | None = None  # the learners who play each other and their past

    def as_config(self) -> dict[str, Any]:
        """Return plain data that, written to YAML, is the same scenario again."""
        data = dataclasses.asdict(self)
        params, config = data.pop("params"), data.pop("config")
        data["world"] = {"name": self.world, "params": params}
        data["agent"] = {"name": self.agent, **config}
        del data["run_dir"]
        return data


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
    role: str = ""


def compose(target: str, overrides: Iterable[str] = ()) -> Scenario:
    """Return the scenario of a name, of a YAML file's path, or of a world's name without one, with overrides applied.

    Raises ScenarioError with one line: unknown scenario, world, agent or key (and the nearest there is), a value of
    the wrong type or range, malformed YAML.
    """
    given = _parse(_whole(line) for line in overrides)
    for override in given:
        _check_grammar(override)
    if several := [o.input_line for o in given if o.is_sweep_override()]:
        raise ScenarioError(f"{several[0]} lists several values; add -m to run each of them")
    recipe = recipe_of(target)
    opponent, given = opponent_node(target, recipe.pop("opponent", None), given)
    policies, given = policies_node(target, recipe.pop("policies", None) or {}, given)
    league, given = league_node(target, recipe.pop("league", None), given)
    chosen: dict[str, str] = {}
    for key in ("world", "agent"):
        lines = [o for o in given if o.key_or_group == key]
        given = [o for o in given if o.key_or_group != key]
        node = recipe.pop(key, None)
        named = node.get("name", "") if isinstance(node, dict) else node
        if not isinstance(named, str | None):
            raise ScenarioError(f"{target}: {key} is {node!r}; expected a name, or a mapping with one")
        node = {"name": node} if isinstance(node, str) else dict(node or {})
        if lines:
            name = str(lines[-1].value())
            node = node if node.get("name") == name else {"name": name}
        if key == "agent":
            node = {"name": "ppo", **node}
            tuned = recipe.pop("tuned", None) or {}
            if not isinstance(tuned, dict) or not isinstance(tuned.get(node["name"], {}), dict):
                raise ScenarioError(f"{target}: tuned is a mapping of an agent to its hyperparameters")
            for agent in tuned:
                if agent not in catalogue.names():
                    raise ScenarioError(
                        f"{target}: tuned: no agent {agent!r}; {nearest(str(agent), catalogue.names())}"
                    )
            own = dict(tuned.get(node["name"], {}))
            # An agent may want another batch or budget than the scenario's first.
            recipe |= {key: own.pop(key) for key in PER_AGENT if key in own}
            node = {**own, **node}
        chosen[key] = str(node.get("name", ""))
        recipe[key] = node
    if not chosen["world"]:
        raise ScenarioError(f"{target}: names no world; add world=NAME")
    scenario = _resolve(target, chosen, recipe, given)
    return seated(dataclasses.replace(scenario, opponent=opponent, policies=policies, league=league))


def _whole(line: str) -> str:
    """Write a whole number like 1e6 out where one is asked for."""
    key, _, value = line.partition("=")
    if key in _WHOLE and re.fullmatch(r"\d+(\.\d+)?e\+?\d{1,2}", value) and float(value).is_integer():
        return f"{key}={int(float(value))}"
    return line


def sweep(overrides: Iterable[str]) -> list[list[str]]:
    """Return the override lists of a multirun: the product of every `key=a,b,c`."""
    from hydra.errors import HydraException

    choices = []
    for override in _parse(_whole(line) for line in overrides):
        _check_grammar(override)
        swept = override.is_sweep_override()
        try:
            choices.append(
                [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
                if swept
                else [override.input_line]
            )
        except HydraException as error:
            raise ScenarioError(f"cannot sweep {override.input_line!r}: {first_line(error)}") from None
    return [list(combination) for combination in itertools.product(*choices)]


def _parse(overrides: Iterable[str]) -> list[Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parsed = []
    for line in overrides:
        if "=" not in line:
            raise ScenarioError(f"{line!r} is not an override; write key=value")
        try:
            parsed.extend(OverridesParser.create().parse_overrides([line]))
        except (HydraException, ValueError, RecursionError) as error:
            raise ScenarioError(f"cannot read override {line!r}: {first_line(error)}") from None
    return parsed


def _check_grammar(override: Any) -> None:
    line = override.input_line
    if override.is_delete() or override.package is not None or override.key_or_group.startswith("hydra"):
        raise ScenarioError(f"{line}: ~key, key@package and hydra's own settings are refused; write key=value")
    if "_target_" in line or "${" in line:
        raise ScenarioError(f"{line}: _target_ and ${{...}} are refused: config is data")


def _resolve(target: str, chosen: dict[str, str], recipe: dict[str, Any], given: list[Any]) -> Scenario:
    from hydra import compose as hydra_compose
    from hydra import initialize
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    foreign = chosen["world"].startswith(FOREIGN)
    try:
        agent_config = catalogue.load(chosen["agent"]).Config
        world = None if foreign else worlds.load(chosen["world"])
    except ValueError as error:
        raise ScenarioError(str(error)) from None
    base = {
        **dataclasses.asdict(_Schema()),
        "world": {"name": chosen["world"], "params": {} if world is None else dict(world.Params.defaults)},
        "agent": {"name": chosen["agent"], **dataclasses.asdict(agent_config())},
        "expect": {},
    }
    _check_keys(target, recipe, base, free=foreign)
    for override in given:
        _check_override(override, base, free=foreign)
    expect = _expectations(target, recipe.pop("expect", {}))
    for node in (recipe["agent"], recipe["world"]):
        node.pop("name", None)
    try:
        # The plain schema is merged into structured nodes, which is what makes Hydra check the types.
        root: Any = OmegaConf.structured(_Schema())
        OmegaConf.set_struct(root, False)
        root["agent"] = OmegaConf.structured(agent_config())
        root["world"] = OmegaConf.create({"params": base["world"]["params"]})
        for key in ("agent", "evaluation", "checkpoint"):
            OmegaConf.set_readonly(root[key], False)
        root = OmegaConf.merge(root, recipe)
        ConfigStore.instance().store(name="resolved", node=root)
        GlobalHydra.instance().clear()
        with initialize(config_path=None, version_base="1.3"):
            composed = hydra_compose("resolved", overrides=[override.input_line for override in given])
        values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise ScenarioError(f"{target}: {explain(error)}") from None
    return _build(chosen, {**values, "expect": expect}, agent_config)


def _expectations(target: str, given: Any) -> dict[str, Expectation]:
    for agent in given if isinstance(given, dict) else ():
        if agent not in catalogue.names():
            raise ScenarioError(f"{target}: expect names no agent {agent!r}; {nearest(str(agent), catalogue.names())}")
    try:
        if not all(math.isfinite(float(v["mean_return"])) for v in given.values()):
            raise ValueError
        return {str(k): Expectation(float(v["mean_return"]), str(v["source"])) for k, v in given.items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise ScenarioError(
            f"{target}: expect is a mapping of an agent to mean_return (a number) and source (a text)"
        ) from None


def _build(chosen: dict[str, str], values: dict[str, Any], agent_config: Any) -> Scenario:
    values["evaluation"] = EvaluationConfig(**values["evaluation"])
    values["checkpoint"] = CheckpointConfig(**values["checkpoint"])
    params = values.pop("world")["params"]
    config = agent_config(**values.pop("agent"))
    scenario = Scenario(world=chosen["world"], params=params, agent=chosen["agent"], config=config, **values)
    if not chosen["world"].startswith(FOREIGN):
        try:
            parameters(worlds.load(chosen["world"]), params)
        except ValueError as error:
            raise ScenarioError(f"world.params: {error}") from None
    for key, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ScenarioError(f"agent.{key}={value}: expected a finite number")
    for key, value, low, high in (
        ("worlds", scenario.worlds, 1, 2**24 - 1),
        ("budget", scenario.budget, 1, 2**62),
        ("seed", scenario.seed, 0, 2**31 - 1),
        ("threads", scenario.threads, 1, 1024),
        ("evaluation.episodes", scenario.evaluation.episodes, 1, 2**24),
        ("evaluation.selections", scenario.evaluation.selections, 0, 10_000),
        ("evaluation.selection_episodes", scenario.evaluation.selection_episodes, 1, 2**24),
        ("checkpoint.keep_last", scenario.checkpoint.keep_last, 1, 1000),
        ("checkpoint.seconds", scenario.checkpoint.seconds, 0, 1e9),
        ("checkpoint.steps", scenario.checkpoint.steps, 0, 2**62),
    ):
        if not low <= value <= high:
            raise ScenarioError(f"{key}={value}: expected {low} to {high}")
    if not re.fullmatch(r"\w[\w.-]{0,99}", scenario.name):
        raise ScenarioError(f"name={scenario.name!r}: expected letters, digits, - _ and . (it names the run's folder)")
    if scenario.device not in DEVICES:
        raise ScenarioError(f"device={scenario.device!r}; {nearest(scenario.device, DEVICES)}")
    return scenario


def _check_keys(target: str, given: dict[str, Any], known: dict[str, Any], *, free: bool, prefix: str = "") -> None:
    for key, value in given.items():
        if free and prefix == "world.params.":
            continue
        if key not in known:
            raise ScenarioError(f"{target}: unknown key {prefix + str(key)!r}; {nearest(str(key), known)}")
        if isinstance(known[key], dict) and key != "expect":
            if not isinstance(value, dict):
                raise ScenarioError(f"{target}: {prefix}{key} is {value!r}; expected keys {', '.join(known[key])}")
            _check_keys(target, value, known[key], free=free, prefix=f"{prefix}{key}.")


def _check_override(override: Any, base: dict[str, Any], *, free: bool) -> None:
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
            raise ScenarioError(f"unknown key {key!r}; {nearest('.'.join(parts[: depth + 1]), known)}")
        node = node[part]
    if isinstance(node, dict):
        raise ScenarioError(f"{key} has keys of its own: {', '.join(f'{key}.{k}' for k in node)}")
