"""The lab's Space Invaders against MinAtar's: with the same actions and random numbers, every step must be equal.

`SpaceInvaders` translates between both states; `support.minatar_games` steps both and compares observations, rewards,
ends and states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rl_lab.envs.space_invaders import ACTIONS, COLUMNS, FASTEST_INTERVAL, FLOOR, ROWS, SIDE, SLOWEST_INTERVAL
from support.minatar_games import Call, Fields, Game, play_both

NAMES = {  # of our fields, by MinAtar's attributes
    "pos": "cannon",
    "alien_dir": "heading",
    "enemy_move_interval": "interval",
    "alien_move_timer": "move_wait",
    "alien_shot_timer": "bomb_wait",
    "shot_timer": "fire_wait",
}


def boards(s: np.void) -> Fields:
    """Return MinAtar's boards of a state, by its names. A row of aliens beyond the bottom is drawn at the top."""
    aliens, bullets, bombs = np.zeros((3, SIDE, SIDE))
    for k in range(ROWS * COLUMNS):
        if s["aliens"] >> k & 1:
            aliens[(s["top"] + k // COLUMNS) % SIDE, s["left"] + k % COLUMNS] = 1
    for x, up in zip(s["bullet_x"], s["bullet_up"], strict=True):
        if up:
            bullets[FLOOR - up, x] = 1
    if s["bomb_fall"]:
        bombs[SIDE - s["bomb_fall"], s["bomb_x"]] = 1
    return {"alien_map": aliens, "f_bullet_map": bullets, "e_bullet_map": bombs}


class SpaceInvaders(Game):
    name, codes = "space_invaders", ACTIONS

    def write(self, g: Any, s: np.void) -> None:
        for attribute, field in NAMES.items():
            setattr(g, attribute, int(s[field]))
        for attribute, board in boards(s).items():
            setattr(g, attribute, board)

    def read(self, g: Any, s: np.void) -> Fields:
        for attribute, board in boards(s).items():
            assert np.array_equal(getattr(g, attribute), board), attribute
        return {field: getattr(g, attribute) for attribute, field in NAMES.items()}

    def reset_calls(self, bits: list[int]) -> list[Call]:
        assert not bits
        return []

    def step_calls(self, before: np.void, bits: list[int]) -> list[Call]:
        assert not bits
        return []

    def random_states(self, rng: np.random.Generator, n: int) -> Fields:
        """Return random states: aliens are often at a wall or on the bottom, bullets and bombs where they can be."""
        aliens, left, top = np.zeros((3, n), np.int64)
        for i in range(n):
            mask = rng.random((ROWS, COLUMNS)) < rng.choice([0.0, 0.1, 0.6])
            mask[rng.integers(ROWS), rng.integers(COLUMNS)] = True
            rows, occupied_columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            aliens[i] = sum(1 << int(k) for k in np.flatnonzero(mask))
            left[i] = rng.choice(
                [
                    -occupied_columns[0],
                    rng.integers(-occupied_columns[0], SIDE - occupied_columns[-1]),
                    FLOOR - occupied_columns[-1],
                ]
            )
            top[i] = rng.choice([rng.integers(0, SIDE - rows[-1]), FLOOR - rows[-1], FLOOR - 1 - rows[-1]])
        steps_since_shot = rng.integers(1, 15, n)
        up = np.stack((steps_since_shot, steps_since_shot + rng.integers(5, 9, n)), axis=1)
        bomb_wait = rng.integers(0, 10, n)
        return {
            "cannon": rng.integers(0, SIDE, n),
            "aliens": aliens,
            "left": left,
            "top": top,
            "heading": rng.choice([-1, 1], n),
            "interval": np.maximum(rng.integers(0, SLOWEST_INTERVAL + 1, n), FASTEST_INTERVAL),
            "move_wait": rng.integers(0, SLOWEST_INTERVAL, n) * rng.integers(0, 2, n),
            "bomb_wait": bomb_wait,
            "fire_wait": np.maximum(5 - steps_since_shot, 0),
            "bullet_x": rng.integers(0, SIDE, (n, 2)),
            "bullet_up": np.where((up <= FLOOR) & (rng.random((n, 2)) < 0.8), up, 0),
            "bomb_x": rng.integers(0, SIDE, n),
            "bomb_fall": rng.integers(0, bomb_wait + 2),
            "t": np.zeros(n, np.int64),
        }

    def branches(self, before: NDArray[Any], after: NDArray[Any], rewards: NDArray[Any], done: NDArray[Any]) -> Fields:
        new, moved = before["aliens"] < after["aliens"], before["move_wait"] == 0
        bombed = (after["bomb_fall"] == 1) & (after["bomb_x"] == after["cannon"]) & (before["bomb_fall"] == 2)
        down = (before["top"] < after["top"]) & ~new
        on_bottom = (before["aliens"] >> np.clip(COLUMNS * (FLOOR - before["top"]), 0, 63)) & (2**COLUMNS - 1) > 0
        return {
            "over": done,
            "bombed": done & bombed & ~on_bottom,
            "turned on the bottom": done & ~bombed & down & on_bottom,
            "run over from above": done & ~bombed & down & ~on_bottom,
            "run over from the side": done & ~bombed & ~down & moved & on_bottom,
            "ran into one": done & ~bombed & ~moved,
            "down and round": down & ~done,
            "hit": rewards == 1,
            "no bullet is ready": (before["fire_wait"] > 0) & (after["action"] == 5),
            "bomb": (before["bomb_wait"] == 0) & (after["bomb_fall"] > 1),
            "new wave, faster": new & (before["interval"] > after["interval"]),
            "new wave, no faster": new & (before["interval"] == after["interval"]),
            "one alien": moved & (after["move_wait"] == 0),
        }


@pytest.mark.parametrize("name", ["space_invaders", "space_invaders_full"])
def test_every_step_is_minatars(name: str) -> None:
    branches = play_both(SpaceInvaders(), name)
    assert branches["steps"] > 50_000 and min(branches.values()) >= 20, branches
