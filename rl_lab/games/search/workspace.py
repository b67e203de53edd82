"""The records and arrays that searches and their compiled code share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

ANSWER = np.dtype(
    [
        ("action", "i8"),
        ("value", "f8"),  # the return that the agent to move may expect from here on
        ("nodes", "i8"),  # number of simulations, or of actions in the search
        ("exact", "u1"),  # whether the value is proven
    ],
    align=True,
)
NODE = np.dtype(
    [
        ("total", "f8"),  # sum of seat 0's returns over the simulations through this node
        ("path_reward", "f8"),  # sum of seat 0's rewards on the path from the root
        *((name, "i4") for name in ("visits", "parent", "action", "state", "first", "children", "num_expanded")),
        ("seat", "u1"),
        ("over", "u1"),
    ],
    align=True,
)
FRAME = np.dtype(
    [
        *((name, "f8") for name in ("alpha", "beta", "floor", "ceiling", "best", "reward")),
        ("key", "u8"),
        *((name, "i4") for name in ("count", "index", "action", "tried", "hint", "seat")),
        ("open", "u1"),  # whether the value depends on positions beyond the depth limit
    ],
    align=True,
)
TT_ENTRY = np.dtype(
    [
        ("key", "u8"),
        ("value", "f8"),
        *((name, "i4") for name in ("root", "limit", "action")),
        ("kind", "u1"),
        ("open", "u1"),
    ],
    align=True,
)


class SearchBuffers(NamedTuple):
    """The arrays and settings of every search; each thread has its own, except for the roots."""

    roots: Any  # the batch's states, as uint64 [N, words]
    params: Any
    horizon: int
    seed: Any  # uint64
    max_playout_length: int  # actions of a playout
    states: Any
    words: Any  # view of the states, uint64 [M, words]
    mask: Any
    rewards: Any
    stream: Any  # uint64 [1], of random numbers
    stop: int  # address of an int64; where it is not 0, the search returns at once, with any answer


class MctsBuffers(NamedTuple):
    """The memory of Monte Carlo tree search, `templates/mcts.py`."""

    nodes: Any
    simulations: int
    exploration: float
    greedy: bool


class AlphaBetaBuffers(NamedTuple):
    """The memory of minimax, `templates/alphabeta.py`."""

    plies: Any
    actions: Any  # int32 [plies, actions], the legal actions at each ply
    table: Any
    history: Any  # int64 [2, actions], the weight of the cutoffs by each action
    root_values: Any  # float64 [actions], the value of each action at the root
    equal: Any  # int64 [actions], the best actions at the root
    counters: Any  # int64 [3]
    nodes: int
    playouts: int
