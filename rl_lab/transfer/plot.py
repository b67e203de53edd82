"""Learning curves as SVG: an arm's IQM is a line with the arm's name at its end, its 95 % interval a band."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LINE_HEIGHT = 17.0  # between the names at the ends of lines, in units of the SVG
_LEFT, _TOP, _BOTTOM = 52, 16, 40


@dataclass(frozen=True)
class PlotFrame:
    """The size of a picture, the room right of the curves for names, and the ranges of both axes."""

    width: int
    height: int
    right: int
    steps: float
    low: float
    high: float

    def x(self, steps: float) -> float:
        """Return the abscissa of a number of steps."""
        return _LEFT + (self.width - _LEFT - self.right) * steps / self.steps

    def y(self, score: float) -> float:
        """Return the ordinate of a score."""
        share = (score - self.low) / (self.high - self.low)
        return self.height - _BOTTOM - (self.height - _TOP - _BOTTOM) * share


def curves_svg(report: Mapping[str, Any], width: int, height: int, right: int, kind: str) -> str:
    """Return the curves of a report as an SVG of this size; `kind` is its class."""
    arms, cloning = report["arms"], report["cloning"]
    values = [value for arm in arms for row in arm["band"] for value in row[1:]] + [report["goal"]["reference"]]
    values += [] if cloning is None else [cloning["mean_return"]]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 1.0
    frame = PlotFrame(width, height, right, float(report["budget"]), low - margin, high + margin)
    ends = [(arm["band"][-1][1], arm["label"]) for arm in arms]
    ends += [] if cloning is None else [(cloning["mean_return"], "cloning alone")]
    parts = [_axes(frame, report["goal"]["reference"])]
    parts += [_band(frame, arm["band"], index) for index, arm in enumerate(arms)]
    parts += [_line(frame, arm["band"], index) for index, arm in enumerate(arms)]
    if cloning is not None:
        y = frame.y(cloning["mean_return"])
        colour = f"stroke:var(--arm{len(arms)})"
        parts.append(f'<path class="line flat" style="{colour}" d="M{_LEFT} {y:.1f}H{width - right}"/>')
    parts.append(_names(frame, ends))
    title = f"Learning curves of {report['scenario']}: IQM over {report['seeds']} seeds, with 95 % intervals"
    view = f'viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}"'
    return f'<svg class="plot {kind}" {view}>{"".join(parts)}</svg>'


def _axes(frame: PlotFrame, reference: float) -> str:
    parts = []
    right = frame.width - frame.right
    for score in ticks(frame.low, frame.high):
        y = frame.y(score)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{score:g}</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = frame.x(share * frame.steps)
        anchor = "start" if share == 0 else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{frame.height - 20}" text-anchor="{anchor}">{short(share * frame.steps)}</text>'
        )
    parts.append(f'<text x="{_LEFT}" y="{frame.height - 3}">steps of the environment</text>')
    y = frame.y(reference)
    parts.append(f'<path class="goal" d="M{_LEFT} {y:.1f}H{right}"/>')
    return "".join(parts)


def _band(frame: PlotFrame, rows: Sequence[Sequence[float]], index: int) -> str:
    upper = [f"{frame.x(row[0]):.1f} {frame.y(row[3]):.1f}" for row in rows]
    lower = [f"{frame.x(row[0]):.1f} {frame.y(row[2]):.1f}" for row in reversed(rows)]
    return f'<path class="band" style="fill:var(--arm{index})" d="M{"L".join(upper + lower)}Z"/>'


def _line(frame: PlotFrame, rows: Sequence[Sequence[float]], index: int) -> str:
    points = "L".join(f"{frame.x(row[0]):.1f} {frame.y(row[1]):.1f}" for row in rows)
    return f'<path class="line" style="stroke:var(--arm{index})" d="M{points}"/>'


def _names(frame: PlotFrame, ends: Sequence[tuple[float, str]]) -> str:
    """Return the names right of the curves' ends, moved apart where they would overlap."""
    heights = spread([frame.y(score) for score, _ in ends], _LINE_HEIGHT, _TOP, frame.height - _BOTTOM)
    x = frame.width - frame.right + 8
    parts = []
    for index, ((_, label), y) in enumerate(zip(ends, heights, strict=True)):
        style = f"fill:var(--arm{index})"
        parts.append(f'<text class="end" x="{x}" y="{y + 4:.1f}" style="{style}">{html.escape(label)}</text>')
    return "".join(parts)


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the heights moved so that they are `gap` apart and, if there is room, within low and high."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved = [0.0] * len(heights)
    last = low - gap
    for index in order:
        last = moved[index] = max(heights[index], last + gap)
    limit = high
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


def ticks(low: float, high: float) -> list[float]:
    """Return some round numbers between low and high."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short(steps: float) -> str:
    """Return a number of steps in few characters: 25k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if steps >= size:
            return f"{steps / size:.3g}{unit}"
    return f"{steps:g}"
