"""This module has a `Canvas` that records draw calls as lists in world units, for pages that draw them again.

The reports are such pages. A `JsonCanvas` only appends to its list `shapes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rl_lab.core.canvas import BACKGROUND, INK, Align, Color, Point

Shape = list[Any]
_DIGITS = 4  # significant digits for the larger side of the view, which is enough for a thousand pixels


class JsonCanvas:
    """A canvas that records shapes for JSON, in the order of the calls; a colour is `#rrggbb` or `#rrggbbaa`.

    ["v", xmin, ymin, xmax, ymax]   ["k", color]                           view, clear
    ["c", x, y, radius, color]      ["c", ..., outline, width]             circle
    ["l", [x, y, ...], color, width]          ["p", [x, y, ...], color]    line, polygon
    ["r", x, y, w, h, color, angle, corner]                                rectangle
    ["t", x, y, string, size, color, align]                                text
    """

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self._digits = _DIGITS

    def view(self, xmin: float, ymin: float, xmax: float, ymax: float) -> None:
        """Record the view; see `Canvas`, also for the other methods."""
        if not (0.0 < xmax - xmin < math.inf and 0.0 < ymax - ymin < math.inf):
            raise ValueError(f"view ({xmin}, {ymin}) to ({xmax}, {ymax}) has no area")
        self._digits = _DIGITS - math.ceil(math.log10(max(xmax - xmin, ymax - ymin)))
        self._add("v", xmin, ymin, xmax, ymax)

    def clear(self, color: Color = BACKGROUND) -> None:
        """Record a fill of the whole picture."""
        self._add("k", _hex(color))

    def circle(
        self, x: float, y: float, radius: float, color: Color, outline: Color | None = None, width: float = 0
    ) -> None:
        """Record a disc."""
        ring = () if outline is None else (_hex(outline), width)
        self._add("c", x, y, radius, _hex(color), *ring)

    def line(self, points: Sequence[Point], color: Color, width: float = 0.0) -> None:
        """Record a stroke; one without points is omitted."""
        if len(points):
            self._add("l", self._flat(points), _hex(color), width)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Record a polygon."""
        self._add("p", self._flat(points), _hex(color))

    def rectangle(
        self, x: float, y: float, w: float, h: float, color: Color, angle: float = 0.0, corner: float = 0.0
    ) -> None:
        """Record a rectangle."""
        self._add("r", x, y, w, h, _hex(color), angle, corner)

    def text(self, x: float, y: float, string: str, size: float, color: Color = INK, align: Align = "center") -> None:
        """Record a line of text."""
        self._add("t", x, y, str(string), size, _hex(color), align)

    def heads_up(self, left: str = "", right: str = "") -> None:
        """Record nothing, because the page has its own captions."""

    def _add(self, *parts: Any) -> None:
        self.shapes.append([part if isinstance(part, str | list) else self._number(part) for part in parts])

    def _flat(self, points: Sequence[Point]) -> list[float]:
        return [self._number(value) for point in points for value in point]

    def _number(self, value: float) -> float:
        """Return a number rounded to the precision of the view; a non-finite one is replaced by 1e9, far outside."""
        number = round(float(value), self._digits) if math.isfinite(value) else 1e9
        return int(number) if number == int(number) else number


def _hex(color: Color) -> str:
    parts = [min(max(int(part), 0), 255) for part in color]
    return "#" + "".join(f"{part:02x}" for part in (parts[:3] if parts[3:] == [255] else parts))
