"""Pictures of worlds: drawn by their authors, rendered by foreign environments, or made of their observations."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from gymnasium.spaces import Box

from .adapters.pygame_canvas import PygameCanvas
from .batch import Worlds
from .canvas import ACCENTS, BACKGROUND, BLUE, FAINT, INK, MUTED
from .engine import Batch
from .record import PlainRecord
from .world import Array


class _FilmCanvas(PygameCanvas):
    """Keeps a world's window below the heads-up lines; what surrounds it goes on behind them."""

    headroom = 0.0  # as a fraction of the window's height

    def view(self, xmin: float, ymin: float, xmax: float, ymax: float) -> None:
        super().view(xmin, ymin, xmax, ymax + self.headroom * (ymax - ymin))


@lru_cache(maxsize=4)
def _canvas(width: int, height: int) -> _FilmCanvas:
    return _FilmCanvas(width, height)


def picture(worlds: Worlds, i: int, *, left: str = "", right: str = "", size: tuple[int, int] = (640, 480)) -> Array:
    """Return world i as it is now, uint8 [H, W, 3], with up to two lines over the top corners.

    `size` is (W, H), made even. A world that does not draw itself, and a foreign environment that was not
    made with `render=True`, is shown by its observation: numbers as bars, a grid as cells, an image as it is.
    """
    width, height = (side + side % 2 for side in size)
    canvas = _canvas(width, height)
    strip = math.ceil(1.6 * max(0.042 * height, 12.0)) if left or right else 0  # the heads-up lines' height
    canvas.headroom = strip / (height - strip)
    canvas.view(0, 0, 1, 1)
    canvas.clear()
    image: Array | None = None
    if isinstance(worlds, Batch) and worlds.world.draw is not None:
        # A copy: whatever a drawing does to its state, the episode goes on as it was evaluated.
        state, params = worlds.states[i].copy(), worlds.params[min(i, len(worlds.params) - 1)].copy()
        worlds.world.draw(PlainRecord(state), PlainRecord(params), canvas)
    elif getattr(worlds, "renders", False):  # a foreign environment, which draws itself
        image = worlds.picture(i)  # type: ignore[attr-defined]
    elif worlds.observations.ndim in (4, 5):
        image = _cells(worlds.observations[i, 0], worlds.world.observation)
    else:
        _draw_bars(canvas, worlds.observations[i, 0].ravel(), worlds.world.observation)
    canvas.heads_up(left, right)
    frame = canvas.frame()
    if image is not None:
        _mount(image, frame[strip:])
    return frame


def _mount(image: Array, place: Array) -> None:
    """Put an image into the middle of a place, both uint8 [h, w, 3]: shrunk, or enlarged by whole factors."""
    scale = min(place.shape[0] / image.shape[0], place.shape[1] / image.shape[1])
    if scale >= 1:
        side = int(scale)
        image = image.repeat(side, axis=0).repeat(side, axis=1)
        for gap in range(side // 14):  # pixels this large are the cells of a grid
            image[gap::side] = image[:, gap::side] = BACKGROUND[:3]
    else:
        for axis in (0, 1):
            old = image.shape[axis]
            starts = np.arange(new := max(int(scale * old), 1)) * old // new
            shape = [1, 1, 1]
            shape[axis] = new
            counts = np.diff(starts, append=old).reshape(shape)
            image = (np.add.reduceat(image, starts, axis=axis, dtype=np.uint32) // counts).astype(np.uint8)
    top, left = ((place.shape[k] - image.shape[k]) // 2 for k in (0, 1))
    place[top : top + image.shape[0], left : left + image.shape[1]] = image


def _shares(values: Array, space: Box) -> Array:
    """Return where in their bounds values lie, 0 to 1; of unbounded ones, 0 is at the half."""
    low, high = (np.asarray(side, np.float64).reshape(values.shape) for side in (space.low, space.high))
    bounded = (low > -1e6) & (high < 1e6) & (high > low)
    span = np.where(bounded, high - low, 1.0)
    inside = (values - np.where(bounded, low, 0.0)) / span
    shares: Array = np.clip(np.where(bounded, inside, 0.5 + np.arctan(values) / np.pi), 0.0, 1.0)
    return shares


def _cells(observation: Array, space: Box) -> Array:
    """Return observation [h, w] or [h, w, channels] as a picture of cells, a colour a channel."""
    if observation.dtype == np.uint8 and observation.shape[2:] == (3,):
        return observation
    shares = _shares(observation, space).reshape(*observation.shape[:2], -1)
    strongest = shares.argmax(axis=2)
    accents = np.array([ACCENTS[k % len(ACCENTS)][:3] for k in range(shares.shape[2])], np.float64)
    weight = shares.max(axis=2)[..., None]
    cells: Array = ((1 - weight) * np.array(FAINT[:3]) + weight * accents[strongest]).astype(np.uint8)
    return cells


def _draw_bars(canvas: PygameCanvas, values: Array, space: Box) -> None:
    rows = len(values)
    canvas.view(0, 0, 4, 3)
    pitch = 2.8 / rows
    shares = _shares(values.reshape(space.shape), space).ravel()
    origin = _shares(np.zeros(space.shape), space).ravel()
    for k in range(rows):
        y = 2.9 - (k + 0.5) * pitch
        canvas.rectangle(2.0, y, 2.4, 0.6 * pitch, FAINT, corner=0.1 * pitch)
        zero, end = 0.8 + 2.4 * origin[k], 0.8 + 2.4 * shares[k]
        canvas.rectangle((zero + end) / 2, y, abs(end - zero), 0.6 * pitch, BLUE)
        canvas.line([(zero, y - 0.36 * pitch), (zero, y + 0.36 * pitch)], MUTED, 0.01)
        if rows <= 24:
            canvas.text(0.65, y, str(k), min(0.5 * pitch, 0.16), MUTED, "right")
            canvas.text(3.35, y, f"{values[k]:.3g}", min(0.5 * pitch, 0.16), INK, "left")
