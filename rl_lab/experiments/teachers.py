"""Agents that are imitated: the scenario in which an imitation of one is evaluated, and the teacher itself.

`rl-lab pretrain tree` and `rl-lab pretrain dagger` have a live teacher, which says what it would do in any state. A
run's files describe it as a scenario describes an opponent; of a trained one, they have the hash of its content.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from rl_lab.core.agent import Agent
from rl_lab.core.errors import UsageError
from rl_lab.core.protocols import EnvSpec
from rl_lab.experiments.checkpoint_lookup import locate
from rl_lab.experiments.compose import compose
from rl_lab.experiments.frozen_agent import FrozenAgentRef
from rl_lab.experiments.multiagent_config import parse_agent
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.training_envs import make_agent


@dataclasses.dataclass(frozen=True)
class TeacherRequest:
    """The agent that a user wants to be imitated, as it was typed."""

    name: str  # a run, or an agent that is not trained
    options: dict[str, Any]  # hyperparameters of an agent that is not trained
    world: str = ""  # empty: the world of the teacher's run


def scenario_and_teacher(
    command: str, request: TeacherRequest, lines: Iterable[str]
) -> tuple[Scenario, dict[str, Any]]:
    """Return the scenario of the imitation, with these overrides, and the teacher as a scenario describes an agent.

    Raises UsageError, which begins with `command` where the teacher is wrong.
    """
    teacher = parse_agent(command, "teacher", request.name, request.options)
    lines = ["video=false", "backbone=null", "policies={}", "league=null", *lines]
    if "path" in teacher:
        teacher = dataclasses.asdict(FrozenAgentRef(**teacher).with_content_hash())
        target = request.world or str(locate(teacher["path"]).run.path / "config.yaml")
    elif request.world:
        target = request.world
    else:
        raise UsageError(f"say which world {request.name} is to be imitated in: add world=NAME")
    return compose(target, lines), teacher


def load_teacher(file: str, node: dict[str, Any], world: EnvSpec) -> Agent:
    """Return the teacher that a run's `file` describes.

    Raises UsageError, ValueError, TypeError or KeyError where there is no such agent, none for this world, or one that
    cannot be asked in states that another agent reaches.
    """
    if "path" in node:
        node = {"path": node["path"], "average": node["average"], "sha256": node["sha256"]}
    else:
        node = parse_agent(file, "teacher", node["name"], {key: value for key, value in node.items() if key != "name"})
    teacher = make_agent(node, world)
    if getattr(teacher, "remembers_actions", False):
        raise UsageError(
            f"teacher: {teacher.name} depends on the actions that it has chosen, so it cannot be asked where another "
            "agent plays; record its episodes (rl-lab data collect) and clone these (rl-lab pretrain bc)"
        )
    return teacher
