"""A sheet of pictures of observations, one row for each title, as a PNG file."""

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
_SIDE = 96  # pixels


def write_sheet(path: Path, rows: Mapping[str, Array], space: Box) -> None:
    """Write the sheet: for each title its observations, [COLUMNS, *observation shape]. Raises OSError."""
    frames = []
    for title, observations in rows.items():
        frames.append(_label(title))
        frames += [observation_picture(observation, space, size=(_SIDE, _SIDE)) for observation in observations]
    atomic_write_bytes(path, _png(tile(frames, COLUMNS + 1)))


def _label(title: str) -> Array:
    canvas = PygameCanvas(_SIDE, _SIDE)
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
