"""Who sits where: a scenario's opponent, its learner's role, and policies of their own for some agents."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import catalogue, worlds
from .batch import FOREIGN
from .checkpoint import CheckpointError
from .league.config import MOST, RANGES, ROLES, LeagueConfig
from .league.selection import SELECTIONS
from .names import UsageError, nearest
from .recipe import ScenarioError, explain

if TYPE_CHECKING:
    from .scenario import Scenario


def opponent_node(target: str, node: Any, given: list[Any]) -> tuple[dict[str, Any] | None, list[Any]]:
    """Return the opponent (name and hyperparameters), from the recipe and its overrides, and the other overrides."""
    own = [o for o in given if o.key_or_group.partition(".")[0] == "opponent"]
    node = _somebody(node) if isinstance(node, str) else dict(node) if isinstance(node, dict) else node
    for override in own:
        value, (_, _, key) = override.value(), override.key_or_group.partition(".")
        if not key:
            node = dict(value) if isinstance(value, dict) else _somebody(str(value)) if value else None
        elif not isinstance(node, dict):
            raise ScenarioError(f"{override.input_line}: say which opponent first: opponent=NAME")
        else:
            # Whoever changes whom a path means wants that one as it is now.
            node = {k: v for k, v in node.items() if k != "sha256"} | {key: value}
    others = [o for o in given if o not in own]
    if isinstance(node, dict) and "path" in node:
        return _trained(target, node), others
    return (None if node is None else _untrained(target, "opponent", node)), others


def _somebody(text: str) -> dict[str, Any]:
    """Return an opponent by its name, or by the path of a run or a checkpoint."""
    known = text in catalogue.names() or not ("/" in text or Path(text).is_dir())
    return {"name" if known else "path": text}


def _trained(target: str, node: dict[str, Any]) -> dict[str, Any]:
    """Return a trained opponent, with the hash of its content: that which the recipe gives, or what it is now."""
    from .trained import Frozen  # which reads runs, and so recipes

    found = Frozen(**_typed(target, "opponent", Frozen, node))
    try:
        return dataclasses.asdict(found if found.sha256 else found.seen())
    except (UsageError, CheckpointError) as error:
        raise ScenarioError(f"{target}: opponent: {error}") from None


def _untrained(target: str, key: str, node: Any) -> dict[str, Any]:
    """Return an agent that needs no training, its name and all its hyperparameters, as a recipe's `key` gives it."""
    node = {"name": node} if isinstance(node, str) else node
    if not isinstance(node, dict) or not isinstance(node.get("name"), str):
        raise ScenarioError(f"{target}: {key} is {node!r}; expected an agent's name, or a mapping with one")
    name, node = node["name"], {k: v for k, v in node.items() if k != "name"}
    if name not in catalogue.names():
        raise ScenarioError(f"{target}: {key}: no agent {name!r}; {nearest(name, catalogue.names())}")
    if catalogue.learns(name):
        raise ScenarioError(f"{target}: {key} {name} would have to be trained first; take one that needs no training")
    return {"name": name, **_typed(target, key, catalogue.load(name).Config, node)}


def _typed(target: str, key: str, config: type, node: dict[str, Any]) -> dict[str, Any]:
    """Return all fields of a dataclass, those given with their types checked."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = [f.name for f in dataclasses.fields(config)]
    for field in node:
        if field not in known:
            raise ScenarioError(f"{target}: unknown key '{key}.{field}'; {nearest(str(field), known)}")
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(config), node)))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ScenarioError(f"{target}: {key}: {explain(error)}") from None


def league_node(target: str, node: Any, given: list[Any]) -> tuple[LeagueConfig | None, list[Any]]:
    """Return the league's settings, from the recipe and its overrides, and the other overrides."""
    own = [o for o in given if o.key_or_group.partition(".")[0] == "league"]
    others = [o for o in given if o not in own]
    for override in own:
        value, (_, _, key) = override.value(), override.key_or_group.partition(".")
        if not key:
            node = value
        elif not isinstance(node, dict):
            raise ScenarioError(f"{override.input_line}: {target} has no league; begin with league={{}}")
        else:
            inner, _, count = key.partition(".")
            whole = node.get(inner, {}) if count else None
            node = {**node, inner: {**whole, count: value} if isinstance(whole, dict) else value}
    if node is None:
        return None, others
    if not isinstance(node, dict):
        raise ScenarioError(f"{target}: league is {node!r}; expected keys such as selection, members, anchors")
    values = _typed(target, "league", LeagueConfig, {k: v for k, v in node.items() if k not in ("members", "anchors")})
    members, anchors = node.get("members", {"main": 1}), node.get("anchors", [])
    for role in members if isinstance(members, dict) else ():
        if role not in ROLES:
            raise ScenarioError(f"{target}: unknown key 'league.members.{role}'; {nearest(str(role), ROLES)}")
    counts: list[Any] = list(members.values()) if isinstance(members, dict) else [None]
    if not all(type(n) is int and 0 <= n <= MOST for n in counts) or not 0 < sum(counts) <= MOST:
        raise ScenarioError(f"{target}: league.members is a mapping of roles to how many, {MOST} at most in all")
    if not members.get("main"):
        raise ScenarioError(f"{target}: league.members: there is no main agent, whom the others are for")
    if not isinstance(anchors, list):
        raise ScenarioError(f"{target}: league.anchors is {anchors!r}; expected a list of agents")
    values |= {"members": dict(members), "anchors": [_untrained(target, "league.anchors", a) for a in anchors]}
    config = LeagueConfig(**values)
    if config.selection not in SELECTIONS:
        chosen = nearest(config.selection, SELECTIONS)
        raise ScenarioError(f"{target}: league.selection={config.selection!r}; {chosen}")
    for key, (low, high) in RANGES.items():
        if not low <= getattr(config, key) <= high:
            raise ScenarioError(f"{target}: league.{key}={getattr(config, key)}: expected {low} to {high}")
    if config.self_play + config.forgotten > 1:
        raise ScenarioError(f"{target}: league.self_play and league.forgotten are shares of the games: their sum is 1")
    return config, others


def policies_node(target: str, node: Any, given: list[Any]) -> tuple[dict[str, list[str]], list[Any]]:
    """Return each policy's members, from the recipe or an override, and the other overrides."""
    own = [o for o in given if o.key_or_group == "policies"]
    node = own[-1].value() if own else node
    sound = isinstance(node, dict) and all(
        re.fullmatch(r"\w+", str(name))
        and isinstance(members, list)
        and members
        and all(isinstance(m, str) for m in members)
        for name, members in node.items()
    )
    if not sound:
        raise ScenarioError(f"{target}: policies is a mapping of a policy's name to a list of agents or roles")
    policies = {str(name): [str(m) for m in members] for name, members in node.items()}
    return policies, [o for o in given if o not in own]


def seated(scenario: Scenario) -> Scenario:
    """Check that roles, policies and opponent go with the world."""
    if not (scenario.role or scenario.policies or scenario.opponent or scenario.league):
        return scenario
    if scenario.league and (scenario.policies or scenario.role):
        raise ScenarioError("league goes with neither policies nor role: its learners have every seat in turn")
    if scenario.opponent and scenario.policies:
        raise ScenarioError("policies and opponent do not go together: policies learn side by side at all seats")
    if scenario.role and not scenario.opponent:
        raise ScenarioError(f"role={scenario.role}: say who has the other seats: opponent=NAME")
    if scenario.world.startswith(FOREIGN):
        return scenario  # its agents are known once it is made
    world = worlds.load(scenario.world)
    if len(world.agents) == 1:
        raise ScenarioError(f"{world.name} has one agent: it has no opponent, roles, policies or league")
    if scenario.league and not world.zero_sum:
        raise ScenarioError(f"{world.name} is not zero-sum: a league needs games that somebody wins")
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
