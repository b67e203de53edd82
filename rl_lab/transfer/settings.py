"""The settings of `rl-lab transfer-report`: parsed from key=value and checked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rl_lab.core.errors import UsageError

_MAX_SEEDS = 1000
_SELECTIONS = "evaluation.selections"
# 20 measurements of the learning curve show 5 % of the budget. No videos are made.
_DEFAULTS = {_SELECTIONS: "20", "video": "false"}
_OF_ARMS = ("seed", "run_dir")  # keys of a training that the report sets for each of its trainings


@dataclass(frozen=True)
class TransferSettings:
    """The settings of `rl-lab transfer-report`.

    `overrides` hold for every arm, `handoff` for those that begin with a pretrained backbone.
    """

    target: str
    backbone: str
    out: Path
    seeds: int = 10
    data: str = ""  # the data set of the control with shuffled actions; empty: without it
    reference: float | None = None  # the score whose shares are to be reached; None: what the scenario expects
    floor: float | None = None  # the score that counts as 0 % of the reference
    controls: bool = True  # false: only the training from scratch and that with the backbone
    handoff: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)


def parse_settings(target: str, lines: Iterable[str]) -> TransferSettings:
    """Return the settings that key=value lines describe. Raises UsageError, in one line, for wrong ones.

    Keys that are not the report's own are those of `rl-lab train`, which checks them.
    """
    own: dict[str, str] = {}
    handoff: list[str] = []
    overrides: list[str] = []
    for line in lines:
        key, equals, text = line.partition("=")
        if not equals:
            raise UsageError(f"{line!r} is not a setting; write key=value")
        if key in _OF_ARMS:
            raise UsageError(f"{line}: the report sets {key} for each training; use seeds=N and out=DIR")
        if key in ("backbone", "out", "seeds", "data", "reference", "floor", "controls"):
            own[key] = text
        elif key in ("mode", "parts") or key.startswith("backbone."):
            handoff.append(line)
        else:
            overrides.append(line)
    for key, hint in (("backbone", "backbone=PATH, a backbone's folder"), ("out", "out=DIR, the report's folder")):
        if not own.get(key):
            raise UsageError(f"transfer-report needs {hint}")
    reference, floor = (_number(key, own.get(key)) for key in ("reference", "floor"))
    if reference is not None and floor is not None and floor >= reference:
        raise UsageError(f"reference={reference:g} is not above floor={floor:g}")
    if own.get("controls", "true") not in ("true", "false"):
        raise UsageError(f"controls={own['controls'][:40]}: expected true or false")
    if own.get("controls") == "false" and own.get("data"):
        raise UsageError("data= is for the control with shuffled actions, which controls=false leaves out")
    typed = {line.partition("=")[0] for line in overrides}
    overrides += [f"{key}={value}" for key, value in _DEFAULTS.items() if key not in typed]
    return TransferSettings(
        target,
        own["backbone"],
        Path(own["out"]),
        _seeds(own.get("seeds", "10")),
        own.get("data", ""),
        reference,
        floor,
        own.get("controls", "true") == "true",
        handoff,
        overrides,
    )


def _seeds(text: str) -> int:
    if not text.isdecimal() or not 1 <= len(text) <= 4 or not 1 <= int(text) <= _MAX_SEEDS:
        raise UsageError(f"seeds={text[:40]}: expected the number of seeds, 1 to {_MAX_SEEDS}")
    return int(text)


def _number(key: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{key}={text[:40]}: expected a number")
    return value
