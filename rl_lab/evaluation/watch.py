"""Show an agent that plays: in a window where there is a display, and as video files where there is none.

`rl-lab watch` calls `watch`. In a window, `play_in_window` alternates between drawing a frame, waiting for the time of
the next one and handling keys. Without a display, the videos are those of `video.film` and `video.film_grid`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.core.agent import Agent
from rl_lab.core.canvas import BACKGROUND, INK
from rl_lab.core.world import Array
from rl_lab.evaluation.evaluate import EVALUATION_SEED, evaluate
from rl_lab.evaluation.video import LiveView, film, film_grid
from rl_lab.rendering.pygame_canvas import PygameCanvas
from rl_lab.rendering.window import Window, WindowError, has_display

_FOOTER = 28  # height in pixels of the line that explains the keys
_LABEL_COLOR, _PAUSED_COLOR = (165, 170, 178), (242, 166, 60)  # on a background of INK
_MAX_FRAME_RATE = 60  # frames per second; in faster worlds, a frame covers several steps
_MIN_SPEED, _MAX_SPEED = 0.125, 64.0  # relative to real time


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
    opponent_deterministic: bool | None = None,
) -> list[Path]:
    """Show an agent that plays episodes from the seeds `seed`, `seed + 1` and so on.

    In a window, it plays `episodes`, by default until the user quits, and no paths are returned. Without a window,
    `episodes` videos, by default one, are written into the folder `out`, and their paths are returned. With `grid`,
    this number of environments is shown in tiles; a video of them lasts twelve seconds. `opponent`, `role` and the
    modes are those of `evaluate`. `window` is True, False, or None for a window where one can be opened.

    Raises:
        ValueError: a number is below 1; or as `evaluate` and `film` do.
        WindowError: `window` is True and no window can be opened.
    """
    for name, value in (("episodes", episodes), ("grid", grid)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    against: dict[str, Any] = {"opponent": opponent, "role": role, "opponent_deterministic": opponent_deterministic}
    if window or (window is None and has_display()):
        try:
            view = LiveView(agent, world, params, grid or 1, seed=seed, deterministic=deterministic, **against)
            _watch_live(agent, view, episodes)
            return []
        except WindowError:  # DISPLAY names a display that does not exist any more
            if window:
                raise
    name = world.replace(":", "-").replace("/", "-")
    if grid is not None:
        path = out / f"{name}-{grid}-worlds-seed{seed}.mp4"
        return [film_grid(agent, world, params, path, num_envs=grid, seed=seed, deterministic=deterministic, **against)]
    evaluation = evaluate(
        agent,
        world,
        params,
        episodes=episodes or 1,
        first_seed=seed,
        deterministic=deterministic,
        num_envs=1,
        **against,
    )
    return [film(e, world, params, out / f"{name}-seed{e.seed}.mp4") for e in evaluation.episodes]


def _watch_live(agent: Agent, view: LiveView, episodes: int | None) -> None:
    """Open a window, play in it, and close the window and the environments. Raises WindowError where none opens."""
    try:
        height, width = view.frame().shape[:2]
        window = Window(f"{view.envs.world.name}  {agent.name}", width, height + _FOOTER)
        try:
            play_in_window(view, window, PygameCanvas(width, _FOOTER), episodes)
        finally:
            window.close()
    finally:
        view.close()


def play_in_window(view: LiveView, window: Window, footer: PygameCanvas, episodes: int | None) -> None:
    """Show the environments until the user quits, or the ends of `episodes` episodes have been shown."""
    fps = view.envs.world.frames_per_second
    paused, speed = False, 1.0
    while episodes is None or view.episodes_shown < episodes:
        window.show(np.vstack([view.frame(), _footer_line(footer, paused, speed)]))
        stride = max(round(fps * speed / _MAX_FRAME_RATE), 1)
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
                    speed = min(2 * speed, _MAX_SPEED)
                case "slower":
                    speed = max(speed / 2, _MIN_SPEED)
                case "restart":
                    view.restart()
                    steps = 0
        for _ in range(steps):
            view.step()


def _footer_line(footer: PygameCanvas, paused: bool, speed: float) -> Array:
    """Return the line below the picture, uint8 [_FOOTER, W, 3], which explains the keys and shows the speed."""
    footer.view(0, 0, footer.width, _FOOTER)
    footer.clear(INK)
    keys = ["space", "right", "up down", "r", "q"]
    meanings = ["play" if paused else "pause", "one step", "speed", "restart", "quit"]
    for x, key, meaning in zip((54, 158, 304, 384, 466), keys, meanings, strict=True):
        footer.text(x, _FOOTER / 2, key, 15, BACKGROUND, "right")
        footer.text(x + 6, _FOOTER / 2, meaning, 15, _LABEL_COLOR, "left")
    state = "paused" if paused else f"{speed:g}x"
    footer.text(footer.width - 12, _FOOTER / 2, state, 15, _PAUSED_COLOR if paused else BACKGROUND, "right")
    return footer.frame()
