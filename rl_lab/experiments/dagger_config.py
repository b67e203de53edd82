"""The settings of `rl-lab pretrain dagger`: parsed from key=value, checked, and written to pretraining.json of the run.

`parse_request` is for the command line; `write` and `read` are for the file, by which `rl-lab resume` knows that a run
is a dataset aggregation and how to continue it. The file may come from a stranger: `read` checks all of its values.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.core.agent import check_bounds, hyperparameter
from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.untrusted import checked_type, read_json
from rl_lab.experiments.backbone_config import PRETRAINING
from rl_lab.experiments.pretraining_config import PretrainSettings, as_settings, check_ranges, parse_lines, parse_value
from rl_lab.experiments.teachers import TeacherRequest

_FORMAT = {"format": "rl_lab.dagger", "version": 1}
_MAX_BYTES = 2**20


@dataclass(frozen=True)
class DaggerSettings(PretrainSettings):
    """The settings with which a teacher is cloned: of each round's pretraining, and of gathering its decisions."""

    rounds: int = hyperparameter(5, "times that decisions are gathered and cloned", low=1, high=10_000)
    rollout_episodes: int = hyperparameter(16, "episodes that are played at once in each round", low=1, high=2**16)
    rollout_steps: int = hyperparameter(1000, "decisions that are recorded in each round, at most", low=1, high=2**31)
    teacher_share: float = hyperparameter(
        0.0, "share of the teacher's actions in round 2; its power in later rounds", low=0, high=1
    )
    sample: bool = hyperparameter(True, "the learner samples its actions in those episodes")


@dataclass(frozen=True)
class DaggerRequest:
    """The arguments of `rl-lab pretrain dagger`."""

    teacher: TeacherRequest
    settings: DaggerSettings


def parse_request(lines: Iterable[str]) -> DaggerRequest:
    """Return what key=value lines ask for. Raises UsageError, in one line, for wrong ones."""
    teacher, options, others = "", {}, []
    for line in lines:
        key, _, text = line.partition("=")
        if key == "teacher":
            teacher = text
        elif key.startswith("teacher."):
            options[key.removeprefix("teacher.")] = parse_value(line, text)
        elif key == "data":
            raise UsageError(f"{line}: pretrain dagger gathers its own data, from teacher=AGENT")
        else:
            others.append(line)
    if not teacher:
        raise UsageError("say which agent is to be imitated: teacher=RUN, or an agent that is not trained")
    settings = _check_ranges(as_settings(DaggerSettings, parse_lines(DaggerSettings, others)))
    return DaggerRequest(TeacherRequest(teacher, options, settings.world), settings)


def _check_ranges(settings: DaggerSettings) -> DaggerSettings:
    """Return the same settings. Raises UsageError for a value out of range."""
    check_ranges(settings)
    try:
        check_bounds(settings)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return settings


def write(folder: Path, settings: DaggerSettings, teacher: dict[str, Any]) -> None:
    """Write pretraining.json into a run's folder; `teacher` is an agent as in a scenario. Raises OSError."""
    record = {**_FORMAT, "teacher": teacher, "settings": dataclasses.asdict(settings)}
    atomic_write_bytes(folder / PRETRAINING, (json.dumps(record, indent=2) + "\n").encode())


def is_dagger(folder: Path) -> bool:
    """Return whether a run's folder is that of a dataset aggregation."""
    try:
        record = read_json(folder / PRETRAINING, _MAX_BYTES)
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("format") == _FORMAT["format"]


def read(folder: Path) -> tuple[DaggerSettings, dict[str, Any]]:
    """Return the settings and the teacher. Raises UsageError where the file is damaged."""
    try:
        record = checked_type(read_json(folder / PRETRAINING, _MAX_BYTES), "it", dict)
        if any(record.get(key) != value for key, value in _FORMAT.items()):
            raise ValueError(f"it is {record.get('format')!r:.40} version {record.get('version')!r:.20}")
        settings = _check_ranges(as_settings(DaggerSettings, checked_type(record["settings"], "settings", dict)))
        return settings, checked_type(record["teacher"], "teacher", dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise UsageError(f"{folder / PRETRAINING} is damaged: {one_line(reason)[:160]}") from None
