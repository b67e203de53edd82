"""This module solves connect four: it finds whether the first player wins from a position."""

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

_ENTRIES = 2**24  # entries of the transposition table, 8 bytes each
_MIDDLE = 3


@cache
def _program() -> ModuleType:
    return compiler.instantiate_templates("connect_four", (Path(__file__).parent / "templates" / "connect_four.py",))


def red_wins(moves: Sequence[int], table: Array | None = None) -> bool:
    """Return True if red, the first player, wins by perfect play after moves in these columns, 0 to 6.

    `table`, int64 zeros whose length is a power of two, stores results for later calls.

    Raises ValueError for moves that are impossible, or after which the game is over.
    """
    solver: Any = _program()
    boards = [0, 0]
    for k, column in enumerate(moves):
        shift = solver.COLUMN_BITS * column
        # The discs of a column plus its bottom cell make the lowest free cell, or the bit above where it is full.
        cell = boards[0] + boards[1] + (1 << shift) & 63 << shift if 0 <= column < solver.COLUMNS else 0
        if not cell:
            raise ValueError(f"{list(moves)}: no disc fits into column {column}")
        boards[k % 2] |= cell
        board = boards[k % 2]
        if any((pairs := board & board >> way) & pairs >> 2 * way for way in (1, 6, 7, 8)):
            raise ValueError(f"{list(moves)}: the game is over")
    table = table if table is not None else np.zeros(2**20, np.int64)
    return bool(solver.red_wins(*boards, len(moves) % 2, len(moves), table, np.zeros(1, np.int64)))


def openings() -> list[bool]:
    """Return whether red wins by opening in each column, bool [7]. It takes about 100 core-seconds and 128 MiB.

    Only one of two mirror images is searched. Several cores share the work and the table.
    """
    table = np.zeros(_ENTRIES, np.int64)
    _program()  # first, because each thread would compile it otherwise
    tasks = [(_MIDDLE, reply) for reply in range(_MIDDLE + 1)] + [(column,) for column in range(_MIDDLE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(tasks, pool.map(lambda moves: red_wins(moves, table), tasks), strict=True))
    middle = all(results[_MIDDLE, reply] for reply in range(_MIDDLE + 1))
    sides = [results[column,] for column in range(_MIDDLE)]
    return [*sides, middle, *sides[::-1]]
