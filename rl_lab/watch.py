"""Watching an agent play: in a window where there is a display, as films where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .adapters.pygame_canvas import PygameCanvas
from .adapters.window import Window, WindowError, has_display
from .agent import Agent
from .canvas import BACKGROUND, INK
from .evaluate import EVALUATION_SEED, evaluate
from .film import Show, film, film_grid
from .world import Array

_FOOTER = 28  # pixels of the line that explains the keys, dark to tell it from the world
_QUIET, _ALERT = (165, 170, 178), (242, 166, 60)  # on INK
_SMOOTH = 60  # pictures a second; of worlds that go faster, not every step is shown
_SLOWEST, _FASTEST = 0.125, 64.0


def watch(
    agent: Agent,
    world: str,
    params: dict[str, Any],
    *,
    out: Path,
    seed: int = EVALUATION_SEED,
    window: bool | None = None,
    grid: int | None = None,
    episodes: int | None = None,
    opponent: Agent | None = None,
    role: str = "",
    deterministic: bool = True,
) -> list[Path]:
    """Show an agent playing, the first episode from `seed`, the next from `seed + 1` and so on.

    In a window it plays `episodes`, by default until the user quits, and returns no paths. Without one it
    films `episodes`, by default one, into the folder `out`, and returns the films' paths. With `grid`, that
    many worlds play side by side; as a film, for twelve seconds. `opponent` and `role` as `evaluate` has them.

    `window` is true, false, or None for a window where one can be opened. Raises ValueError for numbers below
    1, WindowError where `window` is true and none can be opened, and as `evaluate` and `film` do.
    """
    for name, value in (("episodes", episodes), ("grid", grid)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    against: dict[str, Any] = {"opponent": opponent, "role": role}
    if window or (window is None and has_display()):
        try:
            show = Show(agent, world, params, grid or 1, seed=seed, deterministic=deterministic, **against)
            _watch_live(agent, show, episodes)
            return []
        except WindowError:  # a display that is named but not there, as on a machine one has left
            if window:
                raise
    name = world.replace(":", "-").replace("/", "-")
    if grid is not None:
        path = out / f"{name}-{grid}-worlds-seed{seed}.mp4"
        return [film_grid(agent, world, params, path, count=grid, seed=seed, deterministic=deterministic, **against)]
    played = evaluate(
        agent, world, params, episodes=episodes or 1, first_seed=seed, deterministic=deterministic, worlds=1, **against
    )
    return [film(e, world, params, out / f"{name}-seed{e.seed}.mp4") for e in played.episodes]


def _watch_live(agent: Agent, show: Show, episodes: int | None) -> None:
    try:
        height, width = show.frame().shape[:2]
        window = Window(f"{show.worlds.world.name}  {agent.name}", width, height + _FOOTER)
        try:
            _play(show, window, PygameCanvas(width, _FOOTER), episodes)
        finally:
            window.close()
    finally:
        show.close()


def _play(show: Show, window: Window, footer: PygameCanvas, episodes: int | None) -> None:
    """Show until the user quits, or so many episodes have ended and their end has been seen."""
    fps = show.worlds.world.frames_per_second
    paused, speed = False, 1.0
    while episodes is None or show.shown < episodes:
        window.show(np.vstack([show.frame(), _explained(footer, paused, speed)]))
        stride = max(round(fps * speed / _SMOOTH), 1)
        due = window.wait(0.1 if paused else stride / (fps * speed))
        steps = stride if due and not paused else 0
        for action in window.events():
            match action:
                case "quit":
                    return
                case "pause":
                    paused = not paused
                case "step":
                    paused, steps = True, 1
                case "faster":
                    speed = min(2 * speed, _FASTEST)
                case "slower":
                    speed = max(speed / 2, _SLOWEST)
                case "restart":
                    show.restart()
                    steps = 0
        for _ in range(steps):
            show.step()


def _explained(footer: PygameCanvas, paused: bool, speed: float) -> Array:
    """Return the line below the picture: what the keys do, and how fast the world goes."""
    footer.view(0, 0, footer.width, _FOOTER)
    footer.clear(INK)
    keys = ["space", "right", "up down", "r", "q"]
    meanings = ["play" if paused else "pause", "one step", "speed", "restart", "quit"]
    for x, key, meaning in zip((54, 158, 304, 384, 466), keys, meanings, strict=True):
        footer.text(x, _FOOTER / 2, key, 15, BACKGROUND, "right")
        footer.text(x + 6, _FOOTER / 2, meaning, 15, _QUIET, "left")
    state = "paused" if paused else f"{speed:g}x"
    footer.text(footer.width - 12, _FOOTER / 2, state, 15, _ALERT if paused else BACKGROUND, "right")
    return footer.frame()
