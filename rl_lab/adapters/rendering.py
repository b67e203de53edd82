"""This module has seeds and rendering for the environments of one world: LabEnv, LabAECEnv and LabParallelEnv.

`RenderMixin.render` draws the batch's first world; in "human" mode it opens a window.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.batch import NUM_SEEDS, Batch

RENDER_MODES = ["rgb_array", "human"]


def engine_seed(seed: int) -> int:
    """Return a seed for the engine. Raises ValueError for one that is no integer of at least 0."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed={seed!r}: expected an integer of at least 0")
    # The engine's seeds are 32 bits; larger ones are hashed down so that they stay distinct in practice.
    return int(seed) if seed < NUM_SEEDS else int(np.random.SeedSequence(int(seed)).generate_state(1)[0])


def check_render_mode(mode: str | None) -> None:
    """Raise ValueError for a render mode that is not supported."""
    if mode not in (None, *RENDER_MODES):
        raise ValueError(f"render_mode={mode!r}: expected one of {RENDER_MODES}")


class RenderMixin:
    """A mixin with `render` and `close` for an environment over a batch of one world."""

    batch: Batch
    render_mode: str | None
    metadata: dict[str, Any]
    _window: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy does not share the window: it opens its own.
        return {name: value for name, value in vars(self).items() if name != "_window"}

    def render(self) -> Any:
        """Return a picture, uint8 [height, width, 3]; in "human" mode show it in a window and return None."""
        from rl_lab.rendering.render import picture

        if self.render_mode is None:
            return None
        frame = picture(self.batch, 0)
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            from rl_lab.rendering.window import Window

            self._window = Window(self.batch.world.name, frame.shape[1], frame.shape[0])
        self._window.show(frame)
        self._window.wait(1.0 / self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._window is not None:
            self._window.close()
            self._window = None
