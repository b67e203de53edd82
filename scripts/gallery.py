"""Draw docs/gallery.png, the README's picture: a frame of every world, played by its expert."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rl_lab import batch, worlds
from rl_lab.adapters.pygame_canvas import tile
from rl_lab.picture import picture

STEPS = {"cartpole": 60, "catch": 5, "grotto": 150, "acrobot": 55, "mountain_car": 85, "pendulum": 30}
OUT = Path(__file__).parents[1] / "docs" / "gallery.png"


def frame(name: str) -> np.ndarray:
    """Return world `name` some steps into its expert's first episode, uint8 [240, 320, 3]."""
    played = batch.make(name, 1, seed=1)
    played.reset()
    for _ in range(STEPS.get(name, 40)):
        played.scripted_actions()  # type: ignore[attr-defined]
        played.step()
    return picture(played, 0, left=name, size=(320, 240))


def main() -> None:
    """Write the picture."""
    import pygame

    names = [name for name in worlds.names() if worlds.load(name).draw and name != "mountain_car_continuous"]
    image = tile([frame(name) for name in names], 3)
    OUT.parent.mkdir(exist_ok=True)
    pygame.image.save(pygame.image.frombuffer(image.tobytes(), image.shape[1::-1], "RGB"), str(OUT))
    print(OUT)


if __name__ == "__main__":
    main()
