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
        ("visits", "i4"),  # number of simulations through this node
        ("parent", "i4"),  # the parent's row, -1 for the root
        ("action", "i4"),  # the action that leads here from the parent
        ("state", "i4"),  # where its state is stored, from its first visit on
        ("first", "i4"),  # the row of its first child; 0 until it is expanded
        ("children", "i4"),  # number of children; 0 too if the game is over, or if there was no room for them
        ("num_visited_children", "i4"),  # these are the first of its children
        ("seat", "u1"),  # of the agent to move
        ("over", "u1"),  # whether the game has ended
    ],
    align=True,
)
# A ply of the search that is under way, and an entry of the table of positions (transposition table).
FRAME = np.dtype(
    [
        ("alpha", "f8"),
        ("beta", "f8"),
        ("floor", "f8"),  # alpha and beta when the ply was entered
        ("ceiling", "f8"),
        ("best", "f8"),  # the value so far, of seat 0
        ("reward", "f8"),  # of seat 0 for the action that is tried, discounted by its depth
        ("key", "u8"),  # hash of the position
        ("count", "i4"),  # legal actions
        ("index", "i4"),  # of the action that is tried next
        ("action", "i4"),  # the best so far
        ("tried", "i4"),  # the action that is searched
        ("hint", "i4"),  # the table's best action, -1 where it has none
        ("seat", "i4"),  # of the agent to move
        ("open", "u1"),  # whether the value depends on positions beyond the depth limit
    ],
    align=True,
)
TT_ENTRY = np.dtype(
    [
        ("key", "u8"),  # hash of the position
        ("value", "f8"),
        ("root", "i4"),  # the number of the root for which it was written
        ("limit", "i4"),  # the depth of that search
        ("action", "i4"),  # the best
        ("kind", "u1"),  # EXACT, AT_LEAST or AT_MOST
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

    plies: Any  # FRAME [depth + 1]
    actions: Any  # int32 [plies, actions], the legal actions at each ply
    table: Any  # TT_ENTRY [a power of two]
    history: Any  # int64 [2, actions], the weight of the cutoffs by each action
    root_values: Any  # float64 [actions], the value of each action at the root
    equal: Any  # int64 [actions], the best actions at the root
    counters: Any  # int64 [3], see NUM_ACTIONS, ROOT and EQUAL in the template
    nodes: int  # the most actions of a search, 0 for no limit
    playouts: int  # random playouts that estimate a position at the limit
