"""A `Canvas` painted with pygame, off screen: no window, no display, no audio, no `pygame.init()`."""

import math
import os
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rl_lab.canvas import BACKGROUND, FAINT, INK, Align, Color, Point

if TYPE_CHECKING:
    import pygame

_EM = 0.6875  # pygame sets its own font this much smaller than the height one asks for
_CAP = 0.73  # height of a capital letter of that font, relative to the height of the line


class PygameCanvas:
    """Draws at `supersample` times the size and scales down, so every edge is smooth.

    On the large one shapes are polygons in pixels, pixel i covering [i, i + 1). pygame paints borders too,
    half a pixel too fat all around: shapes whose outline is computed here are drawn that much slimmer.
    """

    def __init__(self, width: int = 640, height: int = 480, supersample: int = 2) -> None:
        """Make a canvas for pictures of `width` x `height` pixels.

        Raises:
            ValueError: when a size is below 1, or `supersample` is not 1, 2, 4 or 8.
        """
        # pygame scales down by other factors with a loss of brightness.
        if min(width, height) < 1 or supersample not in (1, 2, 4, 8):
            wanted = "sizes must be at least 1, supersample must be 1, 2, 4 or 8"
            raise ValueError(f"canvas of {width} x {height}, supersample {supersample}: {wanted}")
        # pygame greets on stdout when first imported, where --json promises one object and nothing else.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame.font

        self.width, self.height, self._supersample = width, height, supersample
        self._pygame = pygame
        self._fonts: dict[int, pygame.font.Font] = {}
        self._large = pygame.Surface((width * supersample, height * supersample), 0, 32)
        self._small = pygame.Surface((width, height), 0, 32)
        self.view(0.0, 0.0, 1.0, 1.0)
        self.clear()

    def view(self, xmin: float, ymin: float, xmax: float, ymax: float) -> None:
        """Show this window of the world, as large as fits, centred, with its aspect ratio kept."""
        if not (0.0 < xmax - xmin < math.inf and 0.0 < ymax - ymin < math.inf):
            raise ValueError(f"view ({xmin}, {ymin}) to ({xmax}, {ymax}) has no area")
        width, height = self._large.get_size()
        self._scale = min(width / (xmax - xmin), height / (ymax - ymin))
        self._left = width / 2 - self._scale * (xmin + xmax) / 2
        self._bottom = height / 2 + self._scale * (ymin + ymax) / 2

    def clear(self, color: Color = BACKGROUND) -> None:
        """Paint the whole picture in one colour and forget the heads-up lines."""
        self._large.fill(color[:3])
        self._heads_up = ("", "")

    def circle(
        self, x: float, y: float, radius: float, color: Color, outline: Color | None = None, width: float = 0
    ) -> None:
        """Draw a disc; with `outline`, a ring of that colour and `width` lies inside its edge."""
        center = self._pixel(x, y)
        outer = max(radius * self._scale, 0.5 * self._supersample)
        if outline is None:
            self._fill([_disc(center, outer - 0.5)], color)
            return
        stroke = min(max(width * self._scale, self._supersample), outer)
        # The disc reaches to the middle of the ring: ending where the ring starts would leave a bright seam.
        self._fill([_disc(center, outer - stroke / 2)], color)
        ring, hole = _disc(center, outer - 0.5), _disc(center, max(outer - stroke + 0.5, 0.0))
        self._fill([[*ring, ring[0], *reversed(hole), hole[-1]]], outline)

    def line(self, points: Sequence[Point], color: Color, width: float = 0.0) -> None:
        """Draw a stroke through the points, round at ends and joints; one point is a dot, none is nothing."""
        half = max(width * self._scale, self._supersample) / 2 - 0.5
        path = [self._pixel(x, y) for x, y in points]
        parts = [_disc(point, half) for point in path]
        for (x0, y0), (x1, y1) in zip(path, path[1:], strict=False):
            length = math.hypot(x1 - x0, y1 - y0)
            if length > 0.0:
                dx, dy = (y0 - y1) * half / length, (x1 - x0) * half / length
                parts.append([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)])
        if parts:
            self._fill(parts, color)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Fill a polygon of three or more corners; it may be concave and is closed by itself."""
        # Not slimmed: the half pixel hides the seams between polygons that share an edge.
        self._fill([[self._pixel(x, y) for x, y in points]], color)

    def rectangle(
        self, x: float, y: float, w: float, h: float, color: Color, angle: float = 0.0, corner: float = 0.0
    ) -> None:
        """Fill a rectangle centred at (x, y), turned by `angle`, its corners rounded by `corner`."""
        if angle == 0.0 and corner == 0.0:
            # Whole pixels: neighbouring cells of a grid then meet exactly, and their edges are sharp.
            (x0, y0), (x1, y1) = self._pixel(x - w / 2, y + h / 2), self._pixel(x + w / 2, y - h / 2)
            left, top = round(x0) + 0.5, round(y0) + 0.5
            right, bottom = max(round(x1) - 0.5, left), max(round(y1) - 0.5, top)
            self._fill([[(left, top), (right, top), (right, bottom), (left, bottom)]], color)
            return
        half_w, half_h = max(w * self._scale / 2 - 0.5, 0.0), max(h * self._scale / 2 - 0.5, 0.0)
        radius = min(max(corner * self._scale - 0.5, 0.0), half_w, half_h)
        (cx, cy), cos, sin = self._pixel(x, y), math.cos(angle), math.sin(angle)
        outline = []
        for ax, ay in _unit_circle(_sides(radius) if radius > 0.0 else 4):
            u = radius * ax + math.copysign(half_w - radius, ax)
            v = radius * ay + math.copysign(half_h - radius, ay)
            outline.append((cx + u * cos + v * sin, cy - u * sin + v * cos))
        self._fill([outline], color)

    def text(self, x: float, y: float, string: str, size: float, color: Color = INK, align: Align = "center") -> None:
        """Write one line of height `size`; `align` says which part of it (x, y) is, y its middle."""
        font = self._font(size * self._scale)
        words = font.render(string, True, color[:3])
        words.set_alpha(color[3] if len(color) == 4 else 255)
        px, py = self._pixel(x, y)
        left = px - {"left": 0.0, "center": 0.5, "right": 1.0}[align] * words.get_width()
        # The middle of the capitals, not of the box: a letter in a cell then looks centred.
        top = py - font.get_ascent() + _CAP * size * self._scale / 2
        self._large.blit(words, (round(left), round(top)))

    def heads_up(self, left: str = "", right: str = "") -> None:
        """Print two lines over the top corners: for whoever films (score, step), not for worlds."""
        self._heads_up = (left, right)

    def frame(self) -> NDArray[np.uint8]:
        """Return a fresh picture, uint8 [height, width, 3], of what has been drawn so far."""
        self._pygame.transform.smoothscale(self._large, (self.width, self.height), self._small)
        self._print_heads_up()
        pixels = np.frombuffer(self._pygame.image.tobytes(self._small, "RGB"), np.uint8)
        return pixels.reshape(self.height, self.width, 3).copy()

    def _print_heads_up(self) -> None:
        """Write the two lines over the finished picture: `clear` and the next frame find no trace of them."""
        size = 2 * max(0.042 * self.height, 12.0)  # twice as large, then halved: even spacing, smooth letters
        while size > 12.0 and self._font(size).size("".join(self._heads_up))[0] > 2 * self.width - 4 * size:
            size *= 0.95
        font = self._font(size)
        pad = round(0.15 * font.get_height())
        for line, side in zip(self._heads_up, (0, 1), strict=True):
            if line:
                words = self._pygame.transform.smoothscale_by(font.render(line, True, INK[:3]), 0.5)
                width, height = words.get_width() + 4 * pad, words.get_height() + 2 * pad
                left = side * (self.width - width)
                self._small.fill(BACKGROUND[:3], (left, 0, width, height))
                self._small.blit(words, (left + 2 * pad, pad))

    def _pixel(self, x: float, y: float) -> Point:
        return self._left + self._scale * x, self._bottom - self._scale * y

    def _font(self, pixels: float) -> "pygame.font.Font":
        size = max(round(pixels / _EM), 1)
        try:
            self._fonts[size].get_height()
        except (KeyError, self._pygame.error):
            # Not made yet, or broken: Gymnasium's own environments call pygame.quit() when they close.
            self._pygame.font.init()
            self._fonts[size] = self._pygame.font.Font(None, size)
        return self._fonts[size]

    def _fill(self, parts: Sequence[Sequence[Point]], color: Color) -> None:
        """Paint the union of polygons given in pixels of the large surface, as one shape of one colour."""
        (width, height), opacity = self._large.get_size(), color[3] if len(color) == 4 else 255
        xs, ys = [x for part in parts for x, _ in part], [y for part in parts for _, y in part]
        # pygame walks every row of a polygon, visible or not: a ground a kilometre deep would take seconds.
        if max(map(abs, xs + ys)) > (reach := 2.0 * max(width, height)):
            parts = [clipped for part in parts if len(clipped := _clip(part, reach)) > 2]
        left, top = max(math.floor(min(xs)) - 1, 0), max(math.floor(min(ys)) - 1, 0)
        right, bottom = min(math.ceil(max(xs)) + 2, width), min(math.ceil(max(ys)) + 2, height)
        if left >= right or top >= bottom or opacity == 0:
            return
        if opacity < 255:
            # Painted aside, so that parts lying over each other do not add up to a darker spot. The empty
            # pixels carry the colour too: soft edges then fade in opacity only.
            target = self._pygame.Surface((right - left, bottom - top), self._pygame.SRCALPHA, 32)
            target.fill((*color[:3], 0))
        else:
            target, left, top = self._large, 0, 0
        for part in parts:
            points = [(x - left - 0.5, y - top - 0.5) for x, y in part]
            self._pygame.draw.polygon(target, color[:3], [(round(x), round(y)) for x, y in points])
            self._pygame.draw.aalines(target, color[:3], True, points)
        if opacity < 255:
            target.set_alpha(opacity)
            self._large.blit(target, (left, top))


def tile(frames: Iterable[NDArray[np.uint8]], columns: int, gutter: int = 4) -> NDArray[np.uint8]:
    """Put pictures side by side, row by row, with a thin gutter between: many worlds in one film.

    The pictures are uint8 [H, W, 3]; fewer than `columns` make one shorter row. Returns uint8
    [rows * (H + gutter) - gutter, columns * (W + gutter) - gutter, 3], padded to even sizes for video.

    Raises:
        ValueError: without pictures, or when their sizes differ, or when `columns` is below 1.
    """
    pictures = list(frames)
    if not pictures or columns < 1:
        raise ValueError(f"cannot tile {len(pictures)} pictures in {columns} columns")
    height, width = pictures[0].shape[:2]
    columns, down, across = min(columns, len(pictures)), height + gutter, width + gutter
    size = math.ceil(len(pictures) / columns) * down - gutter, columns * across - gutter
    grid = np.full((size[0] + size[0] % 2, size[1] + size[1] % 2, 3), FAINT[:3], np.uint8)
    for index, picture in enumerate(pictures):
        if picture.shape != (height, width, 3):
            raise ValueError(f"picture {index} is {picture.shape}, the first is {(height, width, 3)}")
        y, x = index // columns * down, index % columns * across
        grid[y : y + height, x : x + width] = picture
    return grid


def _sides(radius: float) -> int:
    """Return how many sides, a multiple of four, make a polygon pass for a circle of `radius` pixels."""
    return 4 * min(2 + int(1.75 * math.sqrt(radius)), 64)


@cache
def _unit_circle(sides: int) -> tuple[Point, ...]:
    # Half a step off the axes, so that each point belongs to one quarter: a rounded rectangle needs that.
    angles = [2.0 * math.pi * (k + 0.5) / sides for k in range(sides)]
    return tuple((math.cos(angle), math.sin(angle)) for angle in angles)


def _disc(center: Point, radius: float) -> list[Point]:
    return [(center[0] + radius * x, center[1] + radius * y) for x, y in _unit_circle(_sides(radius))]


def _clip(points: Sequence[Point], reach: float) -> Sequence[Point]:
    """Cut a polygon to the square from -reach to reach, side by side (Sutherland and Hodgman, 1974)."""
    for axis, sign in ((0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)):
        kept: list[Point] = []
        for a, b in zip(points, [*points[1:], *points[:1]], strict=True):
            inside_a, inside_b = reach - sign * a[axis], reach - sign * b[axis]
            if inside_a >= 0.0:
                kept.append(a)
            if (inside_a >= 0.0) != (inside_b >= 0.0):
                t = inside_a / (inside_a - inside_b)
                kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
        points = kept
    return points
