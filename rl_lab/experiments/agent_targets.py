"""Find the agent that a user's TARGET names, with its scenario: a run's agent, or one that needs no training.

`find_agent` is what `rl-lab evaluate` and `watch` and `rl_lab.evaluate` call. Nothing is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.core.agent import Agent
from rl_lab.core.errors import UsageError, nearest
from rl_lab.experiments.agent_loading import load_agent, with_trained_seats
from rl_lab.experiments.checkpoint_lookup import locate, names_agent
from rl_lab.experiments.compose import compose
from rl_lab.experiments.run_dir import Run, list_runs
from rl_lab.experiments.scenario import Scenario


class TargetAgent(NamedTuple):
    """An agent, the scenario in which it plays, and the run and step of its checkpoint; None and 0 without a run."""

    agent: Agent
    scenario: Scenario
    run: Run | None
    step: int


def find_agent(target: str, overrides: Sequence[str]) -> TargetAgent:
    """Return the agent that a target names.

    Raises UsageError for a target that is neither a run, nor a checkpoint, nor an agent that is not trained.
    """
    if target in agent_registry.names():
        scenario = _scenario_of_untrained_agent(target, overrides)
        factory: Any = agent_registry.load(target)
        try:
            envs = make.make(scenario.world, 1, scenario.params)
            return TargetAgent(factory.make(scenario.config, envs.world), scenario, None, 0)
        except ValueError as error:
            raise UsageError(str(error)) from None
    if not names_agent(target):
        names = {*agent_registry.names(), *(str(run.path) for run in list_runs())}
        raise UsageError(f"no run or agent {target!r}; {nearest(target, names)}")
    location = locate(target)
    run = location.run
    scenario, trained = compose(str(run.path / "config.yaml"), overrides), run.scenario()
    if scenario.agent != trained.agent:
        raise UsageError(f"{target} is a {trained.agent} agent; agent= cannot be changed")
    if trained.role and scenario.role != trained.role:
        raise UsageError(f"{target} was trained as {trained.role}; role= cannot be changed")
    if scenario.policies != trained.policies:
        raise UsageError(f"{target} has its own policies; policies= cannot be changed")
    agent, step = load_agent(location.folder, with_trained_seats(scenario, trained))
    return TargetAgent(agent, scenario, run, step)


def is_evaluated_as_trained(scenario: Scenario, run: Run) -> bool:
    """Return whether an evaluation has the agent, world, opponent and settings of the run's: then it is saved there."""
    trained = run.scenario()
    same_evaluation = (
        dataclasses.replace(scenario.evaluation, episodes=trained.evaluation.episodes) == trained.evaluation
    )
    same_opponent = (scenario.opponent, scenario.role) == (trained.opponent, trained.role)
    same_world = scenario.world == trained.world and scenario.params == trained.params
    return same_evaluation and same_opponent and same_world and scenario.config == trained.config


def _scenario_of_untrained_agent(name: str, overrides: Sequence[str]) -> Scenario:
    """Return the scenario for an agent that needs no training, in the world that the last `world=` names."""
    worlds = [o.partition("=")[2] for o in overrides if o.startswith("world=")]
    if not worlds:
        raise UsageError(f"say which world {name} is for: add world=NAME")
    if agent_registry.learns(name):
        raise UsageError(f"{name} must be trained first: rl-lab train {worlds[-1]} agent={name}")
    return compose(worlds[-1], [*overrides, f"agent={name}"])
