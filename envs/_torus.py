"""This module has the geometry of a torus: an object that leaves on one side comes back on the other.

The worlds pursuit and swarm use it. `draw_polygon` writes to a canvas; the rest are functions of numbers.
"""

from collections.abc import Sequence

from rl_lab.core.canvas import Color
from rl_lab.core.world import Canvas, f4, kernel

ZERO, HALF = f4(0), f4(0.5)


@kernel
def displacement(end: float, start: float, side: float) -> float:
    """Return the shortest displacement from start to end along an axis of length `side`, all f4."""
    d = end - start
    if d > HALF * side:
        return d - side
    return d + side if d < -HALF * side else d


@kernel
def wrap(x: float, side: float) -> float:
    """Return x, which is outside by less than the side, moved into the range from 0 to less than the side, f4."""
    if x < ZERO:
        x += side
    return x - side if x >= side else x  # rounding can reach the side from below 0


def draw_polygon(canvas: Canvas, points: Sequence[complex], color: Color, width: float, height: float) -> None:
    """Fill a polygon with corners x + yj, repeated on the other side if an edge of the torus cuts it."""
    xs, ys = [z.real for z in points], [z.imag for z in points]
    for i in (-width, 0.0, width):
        for j in (-height, 0.0, height):
            if max(xs) + i > 0 and min(xs) + i < width and max(ys) + j > 0 and min(ys) + j < height:
                canvas.polygon([(x + i, y + j) for x, y in zip(xs, ys, strict=True)], color)
