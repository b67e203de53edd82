"""What searches and their compiled code agree on: the records and arrays that a search works with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

ANSWER = np.dtype(
    [
        ("action", "i8"),
        ("value", "f8"),  # what the mover may expect to be paid from here on
        ("nodes", "i8"),  # simulations, or actions taken
        ("exact", "u1"),  # whether the value is proven
    ],
    align=True,
)
NODE = np.dtype(
    [
        ("total", "f8"),  # of what seat 0 got in the simulations that came by
        ("paid", "f8"),  # of it on the way here from the root
        *((name, "i4") for name in ("visits", "parent", "action", "state", "first", "children", "met")),
        ("seat", "u1"),
        ("over", "u1"),
    ],
    align=True,
)
PLY = np.dtype(
    [
        *((name, "f8") for name in ("alpha", "beta", "floor", "ceiling", "best", "reward")),
        ("key", "u8"),
        *((name, "i4") for name in ("count", "index", "action", "tried", "hint", "seat")),
        ("open", "u1"),  # whether there is more to see beyond the depth searched
    ],
    align=True,
)
ENTRY = np.dtype(
    [
        ("key", "u8"),
        ("value", "f8"),
        *((name, "i4") for name in ("root", "limit", "action")),
        ("kind", "u1"),
        ("open", "u1"),
    ],
    align=True,
)


class Desk(NamedTuple):
    """What every search works on; each thread has its own, but for the roots."""

    roots: Any  # the batch's states, as uint64 [N, words]
    params: Any
    horizon: int
    seed: Any  # uint64
    longest: int  # actions of a playout
    states: Any
    words: Any  # the states again, uint64 [M, words]
    mask: Any
    rewards: Any
    stream: Any  # uint64 [1], of random numbers


class Tree(NamedTuple):
    """What `uct.py` has besides."""

    nodes: Any
    simulations: int
    exploration: float
    greedy: bool


class Board(NamedTuple):
    """What `alphabeta.py` has besides."""

    plies: Any
    actions: Any  # int32 [plies, actions]: what may be done at each ply
    table: Any
    history: Any  # int64 [2, actions]: how much each has cut off
    worth: Any  # float64 [actions], at the root
    equal: Any  # int64 [actions]: the best at the root
    counters: Any  # int64 [3]
    nodes: int
    playouts: int
