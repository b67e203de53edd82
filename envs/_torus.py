"""What worlds without edges share: who leaves on one side comes back on the other."""

from collections.abc import Sequence

from rl_lab.canvas import Color
from rl_lab.world import Canvas, f4, kernel

ZERO, HALF = f4(0), f4(0.5)


@kernel
def way(there: float, here: float, side: float) -> float:
    """Return the shortest way from here to there along an axis of this length, all f4."""
    d = there - here
    if d > HALF * side:
        return d - side
    return d + side if d < -HALF * side else d


@kernel
def inside(x: float, side: float) -> float:
    """Return where x is when it has left by less than the side, f4: at least 0 and less than side."""
    if x < ZERO:
        x += side
    return x - side if x >= side else x  # rounding can reach the side from below 0


def polygon(canvas: Canvas, points: Sequence[complex], color: Color, width: float, height: float) -> None:
    """Fill a polygon with corners x + yj, once more wherever an edge of the torus (0 to width, 0 to height) cuts it."""
    xs, ys = [z.real for z in points], [z.imag for z in points]
    for i in (-width, 0.0, width):
        for j in (-height, 0.0, height):
            if max(xs) + i > 0 and min(xs) + i < width and max(ys) + j > 0 and min(ys) + j < height:
                canvas.polygon([(x + i, y + j) for x, y in zip(xs, ys, strict=True)], color)
