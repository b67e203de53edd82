"""This module solves connect four: it finds whether the first player, red, wins from a position.

`reference_values` calls `winning_first_moves` to verify the published result. The search is compiled from
`templates/connect_four.py`, which has the rules of the game in bit boards; it does not use the world of that name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rl_lab.core.world import Array
from rl_lab.engine import compiler

_TABLE_ENTRIES = 2**24  # of the transposition table, 8 bytes each
_DEFAULT_TABLE_ENTRIES = 2**20  # of a table for one position
_MIDDLE = 3  # column


@cache
def _solver() -> ModuleType:
    """Return the compiled template."""
    return compiler.instantiate_templates("connect_four", (Path(__file__).parent / "templates" / "connect_four.py",))


def red_wins(moves: Sequence[int], table: Array | None = None) -> bool:
    """Return True if red, the first player, wins by perfect play after moves in these columns, 0 to 6.

    `table`, int64 zeros whose length is a power of two, stores results for later calls.

    Raises ValueError for moves that are impossible, or after which the game is over.
    """
    solver: Any = _solver()
    boards = [0, 0]  # of red and of yellow
    for k, column in enumerate(moves):
        shift = solver.COLUMN_BITS * column
        # A column's discs are its lowest bits, so adding its bottom cell carries to the lowest free cell or, where the
        # column is full, to the bit above it, which the mask of six cells removes.
        cell = boards[0] + boards[1] + (1 << shift) & 63 << shift if 0 <= column < solver.COLUMNS else 0
        if not cell:
            raise ValueError(f"{list(moves)}: no disc fits into column {column}")
        boards[k % 2] |= cell
        board = boards[k % 2]
        # Distances of neighbours in a column, in both diagonals and in a row.
        if any((pairs := board & board >> distance) & pairs >> 2 * distance for distance in (1, 6, 7, 8)):
            raise ValueError(f"{list(moves)}: the game is over")
    table = table if table is not None else np.zeros(_DEFAULT_TABLE_ENTRIES, np.int64)
    return bool(solver.red_wins(*boards, len(moves) % 2, len(moves), table, np.zeros(1, np.int64)))


def winning_first_moves() -> list[bool]:
    """Return whether red wins by a first move in each column, bool [7]. It takes about 100 core-seconds and 128 MiB.

    Only one of two mirror images is searched. Threads on all cores share the work and the table. The first move in the
    middle takes longest, so it is divided by yellow's replies: red wins if it wins after each of them.
    """
    table = np.zeros(_TABLE_ENTRIES, np.int64)
    _solver()  # first, because each thread would compile it otherwise
    replies = range(_MIDDLE + 1)  # those in the other columns are mirror images
    tasks = [(_MIDDLE, reply) for reply in replies] + [(column,) for column in range(_MIDDLE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(tasks, pool.map(lambda moves: red_wins(moves, table), tasks), strict=True))
    middle = all(results[_MIDDLE, reply] for reply in replies)
    left = [results[column,] for column in range(_MIDDLE)]
    return [*left, middle, *left[::-1]]
