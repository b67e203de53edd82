"""The lab's Asterix against MinAtar's: with the same actions and random numbers, every step must be equal.

`Asterix` translates between both states; `support.minatar_games` steps both and compares observations, rewards, ends
and states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rl_lab.envs.asterix import ENEMY, LEVEL_STEPS, LEVELS, MOVE_INTERVAL, NOTHING, ROWS, SIDE, SPAWN_INTERVAL, TREASURE
from support.minatar_games import Call, Fields, Game, integer_from_bits, number_beside, play_both

NAMES = {  # of our fields, by MinAtar's attributes
    "player_x": "x",
    "player_y": "y",
    "spawn_timer": "spawn_wait",
    "move_timer": "move_wait",
}


class Asterix(Game):
    name, codes = "asterix", (0, 1, 2, 3, 4)

    def write(self, g: Any, s: np.void) -> None:
        for attribute, field in NAMES.items():
            setattr(g, attribute, int(s[field]))
        level, steps = divmod(int(s["t"]), LEVEL_STEPS) if g.ramping else (0, 0)
        level = min(level, LEVELS)
        g.ramp_index, g.ramp_timer, g.spawn_speed, g.move_speed = (
            level,
            100 - steps,
            SPAWN_INTERVAL - level,
            MOVE_INTERVAL - level // 2,
        )
        g.entities = [
            None if kind == NOTHING else [int(column), k + 1, bool(heading > 0), bool(kind == TREASURE)]
            for k, (kind, column, heading) in enumerate(zip(s["kinds"], s["columns"], s["headings"], strict=True))
        ]

    def read(self, g: Any, s: np.void) -> Fields:
        kinds, columns, headings = (list(s[field]) for field in ("kinds", "columns", "headings"))
        for k, entity in enumerate(g.entities):
            kinds[k] = NOTHING
            if entity:
                columns[k], row, right, is_treasure = entity
                assert row == k + 1
                kinds[k], headings[k] = TREASURE if is_treasure else ENEMY, 1 if right else -1
        assert g.shot_timer == 0
        fields = {field: getattr(g, attribute) for attribute, field in NAMES.items()}
        return fields | {"kinds": kinds, "columns": columns, "headings": headings}

    def reset_calls(self, bits: list[int]) -> list[Call]:
        return []

    def step_calls(self, before: np.void, bits: list[int]) -> list[Call]:
        if before["spawn_wait"] > 0:
            assert not bits
            return []
        free = int((before["kinds"] == NOTHING).sum())
        if free == 0:
            return [("rand", (), 0.0), ("rand", (), 0.0)]
        row, kind_bits = divmod(integer_from_bits(bits[0], 6 * free), 6)
        sides = (
            ("rand", (), number_beside(kind_bits < 3, 1 / 2)),
            ("rand", (), number_beside(kind_bits % 3 == 0, 1 / 3)),
        )
        return [*sides, ("randint", (free,), row)]

    def random_states(self, rng: np.random.Generator, n: int) -> Fields:
        x, y, move_wait = rng.integers(0, SIDE, n), rng.integers(1, ROWS + 1, n), rng.integers(0, MOVE_INTERVAL, n)
        is_occupied = rng.random((n, ROWS)) < rng.choice([0.2, 0.7, 1], (n, 1))
        near_columns = np.clip(x[:, None] + rng.integers(-2, 3, (n, ROWS)), 0, SIDE - 1)
        return {
            "x": x,
            "y": y,
            "t": np.where(rng.random(n) < 0.3, LEVEL_STEPS * rng.integers(1, 11, n) - 3, rng.integers(0, 1200, n)),
            "kinds": np.where(is_occupied, rng.choice([ENEMY, TREASURE], (n, ROWS)), NOTHING),
            "columns": np.where(rng.random((n, ROWS)) < 0.5, near_columns, rng.integers(0, SIDE, (n, ROWS))),
            "headings": rng.choice([-1, 1], (n, ROWS)),
            "spawn_wait": np.where(rng.random(n) < 0.5, 0, rng.integers(0, SPAWN_INTERVAL, n)),
            "move_wait": np.where(rng.random(n) < 0.5, 0, move_wait),
        }

    def branches(self, before: NDArray[Any], after: NDArray[Any], rewards: NDArray[Any], done: NDArray[Any]) -> Fields:
        spawned, moved = before["spawn_wait"] == 0, before["move_wait"] == 0
        full = (before["kinds"] != NOTHING).all(axis=1)
        edge = (before["columns"] == np.where(before["headings"] > 0, SIDE - 1, 0)) & (before["kinds"] == TREASURE)
        fastest = (after["spawn_wait"] == 0) & spawned
        return {
            "over": done,
            "over while things move": done & moved,
            "gold": (rewards == 1) & ~moved,
            "gold while things move": (rewards == 1) & moved,
            "something comes": spawned & ~full,
            "no free row": spawned & full,
            "something goes": (edge & (after["kinds"] == NOTHING)).any(axis=1) & (rewards == 0) & moved,
            "fastest": fastest & moved & (after["move_wait"] == 0),
            "next level": (before["t"] % LEVEL_STEPS == LEVEL_STEPS - 1) & ~done,
            "step of a new level": (before["t"] % LEVEL_STEPS == 0) & spawned & moved,
        }


@pytest.mark.parametrize("name", ["asterix", "asterix_full"])
def test_every_step_is_minatars(name: str) -> None:
    branches = play_both(Asterix(), name)
    print(branches)
    assert branches["steps"] > 50_000 and min(branches.values()) >= 20, branches
