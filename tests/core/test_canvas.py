"""These tests check what PygameCanvas paints, by the pixels of its pictures."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import rl_lab.core.canvas
from rl_lab.core.canvas import ACCENTS, BACKGROUND, BLUE, FAINT, INK, MUTED, RED, Canvas, Color, translucent
from rl_lab.rendering.pygame_canvas import PygameCanvas, tile

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@pytest.fixture
def canvas() -> PygameCanvas:
    """200 x 100 pixels on white, 10 pixels to the unit, the origin in the lower left corner."""
    canvas = PygameCanvas(200, 100)
    canvas.view(0, 0, 20, 10)
    canvas.clear(WHITE)
    return canvas


def ink(canvas: PygameCanvas) -> NDArray[np.float64]:
    """How black each pixel is, 0 to 1."""
    cover: NDArray[np.float64] = 1.0 - canvas.frame().mean(axis=2, dtype=np.float64) / 255.0
    return cover


def luminance(color: Color) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in color[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_pygame_canvas_is_a_canvas(canvas: PygameCanvas) -> None:
    drawable: Canvas = canvas
    drawable.circle(10, 5, 1, BLACK)
    assert ink(canvas)[50, 100] == 1


@pytest.mark.parametrize("radius", [0.2, 0.55, 1.0, 3.0, 4.5])
@pytest.mark.parametrize("supersample", [2, 4])
def test_circle_covers_its_area_with_soft_edges(radius: float, supersample: int) -> None:
    canvas = PygameCanvas(200, 100, supersample)
    canvas.view(0, 0, 20, 10)
    canvas.clear(WHITE)
    canvas.circle(8.03, 5.01, radius, BLACK)
    cover = ink(canvas)
    area = math.pi * (10 * radius) ** 2
    assert cover.sum() == pytest.approx(area, rel=0.03, abs=1.5)
    soft = cover[(cover > 0.02) & (cover < 0.98)]
    assert len(np.unique(soft.round(2))) >= 3
    rows, columns = np.nonzero(cover > 0.5)
    assert columns.mean() + 0.5 == pytest.approx(80.3, abs=0.3)
    assert rows.mean() + 0.5 == pytest.approx(100 - 50.1, abs=0.3)


def test_circle_moves_by_less_than_a_pixel(canvas: PygameCanvas) -> None:
    pictures = []
    for step in range(4):
        canvas.clear(WHITE)
        canvas.circle(5 + 0.02 * step, 5, 0.5, BLACK)
        pictures.append(canvas.frame())
    assert all((a != b).any() for a, b in zip(pictures, pictures[1:], strict=False))


def test_outline_lies_inside_the_circle(canvas: PygameCanvas) -> None:
    canvas.circle(10, 5, 4, RED, outline=BLUE, width=1)
    picture = canvas.frame()
    assert tuple(picture[50, 100]) == RED
    assert tuple(picture[50, 65]) == BLUE
    assert tuple(picture[50, 75]) == RED
    assert tuple(picture[50, 58]) == WHITE
    # Between the two colours no background shines through: blue and red have little green.
    assert picture[50, 62:139, 1].max() <= max(RED[1], BLUE[1])


def test_y_points_up(canvas: PygameCanvas) -> None:
    canvas.rectangle(2, 9, 2, 1, BLACK)
    cover = ink(canvas)
    assert cover[:20].sum() == pytest.approx(cover.sum()) and cover.sum() == pytest.approx(200)


@pytest.mark.parametrize("window", [(0, 0, 10, 10), (-50, -5, 50, 5), (3, 3, 3.5, 9)])
def test_view_keeps_the_aspect_and_centres(canvas: PygameCanvas, window: tuple[float, ...]) -> None:
    xmin, ymin, xmax, ymax = window
    canvas.view(xmin, ymin, xmax, ymax)
    radius = min(xmax - xmin, ymax - ymin) / 2
    canvas.circle((xmin + xmax) / 2, (ymin + ymax) / 2, radius, BLACK)
    rows, columns = np.nonzero(ink(canvas) > 0.5)
    diameter = 2 * radius * min(200 / (xmax - xmin), 100 / (ymax - ymin))
    assert np.ptp(rows) + 1 == pytest.approx(diameter, abs=1.5)
    assert np.ptp(columns) + 1 == pytest.approx(diameter, abs=1.5)
    assert (rows.mean(), columns.mean()) == pytest.approx((49.5, 99.5), abs=0.5)


@pytest.mark.parametrize("window", [(0, 0, 0, 1), (0, 1, 1, 0), (0, 0, math.nan, 1), (0, 0, 1, math.inf)])
def test_view_without_area_is_refused(canvas: PygameCanvas, window: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="has no area"):
        canvas.view(*window)


def test_opacity_blends_once_even_where_a_stroke_crosses_itself(canvas: PygameCanvas) -> None:
    canvas.line([(2, 2), (12, 8), (12, 2), (2, 8)], translucent(BLACK, 0.5), width=1)
    cover = ink(canvas)
    assert cover.max() == pytest.approx(0.5, abs=0.02)
    once = canvas.frame()
    canvas.rectangle(10, 5, 30, 20, (*RED, 128))
    twice = canvas.frame()
    assert twice[5, 5] == pytest.approx((np.array(RED) + 255) / 2, abs=2)
    assert (twice[once.sum(axis=2) < 400] <= twice[5, 5]).all()
    canvas.circle(5, 5, 5, (*BLUE, 0))
    assert (canvas.frame() == twice).all()


def test_translucent_keeps_the_colour_and_the_range() -> None:
    assert translucent(BLUE, 0.5) == (*BLUE, 128)
    assert translucent((*BLUE, 3), 2.0) == (*BLUE, 255)
    assert translucent(BLUE, -1.0)[3] == 0


def test_stroke_has_its_width_and_no_gaps(canvas: PygameCanvas) -> None:
    points = [(5 + 4 * math.cos(t), 5 + 4 * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 40)]
    canvas.line(points, BLACK, width=1)
    cover = ink(canvas)
    assert cover.sum() == pytest.approx(2 * math.pi * 40 * 10, rel=0.03)
    middle = [cover[int(100 - 10 * y), int(10 * x)] for x, y in points]
    assert min(middle) > 0.98


def test_stroke_ends_and_corners_are_round(canvas: PygameCanvas) -> None:
    canvas.line([(5, 2), (10, 8), (15, 2)], BLACK, width=2)
    cover = ink(canvas)
    assert cover[12, 100] > 0.9 and cover[8:10].max() < 0.1  # the corner reaches one half width above (10, 8)
    assert cover[87, 50] > 0.9  # the end reaches beyond (5, 2)


@pytest.mark.parametrize("width", [0.0, 0.001])
def test_stroke_never_gets_thinner_than_a_pixel(canvas: PygameCanvas, width: float) -> None:
    canvas.line([(2, 2), (18, 7)], BLACK, width=width)
    assert ink(canvas).sum() == pytest.approx(10 * math.hypot(16, 5), rel=0.15)


def test_line_of_no_or_one_point(canvas: PygameCanvas) -> None:
    canvas.line([], BLACK, width=1)
    assert ink(canvas).sum() == 0
    canvas.line([(5, 5)], BLACK, width=2)
    assert ink(canvas).sum() == pytest.approx(math.pi * 100, rel=0.05)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, 2.0])
@pytest.mark.parametrize("corner", [0.0, 0.5, 5.0])
def test_rectangle_covers_its_area(canvas: PygameCanvas, angle: float, corner: float) -> None:
    canvas.rectangle(10, 5, 6, 3, BLACK, angle=angle, corner=corner)
    radius = 10 * min(corner, 1.5)
    assert ink(canvas).sum() == pytest.approx(60 * 30 - (4 - math.pi) * radius**2, rel=0.02)


def test_rectangle_turns_counterclockwise(canvas: PygameCanvas) -> None:
    canvas.rectangle(10, 5, 8, 1, BLACK, angle=math.pi / 6)
    cover = ink(canvas)
    assert cover[:45, 110:].sum() > 100 and cover[55:, 110:].sum() == 0


def test_cells_of_a_grid_meet_without_seams(canvas: PygameCanvas) -> None:
    canvas.view(0, 0, 13, 7)
    for row in range(7):
        for column in range(13):
            canvas.rectangle(column + 0.5, row + 0.5, 1, 1, BLACK)
    rows, columns = np.nonzero(ink(canvas) > 0.98)
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_polygon_may_be_concave(canvas: PygameCanvas) -> None:
    canvas.polygon([(2, 1), (18, 1), (18, 9), (10, 3), (2, 9)], BLACK)
    cover = ink(canvas)
    assert cover.sum() == pytest.approx(100 * (16 * 8 - 16 * 6 / 2), rel=0.03)
    assert cover[30, 100] == 0


def test_text_is_written_where_asked(canvas: PygameCanvas) -> None:
    extents = {}
    for align in ("left", "center", "right"):
        canvas.clear(WHITE)
        canvas.text(10, 5, "HEN", 2, BLACK, align)
        rows, columns = np.nonzero(ink(canvas) > 0.3)
        assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(50, abs=1)
        assert np.ptp(rows) + 1 == pytest.approx(0.73 * 20, abs=1.5)
        extents[align] = columns.min(), columns.max()
    assert extents["left"][0] == pytest.approx(101, abs=2)
    assert sum(extents["center"]) / 2 == pytest.approx(99.5, abs=1.5)
    assert extents["right"][1] == pytest.approx(98, abs=2)


def test_text_can_be_translucent(canvas: PygameCanvas) -> None:
    canvas.text(10, 5, "I", 8, (*BLACK, 128))
    assert ink(canvas).max() == pytest.approx(0.5, abs=0.02)


def test_text_survives_another_user_of_pygame_quitting(canvas: PygameCanvas) -> None:
    import pygame

    def write() -> NDArray[np.uint8]:
        canvas.clear(WHITE)
        canvas.text(10, 5, "still here", 2, BLACK)
        return canvas.frame()

    before = write()
    pygame.quit()
    assert (write() == before).all()


def test_heads_up_lies_over_the_picture_until_it_is_cleared() -> None:
    canvas = PygameCanvas()
    canvas.clear(INK)
    bare = canvas.frame()
    canvas.heads_up("return 12.5", "step 3/500")
    shown = canvas.frame()
    for corner in (shown[:40, :140], shown[:40, -140:]):
        letters = np.abs(corner.astype(int) - BACKGROUND).max(axis=2) < 24  # the finest are smoothed
        assert letters.any() and (corner == np.array(INK)).all(axis=2).any()
    assert (shown[60:] == bare[60:]).all() and (shown[:, 250:400] == bare[:, 250:400]).all()
    assert (canvas.frame() == shown).all()
    canvas.clear(INK)
    assert (canvas.frame() == bare).all()


@pytest.mark.parametrize("color", [INK, BLACK, (40, 90, 50), (127, 127, 127), (90, 160, 90), BACKGROUND])
def test_heads_up_lines_take_the_color_of_what_they_lie_on(color: Color) -> None:
    """No box of another colour lies over a picture in one colour that is dark or light; and they are read well."""
    canvas = PygameCanvas(320, 240)
    canvas.clear(color)
    canvas.heads_up("return 12.5", "step 3/500")
    top = canvas.frame()[:22, :60].astype(float)
    values = (top / 255) ** 2.2 @ np.array([0.2126, 0.7152, 0.0722])
    ground = np.median(top.reshape(-1, 3), axis=0)
    at = float(np.median(values))
    assert max((values.max() + 0.05) / (at + 0.05), (at + 0.05) / (values.min() + 0.05)) > 3.5
    assert np.abs(ground - np.array(color)).max() <= (60 if color not in (INK, BLACK, BACKGROUND) else 2)


def test_heads_up_lines_too_long_shrink_to_fit() -> None:
    canvas = PygameCanvas(320, 240)
    canvas.clear(BLACK)
    canvas.heads_up("a" * 30, "b" * 30)
    written = (canvas.frame()[:24] > 100).any(axis=(0, 2))
    assert written[:20].any() and written[300:].any() and not written[[0, 319]].any() and not written[158:162].any()


def test_frame_is_a_copy(canvas: PygameCanvas) -> None:
    first = canvas.frame()
    assert first.shape == (100, 200, 3) and first.dtype == np.uint8
    assert first.flags.c_contiguous and first.flags.owndata and first.flags.writeable
    first[:] = 7
    assert (canvas.frame() == 255).all()
    kept = canvas.frame()
    canvas.clear(BLACK)
    canvas.frame()
    assert (kept == 255).all()


def test_the_same_calls_draw_the_same_picture() -> None:
    def draw() -> NDArray[np.uint8]:
        canvas = PygameCanvas(64, 48)
        canvas.circle(0.3, 0.4, 0.2, translucent(RED, 0.3), outline=INK, width=0.02)
        canvas.text(0.5, 0.5, "same", 0.2)
        return canvas.frame()

    assert (draw() == draw()).all()


def test_shapes_far_larger_than_the_window_are_quick_and_right(canvas: PygameCanvas) -> None:
    started = time.process_time()
    canvas.rectangle(10, 5 - 1e8, 2e8, 2e8, BLACK)
    canvas.circle(1e7, 1e7, 1.0, BLACK)
    canvas.line([(-1e7, 8), (1e7, 8)], BLACK, width=1)
    canvas.polygon([(0, 1e6), (20, 1e6), (1e6, 2e6)], BLACK)
    assert time.process_time() - started < 1.0
    assert ink(canvas).sum() == pytest.approx(200 * 50 + 200 * 10, rel=0.02)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_positions_that_are_not_finite_are_an_error(canvas: PygameCanvas, bad: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        canvas.circle(bad, 0, 1, INK)
    with pytest.raises((ValueError, OverflowError)):
        canvas.line([(0, 0), (1, bad)], INK)


@pytest.mark.parametrize("size", [(0, 10, 2), (10, 0, 2), (10, 10, 0), (10, 10, 3)])
def test_canvas_of_impossible_size_is_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PygameCanvas(*size)


@pytest.mark.parametrize("supersample", [1, 2, 4, 8])
def test_scaling_down_keeps_the_colour(supersample: int) -> None:
    canvas = PygameCanvas(33, 21, supersample)
    canvas.clear((255, 128, 1))
    assert (canvas.frame() == (255, 128, 1)).all()


def test_typical_frame_is_quick() -> None:
    canvas = PygameCanvas()

    def draw() -> None:
        canvas.clear()
        for k in range(15):
            canvas.circle(0.1 + 0.05 * k, 0.5, 0.05, translucent(ACCENTS[k % 6], 0.5))
            canvas.rectangle(0.1 + 0.05 * k, 0.3, 0.04, 0.04, ACCENTS[k % 6], angle=0.1 * k, corner=0.01)
        canvas.heads_up("return 1", "step 1")
        canvas.frame()

    draw()
    seconds = []
    for _ in range(10):
        started = time.process_time()
        draw()
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.02  # about 4 ms; caches that other programs fill make it longer


def test_needs_no_display_and_says_nothing() -> None:
    hidden = (
        "SDL_VIDEODRIVER",
        "SDL_AUDIODRIVER",
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "PYGAME_HIDE_SUPPORT_PROMPT",
    )
    program = """if True:
        import sys
        import rl_lab.rendering.pygame_canvas as module
        assert "pygame" not in sys.modules
        canvas = module.PygameCanvas(64, 48)
        canvas.text(0.5, 0.5, "hello", 0.2)
        assert canvas.frame().std() > 0
        import pygame
        assert not pygame.display.get_init() and not pygame.get_init() and pygame.mixer.get_init() is None
    """
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=Path(rl_lab.core.canvas.__file__).parents[1],
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_tile_lays_pictures_out_row_by_row() -> None:
    pictures = [np.full((10, 12, 3), 10 * k, np.uint8) for k in range(5)]
    grid = tile(iter(pictures), columns=3, gutter=2)
    assert grid.shape == (2 * 10 + 2, 3 * 12 + 2 * 2, 3) and grid.dtype == np.uint8
    for k, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        y, x = row * 12, column * 14
        assert (grid[y : y + 10, x : x + 12] == 10 * k).all()
    assert (grid[10:12] == FAINT).all() and (grid[:, 12:14] == FAINT).all() and (grid[12:, 28:] == FAINT).all()


def test_tile_makes_even_sizes_and_drops_empty_columns() -> None:
    odd = np.zeros((7, 9, 3), np.uint8)
    assert tile([odd], columns=4).shape == (8, 10, 3)
    assert tile([odd, odd], columns=4, gutter=1).shape == (8, 20, 3)


def test_tile_refuses_what_does_not_fit() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="cannot tile 0 pictures"):
        tile([], columns=2)
    with pytest.raises(ValueError, match="in 0 columns"):
        tile([picture], columns=0)
    with pytest.raises(ValueError, match=r"picture 1 is \(8, 10, 3\)"):
        tile([picture, np.zeros((8, 10, 3), np.uint8)], columns=2)


def test_palette_stands_out_on_its_background() -> None:
    def contrast(color: Color) -> float:
        return (luminance(BACKGROUND) + 0.05) / (luminance(color) + 0.05)

    assert contrast(INK) > 7.0  # text, WCAG AAA
    assert all(contrast(color) > 3.0 for color in (*ACCENTS, MUTED))  # graphics, WCAG AA
    assert contrast(FAINT) > 1.2
