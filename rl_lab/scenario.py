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
from pathlib import Path
from typing import Any, cast

from . import catalogue, worlds
from .batch import FOREIGN, parameters
from .names import UsageError, nearest

_WHOLE = ("worlds", "budget", "checkpoint.steps", "evaluation.episodes", "evaluation.selection_episodes")
PER_AGENT = ("worlds", "budget", "evaluation")  # keys of a scenario that `tuned` may set for one agent
_LONGEST = 100_000  # characters of a YAML file
DEVICES = ("auto", "cpu", "cuda")


class ScenarioError(UsageError):
    """The scenario or an override is wrong; the message is one line."""


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
    threads: int
    run_dir: str | None
    video: bool
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    expect: dict[str, Expectation]
    opponent: dict[str, Any] | None = None  # the agent at the other seats: its name and hyperparameters
    role: str = ""  # the learner's against an opponent; each in turn if empty
    policies: dict[str, list[str]] = field(default_factory=dict)  # of each policy, whose it is: agents or roles

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


def folder() -> Path:
    """Return the folder of the scenarios that come with the lab."""
    import importlib.resources

    return Path(str(importlib.resources.files("rl_lab.scenarios")))


def names() -> list[str]:
    """Return every scenario's name, sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


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
    recipe = _recipe(target)
    opponent, given = _opponent(target, recipe.pop("opponent", None), given)
    policies = _policies(target, recipe.pop("policies", None) or {})
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
    return _seated(dataclasses.replace(scenario, opponent=opponent, policies=policies))


def _whole(line: str) -> str:
    """Write a whole number like 1e6 out where one is asked for."""
    key, _, value = line.partition("=")
    if key in _WHOLE and re.fullmatch(r"\d+(\.\d+)?e\+?\d{1,2}", value) and float(value).is_integer():
        return f"{key}={int(float(value))}"
    return line


def _opponent(target: str, node: Any, given: list[Any]) -> tuple[dict[str, Any] | None, list[Any]]:
    """Return the opponent (name and hyperparameters), from the recipe and its overrides, and the other overrides."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    own = [o for o in given if o.key_or_group.partition(".")[0] == "opponent"]
    node = {"name": node} if isinstance(node, str) else dict(node) if isinstance(node, dict) else node
    for override in own:
        value, (_, _, key) = override.value(), override.key_or_group.partition(".")
        if not key:
            node = {"name": str(value)} if value else None
        elif not isinstance(node, dict):
            raise ScenarioError(f"{override.input_line}: say which opponent first: opponent=NAME")
        else:
            node = {**node, key: value}
    if node is None:
        return None, [o for o in given if o not in own]
    if not isinstance(node, dict) or not isinstance(node.get("name"), str):
        raise ScenarioError(f"{target}: opponent is {node!r}; expected an agent's name, or a mapping with one")
    name = node.pop("name")
    if name not in catalogue.names():
        raise ScenarioError(f"{target}: opponent: no agent {name!r}; {nearest(name, catalogue.names())}")
    if catalogue.learns(name):
        raise ScenarioError(
            f"{target}: opponent {name} would have to be trained first; take one that needs no training"
        )
    config = catalogue.load(name).Config
    known = [f.name for f in dataclasses.fields(config)]
    for key in node:
        if key not in known:
            raise ScenarioError(f"{target}: unknown key 'opponent.{key}'; {nearest(str(key), known)}")
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(config()), node))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ScenarioError(f"{target}: opponent: {_explain(error)}") from None
    return {"name": name, **cast(dict[str, Any], merged)}, [o for o in given if o not in own]


def _policies(target: str, given: Any) -> dict[str, list[str]]:
    if not isinstance(given, dict) or not all(
        isinstance(members, list)
        and members
        and all(isinstance(m, str) for m in members)
        and re.fullmatch(r"\w+", str(name))
        for name, members in given.items()
    ):
        raise ScenarioError(f"{target}: policies is a mapping of a policy's name to a list of agents or roles")
    return {str(name): list(members) for name, members in given.items()}


def _seated(scenario: Scenario) -> Scenario:
    """Check that roles, policies and opponent go with the world."""
    if not (scenario.role or scenario.policies or scenario.opponent):
        return scenario
    if scenario.opponent and scenario.policies:
        raise ScenarioError("policies and opponent do not go together: policies learn side by side at all seats")
    if scenario.role and not scenario.opponent:
        raise ScenarioError(f"role={scenario.role}: say who has the other seats: opponent=NAME")
    if scenario.world.startswith(FOREIGN):
        return scenario  # its agents are known once it is made
    world = worlds.load(scenario.world)
    if len(world.agents) == 1:
        raise ScenarioError(f"{world.name} has one agent: it has no opponent, roles or policies")
    if scenario.role and scenario.role not in world.roles:
        raise ScenarioError(f"{world.name} has no role {scenario.role!r}; {nearest(scenario.role, world.roles)}")
    if scenario.policies:
        try:
            seats_of(world, scenario.policies)
        except ValueError as error:
            raise ScenarioError(f"policies: {error}") from None
    return scenario


def seats_of(world: Any, policies: dict[str, list[str]]) -> dict[str, tuple[int, ...]]:
    """Return each policy's seats; ValueError unless every seat belongs to exactly one."""
    found: dict[str, tuple[int, ...]] = {}
    for name, members in policies.items():
        seats: list[int] = []
        for member in members:
            if member in world.agents:
                seats.append(world.agents.index(member))
            elif member in world.roles:
                seats += world.roles[member]
            else:
                known = [*world.roles, *world.agents]
                raise ValueError(f"{world.name} has no agent or role {member!r}; {nearest(member, known)}")
        found[name] = tuple(sorted(seats))
    taken = sorted(seat for seats in found.values() for seat in seats)
    if taken != list(range(len(world.agents))):
        doubtful = [a for k, a in enumerate(world.agents) if taken.count(k) != 1]
        raise ValueError(f"{doubtful[0]} needs exactly one policy" if doubtful else "seats are wrong")
    return found


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
            raise ScenarioError(f"cannot sweep {override.input_line!r}: {_first_line(error)}") from None
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
            raise ScenarioError(f"cannot read override {line!r}: {_first_line(error)}") from None
    return parsed


def _recipe(target: str) -> dict[str, Any]:
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
        raise ScenarioError(f"{path}: {_first_line(error) or type(error).__name__}") from None
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise ScenarioError(f"{path}: expected a mapping of keys to values")
    own = {str(key): value for key, value in recipe.items()}
    parents = own.pop("defaults", None)
    if parents is None:
        return own
    if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents) or depth > 8:
        raise ScenarioError(f"{path}: defaults is a list of scenarios' names, and of _self_, without circles")
    merged: Any = {}
    for parent in parents if "_self_" in parents else [*parents, "_self_"]:
        merged = OmegaConf.merge(merged, own if parent == "_self_" else _read(_parent(path, parent), depth + 1))
    return {str(key): value for key, value in OmegaConf.to_container(merged).items()}  # type: ignore[union-attr]


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
        raise ScenarioError(f"{target}: {_explain(error)}") from None
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _explain(error: BaseException) -> str:
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    keys = [line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("full_key:")]
    return f"{keys[0]}: {lines[0]}" if keys and keys[0] else lines[0]
