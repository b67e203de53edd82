"""A sheet of pictures, of observations or others, one row or more for each title, as a PNG file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box

from rl_lab.core.files import atomic_write_bytes
from rl_lab.core.world import Array
from rl_lab.rendering.pygame_canvas import PygameCanvas, tile
from rl_lab.rendering.render import observation_picture

NAME = "reconstructions.png"
COLUMNS = 10
SIDE = 96  # pixels


def write_sheet(path: Path, rows: Mapping[str, Array], space: Box) -> None:
    """Write the sheet: for each title its observations, [COLUMNS, *observation shape]. Raises OSError."""
    write_pictures(
        path,
        {
            title: [observation_picture(observation, space, size=(SIDE, SIDE)) for observation in observations]
            for title, observations in rows.items()
        },
    )


def write_pictures(path: Path, rows: Mapping[str, list[Array]]) -> None:
    """Write the sheet: for each title its pictures, uint8 [SIDE, SIDE, 3], in rows of COLUMNS. Raises OSError."""
    blank = _label("")
    frames = []
    for title, pictures in rows.items():
        for first in range(0, len(pictures), COLUMNS):
            row = pictures[first : first + COLUMNS]
            frames += [blank if first else _label(title), *row, *[blank] * (COLUMNS - len(row))]
    atomic_write_bytes(path, _png(tile(frames, COLUMNS + 1)))


def _label(title: str) -> Array:
    canvas = PygameCanvas(SIDE, SIDE)
    canvas.text(0.5, 0.5, title, 0.13)
    return np.asarray(canvas.frame())


def _png(picture: Array) -> bytes:
    """Return a picture, uint8 [H, W, 3], as a PNG file."""
    import pygame.image

    height, width = picture.shape[:2]
    surface = pygame.image.frombuffer(np.ascontiguousarray(picture).tobytes(), (width, height), "RGB")
    file = io.BytesIO()
    pygame.image.save(surface, file, "sheet.png")
    return file.getvalue()
