"""This module declares the canvas that a world draws on: a few shapes in world units, and a palette.

A world's `draw(s, p, canvas)` sees only this protocol, so it needs no graphics library and works the same on
a machine without a display.

Conventions, the same for every method: coordinates, radii, widths and text sizes are in world units, y points
up, angles are radians counterclockwise, a position is the centre of the shape. Shapes are painted over each
other in the order of the calls. A stroke or a dot never gets thinner than one pixel of the picture.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

Color: TypeAlias = tuple[int, int, int] | tuple[int, int, int, int]
"""A colour is red, green, blue and, optionally, opacity (0 invisible, 255 opaque), each 0-255."""

Point: TypeAlias = tuple[float, float]
Align: TypeAlias = Literal["left", "center", "right"]

BACKGROUND: Color = (250, 248, 244)  # a warm white; the colours below contrast with it
FAINT: Color = (224, 224, 220)  # empty cells, tracks, walls far away
MUTED: Color = (126, 132, 142)  # axes, grids, secondary text
INK: Color = (38, 43, 51)  # outlines, text, ground
BLUE: Color = (43, 108, 176)
ORANGE: Color = (212, 104, 22)
GREEN: Color = (36, 138, 98)
RED: Color = (200, 58, 62)
PURPLE: Color = (120, 86, 180)
GOLD: Color = (176, 126, 10)

ACCENTS: tuple[Color, ...] = (BLUE, ORANGE, GREEN, RED, PURPLE, GOLD)
"""ACCENTS holds one colour per agent, in this order."""


def translucent(color: Color, opacity: float) -> tuple[int, int, int, int]:
    """Return `color` at `opacity`, from 0.0 (invisible) to 1.0 (opaque)."""
    red, green, blue = color[:3]
    return red, green, blue, round(255 * min(max(opacity, 0.0), 1.0))


class Canvas(Protocol):
    """A canvas has the shapes that a world may draw; the top of this file says units and conventions."""

    def view(self, xmin: float, ymin: float, xmax: float, ymax: float) -> None:
        """Show this rectangle of the world, as large as fits, centred, with its aspect ratio kept.

        Shapes outside of the rectangle but inside the picture are still drawn, so a ground may extend to both edges.

        Raises:
            ValueError: the rectangle has no area.
        """

    def clear(self, color: Color = BACKGROUND) -> None:
        """Paint the whole picture in one colour and remove the heads-up lines."""

    def circle(
        self, x: float, y: float, radius: float, color: Color, outline: Color | None = None, width: float = 0
    ) -> None:
        """Draw a disc; with `outline`, also a ring of that colour and `width` inside its edge."""

    def line(self, points: Sequence[Point], color: Color, width: float = 0.0) -> None:
        """Draw a stroke through the points, round at ends and joints; one point is drawn as a dot."""

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Fill a polygon of three or more corners; it may be concave, and its last corner is joined to its first."""

    def rectangle(
        self, x: float, y: float, w: float, h: float, color: Color, angle: float = 0.0, corner: float = 0.0
    ) -> None:
        """Fill a rectangle centred at (x, y), turned by `angle`, its corners rounded by `corner`."""

    def text(self, x: float, y: float, string: str, size: float, color: Color = INK, align: Align = "center") -> None:
        """Write one line of height `size`; x is its left end, middle or right end by `align`, y is its middle."""

    def heads_up(self, left: str = "", right: str = "") -> None:
        """Print two lines in the top corners: for score and step in videos and windows, not for worlds."""
