"""The lab's Seaquest against MinAtar's: with the same actions and random numbers, every step must be equal.

`Seaquest` translates between both states; `support.minatar_games` steps both and compares observations, rewards, ends
and states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rl_lab.envs._seaquest import (
    AIM,
    BITS_PER_WORD,
    DIVER,
    FISH,
    HEADING,
    KIND,
    LONGEST_REST,
    MAX_AIR,
    MAX_DIVERS,
    SHORTEST_REST,
    SIDE,
    SLOWEST_SPAWN_INTERVAL,
    SUB,
    WAIT,
    X,
    Y,
)
from rl_lab.envs._seaquest import State as SeaquestState
from support.minatar_games import Call, Fields, Game, integer_from_bits, number_beside, play_both

NAMES = {  # of our fields, by MinAtar's attributes
    "sub_x": "x",
    "sub_y": "y",
    "oxygen": "air",
    "diver_count": "divers_aboard",
    "surface": "is_surfaced",
    "e_spawn_speed": "spawn_interval",
    "move_speed": "enemy_rest",
    "ramp_index": "level",
    "e_spawn_timer": "spawn_wait",
    "d_spawn_timer": "diver_wait",
    "shot_timer": "fire_wait",
}
LISTS = {"e_fish": FISH, "e_subs": SUB, "divers": DIVER}


def scatter(rng: np.random.Generator, state: np.void) -> None:
    """Write a random state; most swimmers are near the bow or a torpedo, and some are about to leave."""
    x, y = int(rng.integers(0, SIDE)), rng.choice([0, 1, rng.integers(1, SIDE - 1)])
    state["t"], state["x"], state["y"] = 0, x, y
    state["heading"] = 1 if x == SIDE - 1 else -1 if x == 0 else rng.choice([-1, 1])
    state["is_surfaced"] = y == 0
    state["air"] = MAX_AIR if y == 0 else rng.choice([rng.integers(0, 12), rng.integers(0, MAX_AIR + 1)])
    state["divers_aboard"] = rng.choice([-1, 0, 1, MAX_DIVERS - 1, MAX_DIVERS, rng.integers(-3, MAX_DIVERS + 1)])
    state["level"], state["enemy_rest"] = rng.integers(0, 30), rng.integers(SHORTEST_REST, LONGEST_REST + 1)
    state["spawn_interval"] = rng.choice([1, 2, rng.integers(1, SLOWEST_SPAWN_INTERVAL + 1)])
    state["spawn_wait"] = rng.integers(0, SLOWEST_SPAWN_INTERVAL) * rng.integers(0, 2)
    state["diver_wait"] = rng.integers(0, 30) * rng.integers(0, 2)
    state["fire_wait"] = rng.integers(0, 5)
    boards = (
        rng.integers(0, 1024, (2, 2, SIDE)) & rng.integers(0, 1024, (2, 2, SIDE)) & rng.integers(0, 1024, (2, 1, 1))
    )
    boards[..., [0, 9]] = 0
    boards *= rng.random(boards.shape) < 0.3
    # Torpedoes are ahead of where they came from: the boat, no faster, never gets to one, nor they to each other.
    boards[0, 0] &= (1 << x) - 1
    boards[0, 1] &= 1024 - (2 << x)
    state["torpedoes"], state["shots"] = words_of(boards)
    rows = [y, y + 1, *np.flatnonzero(boards[0].any(axis=0)), *rng.integers(1, SIDE, 2)]
    swimmers: list[list[int]] = []
    for kind, (most, pace) in zip(
        LISTS.values(), ((5, state["enemy_rest"]), (3, state["enemy_rest"]), (2, 5)), strict=True
    ):
        n = rng.integers(0, most + 1)
        group = np.zeros((n, 6), np.int64)
        group[:, X] = rng.integers(0, SIDE, n)
        group[:, Y] = np.clip(rng.choice(rows, n), 1, SIDE - 2)
        if n > 1 and rng.random() < 0.3:
            group[1] = group[0]  # two in a cell
        group[:, HEADING] = rng.choice([-1, 1], n)
        group[:, WAIT] = rng.integers(0, pace + 1, n) * rng.integers(0, 2, n)
        group[:, AIM] = rng.integers(-1, SIDE, n) * rng.integers(0, 2, n)
        group[:, KIND] = kind
        swimmers += group.tolist()
    rng.shuffle(swimmers)  # kinds come in any order
    state["num_swimmers"], state["swimmers"] = len(swimmers), 0
    state["swimmers"][: len(swimmers)] = np.reshape(swimmers, (-1, 6))


def words_of(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return boards [..., 2, rows] of 10-bit numbers as the int64 words of our state, [..., 2, 2]."""
    halves = rows.reshape(*rows.shape[:-1], 2, SIDE // 2).astype(np.int64)
    return np.bitwise_or.reduce(halves << SIDE * np.arange(SIDE // 2), axis=-1)


def bullets(words: np.ndarray[Any, Any]) -> list[list[Any]]:
    """Return bullets as MinAtar has them, column, row and whether to the right, of the bits of our state."""
    bits = (words[:, :, None] >> np.arange(BITS_PER_WORD) & 1).reshape(2, SIDE, SIDE)
    return [[int(x), int(y), bool(side)] for side, y, x in np.argwhere(bits)]


def side_call(random_bits: int) -> Call:
    """Return MinAtar's call for the side from which something comes."""
    return "rand", (), number_beside(integer_from_bits(random_bits, 2) == 0, 1 / 2)


def row_call(random_bits: int) -> Call:
    """Return MinAtar's call for the row in which something comes."""
    return "randint", (1, SIDE - 1), 1 + integer_from_bits(random_bits, SIDE - 2)


def bits_of(bullets: list[list[Any]]) -> NDArray[np.int64]:
    """Return MinAtar's bullets as the bits of our state."""
    rows = np.zeros((2, SIDE), np.int64)
    for x, y, right in bullets:
        rows[int(right), y] |= 1 << x
    return words_of(rows)


class Seaquest(Game):
    name, codes = "seaquest", (0, 1, 2, 3, 4, 5)

    def write(self, g: Any, s: np.void) -> None:
        for attribute, field in NAMES.items():
            setattr(g, attribute, int(s[field]))
        g.sub_or, g.surface = bool(s["heading"] > 0), bool(s["is_surfaced"])
        for attribute, kind in LISTS.items():
            swimmers = [row for row in s["swimmers"][: s["num_swimmers"]].tolist() if row[KIND] == kind]
            rows = [[x, y, heading > 0, wait, aim + 1] for x, y, heading, wait, aim, _ in swimmers]
            setattr(g, attribute, rows if kind == SUB else [row[:AIM] for row in rows])
        g.f_bullets, g.e_bullets = bullets(s["torpedoes"]), bullets(s["shots"])

    def read(self, g: Any, s: np.void) -> Fields:
        # MinAtar has a list for each kind, we have one list: each of ours must be the next one of its kind.
        lists = {kind: list(getattr(g, attribute)) for attribute, kind in LISTS.items()}
        swimmers = np.zeros_like(s["swimmers"])
        for i, swimmer in enumerate(s["swimmers"][: s["num_swimmers"]]):
            if lists[swimmer[KIND]]:
                x, y, right, wait, *shot = lists[swimmer[KIND]].pop(0)
                swimmers[i] = x, y, 2 * right - 1, wait, shot[0] - 1 if shot else swimmer[AIM], swimmer[KIND]
        count = s["num_swimmers"] + sum(map(len, lists.values()))  # with those that we do not have
        fields = {field: getattr(g, attribute) for attribute, field in NAMES.items()}
        fields |= {"heading": 2 * g.sub_or - 1, "num_swimmers": count, "swimmers": swimmers}
        return fields | {"torpedoes": bits_of(g.f_bullets), "shots": bits_of(g.e_bullets)}

    def reset_calls(self, bits: list[int]) -> list[Call]:
        assert not bits
        return []

    def step_calls(self, before: np.void, bits: list[int]) -> list[Call]:
        calls: list[Call] = []
        if before["spawn_wait"] == 0:
            side, kind_bits, row, *bits = bits
            calls += [
                side_call(side),
                ("rand", (), number_beside(integer_from_bits(kind_bits, 3) == 0, 1 / 3)),
                row_call(row),
            ]
        if before["diver_wait"] == 0:
            side, row, *bits = bits
            calls += [side_call(side), row_call(row)]
        assert not bits
        return calls

    def random_states(self, rng: np.random.Generator, n: int) -> Fields:
        states = SeaquestState.zeros(n)
        for state in states:
            scatter(rng, state)
        return {field: states[field] for field in states.dtype.names if not field.startswith("rng_")}

    def branches(self, before: NDArray[Any], after: NDArray[Any], rewards: NDArray[Any], done: NDArray[Any]) -> Fields:
        surfaced = before["is_surfaced"] < after["is_surfaced"]
        alive = before["air"] > 0
        kinds = after["swimmers"][..., KIND]  # 0 where there is no swimmer
        at_bow = (after["swimmers"][..., X] == after["x"][:, None]) & (after["swimmers"][..., Y] == after["y"][:, None])
        fish, submarine, diver = ((at_bow & (kinds == kind)).any(axis=1) for kind in LISTS.values())
        enemies = [((state["swimmers"][..., KIND] % DIVER) > 0).sum(axis=1) for state in (before, after)]
        came = enemies[0] < enemies[1]
        return {
            "over": done,
            "met a fish": done & alive & fish & ~submarine,
            "met a submarine": done & alive & submarine & ~fish,
            "met a shot or swam apart": done & alive & ~fish & ~submarine & (after["y"] > 0),
            "out of air": done & ~alive,
            "hit": (rewards == 1) & ~surfaced,
            "two hits in a step": (rewards == 2) & ~surfaced,
            "surfaced without divers": done & (after["y"] == 0) & (before["y"] == 1) & (before["divers_aboard"] == 0),
            "surfaced with some": surfaced & (before["divers_aboard"] > 0) & (before["divers_aboard"] < MAX_DIVERS),
            "surfaced with a crew": surfaced & (rewards > 2),
            "surfaced owing one": surfaced & (before["divers_aboard"] < 0),
            "faster": before["enemy_rest"] > after["enemy_rest"],
            "no harder": surfaced & (before["level"] == after["level"]),
            "took in a diver": before["divers_aboard"] < after["divers_aboard"],
            "had no room": diver & (before["divers_aboard"] == MAX_DIVERS),
            "an enemy came": (before["spawn_wait"] == 0) & came,
            "an enemy did not": (before["spawn_wait"] == 0) & (rewards == 0) & ~came,
            "long lives": after["t"] > 150,
        }


def test_every_step_is_minatars() -> None:
    branches = play_both(Seaquest(), "seaquest", rounds=480)  # twice as many, because it has one set of actions only
    assert branches["steps"] > 100_000 and min(branches.values()) >= 20, branches
