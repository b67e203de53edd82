"""The lab's Freeway against MinAtar's: with the same actions and random numbers, every step must be equal.

`Freeway` translates between both states; `support.minatar_games` steps both and compares observations, rewards, ends
and states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rl_lab.envs.freeway import ACTIONS, BOTTOM, CHICKEN_COLUMN, LANES, MAX_FRAMES, NUM_SPEEDS, REST_STEPS, SIDE
from support.minatar_games import Call, Fields, Game, integer_from_bits, play_both


class Freeway(Game):
    name, codes = "freeway", ACTIONS

    def write(self, g: Any, s: np.void) -> None:
        g.pos, g.move_timer, g.terminate_timer = int(s["row"]), int(s["rest"]), MAX_FRAMES - int(s["t"])
        lanes = zip(s["cars"].tolist(), range(1, LANES + 1), s["waits"].tolist(), s["speeds"].tolist(), strict=True)
        g.cars = [list(car) for car in lanes]

    def read(self, g: Any, s: np.void) -> Fields:
        cars, rows, waits, speeds = zip(*g.cars, strict=True)
        assert rows == tuple(range(1, LANES + 1))
        t = MAX_FRAMES - g.terminate_timer
        return {"row": g.pos, "rest": g.move_timer, "t": t, "cars": cars, "waits": waits, "speeds": speeds}

    def reset_calls(self, bits: list[int]) -> list[Call]:
        numbers = np.array([integer_from_bits(each, 2 * NUM_SPEEDS) for each in bits])
        # Not 0.5 itself, at which MinAtar's car would stand still.
        sides = np.where(numbers < NUM_SPEEDS, np.nextafter(0.5, 1), np.nextafter(0.5, 0))
        return [("randint", (1, NUM_SPEEDS + 1, LANES), 1 + numbers % NUM_SPEEDS), ("rand", (LANES,), sides)]

    def step_calls(self, before: np.void, bits: list[int]) -> list[Call]:
        return self.reset_calls(bits) if bits else []

    def random_states(self, rng: np.random.Generator, n: int) -> Fields:
        speeds = rng.integers(1, NUM_SPEEDS + 1, (n, LANES))
        return {
            "row": rng.choice([rng.integers(1, SIDE, n), np.full(n, 1)]),
            "rest": np.where(rng.random(n) < 0.5, 0, rng.integers(0, REST_STEPS + 1, n)),
            "t": np.where(rng.random(n) < 0.1, MAX_FRAMES - 3, rng.integers(0, MAX_FRAMES, n)),
            "cars": np.where(
                rng.random((n, LANES)) < 0.5,
                CHICKEN_COLUMN + rng.integers(-1, 2, (n, LANES)),
                rng.integers(0, SIDE, (n, LANES)),
            ),
            "speeds": speeds * rng.choice([-1, 1], (n, LANES)),
            "waits": rng.integers(0, speeds + 1),
        }

    def branches(self, before: NDArray[Any], after: NDArray[Any], rewards: NDArray[Any], done: NDArray[Any]) -> Fields:
        hit = (before["row"] < BOTTOM - 1) & (after["row"] == BOTTOM) & (rewards == 0)
        rows = np.arange(len(before)), np.clip(before["row"] - 1, 0, LANES - 1)
        parked = before["cars"][rows] == CHICKEN_COLUMN
        change = after["cars"] - before["cars"].astype(int)
        return {
            "over": done,
            "crossed": rewards == 1,
            "up": after["row"] == before["row"] - 1,
            "down": after["row"] == before["row"] + 1,
            "hit by a car that was there": hit & parked,
            "hit by a car that came": hit & ~parked & (before["rest"] > 0),
            "round the right edge": (change == 1 - SIDE).any(axis=1),
            "round the left edge": (change == SIDE - 1).any(axis=1),
            "slowest": (np.abs(after["speeds"]) == NUM_SPEEDS).any(axis=1),
        }


@pytest.mark.parametrize("name", ["freeway", "freeway_full"])
def test_every_step_is_minatars(name: str) -> None:
    branches = play_both(Freeway(), name)
    print(branches)
    assert branches["steps"] > 50_000 and min(branches.values()) >= 20, branches
