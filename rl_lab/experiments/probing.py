"""Probe backbones (`rl-lab probe`): how much of a transition a linear model can read from their features.

The features do not change. Probes are fitted to training episodes and scored on validation episodes, which have other
level seeds. The same is done for the raw observations, and for new trunks of the same networks.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_lab.core.errors import UsageError
from rl_lab.core.files import atomic_write_bytes, require_writable
from rl_lab.core.text_table import format_table
from rl_lab.core.untrusted import checked_type, read_json
from rl_lab.core.world import Array
from rl_lab.datasets.dataset import Dataset, open_dataset
from rl_lab.experiments.backbone_config import find_backbone
from rl_lab.experiments.probe_settings import ProbeSettings
from rl_lab.learners.pretraining import linear_probe, probe_targets
from rl_lab.learners.pretraining.card import pretrainings
from rl_lab.learners.pretraining.contract import contract_of, require_same
from rl_lab.learners.pretraining.feature_statistics import feature_statistics
from rl_lab.learners.pretraining.folder import SavedBackbone
from rl_lab.learners.pretraining.model import BackboneModel
from rl_lab.learners.pretraining.probe_targets import ProbeTarget
from rl_lab.learners.sb3.encoder import Encoder

FORMAT, VERSION = "rl_lab.probe", 1
CONSTANT, RAW, RANDOM, BACKBONE = "constant", "raw", "random", "backbone"
_MOST_RAW = 4096  # numbers of an observation; of larger ones, raw observations are no baseline
_ROWS = 4096  # of one forward pass
_MAX_BYTES = 2**24


@dataclass(frozen=True)
class _Rows:
    """The transitions that are used: `steps` int64 [N] of the data set, and which of the N are of which side."""

    steps: Array
    train: Array
    validation: Array


def probe(settings: ProbeSettings, note: Callable[[str], None]) -> dict[str, Any]:
    """Return the scores of all representations. `note` is called with the name of each.

    Raises UsageError where backbones and data do not go together, where features have collapsed, and where
    scikit-learn is missing.
    """
    linear_probe.require_sklearn()
    data = open_dataset(Path(settings.data))
    backbones = {text: find_backbone(text) for text in settings.backbones}
    for text, saved in backbones.items():
        _require_contract(text, saved, data)
    _require_own_file(settings.path)
    rows = _rows(settings, data)
    targets = probe_targets.targets(data, rows.steps)
    if not targets:
        raise UsageError(f"{data.path}: nothing in it differs between transitions, so there is nothing to predict")
    representations = [
        _score_targets({"name": "constant", "kind": CONSTANT}, None, targets, rows),
        *_raw(data, targets, rows, note),
    ]
    random_statistics = {}
    for saved in {str(saved.spec.network): saved for saved in backbones.values()}.values():
        note(f"random {saved.spec.network.kind}")
        features = _features(_random_trunk(saved, settings.seed), data, rows)
        random_statistics[str(saved.spec.network)] = feature_statistics(features[rows.validation])
        label: dict[str, Any] = {"name": f"random {saved.spec.network.kind}", "kind": RANDOM}
        representations.append(_score_targets(label, features, targets, rows))
    for text, saved in backbones.items():
        note(text)
        features = _features(Encoder(saved.spec, saved.part("trunk"), "cpu"), data, rows)
        statistics = feature_statistics(features[rows.validation])
        if collapse := statistics.collapse(random_statistics[str(saved.spec.network)]):
            raise UsageError(f"backbone {text}: its features have collapsed: {collapse}")
        label = {"name": text, "kind": BACKBONE, "sha256": saved.sha256, "method": saved.card.get("method")}
        representations.append(_score_targets(label, features, targets, rows))
    return _result(settings, data, rows, targets, representations, _notes(settings, data, backbones))


def write(settings: ProbeSettings, result: dict[str, Any]) -> None:
    """Write a result to the file `out`. Raises OSError."""
    atomic_write_bytes(settings.path, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())


def _require_own_file(path: Path) -> None:
    """Raise UsageError where `out` cannot be written, or is a file that no probe has written."""
    require_writable(path.absolute().parent, "out=")
    if path.is_dir():
        raise UsageError(f"out={path} is a folder; name a file")
    if path.exists():
        try:
            node = checked_type(read_json(path, _MAX_BYTES), "it", dict)
        except (OSError, ValueError):
            node = {}
        if node.get("format") != FORMAT:
            raise UsageError(f"out={path} exists, and is not of rl-lab probe: name another file")


def _require_contract(text: str, saved: SavedBackbone, data: Dataset) -> None:
    """Raise UsageError where the data's observations are not those of the backbone; bounds of floats do not count."""
    own, offered = saved.spec.observation, contract_of(data.observation_space)
    if own.dtype == offered.dtype == "float32":  # a network scales only integers by their bounds
        offered = dataclasses.replace(offered, low=own.low, high=own.high)
    try:
        require_same(own, offered, f"backbone {text}", str(data.path))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _rows(settings: ProbeSettings, data: Dataset) -> _Rows:
    try:
        sides = data.split(settings.validation, settings.seed)
    except ValueError as error:
        raise UsageError(str(error)) from None
    rng = np.random.default_rng(settings.seed)
    steps = []
    for episodes in sides:
        side = data.steps_of(episodes)
        if len(side) > settings.rows:
            side = np.sort(rng.choice(side, settings.rows, replace=False))
        steps.append(side)
    first, second = (np.arange(len(side)) for side in steps)
    return _Rows(np.concatenate(steps), first, len(first) + second)


def _random_trunk(saved: SavedBackbone, seed: int) -> Encoder:
    spec = dataclasses.replace(saved.spec, action=None, heads=())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = BackboneModel(spec).trunk
    return Encoder(spec, trunk.state_dict(), "cpu")


def _features(encoder: Encoder, data: Dataset, rows: _Rows) -> Array:
    parts = [
        encoder(np.asarray(data.observations[rows.steps[first : first + _ROWS]]))
        for first in range(0, len(rows.steps), _ROWS)
    ]
    return np.concatenate(parts)


def _raw(data: Dataset, targets: list[ProbeTarget], rows: _Rows, note: Callable[[str], None]) -> list[dict[str, Any]]:
    if np.prod(data.observations.shape[1:]) > _MOST_RAW:
        return []
    note("raw observations")
    features = np.asarray(data.observations[rows.steps], np.float32).reshape(len(rows.steps), -1)
    return [_score_targets({"name": "raw observations", "kind": RAW}, features, targets, rows)]


def _score_targets(
    label: dict[str, Any], features: Array | None, targets: list[ProbeTarget], rows: _Rows
) -> dict[str, Any]:
    """Return a representation with its scores by target; features None are those of the constant prediction."""
    if features is None:
        scores = {each.name: linear_probe.constant_score(each, rows.train, rows.validation) for each in targets}
        return {**label, "width": 0, "scores": scores}
    scores = {each.name: linear_probe.score(features, each, rows.train, rows.validation) for each in targets}
    statistics = feature_statistics(features[rows.validation])
    return {**label, "width": features.shape[1], **statistics.as_scores(), "scores": scores}


def _notes(settings: ProbeSettings, data: Dataset, backbones: dict[str, SavedBackbone]) -> list[str]:
    """Return which backbones have trunks that have learned from episodes that probes are scored on."""
    notes = []
    for text, saved in backbones.items():
        splits = {
            (each["settings"].get("seed"), each["settings"].get("validation"))
            for each in pretrainings(saved.card)
            if each["data"].get("sha256") == data.content_hash and not each["settings"].get("freeze_trunk")
        }
        if any(not validation for _, validation in splits):
            notes.append(f"{text} has learned from all of these episodes: scores of other data say more")
        elif len(splits) > 1:
            notes.append(
                f"{text} was pretrained more than once, with different validation episodes of these data: scores of"
                f" other data say more"
            )
        elif splits and splits != {(settings.seed, settings.validation)}:
            ((seed, validation),) = splits
            notes.append(
                f"{text} has learned from some of these validation episodes; seed={seed} and"
                f" validation={validation} have those of its pretraining"
            )
    return notes


def _result(
    settings: ProbeSettings,
    data: Dataset,
    rows: _Rows,
    targets: list[ProbeTarget],
    representations: list[dict[str, Any]],
    notes: list[str],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "data": {"path": str(data.path), "sha256": data.content_hash, "world": data.world},
        "seed": settings.seed,
        "validation": settings.validation,
        "rows": {"train": len(rows.train), "validation": len(rows.validation)},
        "targets": [
            {"name": each.name, "score": "accuracy" if each.is_class else "explained variance"} for each in targets
        ],
        "representations": representations,
        "notes": notes,
    }


def text(result: dict[str, Any]) -> str:
    """Return the scores as a table: a line for each representation, a column for each target."""
    names = [target["name"] for target in result["targets"]]
    table = [["features", "width", "rank", *names]]
    for each in result["representations"]:
        rank = f"{each['effective_rank']:.1f}" if "effective_rank" in each else "-"
        scores = [each["scores"][name] for name in names]
        cells = ["-" if score is None else f"{score:.3f}" for score in scores]
        table.append([each["name"], str(each["width"]), rank, *cells])
    rows = result["rows"]
    head = f"{result['data']['path']}: {rows['train']:,} transitions to fit to, {rows['validation']:,} to score on"
    lines = [head, format_table(table, left=(0,), indent="  ")]
    classes = [target["name"] for target in result["targets"] if target["score"] == "accuracy"]
    figures = f"accuracy of {', '.join(classes)}; share of variance explained of the others" if classes else ""
    lines.append(f"  {figures or 'share of variance explained'}")
    return "\n".join([*lines, *(f"  note: {note}" for note in result["notes"])])
