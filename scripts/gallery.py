"""Write docs/gallery.png, the picture in the README: one frame of each of sixteen worlds, played by their experts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rl_lab.adapters import make
from rl_lab.rendering.pygame_canvas import tile
from rl_lab.rendering.render import picture

# The number of steps before the frame is drawn, by world. Each was chosen by eye, so that the frame shows the game.
STEPS = {
    "arena": 44,
    "junction": 60,
    "pursuit": 45,
    "swarm": 60,
    "whale": 150,
    "seaquest": 60,
    "space_invaders": 44,
    "breakout": 60,
    "othello": 29,
    "connect_four": 13,
    "leduc_poker": 3,
    "simple_tag": 20,
    "acrobot": 55,
    "freeway": 44,
    "cartpole": 60,
    "catch": 5,
}
COLUMNS = 4
OUT = Path(__file__).parents[1] / "docs" / "gallery.png"


def frame(name: str) -> np.ndarray:
    """Return the frame of a world after its number of steps in the expert's first episode, uint8 [240, 320, 3]."""
    envs = make.make(name, 1, seed=1)
    envs.reset()
    for _ in range(STEPS[name]):
        envs.scripted_actions()  # type: ignore[attr-defined]
        envs.step()
    return picture(envs, 0, left=name, size=(320, 240))


def main() -> None:
    """Write the picture."""
    import pygame

    image = tile([frame(name) for name in STEPS], COLUMNS)
    OUT.parent.mkdir(exist_ok=True)
    pygame.image.save(pygame.image.frombuffer(image.tobytes(), image.shape[1::-1], "RGB"), str(OUT))
    print(OUT)


if __name__ == "__main__":
    main()
