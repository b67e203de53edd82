"""Our Seaquest beside MinAtar's: on the same actions and chances it shows, pays and ends the same in every step."""

from __future__ import annotations

from typing import Any

import numpy as np
from minatar_beside import Call, Fields, Game, chosen, on_side, played_beside
from numpy.typing import NDArray
from rl_lab.envs.seaquest import (
    AIM,
    AIR,
    CREW,
    FASTEST_PACE,
    HEADING,
    SIDE,
    SLOWEST_PACE,
    SLOWEST_SPAWN,
    SUB,
    WAIT,
    X,
    Y,
)
from rl_lab.envs.seaquest import State as SeaquestState

NAMES = {
    "sub_x": "x",
    "sub_y": "y",
    "oxygen": "air",
    "diver_count": "aboard",
    "surface": "surfaced",
    "e_spawn_speed": "spawn",
    "move_speed": "pace",
    "ramp_index": "level",
    "e_spawn_timer": "spawn_wait",
    "d_spawn_timer": "diver_wait",
    "shot_timer": "fire_wait",
}
LISTS = "e_fish", "e_subs", "divers"


def scatter(rng: np.random.Generator, state: np.void) -> None:
    """Put our state anywhere; most swimmers are near the bow or a torpedo, and some just leave."""
    x, y = int(rng.integers(0, SIDE)), rng.choice([0, 1, rng.integers(1, SIDE - 1)])
    state["t"], state["x"], state["y"] = 0, x, y
    state["heading"] = 1 if x == SIDE - 1 else -1 if x == 0 else rng.choice([-1, 1])
    state["surfaced"] = y == 0
    state["air"] = AIR if y == 0 else rng.choice([rng.integers(0, 12), rng.integers(0, AIR + 1)])
    state["aboard"] = rng.choice([-1, 0, 1, CREW - 1, CREW, rng.integers(-3, CREW + 1)])
    state["level"], state["pace"] = rng.integers(0, 30), rng.integers(FASTEST_PACE, SLOWEST_PACE + 1)
    state["spawn"] = rng.choice([1, 2, rng.integers(1, SLOWEST_SPAWN + 1)])
    state["spawn_wait"] = rng.integers(0, SLOWEST_SPAWN) * rng.integers(0, 2)
    state["diver_wait"] = rng.integers(0, 30) * rng.integers(0, 2)
    state["fire_wait"] = rng.integers(0, 5)
    for flying in (state["torpedoes"], state["shots"]):
        flying[...] = rng.integers(0, 1024, (2, SIDE)) & rng.integers(0, 1024, (2, SIDE)) & rng.integers(0, 1024)
        flying[:, [0, 9]] = 0
        flying *= rng.random((2, SIDE)) < 0.3
    # Torpedoes are ahead of where they came from: the boat, no faster, never gets to one, nor they to each other.
    state["torpedoes"][0] &= (1 << x) - 1
    state["torpedoes"][1] &= 1024 - (2 << x)
    rows = [y, y + 1, *np.flatnonzero(state["torpedoes"].any(axis=0)), *rng.integers(1, SIDE, 2)]
    state["them"] = 0
    for kind, (most, pace) in enumerate(((5, state["pace"]), (3, state["pace"]), (2, 5))):
        state["count"][kind] = n = rng.integers(0, most + 1)
        them = state["them"][kind]
        them[:n, X] = rng.integers(0, SIDE, n)
        them[:n, Y] = np.clip(rng.choice(rows, n), 1, SIDE - 2)
        if n > 1 and rng.random() < 0.3:
            them[1] = them[0]  # two in a cell
        them[:n, HEADING] = rng.choice([-1, 1], n)
        them[:n, WAIT] = rng.integers(0, pace + 1, n) * rng.integers(0, 2, n)
        them[:n, AIM] = rng.integers(-1, SIDE, n) * rng.integers(0, 2, n)


def flights(flying: np.ndarray[Any, Any]) -> list[list[Any]]:
    """Return what our bits stand for as MinAtar keeps it: column, row, whether to the right."""
    return [[int(x), int(y), bool(side)] for side, y, x in np.argwhere(flying[:, :, None] >> np.arange(SIDE) & 1)]


def side_of(drawn: int) -> Call:
    return "rand", (), on_side(chosen(drawn, 2) == 0, 1 / 2)


def row_of(drawn: int) -> Call:
    return "randint", (1, SIDE - 1), 1 + chosen(drawn, SIDE - 2)


def bits_of(flights: list[list[Any]]) -> NDArray[np.uint16]:
    rows = np.zeros((2, SIDE), np.uint16)
    for x, y, right in flights:
        rows[int(right), y] |= np.uint16(1 << x)
    return rows


class Seaquest(Game):
    name, codes = "seaquest", (0, 1, 2, 3, 4, 5)

    def write(self, g: Any, s: np.void) -> None:
        for theirs, ours in NAMES.items():
            setattr(g, theirs, int(s[ours]))
        g.sub_or, g.surface = bool(s["heading"] > 0), bool(s["surfaced"])
        for kind, (theirs, n) in enumerate(zip(LISTS, s["count"].tolist(), strict=True)):
            rows = [[x, y, heading > 0, wait, aim + 1] for x, y, heading, wait, aim in s["them"][kind, :n].tolist()]
            setattr(g, theirs, rows if kind == SUB else [row[:AIM] for row in rows])
        g.f_bullets, g.e_bullets = flights(s["torpedoes"]), flights(s["shots"])

    def read(self, g: Any, s: np.void) -> Fields:
        them, count = np.zeros_like(s["them"]), [0, 0, 0]
        for kind, theirs in enumerate(LISTS):
            for i, (x, y, right, wait, *shot) in enumerate(getattr(g, theirs)):
                aim = shot[0] - 1 if kind == SUB else s["them"][kind, i, AIM]
                them[kind, i] = x, y, 2 * right - 1, wait, aim
                count[kind] = i + 1
        fields = {ours: getattr(g, theirs) for theirs, ours in NAMES.items()}
        fields |= {"heading": 2 * g.sub_or - 1, "count": count, "them": them}
        return fields | {"torpedoes": bits_of(g.f_bullets), "shots": bits_of(g.e_bullets)}

    def resets(self, bits: list[int]) -> list[Call]:
        assert not bits
        return []

    def steps(self, before: np.void, bits: list[int]) -> list[Call]:
        calls: list[Call] = []
        if before["spawn_wait"] == 0:
            side, sort, row, *bits = bits
            calls += [side_of(side), ("rand", (), on_side(chosen(sort, 3) == 0, 1 / 3)), row_of(row)]
        if before["diver_wait"] == 0:
            side, row, *bits = bits
            calls += [side_of(side), row_of(row)]
        assert not bits
        return calls

    def sampled(self, rng: np.random.Generator, n: int) -> Fields:
        states = SeaquestState.zeros(n)
        for state in states:
            scatter(rng, state)
        return {field: states[field] for field in states.dtype.names if not field.startswith("rng_")}

    def visits(self, before: NDArray[Any], after: NDArray[Any], rewards: NDArray[Any], over: NDArray[Any]) -> Fields:
        surfaced = before["surfaced"] < after["surfaced"]
        alive = before["air"] > 0
        at_bow = (after["them"][..., X] == after["x"][:, None, None]) & (
            after["them"][..., Y] == after["y"][:, None, None]
        )
        at_bow &= np.arange(at_bow.shape[2]) < after["count"][..., None]
        met = at_bow.any(axis=2)
        came = (before["count"] < after["count"])[:, :2].any(axis=1)
        return {
            "over": over,
            "met a fish": over & alive & met[:, 0] & ~met[:, 1],
            "met a submarine": over & alive & met[:, 1] & ~met[:, 0],
            "met a shot or swam apart": over & alive & ~met[:, :2].any(axis=1) & (after["y"] > 0),
            "out of air": over & ~alive,
            "hit": (rewards == 1) & ~surfaced,
            "two hits in a step": (rewards == 2) & ~surfaced,
            "surfaced with nobody": over & (after["y"] == 0) & (before["y"] == 1) & (before["aboard"] == 0),
            "surfaced with some": surfaced & (before["aboard"] > 0) & (before["aboard"] < CREW),
            "surfaced with a crew": surfaced & (rewards > 2),
            "surfaced owing one": surfaced & (before["aboard"] < 0),
            "faster": before["pace"] > after["pace"],
            "no harder": surfaced & (before["level"] == after["level"]),
            "took in a diver": before["aboard"] < after["aboard"],
            "had no room": met[:, 2] & (before["aboard"] == CREW),
            "an enemy came": (before["spawn_wait"] == 0) & came,
            "an enemy did not": (before["spawn_wait"] == 0) & (rewards == 0) & ~came,
            "long lives": after["t"] > 150,
        }


def test_every_step_is_the_originals() -> None:
    visits = played_beside(Seaquest(), "seaquest", rounds=480)  # there is but one action set to play
    assert visits["steps"] > 100_000 and min(visits.values()) >= 20, visits
