"""The settings of `rl-lab probe`: parsed from backbones and key=value, and checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_lab.core.errors import UsageError, nearest
from rl_lab.experiments.pretraining_config import as_settings, parse_value

_TEXT_KEYS = ("data", "out")
_KEYS = ("data", "out", "rows", "validation", "seed", "transfer")
_MAX_ROWS = 10**7


@dataclass(frozen=True)
class ProbeSettings:
    """The settings of `rl-lab probe`. `transfer` are folders of `rl-lab transfer-report`."""

    backbones: list[str] = field(default_factory=list)
    data: str = ""
    out: str = "probe.json"
    rows: int = 20_000  # the most transitions to fit probes to, and to score them on
    validation: float = 0.1  # share of the episodes that probes are scored on, as in `rl-lab pretrain`
    seed: int = 0
    transfer: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Return the file that is written."""
        return Path(self.out)

    @property
    def reports(self) -> list[Path]:
        """Return the folders of transfer reports."""
        return [Path(folder) for folder in self.transfer]


def parse_settings(words: Iterable[str]) -> ProbeSettings:
    """Return the settings of backbones and key=value lines. Raises UsageError, in one line, for wrong ones."""
    node: dict[str, Any] = {"backbones": [], "transfer": []}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            node["backbones"].append(word)
        elif key == "transfer":
            node["transfer"] += [part for part in text.split(",") if part]
        elif key in _KEYS:
            node[key] = text if key in _TEXT_KEYS else parse_value(word, text)
        else:
            raise UsageError(f"probe has no key {key!r}; {nearest(key, _KEYS)}")
    if not node["backbones"]:
        raise UsageError("name the backbones to probe: folders, or runs of rl-lab pretrain")
    if not node.get("data"):
        raise UsageError("say which data set to probe on: data=DIR, which rl-lab data collect has written")
    settings = as_settings(ProbeSettings, node)
    if not 0.0 < settings.validation < 1.0:
        raise UsageError(f"validation={settings.validation}: expected a number between 0 and 1")
    for key, low, high in (("rows", 10, _MAX_ROWS), ("seed", 0, 2**31 - 1)):
        if not low <= getattr(settings, key) <= high:
            raise UsageError(f"{key}={getattr(settings, key)}: expected {low} to {high}")
    if len(set(settings.backbones)) < len(settings.backbones):
        raise UsageError("a backbone is named twice")
    return settings
