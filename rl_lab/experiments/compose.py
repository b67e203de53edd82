"""Compose the scenario that a command trains or evaluates, from a recipe and overrides.

`compose` is what commands call. It parses (`scenario_parsing.parse`) and then, for a trained opponent, reads its
checkpoint and adds the hash of its content. The two steps are apart because a run's config.yaml has that hash already.
Nothing is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from rl_lab.core.checkpoint import CheckpointError
from rl_lab.core.errors import UsageError
from rl_lab.experiments.backbone_config import resolve
from rl_lab.experiments.frozen_agent import FrozenAgentRef
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.scenario_parsing import parse
from rl_lab.experiments.scenario_yaml import ScenarioError


def target_of(overrides: Sequence[str]) -> str:
    """Return the target for a command that has only overrides: the world that the last `world=` names.

    Without any `world=` it is the first override, which `compose` then refuses as an unknown scenario.
    """
    worlds = [value for key, _, value in (line.partition("=") for line in overrides) if key == "world"]
    return worlds[-1] if worlds else overrides[0]


def compose(target: Any, overrides: Iterable[str] = ()) -> Scenario:
    """Return the scenario of a name, of a YAML file's path, or of a world's name without one, with overrides applied.

    Arguments and errors are those of `scenario_parsing.parse`. A trained opponent has the hash of its content: that
    which the recipe gives, or that of the present content; so has a backbone. Raises ScenarioError where there is no
    such agent or backbone.
    """
    scenario = parse(target, overrides)
    if scenario.backbone is not None:
        try:
            scenario = dataclasses.replace(scenario, backbone=resolve(scenario.backbone))
        except UsageError as error:
            raise ScenarioError(f"{target}: {error}") from None
    opponent = scenario.opponent
    if opponent is None or "path" not in opponent or opponent["sha256"]:
        return scenario
    try:
        opponent = dataclasses.asdict(FrozenAgentRef(**opponent).with_content_hash())
    except (UsageError, CheckpointError) as error:
        raise ScenarioError(f"{target}: opponent: {error}") from None
    return dataclasses.replace(scenario, opponent=opponent)
