"""The settings of `rl-lab pretrain tree`: parsed from key=value, checked, and written to distillation.json of the run.

`parse_request` is for the command line; `write` and `read` are for the file, by which `rl-lab resume` knows that a run
is a distillation and how to continue it. The file may come from a stranger: `read` checks all of its values.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_lab.core.agent import check_bounds, hyperparameter
from rl_lab.core.errors import UsageError, nearest, one_line
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import checked_type, read_json
from rl_lab.experiments.pretraining_config import as_settings, parse_value
from rl_lab.experiments.teachers import TeacherRequest
from rl_lab.learners.pretraining import boosted_fit

DISTILLATION = "distillation.json"  # the file of a run's folder that says it is a distillation
_FORMAT = {"format": "rl_lab.distillation", "version": 1}
MODELS = ("decision_tree", *boosted_fit.NAMES)
_BOOSTED = ("num_trees", "learning_rate")  # settings that a single tree has not
_SCENARIO_KEYS = (
    "seed",
    "threads",
    "device",
    "run_dir",
    "opponent",
    "role",
    "evaluation",
    "world",
)  # go to the scenario
_MAX_BYTES = 2**20
_FEATURE_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,40}")


@dataclass(frozen=True)
class TreeSettings:
    """The settings with which a tree is distilled."""

    model: str = "decision_tree"  # of MODELS
    max_depth: int = hyperparameter(6, "comparisons of a decision in a tree, at most", low=1, high=64)
    max_leaf_nodes: int | None = hyperparameter(None, "leaves, at most; null: no limit", low=2, high=2**16)
    min_samples_leaf: int = hyperparameter(1, "decisions in a leaf, at least", low=1, high=2**31)
    num_trees: int = hyperparameter(100, "boosted trees; of each action, if there are over two", low=1, high=10_000)
    learning_rate: float = hyperparameter(0.1, "factor of what each boosted tree adds", low=1e-6, high=1)
    iterations: int = hyperparameter(10, "trees that are fitted; the best one is kept", low=1, high=10_000)
    rollout_episodes: int = hyperparameter(32, "episodes that are played for each tree", low=1, high=2**16)
    rollout_steps: int = hyperparameter(20_000, "decisions that are recorded for each tree, at most", low=1, high=2**31)
    noise: float = hyperparameter(0.0, "share of random actions in those episodes", low=0, high=1)
    weighted: bool = hyperparameter(True, "weigh decisions by the loss of a wrong action, as VIPER does")
    feature_names: list[str] = field(default_factory=list)  # what the rules call the numbers of an observation


@dataclass(frozen=True)
class TreeRequest:
    """The arguments of `rl-lab pretrain tree`."""

    teacher: TeacherRequest
    settings: TreeSettings
    scenario_lines: tuple[str, ...]  # overrides of the scenario in which the tree is evaluated


def parse_request(lines: Iterable[str]) -> TreeRequest:
    """Return what key=value lines ask for. Raises UsageError, in one line, for wrong ones."""
    names = [each.name for each in dataclasses.fields(TreeSettings)]
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    scenario_lines, teacher, world = [], "", ""
    for line in lines:
        key, equals, text = line.partition("=")
        if not equals:
            raise UsageError(f"{line!r} is not a setting; write key=value")
        if key == "teacher":
            teacher = text
        elif key.startswith("teacher."):
            options[key.removeprefix("teacher.")] = parse_value(line, text)
        elif key == "world":
            world = text
        elif key.partition(".")[0] in _SCENARIO_KEYS:
            scenario_lines.append(line)
        elif key in names:
            values[key] = parse_value(line, text)
        else:
            raise UsageError(f"pretrain tree has no key {key!r}; {nearest(key, [*names, 'teacher', *_SCENARIO_KEYS])}")
    if not teacher:
        raise UsageError("say which agent the tree is to imitate: teacher=RUN, or an agent that is not trained")
    settings = _check_ranges(as_settings(TreeSettings, values))
    return TreeRequest(TeacherRequest(teacher, options, world), settings, tuple(scenario_lines))


def _check_ranges(settings: TreeSettings) -> TreeSettings:
    """Return the same settings. Raises UsageError for a value out of range."""
    try:
        check_bounds(settings)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if settings.model not in MODELS:
        raise UsageError(f"model={settings.model!r:.40}; {nearest(settings.model, MODELS)}")
    for name in _BOOSTED:
        if settings.model == MODELS[0] and getattr(settings, name) != getattr(TreeSettings, name):
            raise UsageError(f"{name} is of boosted trees: add model={MODELS[1]}, {' or '.join(MODELS[2:])}")
    if settings.model == "xgboost" and settings.min_samples_leaf > 1:
        raise UsageError("min_samples_leaf: xgboost has no such limit; leave it out")
    for name in settings.feature_names:
        if not _FEATURE_NAME.fullmatch(name):
            raise UsageError(f"feature_names: {name!r:.60} is no name of 1 to 40 characters")
    return settings


def write(folder: Path, settings: TreeSettings, teacher: dict[str, Any]) -> None:
    """Write distillation.json into a run's folder; `teacher` is an agent as in a scenario. Raises OSError."""
    record = {**_FORMAT, "teacher": teacher, "settings": dataclasses.asdict(settings)}
    atomic_write_bytes(folder / DISTILLATION, (json.dumps(record, indent=2) + "\n").encode())


def is_distillation(folder: Path) -> bool:
    """Return whether a run's folder is that of a distillation."""
    return (folder / DISTILLATION).is_file()


def read(folder: Path) -> tuple[TreeSettings, dict[str, Any]]:
    """Return the settings and the teacher. Raises UsageError where the file is damaged."""
    try:
        record = checked_type(read_json(folder / DISTILLATION, _MAX_BYTES), "it", dict)
        if any(record.get(key) != value for key, value in _FORMAT.items()):
            raise ValueError(f"it is {record.get('format')!r:.40} version {record.get('version')!r:.20}")
        settings = _check_ranges(as_settings(TreeSettings, checked_type(record["settings"], "settings", dict)))
        return settings, checked_type(record["teacher"], "teacher", dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise UsageError(f"{folder / DISTILLATION} is damaged: {one_line(reason)[:160]}") from None
