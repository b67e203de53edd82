"""Who sits where: a scenario's opponent, its learner's role, and policies of their own for some agents."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, cast

from . import catalogue, worlds
from .batch import FOREIGN
from .names import nearest
from .recipe import ScenarioError, explain

if TYPE_CHECKING:
    from .scenario import Scenario


def opponent_node(target: str, node: Any, given: list[Any]) -> tuple[dict[str, Any] | None, list[Any]]:
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
        raise ScenarioError(f"{target}: opponent: {explain(error)}") from None
    return {"name": name, **cast(dict[str, Any], merged)}, [o for o in given if o not in own]


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
