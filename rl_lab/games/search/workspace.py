"""This module has the records and arrays that `search.agents` allocates and the compiled searches work on.

`SearchBuffers` are common to both searches; `MctsBuffers` and `AlphaBetaBuffers` are what one of them needs besides.
Each thread of a search has its own, except for `roots` and `params`, which no search writes.

Shape letters: N environments of the batch, M states that a search holds at a time, S actions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# The result of a search.
ANSWER = np.dtype(
    [
        ("action", "i8"),
        ("value", "f8"),  # the return that the agent to move may expect from here on
        ("nodes", "i8"),  # number of simulations, or of actions in the search
        ("exact", "u1"),  # whether the value is proven
    ],
    align=True,
)
# A node of the tree of Monte Carlo tree search.
NODE = np.dtype(
    [
        ("total_return", "f8"),  # sum of seat 0's returns over the simulations through this node
        ("path_reward", "f8"),  # sum of seat 0's rewards on the path from the root
        ("visits", "i4"),  # number of simulations through this node
        ("parent", "i4"),  # the parent's row, -1 for the root
        ("action", "i4"),  # the action that leads here from the parent
        ("state_index", "i4"),  # where its state is stored, from its first visit on
        ("first_child", "i4"),  # the row of its first child; 0 until it is expanded
        ("num_children", "i4"),  # 0 until it is expanded, if the game is over, or if the tree had no rows left
        ("num_visited_children", "i4"),  # these are the first of its children
        ("seat", "u1"),  # of the agent to move
        ("is_over", "u1"),  # whether the game has ended
    ],
    align=True,
)
# A ply of the alpha-beta search that is under way.
PLY = np.dtype(
    [
        ("alpha", "f8"),
        ("beta", "f8"),
        ("alpha_at_entry", "f8"),  # alpha and beta when the search entered the ply
        ("beta_at_entry", "f8"),
        ("best_value", "f8"),  # the value so far, of seat 0
        ("reward", "f8"),  # of seat 0 for the current action, discounted by its depth
        ("key", "u8"),  # hash of the position
        ("num_actions", "i4"),  # number of legal actions
        ("num_tried", "i4"),  # number of actions tried, the current one included
        ("best_action", "i4"),  # the best so far
        ("current_action", "i4"),  # the action that is searched
        ("table_action", "i4"),  # the transposition table's best action, -1 where it has none
        ("seat", "i4"),  # of the agent to move
        ("is_open", "u1"),  # whether the value depends on positions at the depth limit
    ],
    align=True,
)
# An entry of the transposition table.
TABLE_ENTRY = np.dtype(
    [
        ("key", "u8"),  # hash of the position
        ("value", "f8"),
        ("root_number", "i4"),  # the number of the root for which it was written
        ("depth_limit", "i4"),  # the depth of that search
        ("best_action", "i4"),
        ("bound", "u1"),  # EXACT, AT_LEAST or AT_MOST: what `value` is to the position's value
        ("is_open", "u1"),  # see PLY
    ],
    align=True,
)


class SearchBuffers(NamedTuple):
    """The arrays and settings of every search."""

    roots: Any  # the batch's states, as uint64 [N, words]
    params: Any  # Params [1] or [N]
    horizon: int
    seed: Any  # uint64
    max_playout_length: int  # in actions
    states: Any  # State [M]: copies in which games are continued
    words: Any  # view of `states`, uint64 [M, words]
    mask: Any  # uint8 [S], the legal actions in one position
    rewards: Any  # float32 [2], of the last action
    rng_state: Any  # uint64 [1], of the search's own random numbers
    stop_address: int  # address of an int64; where it is not 0, the search returns at once, with any answer


class MctsBuffers(NamedTuple):
    """The arrays and settings of Monte Carlo tree search, `templates/mcts.py`."""

    nodes: Any  # NODE [rows]; row 0 is the root
    simulations: int
    exploration: float
    greedy: bool  # answer the most visited action, else one sampled by the visits


class AlphaBetaBuffers(NamedTuple):
    """The arrays and settings of alpha-beta search, `templates/alphabeta.py`."""

    plies: Any  # PLY [depth + 1]
    legal_actions: Any  # int32 [plies, S], the legal actions at each ply, those that were tried first
    transpositions: Any  # TABLE_ENTRY [a power of two]
    cutoff_weights: Any  # int64 [2, S], by seat and action: how much its cutoffs have saved (history heuristic)
    root_values: Any  # float64 [S], the value of each action at the root
    best_root_actions: Any  # int64 [S], the best actions at the root; as many as counters[NUM_BEST] says
    counters: Any  # int64 [3], see NUM_SEARCHED, ROOT_NUMBER and NUM_BEST in the template
    max_nodes: int  # the most actions of a search, 0 for no limit
    num_playouts: int  # random playouts that estimate a position at the depth limit
