"""This module draws the multi-agent particle worlds as marbles on a sheet of paper, seen from above.

The `draw` functions of simple_*.py call it. It reads a state and writes to the canvas alone.
"""

import math
from collections.abc import Sequence

from rl_lab.envs._mpe import TRAIL_LENGTH

from rl_lab.core.canvas import BACKGROUND, INK, Canvas, Color, Point, translucent
from rl_lab.core.world import WorldState

PAPER, DOT, WHITE = (255, 254, 251), (214, 212, 206), (255, 255, 255)
SHADE, STONE = (70, 60, 80), (150, 148, 146)
HALF_SIDE = 1.0  # of the square that everything starts in


def mix_colors(color: Color, other: Color, part: float) -> Color:
    """Return the mixture of two colours; `part` is the share of the other one, 0 to 1."""
    return tuple(round(a + (b - a) * part) for a, b in zip(color[:3], other[:3], strict=True))  # type: ignore[return-value]


def draw_paper(canvas: Canvas, s: WorldState) -> None:
    """Draw the paper, and set a view that has all agents in a picture of 4 to 3."""
    wide, high = (max(abs(s.position[a, k]) for a in range(len(s.position))) + 0.2 for k in (0, 1))
    half = max(1.2, high, 0.75 * wide)
    canvas.view(-half, -half, half, half)
    canvas.clear(mix_colors(BACKGROUND, SHADE, 0.06))
    side = 2 * HALF_SIDE + 0.2
    for k in range(6):  # a shadow that fades outwards
        canvas.rectangle(0.012, -0.024, side + 0.018 * k, side + 0.018 * k, (*SHADE, 9), corner=0.09 + 0.009 * k)
    canvas.rectangle(0, 0, side, side, PAPER, corner=0.08)
    for row in range(-5, 6):
        for column in range(-5, 6):
            canvas.circle(0.2 * column, 0.2 * row, 0.008, DOT)


def draw_trail(canvas: Canvas, s: WorldState, agent: int, color: Color, width: float) -> None:
    """Draw an agent's recent path."""
    rows = [s.trail[t % TRAIL_LENGTH, agent] for t in range(max(0, s.t - TRAIL_LENGTH), s.t)]
    path = [(row[0], row[1]) for row in (*rows, s.position[agent])]
    for k in range(1, len(path)):  # opaque, because the overlapping ends of translucent strokes would be darker
        (x, y), (u, v) = path[k - 1 : k + 1]
        for piece in range(4):
            ends = [(x + (u - x) * part / 4, y + (v - y) * part / 4) for part in (piece, piece + 1)]
            part = max(0.0, 1 - (len(path) - k - piece / 4) / TRAIL_LENGTH)
            canvas.line(ends, mix_colors(PAPER, color, 0.05 + 0.35 * part), width * (0.15 + 0.85 * part))


def draw_marble(canvas: Canvas, x: float, y: float, radius: float, color: Color) -> None:
    """Draw a ball that throws a soft shadow, lit from the upper left."""
    draw_ball(canvas, x, y, radius, color)
    canvas.circle(x - 0.36 * radius, y + 0.42 * radius, 0.14 * radius, (*WHITE, 190))


def draw_boulder(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """Draw a ball of stone."""
    draw_ball(canvas, x, y, radius, STONE)
    for u, v, size in (-0.3, 0.2, 0.24), (0.35, 0.3, 0.14), (0.2, -0.42, 0.2), (-0.4, -0.4, 0.1), (0.02, 0.62, 0.1):
        canvas.circle(x + (u + 0.02) * radius, y + (v - 0.03) * radius, size * radius, (*WHITE, 70))
        canvas.circle(x + u * radius, y + v * radius, size * radius, mix_colors(STONE, SHADE, 0.2))


def draw_ball(canvas: Canvas, x: float, y: float, radius: float, color: Color) -> None:
    """Draw a shaded ball with a shadow, for marbles and boulders."""
    for k in range(5):
        canvas.circle(x + 0.10 * radius, y - 0.16 * radius, radius * (0.94 + 0.06 * k), (*SHADE, 22))
    canvas.circle(x, y, radius, mix_colors(color, SHADE, 0.22))
    for k in range(8):
        part = k / 7
        canvas.circle(
            x - 0.2 * radius * part,
            y + 0.22 * radius * part,
            radius * (0.95 - 0.5 * part),
            mix_colors(color, WHITE, 0.28 * part),
        )


def draw_eyes(canvas: Canvas, x: float, y: float, radius: float, target: Point) -> None:
    """Draw eyes on a ball that look at a point."""
    angle = math.atan2(target[1] - y, target[0] - x)
    for side in (-0.55, 0.55):
        u, v = x + 0.56 * radius * math.cos(angle + side), y + 0.56 * radius * math.sin(angle + side)
        canvas.circle(u, v, 0.29 * radius, WHITE)
        canvas.circle(u + 0.1 * radius * math.cos(angle), v + 0.1 * radius * math.sin(angle), 0.16 * radius, INK)


def draw_ring(canvas: Canvas, x: float, y: float, radius: float, color: Color) -> None:
    """Draw a ring around a place on the paper."""
    canvas.circle(x, y, radius, translucent(color, 0.16), color, 0.018)
    canvas.circle(x, y, 0.022, color)


def draw_dotted_line(canvas: Canvas, a: Point, b: Point, color: Color) -> None:
    """Draw a dotted line between two points."""
    pieces = max(1, round(math.dist(a, b) / 0.05))
    for k in range(pieces + 1):
        canvas.circle(a[0] + (b[0] - a[0]) * k / pieces, a[1] + (b[1] - a[1]) * k / pieces, 0.009, color)


def draw_star(canvas: Canvas, x: float, y: float, radius: float, inner: float, points: int, color: Color) -> None:
    """Draw a star; `inner` is the radius of its inner corners, relative to the outer radius."""
    corners = []
    for k in range(2 * points):
        reach, angle = radius * (inner if k % 2 else 1.0), math.pi * (0.5 + k / points)
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    canvas.polygon(corners, color)


def as_points(points: Sequence[Sequence[float]]) -> list[Point]:
    """Return points [n, 2] of a state as pairs."""
    return [(points[k, 0], points[k, 1]) for k in range(len(points))]


def draw_speech_bubble(canvas: Canvas, x: float, y: float, radius: float) -> Point:
    """Draw an empty speech bubble over a ball, inside the paper; return its middle."""
    side = 1.0 if x < 0.7 else -1.0
    over = 1.0 if y < 0.7 else -1.0
    u, v = x + side * (radius + 0.13), y + over * (radius + 0.16)
    for grow, color in (0.03, (*SHADE, 30)), (0.016, mix_colors(PAPER, SHADE, 0.45)), (0.0, WHITE):
        tail = [(u - side * 0.09, v - over * (0.06 + grow)), (u + side * 0.01, v - over * (0.06 + grow))]
        canvas.polygon([*tail, (x + side * 0.72 * (radius - grow), y + over * 0.72 * (radius - grow))], color)
        canvas.rectangle(u, v, 0.26 + 2 * grow, 0.2 + 2 * grow, color, corner=0.09 + grow)
    return u, v
