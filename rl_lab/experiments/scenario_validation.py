"""Validate a typed scenario: ranges of values, and whether opponent, role, policies and league fit the world.

It is the last step of `scenario_parsing.parse`. The functions only raise ScenarioError; a world may be imported.
"""

from __future__ import annotations

import dataclasses
import math
import re

from rl_lab.adapters import level_files
from rl_lab.adapters.make import is_foreign, parameters
from rl_lab.core.errors import UsageError, nearest
from rl_lab.engine import world_registry
from rl_lab.experiments.multiagent_config import seats_of
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.scenario_yaml import ScenarioError
from rl_lab.learners.rllib.ray_workers import check_cluster

DEVICES = ("auto", "cpu", "cuda")
ACTIONS = ("auto", "greedy", "sampled")  # see `action_modes`


def validate(scenario: Scenario) -> Scenario:
    """Return the scenario, in which the levels of a file are texts.

    Raises ScenarioError for a value out of range, and for values that contradict each other.
    """
    if not is_foreign(scenario.world, scenario.params):
        try:
            world = world_registry.load(scenario.world)
            scenario = dataclasses.replace(scenario, params=level_files.resolve(world, scenario.params))
            parameters(world, scenario.params)
        except ValueError as error:
            raise ScenarioError(f"world.params: {error}") from None
    _validate_ranges(scenario)
    _validate_multiagent(scenario)
    return scenario


def _validate_ranges(scenario: Scenario) -> None:
    """Check every number, the name of the scenario and the keys that have a few valid words."""
    for key, value in vars(scenario.config).items():
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
    if scenario.run_dir == "":
        raise ScenarioError("run_dir is empty: name a folder, or leave run_dir out")
    if not re.fullmatch(r"\w[\w.-]{0,99}", scenario.name):
        raise ScenarioError(f"name={scenario.name!r}: expected letters, digits, - _ and . (it names the run's folder)")
    if scenario.evaluation.actions not in ACTIONS:
        actions = scenario.evaluation.actions
        raise ScenarioError(f"evaluation.actions={actions!r}; {nearest(actions, ACTIONS)}")
    try:
        check_cluster(scenario.cluster)
    except UsageError as error:
        raise ScenarioError(str(error)) from None
    if scenario.device not in DEVICES:
        raise ScenarioError(f"device={scenario.device!r}; {nearest(scenario.device, DEVICES)}")


def _validate_multiagent(scenario: Scenario) -> None:
    """Check that roles, policies and opponent go with the world."""
    if not (scenario.role or scenario.policies or scenario.opponent or scenario.league):
        return
    if (scenario.league or scenario.policies) and getattr(scenario.config, "policy", "") == "gru":
        raise ScenarioError("agent.policy=gru goes with one policy, not with policies or league")
    if scenario.league and (scenario.policies or scenario.role):
        raise ScenarioError("league goes with neither policies nor role: its learners have every seat in turn")
    if scenario.opponent and scenario.policies:
        raise ScenarioError("policies and opponent do not go together: policies learn side by side at all seats")
    if scenario.role and not scenario.opponent:
        raise ScenarioError(f"role={scenario.role}: name the agent of the other seats: opponent=NAME")
    if is_foreign(scenario.world, scenario.params):
        return  # which agents it has is known only once it is made
    world = world_registry.load(scenario.world)
    if len(world.agents) == 1:
        raise ScenarioError(f"{world.name} has one agent: it has no opponent, roles, policies or league")
    if scenario.league and not world.zero_sum:
        raise ScenarioError(f"{world.name} is not zero-sum: a league needs games with a winner and a loser")
    if scenario.role and scenario.role not in world.roles:
        raise ScenarioError(f"{world.name} has no role {scenario.role!r}; {nearest(scenario.role, world.roles)}")
    if scenario.policies:
        try:
            seats_of(world, scenario.policies)
        except ValueError as error:
            raise ScenarioError(f"policies: {error}") from None
