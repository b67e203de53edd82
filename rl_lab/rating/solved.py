"""Connect four solved: which openings win."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .. import compiler
from ..world import Array

_ENTRIES = 2**24  # of 8 bytes
_MIDDLE = 3


@cache
def _program() -> ModuleType:
    return compiler.assemble("four", (Path(__file__).with_name("four.py"),), {})


def red_wins(moves: Sequence[int], table: Array | None = None) -> bool:
    """Say whether red, who begins, wins after these columns, 0 to 6, by perfect play of both.

    `table`, int64 zeros of a length that is a power of two, keeps answers from one call to the next. Raises ValueError
    for moves that cannot be made, or after which the game is over.
    """
    four: Any = _program()
    boards = [0, 0]
    for k, column in enumerate(moves):
        cell = boards[0] + boards[1] + (1 << four.HIGH * column) & 63 << four.HIGH * column if 0 <= column <= 6 else 0
        if not cell:
            raise ValueError(f"{list(moves)}: no disc fits into column {column}")
        boards[k % 2] |= cell
        mine = boards[k % 2]
        if any((pairs := mine & mine >> way) & pairs >> 2 * way for way in (1, 6, 7, 8)):
            raise ValueError(f"{list(moves)}: the game is over")
    held = table if table is not None else np.zeros(2**20, np.int64)
    return bool(four.red_wins(*boards, len(moves) % 2, len(moves), held, np.zeros(1, np.int64)))


def openings() -> list[bool]:
    """Return whether red wins by opening in each column, bool [7]: about 100 seconds of a core, and 128 MiB.

    Of mirror images one is searched. Where several cores are there, they share the work and the table.
    """
    table = np.zeros(_ENTRIES, np.int64)
    _program()  # before there are threads, each of which would make its own
    tasks = [(_MIDDLE, reply) for reply in range(_MIDDLE + 1)] + [(column,) for column in range(_MIDDLE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        won = dict(zip(tasks, pool.map(lambda moves: red_wins(moves, table), tasks), strict=True))
    middle = all(won[_MIDDLE, reply] for reply in range(_MIDDLE + 1))
    sides = [won[column,] for column in range(_MIDDLE)]
    return [*sides, middle, *sides[::-1]]
