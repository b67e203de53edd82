"""Parse the keys of a scenario about several agents: `opponent`, `policies` and `league`.

`scenario_parsing` calls `parse_multiagent` before Hydra sees the scenario, because these keys hold mappings of any
length, which a schema of Hydra's cannot describe. The functions return plain or typed data and raise ScenarioError;
nothing is loaded but the Configs of agents. `seats_of` is for later, when the world is known.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, cast

from rl_lab.core import agent_registry
from rl_lab.core.errors import nearest
from rl_lab.experiments.run_folders import names_agent
from rl_lab.experiments.scenario_yaml import ScenarioError, explain
from rl_lab.league.config import LEARNER_KINDS, MAX_LEARNERS, RENAMED_KEYS, SETTING_RANGES, LeagueConfig
from rl_lab.league.pfsp import SELECTIONS

KEYS = ("opponent", "policies", "league")
_POLICY_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")  # the names of members of checkpoints begin with it


@dataclasses.dataclass(frozen=True)
class AgentReference:
    """A trained agent, or the average policy of a league's snapshots."""

    path: str  # as for `checkpoint_lookup.locate`
    average: bool = False
    sha256: str = ""  # of the agent's content; empty before the agent has been looked up


def parse_multiagent(
    target: str, recipe: dict[str, Any], overrides: list[Any]
) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Return the values of the three keys, the recipe without these keys, and the overrides of other keys."""
    opponent, overrides = _parse_opponent(target, recipe.get("opponent"), overrides)
    policies, overrides = _parse_policies(target, recipe.get("policies") or {}, overrides)
    league, overrides = _parse_league(target, recipe.get("league"), overrides)
    values = dict(zip(KEYS, (opponent, policies, league), strict=True))
    return values, {key: value for key, value in recipe.items() if key not in KEYS}, overrides


def _split_by_key(overrides: list[Any], key: str) -> tuple[list[Any], list[Any]]:
    """Return the overrides of `key` and of keys inside it, and the other overrides."""
    of_key = [override for override in overrides if override.key_or_group.partition(".")[0] == key]
    return of_key, [override for override in overrides if override not in of_key]


def _parse_opponent(target: str, node: Any, overrides: list[Any]) -> tuple[dict[str, Any] | None, list[Any]]:
    """Return the opponent (name and hyperparameters), from the recipe and its overrides, and the other overrides."""
    of_opponent, others = _split_by_key(overrides, "opponent")
    node = _parse_agent_ref(node) if isinstance(node, str) else dict(node) if isinstance(node, dict) else node
    for override in of_opponent:
        value, (_, _, key) = override.value(), override.key_or_group.partition(".")
        if not key:
            node = dict(value) if isinstance(value, dict) else _parse_agent_ref(str(value)) if value else None
        elif not isinstance(node, dict):
            raise ScenarioError(f"{override.input_line}: say which opponent first: opponent=NAME")
        else:
            # The recipe's hash is that of another agent; `compose` adds the hash of the new one.
            node = {k: v for k, v in node.items() if k != "sha256"} | {key: value}
    if isinstance(node, dict) and "path" in node:
        return _typed_fields(target, "opponent", AgentReference, node), others
    return (None if node is None else _parse_untrained_agent(target, "opponent", node)), others


def _parse_agent_ref(text: str) -> dict[str, Any]:
    """Return {"name": ...} for an agent that needs no training, {"path": ...} for what can name a trained one."""
    is_trained = text not in agent_registry.names() and ("/" in text or names_agent(text))
    return {"path" if is_trained else "name": text}


def parse_agent(target: str, key: str, text: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return an agent that a user names with `key`: its path, or its name and all its hyperparameters.

    Raises ScenarioError, which begins with `target`, where there is none, or where it has not these options.
    """
    node = {**_parse_agent_ref(text), **options}
    if "path" in node:
        return _typed_fields(target, key, AgentReference, node)
    return _parse_untrained_agent(target, key, node)


def _parse_untrained_agent(target: str, key: str, node: Any) -> dict[str, Any]:
    """Return the name and all hyperparameters of an agent that needs no training, from the value of `key`."""
    node = {"name": node} if isinstance(node, str) else node
    if not isinstance(node, dict) or not isinstance(node.get("name"), str):
        raise ScenarioError(f"{target}: {key} is {node!r}; expected an agent's name, or a mapping with one")
    name, node = node["name"], {k: v for k, v in node.items() if k != "name"}
    if name not in agent_registry.names():
        raise ScenarioError(f"{target}: {key}: no agent {name!r}; {nearest(name, agent_registry.names())}")
    if agent_registry.learns(name):
        raise ScenarioError(f"{target}: {key} {name} would have to be trained first; take one that needs no training")
    return {"name": name, **_typed_fields(target, key, agent_registry.load(name).Config, node)}


def _typed_fields(target: str, key: str, config: type, node: dict[str, Any]) -> dict[str, Any]:
    """Return all fields of a dataclass: those in `node`, whose types are checked, and the defaults of the others."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    names = [field.name for field in dataclasses.fields(config)]
    for name in node:
        if name not in names:
            raise ScenarioError(f"{target}: unknown key '{key}.{name}'; {nearest(str(name), names)}")
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(config), node)))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ScenarioError(f"{target}: {key}: {explain(error)}") from None


def _parse_league(target: str, node: Any, overrides: list[Any]) -> tuple[LeagueConfig | None, list[Any]]:
    """Return the league's settings, from the recipe and its overrides, and the other overrides."""
    of_league, others = _split_by_key(overrides, "league")
    node = _override_league(target, node, of_league)
    if node is None:
        return None, others
    if not isinstance(node, dict):
        raise ScenarioError(f"{target}: league is {node!r}; expected keys such as selection, members, anchors")
    for key in node:
        if key in RENAMED_KEYS:
            raise ScenarioError(f"{target}: unknown key 'league.{key}'; did you mean {RENAMED_KEYS[key]!r}?")
    values = _typed_fields(
        target, "league", LeagueConfig, {k: v for k, v in node.items() if k not in ("members", "anchors")}
    )
    members, anchors = node.get("members", {"main": 1}), node.get("anchors", [])
    _check_members(target, members)
    if not isinstance(anchors, list):
        raise ScenarioError(f"{target}: league.anchors is {anchors!r}; expected a list of agents")
    values |= {
        "members": dict(members),
        "anchors": [_parse_untrained_agent(target, "league.anchors", a) for a in anchors],
    }
    config = LeagueConfig(**values)
    _check_ranges(target, config)
    return config, others


def _override_league(target: str, node: Any, overrides: list[Any]) -> Any:
    """Return the recipe's league with its overrides: of all of it, of a key, or of one role's number of members."""
    for override in overrides:
        value, (_, _, key) = override.value(), override.key_or_group.partition(".")
        if not key:
            node = value
        elif not isinstance(node, dict):
            raise ScenarioError(f"{override.input_line}: {target} has no league; begin with league={{}}")
        else:
            key, _, kind = key.partition(".")
            members = node.get(key, {}) if kind else None
            node = {**node, key: {**members, kind: value} if isinstance(members, dict) else value}
    return node


def _check_members(target: str, members: Any) -> None:
    """Raise ScenarioError unless these are numbers of learners by kind, with at least one main agent."""
    for kind in members if isinstance(members, dict) else ():
        if kind not in LEARNER_KINDS:
            raise ScenarioError(f"{target}: unknown key 'league.members.{kind}'; {nearest(str(kind), LEARNER_KINDS)}")
    counts: list[Any] = list(members.values()) if isinstance(members, dict) else [None]
    if not all(type(n) is int and 0 <= n <= MAX_LEARNERS for n in counts) or not 0 < sum(counts) <= MAX_LEARNERS:
        raise ScenarioError(
            f"{target}: league.members is a mapping of kinds of learners to how many, {MAX_LEARNERS} at most in all"
        )
    if not members.get("main"):
        raise ScenarioError(f"{target}: league.members: there is no main agent, which the exploiters play against")


def _check_ranges(target: str, config: LeagueConfig) -> None:
    """Raise ScenarioError for a setting out of range."""
    if config.selection not in SELECTIONS:
        raise ScenarioError(f"{target}: league.selection={config.selection!r}; {nearest(config.selection, SELECTIONS)}")
    for key, (low, high) in SETTING_RANGES.items():
        if not low <= getattr(config, key) <= high:
            raise ScenarioError(f"{target}: league.{key}={getattr(config, key)}: expected {low} to {high}")
    if config.self_play + config.lost_to_share > 1:
        raise ScenarioError(
            f"{target}: the shares league.self_play and league.lost_to_share must not exceed 1 together"
        )


def _parse_policies(target: str, node: Any, overrides: list[Any]) -> tuple[dict[str, list[str]], list[Any]]:
    """Return the agents or roles of each policy, from the recipe or the last override, and the other overrides."""
    of_policies = [override for override in overrides if override.key_or_group == "policies"]
    node = of_policies[-1].value() if of_policies else node
    is_valid = isinstance(node, dict) and all(
        _POLICY_NAME.fullmatch(str(name))
        and isinstance(members, list)
        and members
        and all(isinstance(m, str) for m in members)
        for name, members in node.items()
    )
    if not is_valid:
        invalid = (
            [str(name) for name in node if not _POLICY_NAME.fullmatch(str(name))] if isinstance(node, dict) else []
        )
        if invalid:  # names of policies become names of files, and some file systems do not distinguish "A" and "a"
            raise ScenarioError(f"{target}: policies: {invalid[0]!r:.60} is no name: use a-z, 0-9 and _, 40 at most")
        raise ScenarioError(f"{target}: policies is a mapping of a policy's name to a list of agents or roles")
    policies = {str(name): [str(m) for m in members] for name, members in node.items()}
    return policies, [override for override in overrides if override not in of_policies]


def seats_of(world: Any, policies: dict[str, list[str]]) -> dict[str, tuple[int, ...]]:
    """Return each policy's seats. Raises ValueError unless every seat belongs to exactly one policy."""
    seats_of_policy: dict[str, tuple[int, ...]] = {}
    for name, members in policies.items():
        seats: list[int] = []
        for member in members:
            if member in world.agents:
                seats.append(world.agents.index(member))
            elif member in world.roles:
                seats += world.roles[member]
            else:
                names = [*world.roles, *world.agents]
                raise ValueError(f"{world.name} has no agent or role {member!r}; {nearest(member, names)}")
        seats_of_policy[name] = tuple(sorted(seats))
    assigned = sorted(seat for seats in seats_of_policy.values() for seat in seats)
    if assigned != list(range(len(world.agents))):
        not_once = [agent for seat, agent in enumerate(world.agents) if assigned.count(seat) != 1]
        raise ValueError(f"{not_once[0]} needs exactly one policy" if not_once else "seats are wrong")
    return seats_of_policy
