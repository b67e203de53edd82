"""Whether probes foretell transfer: rank correlations between probe scores and what transfer reports have measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.errors import UsageError, one_line
from rl_lab.core.text_table import format_table
from rl_lab.core.untrusted import checked_list, checked_number, checked_type, read_json
from rl_lab.transfer.arms import BACKBONE, SCRATCH
from rl_lab.transfer.comparison import JSON

MEASURES = ("mean gain", "final gap")
_LEAST = 3  # backbones; of two, the correlation is 1 or -1 whatever they are
_MAX_BYTES = 2**26


@dataclass(frozen=True)
class Transfer:
    """The gains of a backbone in a transfer report: differences of IQM returns from the training from scratch."""

    path: str
    sha256: str
    mean_gain: float  # the mean over the budget
    final_gap: float  # at its end


def read_transfer(path: Path) -> Transfer:
    """Return the figures of a report's folder. Raises UsageError where there is none, or where it is damaged."""
    file = path / JSON
    if not file.is_file():
        raise UsageError(f"transfer={path} is no report of rl-lab transfer-report: it has no {JSON}")
    try:
        report = checked_type(read_json(file, _MAX_BYTES), "it", dict)
        arms = {arm["name"]: arm for arm in checked_list(report["arms"], "arms")}
        bands = [_band(arms[name]["band"]) for name in (BACKBONE, SCRATCH)]
        steps = np.unique(np.concatenate([band[:, 0] for band in bands]))
        own, scratch = (np.interp(steps, band[:, 0], band[:, 1]) for band in bands)
        gain = float(np.trapezoid(own - scratch, steps) / (steps[-1] - steps[0]))
        gap = checked_number(arms[BACKBONE]["final_gap"]["iqm"], "final_gap")
        sha256 = checked_type(report["backbone"]["sha256"], "sha256", str)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{file} is damaged: {one_line(error)[:160]}") from None
    return Transfer(str(path), sha256, gain, gap)


def _band(node: Any) -> Any:
    """Return steps and IQM of a learning curve, float64 [n, 2]."""
    rows = [[checked_number(value, "band") for value in row[:2]] for row in checked_list(node, "band")]
    band = np.array(rows, np.float64).reshape(-1, 2)
    if len(band) < 2 or (np.diff(band[:, 0]) <= 0).any():
        raise ValueError("band is no learning curve")
    return band


def correlate(result: Mapping[str, Any], transfers: Sequence[Transfer]) -> dict[str, Any]:
    """Return Spearman's rank correlation of each target's scores with each measure of transfer.

    `result` is that of `rl-lab probe`. Backbones without a report are left out. The correlation is None where all
    scores or all measures are equal.

    Raises UsageError for a report of another backbone, and where fewer than three backbones have one.
    """
    from scipy.stats import spearmanr

    backbones = {each["sha256"]: each for each in result["representations"] if each["kind"] == "backbone"}
    for transfer in transfers:
        if transfer.sha256 not in backbones:
            raise UsageError(f"transfer={transfer.path} is of the backbone {transfer.sha256[:12]}, which is not probed")
    by_hash = {transfer.sha256: transfer for transfer in transfers}
    if len(by_hash) < _LEAST:
        raise UsageError(f"a rank correlation needs reports of {_LEAST} backbones or more, not of {len(by_hash)}")
    names = [target["name"] for target in result["targets"]]
    correlations: dict[str, dict[str, float | None]] = {}
    for name in names:
        scores = [backbones[each]["scores"][name] for each in by_hash]
        correlations[name] = {}
        for measure in MEASURES:
            values = [getattr(each, measure.replace(" ", "_")) for each in by_hash.values()]
            is_constant = None in scores or len(set(scores)) == 1 or len(set(values)) == 1
            correlations[name][measure] = None if is_constant else float(spearmanr(scores, values).statistic)
    measured = [
        {"name": backbones[each]["name"], "report": own.path, "mean_gain": own.mean_gain, "final_gap": own.final_gap}
        for each, own in by_hash.items()
    ]
    return {"backbones": measured, "spearman": correlations}


def text(correlation: Mapping[str, Any]) -> str:
    """Return the measured transfer and the correlations as two tables."""
    table = [["backbone", *MEASURES]]
    table += [
        [each["name"], f"{each['mean_gain']:.2f}", f"{each['final_gap']:.2f}"] for each in correlation["backbones"]
    ]
    ranks = [["target", *MEASURES]]
    for name, values in correlation["spearman"].items():
        ranks.append([name, *("-" if values[each] is None else f"{values[each]:+.2f}" for each in MEASURES)])
    count = len(correlation["backbones"])
    return "\n".join(
        [
            "measured transfer: difference of the return from scratch",
            format_table(table, left=(0,), indent="  "),
            f"rank correlation of probe and transfer over {count} backbones",
            format_table(ranks, left=(0,), indent="  "),
        ]
    )
