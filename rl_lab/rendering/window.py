"""This module has a pygame window that shows pictures and reports the keys that were pressed.

The command `watch` and the render mode "human" use it. It opens the process's one pygame display.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from rl_lab.core.canvas import INK
from rl_lab.core.errors import WorkFailed
from rl_lab.core.world import Array

if TYPE_CHECKING:
    import pygame

Action = Literal["pause", "step", "faster", "slower", "restart", "quit"]

# Keys by pygame's names, so that this table does not import pygame.
KEYS: dict[str, Action] = {
    **dict.fromkeys(["space"], "pause"),
    **dict.fromkeys(["right", "."], "step"),
    **dict.fromkeys(["up", "+", "=", "[+]"], "faster"),  # = is + without shift; brackets: the number pad
    **dict.fromkeys(["down", "-", "[-]"], "slower"),
    **dict.fromkeys(["r"], "restart"),
    **dict.fromkeys(["q", "escape"], "quit"),
}


class WindowError(WorkFailed, RuntimeError):
    """No window can be opened on this machine."""


def has_display() -> bool:
    """Return True if a window can probably be opened on this machine."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class Window:
    """A resizable window that shows pictures of any size. pygame has one display, so two Windows share it.

    Raises WindowError, also from `show`, which opens the window again if an environment has shut pygame down.
    """

    def __init__(self, title: str, width: int, height: int) -> None:
        # pygame prints a greeting to stdout when it is imported, but --json allows one object and nothing else.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        self._pygame, self._title, self._size = pygame, title, (width, height)
        self._pressed: list[Action] = []
        self._last_wake_time = time.monotonic()
        self._open()

    def _open(self) -> pygame.Surface:
        display = self._pygame.display
        try:
            display.init()
            # Without a display, SDL would open an invisible window instead of failing.
            if not has_display() or display.get_driver() == "offscreen":
                raise self._pygame.error("there is no display")
            surface: pygame.Surface = display.set_mode(self._size, self._pygame.RESIZABLE)
        except self._pygame.error as error:
            display.quit()
            raise WindowError(f"cannot open a window: {error}") from None
        display.set_caption(self._title)
        return surface

    def show(self, frame: Array) -> None:
        """Show a picture, uint8 [height, width, 3], as large as fits into the window."""
        pygame = self._pygame
        opened = pygame.display.get_surface() if pygame.display.get_init() else None
        surface = opened or self._open()
        height, width = frame.shape[:2]
        picture = pygame.image.frombuffer(np.ascontiguousarray(frame).tobytes(), (width, height), "RGB")
        scale = min(surface.get_width() / width, surface.get_height() / height)
        if scale != 1.0:
            # smoothscale needs a surface of the picture's own format.
            picture = pygame.transform.smoothscale(picture, (round(scale * width), round(scale * height)))
        surface.fill(INK[:3])
        surface.blit(picture, picture.get_rect(center=surface.get_rect().center))
        pygame.display.flip()

    def wait(self, seconds: float) -> bool:
        """Wait until `seconds` after the end of the last wait, and handle events meanwhile; return True.

        Return False as soon as a key of KEYS is pressed; the next wait continues with the remaining time.
        """
        end = self._last_wake_time + seconds
        while self._pygame.display.get_init():
            num_pressed = len(self._pressed)
            self._record_keys(self._pygame.event.get())
            left = end - time.monotonic()
            if len(self._pressed) > num_pressed:
                return False
            if left < 0.001:
                break
            self._record_keys([self._pygame.event.wait(int(1000 * left))])
            if len(self._pressed) > num_pressed:
                return False
        time.sleep(max(end - time.monotonic(), 0.0))
        self._last_wake_time = time.monotonic()
        return True

    def events(self) -> list[Action]:
        """Return the user's actions since the last call, oldest first."""
        if self._pygame.display.get_init():
            self._record_keys(self._pygame.event.get())
        pressed, self._pressed = self._pressed, []
        return pressed

    def _record_keys(self, events: Iterable[pygame.event.Event]) -> None:
        for event in events:
            if event.type == self._pygame.QUIT:
                self._pressed.append("quit")
            elif event.type == self._pygame.KEYDOWN:
                action = KEYS.get(self._pygame.key.name(event.key))
                if action is not None:
                    self._pressed.append(action)

    def close(self) -> None:
        """Close the window; pygame itself stays initialized, because other code may draw with it."""
        self._pygame.display.quit()
