"""The lab's Breakout against MinAtar's: with the same actions and random numbers, every step must be equal.

`Breakout` translates between both states; `support.minatar_games` steps both and compares observations, rewards, ends
and states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rl_lab.envs.breakout import ACTIONS, FLOOR, FULL_WALL, ROWS, SIDE, TOP
from support.minatar_games import Call, Fields, Game, integer_from_bits, play_both

DIRECTIONS = (-1, -1), (1, -1), (1, 1), (-1, 1)  # x and y velocity, by MinAtar's number
NAMES = {  # of our fields, by MinAtar's attributes
    "ball_x": "ball_x",
    "ball_y": "ball_y",
    "last_x": "last_x",
    "last_y": "last_y",
    "pos": "paddle",
}
BITS = np.left_shift(1, np.arange(ROWS * SIDE))


class Breakout(Game):
    name, codes = "breakout", ACTIONS

    def write(self, g: Any, s: np.void) -> None:
        for attribute, field in NAMES.items():
            setattr(g, attribute, int(s[field]))
        g.ball_dir, g.strike = DIRECTIONS.index((int(s["velocity_x"]), int(s["velocity_y"]))), bool(s["last_hit_brick"])
        g.brick_map[:] = 0
        g.brick_map[TOP : TOP + ROWS] = (s["bricks"] & BITS > 0).reshape(ROWS, SIDE)

    def read(self, g: Any, s: np.void) -> Fields:
        assert not g.brick_map[:TOP].any() and not g.brick_map[TOP + ROWS :].any()
        fields = {field: getattr(g, attribute) for attribute, field in NAMES.items()}
        fields["velocity_x"], fields["velocity_y"] = DIRECTIONS[g.ball_dir]
        return fields | {"last_hit_brick": g.strike, "bricks": int(g.brick_map[TOP : TOP + ROWS].ravel() @ BITS)}

    def reset_calls(self, bits: list[int]) -> list[Call]:
        return [("randint", (2,), integer_from_bits(bits[0], 2))]

    def step_calls(self, before: np.void, bits: list[int]) -> list[Call]:
        assert not bits
        return []

    def random_states(self, rng: np.random.Generator, n: int) -> Fields:
        left = rng.choice([0, 0.03, 0.5, 1], n)  # of the bricks, about
        bricks = (rng.random((n, ROWS * SIDE)) < left[:, None]) @ BITS
        ball_x = rng.integers(0, SIDE, n)
        return {
            "ball_x": ball_x,
            "ball_y": rng.integers(0, FLOOR, n),
            "last_x": rng.integers(0, SIDE, n),
            "last_y": rng.integers(0, SIDE, n),
            "paddle": np.where(
                rng.random(n) < 0.3, rng.integers(0, SIDE, n), np.clip(ball_x + rng.integers(-3, 4, n), 0, 9)
            ),
            "velocity_x": rng.choice([-1, 1], n),
            "velocity_y": rng.choice([-1, 1], n),
            "last_hit_brick": rng.integers(0, 2, n),
            "bricks": bricks,
        }

    def branches(self, before: NDArray[Any], after: NDArray[Any], rewards: NDArray[Any], done: NDArray[Any]) -> Fields:
        turned = {k: before[f"velocity_{k}"] != after[f"velocity_{k}"] for k in "xy"}
        low, wall = before["ball_y"] == FLOOR - 1, np.isin(before["ball_x"] + before["velocity_x"], [-1, SIDE])
        bounced = low & turned["y"] & (before["velocity_y"] > 0)
        return {
            "over": done,
            "wall": wall & turned["x"] & ~low,
            "ceiling": turned["y"] & (before["velocity_y"] < 0) & (after["ball_y"] == 0) & (rewards == 0),
            "brick": rewards == 1,
            "last brick": (rewards == 1) & (after["bricks"] == 0),
            "through a brick": (before["last_hit_brick"] == 1) & (after["last_hit_brick"] == 1),
            "up off the paddle": bounced & ~wall & ~turned["x"],
            "back off the paddle": bounced & ~wall & turned["x"],
            "off paddle and wall": bounced & wall,
            "new wall": low & (before["bricks"] == 0) & (after["bricks"] == FULL_WALL) & ~done,
            "new wall at the end": low & (before["bricks"] == 0) & (after["bricks"] == FULL_WALL) & done,
        }


@pytest.mark.parametrize("name", ["breakout", "breakout_full"])
def test_every_step_is_minatars(name: str) -> None:
    branches = play_both(Breakout(), name)
    print(branches)
    assert branches["steps"] > 50_000 and min(branches.values()) >= 20, branches
