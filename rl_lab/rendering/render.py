"""This module makes a picture of a world: with its own `draw`, its environment's `render`, or from its observation.

`picture` returns a new array and does not change the batch.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from gymnasium.spaces import Box

from rl_lab.core.canvas import ACCENTS, BACKGROUND, BLUE, FAINT, INK, MUTED
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.engine.batch import Batch
from rl_lab.rendering.drawing import draw
from rl_lab.rendering.pygame_canvas import PygameCanvas


class _VideoCanvas(PygameCanvas):
    """A canvas that shows the world's view below the heads-up lines; its surroundings are visible behind them."""

    headroom = 0.0  # as a fraction of the window's height

    def view(self, xmin: float, ymin: float, xmax: float, ymax: float) -> None:
        super().view(xmin, ymin, xmax, ymax + self.headroom * (ymax - ymin))


@lru_cache(maxsize=4)
def _canvas(width: int, height: int) -> _VideoCanvas:
    return _VideoCanvas(width, height)


def picture(envs: BatchedEnv, i: int, *, left: str = "", right: str = "", size: tuple[int, int] = (640, 480)) -> Array:
    """Return a picture of world i's current state, uint8 [H, W, 3], with up to two lines in the top corners.

    `size` is (W, H), rounded up to even numbers. A world without `draw`, and a foreign environment that was not made
    with `render=True`, is shown by its observation: numbers as bars, a grid as cells, an image unchanged.
    """
    width, height = (side + side % 2 for side in size)
    canvas = _canvas(width, height)
    strip = math.ceil(1.6 * max(0.042 * height, 12.0)) if left or right else 0  # the heads-up lines' height
    canvas.headroom = strip / (height - strip)
    canvas.view(0, 0, 1, 1)
    canvas.clear()
    image: Array | None = None
    if isinstance(envs, Batch) and envs.world.draw is not None:
        # The copies ensure that a drawing function cannot change the episode.
        state, params = envs.states[i].copy(), envs.params[min(i, len(envs.params) - 1)].copy()
        draw(envs.world, state, params, canvas)
    elif getattr(envs, "renders", False):  # a foreign environment that renders itself
        image = envs.picture(i)  # type: ignore[attr-defined]
    else:
        image = _draw_observation(canvas, envs.observations[i, 0], envs.world.observation)
    canvas.heads_up(left, right)
    frame = canvas.frame()
    if image is not None:
        _paste(image, frame[strip:])
    return frame


def observation_picture(observation: Array, space: Box, *, size: tuple[int, int] = (96, 96)) -> Array:
    """Return a picture of an observation alone, uint8 [H, W, 3]; `size` is (W, H).

    Numbers are bars, a grid is cells with a colour for each channel, an image is unchanged. Numbers may be between
    those that the space has: a cell of 0.5 has half of its colour.
    """
    canvas = _canvas(*size)
    canvas.headroom = 0.0
    canvas.view(0, 0, 1, 1)
    canvas.clear()
    image = _draw_observation(canvas, observation, space)
    frame = canvas.frame()
    if image is not None:
        _paste(image, frame)
    return frame


def _draw_observation(canvas: PygameCanvas, observation: Array, space: Box) -> Array | None:
    """Draw a vector's numbers as bars, or return a grid or an image as pixels."""
    if observation.ndim in (2, 3):
        return _grid_picture(observation, space)
    _draw_bars(canvas, observation.ravel(), space)
    return None


def _paste(image: Array, place: Array) -> None:
    """Copy an image to the middle of `place`, both uint8 [h, w, 3]; it is shrunk, or enlarged by a whole factor."""
    scale = min(place.shape[0] / image.shape[0], place.shape[1] / image.shape[1])
    if scale >= 1:
        side = int(scale)
        image = image.repeat(side, axis=0).repeat(side, axis=1)
        for gap in range(side // 14):  # pixels of 14 or more are drawn as cells of a grid
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


def _relative_positions(values: Array, space: Box) -> Array:
    """Return the positions of values between their bounds, 0 to 1; an unbounded value of 0 is at 0.5."""
    low, high = (np.asarray(side, np.float64).reshape(values.shape) for side in (space.low, space.high))
    bounded = (low > -1e6) & (high < 1e6) & (high > low)
    span = np.where(bounded, high - low, 1.0)
    inside = (values - np.where(bounded, low, 0.0)) / span
    positions: Array = np.clip(np.where(bounded, inside, 0.5 + np.arctan(values) / np.pi), 0.0, 1.0)
    return positions


def _grid_picture(observation: Array, space: Box) -> Array:
    """Return an observation [h, w] or [h, w, channels] as a picture of cells; each channel has a colour."""
    if observation.dtype == np.uint8 and observation.shape[2:] == (3,):
        return observation
    positions = _relative_positions(observation, space).reshape(*observation.shape[:2], -1)
    strongest = positions.argmax(axis=2)
    accents = np.array([ACCENTS[k % len(ACCENTS)][:3] for k in range(positions.shape[2])], np.float64)
    weight = positions.max(axis=2)[..., None]
    cells: Array = ((1 - weight) * np.array(FAINT[:3]) + weight * accents[strongest]).astype(np.uint8)
    return cells


def _draw_bars(canvas: PygameCanvas, values: Array, space: Box) -> None:
    """Draw an observation [n] as bars from 0 to each value, one below the other; up to 24 have their numbers beside."""
    rows = len(values)
    canvas.view(0, 0, 4, 3)
    pitch = 2.8 / rows
    positions = _relative_positions(values.reshape(space.shape), space).ravel()
    origin = _relative_positions(np.zeros(space.shape), space).ravel()
    for k in range(rows):
        y = 2.9 - (k + 0.5) * pitch
        canvas.rectangle(2.0, y, 2.4, 0.6 * pitch, FAINT, corner=0.1 * pitch)
        zero, end = 0.8 + 2.4 * origin[k], 0.8 + 2.4 * positions[k]
        canvas.rectangle((zero + end) / 2, y, abs(end - zero), 0.6 * pitch, BLUE)
        canvas.line([(zero, y - 0.36 * pitch), (zero, y + 0.36 * pitch)], MUTED, 0.01)
        if rows <= 24:
            canvas.text(0.65, y, str(k), min(0.5 * pitch, 0.16), MUTED, "right")
            canvas.text(3.35, y, f"{values[k]:.3g}", min(0.5 * pitch, 0.16), INK, "left")
