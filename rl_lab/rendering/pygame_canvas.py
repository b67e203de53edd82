"""This module has a `Canvas` that paints off screen with pygame, without a window, a display or `pygame.init()`.

`PygameCanvas` holds two surfaces and the fonts; `frame` returns a copy of the picture. `tile` joins pictures.
"""

import math
import os
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rl_lab.core.canvas import BACKGROUND, FAINT, INK, Align, Color, Point

if TYPE_CHECKING:
    import pygame

_FONT_SCALE = 0.6875  # the size of pygame's own font relative to the requested height
_LABEL_OPACITY = 200  # of 255: of the background of a heads-up line, in the average colour of the picture there
_MIN_CONTRAST = 4.5  # of a heads-up line with its background (WCAG AA)
_CAPITAL_HEIGHT = 0.73  # the height of that font's capital letters, relative to the height of the line


class PygameCanvas:
    """A canvas that draws at `supersample` times the size and scales down, so that edges are smooth.

    On the large surface, shapes are polygons in pixels, and pixel i covers [i, i + 1). pygame paints polygons half a
    pixel too large on all sides, so shapes whose outline is computed here are made smaller by that.
    """

    def __init__(self, width: int = 640, height: int = 480, supersample: int = 2) -> None:
        """Make a canvas for pictures of `width` x `height` pixels.

        Raises:
            ValueError: a size is below 1, or `supersample` is not 1, 2, 4 or 8.
        """
        # With other factors, pygame's scaling loses brightness.
        if min(width, height) < 1 or supersample not in (1, 2, 4, 8):
            rule = "sizes must be at least 1, supersample must be 1, 2, 4 or 8"
            raise ValueError(f"canvas of {width} x {height}, supersample {supersample}: {rule}")
        # pygame prints a greeting to stdout when it is imported, but --json allows one object and nothing else.
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
        """Show this rectangle of the world, as large as fits, centred, with its aspect ratio kept."""
        if not (0.0 < xmax - xmin < math.inf and 0.0 < ymax - ymin < math.inf):
            raise ValueError(f"view ({xmin}, {ymin}) to ({xmax}, {ymax}) has no area")
        width, height = self._large.get_size()
        self._scale = min(width / (xmax - xmin), height / (ymax - ymin))
        self._left = width / 2 - self._scale * (xmin + xmax) / 2
        self._bottom = height / 2 + self._scale * (ymin + ymax) / 2

    def clear(self, color: Color = BACKGROUND) -> None:
        """Paint the whole picture in one colour and remove the heads-up lines."""
        self._large.fill(color[:3])
        self._heads_up = ("", "")

    def circle(
        self, x: float, y: float, radius: float, color: Color, outline: Color | None = None, width: float = 0
    ) -> None:
        """Draw a disc; with `outline`, also a ring of that colour and `width` inside its edge."""
        center = self._pixel(x, y)
        outer = max(radius * self._scale, 0.5 * self._supersample)
        if outline is None:
            self._fill([_disc(center, outer - 0.5)], color)
            return
        stroke = min(max(width * self._scale, self._supersample), outer)
        # The disc extends to the middle of the ring, because a disc that ends at the ring leaves a bright seam.
        self._fill([_disc(center, outer - stroke / 2)], color)
        ring, hole = _disc(center, outer - 0.5), _disc(center, max(outer - stroke + 0.5, 0.0))
        self._fill([[*ring, ring[0], *reversed(hole), hole[-1]]], outline)

    def line(self, points: Sequence[Point], color: Color, width: float = 0.0) -> None:
        """Draw a stroke through the points, round at ends and joints; one point is drawn as a dot."""
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
        """Fill a polygon of three or more corners; it may be concave, and its last corner is joined to its first."""
        # It keeps pygame's extra half pixel, which hides the seams between polygons that share an edge.
        self._fill([[self._pixel(x, y) for x, y in points]], color)

    def rectangle(
        self, x: float, y: float, w: float, h: float, color: Color, angle: float = 0.0, corner: float = 0.0
    ) -> None:
        """Fill a rectangle centred at (x, y), turned by `angle`, its corners rounded by `corner`."""
        if angle == 0.0 and corner == 0.0:
            # Rounding to whole pixels makes neighbouring cells of a grid touch, with sharp edges.
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
        """Write one line of height `size`; x is its left end, middle or right end by `align`, y is its middle."""
        font = self._font(size * self._scale)
        label = font.render(string, True, color[:3])
        label.set_alpha(color[3] if len(color) == 4 else 255)
        px, py = self._pixel(x, y)
        left = px - {"left": 0.0, "center": 0.5, "right": 1.0}[align] * label.get_width()
        # Centring the capitals, and not the line's box, makes a letter in a cell look centred.
        top = py - font.get_ascent() + _CAPITAL_HEIGHT * size * self._scale / 2
        self._large.blit(label, (round(left), round(top)))

    def heads_up(self, left: str = "", right: str = "") -> None:
        """Print two lines in the top corners: for score and step in videos and windows, not for worlds."""
        self._heads_up = (left, right)

    def frame(self) -> NDArray[np.uint8]:
        """Return a new picture, uint8 [height, width, 3], of the shapes that have been drawn so far."""
        self._pygame.transform.smoothscale(self._large, (self.width, self.height), self._small)
        self._print_heads_up()
        pixels = np.frombuffer(self._pygame.image.tobytes(self._small, "RGB"), np.uint8)
        return pixels.reshape(self.height, self.width, 3).copy()

    def _print_heads_up(self) -> None:
        """Write the two lines on the small surface, so that they are not part of the next frame."""
        size = 2 * max(0.042 * self.height, 12.0)  # drawn at twice the size and halved, for smooth letters
        while size > 12.0 and self._font(size).size("".join(self._heads_up))[0] > 2 * self.width - 4 * size:
            size *= 0.95
        font = self._font(size)
        pad = round(0.15 * font.get_height())
        for line, side in zip(self._heads_up, (0, 1), strict=True):
            if line:
                wide, high = font.size(line)
                width, height = wide // 2 + 4 * pad, high // 2 + 2 * pad
                ink = self._draw_label_background(side * (self.width - width), width, height)
                label = self._pygame.transform.smoothscale_by(font.render(line, True, ink[:3]), 0.5)
                self._small.blit(label, (side * (self.width - width) + 2 * pad, pad))

    def _draw_label_background(self, left: int, width: int, height: int) -> Color:
        """Paint the background of a line at the top of the picture; return a legible text colour for it."""
        area = self._pygame.Rect(left, 0, width, height).clip(self._small.get_rect())
        color, ink = _legible(self._pygame.transform.average_color(self._small, area)[:3])
        ground = self._pygame.Surface(area.size, 0, 32)
        ground.fill(color)
        ground.set_alpha(_LABEL_OPACITY)
        self._small.blit(ground, area)
        return ink

    def _pixel(self, x: float, y: float) -> Point:
        return self._left + self._scale * x, self._bottom - self._scale * y

    def _font(self, pixels: float) -> "pygame.font.Font":
        size = max(round(pixels / _FONT_SCALE), 1)
        try:
            self._fonts[size].get_height()
        except (KeyError, self._pygame.error):
            # The font is new, or invalid because Gymnasium's environments call pygame.quit() when they close.
            self._pygame.font.init()
            self._fonts[size] = self._pygame.font.Font(None, size)
        return self._fonts[size]

    def _fill(self, parts: Sequence[Sequence[Point]], color: Color) -> None:
        """Paint the union of polygons given in pixels of the large surface, as one shape of one colour."""
        (width, height), opacity = self._large.get_size(), color[3] if len(color) == 4 else 255
        xs, ys = [x for part in parts for x, _ in part], [y for part in parts for _, y in part]
        # pygame visits every row of a polygon, visible or not, so a polygon of a million rows would take seconds.
        if max(map(abs, xs + ys)) > (reach := 2.0 * max(width, height)):
            parts = [clipped for part in parts if len(clipped := _clip(part, reach)) > 2]
        left, top = max(math.floor(min(xs)) - 1, 0), max(math.floor(min(ys)) - 1, 0)
        right, bottom = min(math.ceil(max(xs)) + 2, width), min(math.ceil(max(ys)) + 2, height)
        if left >= right or top >= bottom or opacity == 0:
            return
        if opacity < 255:
            # The shape is painted on a surface of its own, so that overlapping parts are not darker. The empty pixels
            # have its colour, too, so that at soft edges only the opacity changes.
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


def _luminance(color: Color) -> float:
    """Return a colour's relative luminance. Source: WCAG 2.1."""
    red, green, blue = ((c / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 * 255) / 255 for c in color[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _legible(color: Color) -> tuple[Color, Color]:
    """Return a background colour and a legible text colour; the background is `color`, or changed for contrast."""
    dark, light = _luminance(INK) + 0.05, _luminance(BACKGROUND) + 0.05
    ink = INK if (_luminance(color) + 0.05) ** 2 > dark * light else BACKGROUND
    end = 255 if ink is INK else 0
    while True:
        luminance = _luminance(color) + 0.05
        if (luminance / dark if ink is INK else light / luminance) >= _MIN_CONTRAST:
            return color, ink
        red, green, blue = (round(0.9 * c + 0.1 * end) for c in color[:3])
        color = (red, green, blue)


def tile(frames: Iterable[NDArray[np.uint8]], columns: int, gutter: int = 4) -> NDArray[np.uint8]:
    """Return pictures tiled row by row with a thin gutter between them, to show many worlds in one video.

    The pictures are uint8 [H, W, 3]; fewer than `columns` make one shorter row. The result is uint8
    [rows * (H + gutter) - gutter, columns * (W + gutter) - gutter, 3], padded to even sizes for video.

    Raises:
        ValueError: there are no pictures, their sizes differ, or `columns` is below 1.
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
    """Return the number of sides, a multiple of four, of a polygon that looks like a circle of `radius` pixels."""
    return 4 * min(2 + int(1.75 * math.sqrt(radius)), 64)


@cache
def _unit_circle(sides: int) -> tuple[Point, ...]:
    # No point lies on an axis, so that each belongs to one quarter, which `rectangle` needs for rounded corners.
    angles = [2.0 * math.pi * (k + 0.5) / sides for k in range(sides)]
    return tuple((math.cos(angle), math.sin(angle)) for angle in angles)


def _disc(center: Point, radius: float) -> list[Point]:
    return [(center[0] + radius * x, center[1] + radius * y) for x, y in _unit_circle(_sides(radius))]


def _clip(points: Sequence[Point], reach: float) -> Sequence[Point]:
    """Return a polygon clipped to the square from -reach to reach. Source: Sutherland and Hodgman 1974."""
    for axis, sign in ((0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)):
        result: list[Point] = []
        for a, b in zip(points, [*points[1:], *points[:1]], strict=True):
            inside_a, inside_b = reach - sign * a[axis], reach - sign * b[axis]
            if inside_a >= 0.0:
                result.append(a)
            if (inside_a >= 0.0) != (inside_b >= 0.0):
                t = inside_a / (inside_a - inside_b)
                result.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
        points = result
    return points
