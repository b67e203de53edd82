"""The levels of a world as grids of symbols, for worlds that can be given their levels.

A world whose level is a grid declares `Levels`, and two fields of Params: `level_grids`, u1[most, H * W], with the
number of a symbol for each cell, and `num_level_grids`, i4. Its reset reads one of the grids where there are any, and
makes a level of its own where there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_lab.core.world_errors import WorldError

Array = np.ndarray[Any, Any]

GRIDS, COUNT = "level_grids", "num_level_grids"  # fields of Params


@dataclass(frozen=True, eq=False)
class Levels:
    """What the levels of a world look like. Cells are numbered by rows, and row 0 is the top one."""

    shape: tuple[int, int]  # H rows and W columns
    symbols: str  # one character for each symbol: a cell with number k has symbols[k]
    unique: str  # the symbols that each level has exactly once
    encode: Callable[[Any], list[int]]  # encode(s) returns the symbol's number for each cell, after a reset

    @property
    def cells(self) -> int:
        """Return the number of cells."""
        return self.shape[0] * self.shape[1]

    def check(self, location: str, params: np.dtype[Any]) -> None:
        """Raise WorldError, which begins with `location`, unless symbols and the fields of Params fit together."""
        if not 2 <= len(set(self.symbols)) == len(self.symbols) <= 64 or not set(self.unique) <= set(self.symbols):
            raise WorldError(f"{location}: levels need 2 to 64 different symbols; the unique ones are among them")
        fields = {name: params[name] for name in params.names or ()}
        grids, count = fields.get(GRIDS), fields.get(COUNT)
        if grids is None or grids.base != np.uint8 or grids.shape[1:] != (self.cells,) or count != np.int32:
            raise WorldError(f"{location}: levels need fields of Params: {GRIDS}: u1[N, {self.cells}] and {COUNT}: i4")

    def are_valid(self, grids: Array) -> Array:
        """Return for each of N grids, [N, H * W], whether each unique symbol is in exactly one cell, bool [N]."""
        numbers = np.array([self.symbols.index(symbol) for symbol in self.unique], np.int64)
        counts = (grids[:, :, None] == numbers).sum(axis=1)
        return np.asarray((counts == 1).all(axis=1))

    def text(self, grid: Array) -> list[str]:
        """Return a grid, [H * W], as one text for each row."""
        width = self.shape[1]
        line = "".join(self.symbols[number] for number in grid)
        return [line[first : first + width] for first in range(0, len(line), width)]

    def parse(self, rows: Any) -> Array:
        """Return the grid, u1 [H * W], of one text for each row. Raises ValueError."""
        height, width = self.shape
        if not isinstance(rows, list) or len(rows) != height or any(type(row) is not str for row in rows):
            raise ValueError(f"expected {height} rows of text")
        if wrong := [row for row in rows if len(row) != width]:
            raise ValueError(f"row {wrong[0]!r:.40} has {len(wrong[0])} cells; expected {width}")
        cells = "".join(rows)
        if unknown := sorted(set(cells) - set(self.symbols)):
            raise ValueError(f"unknown symbol {unknown[0]!r}; expected one of {self.symbols!r}")
        grid = np.array([self.symbols.index(cell) for cell in cells], np.uint8)
        if not self.are_valid(grid[None])[0]:
            wrong_symbol = next(symbol for symbol in self.unique if cells.count(symbol) != 1)
            raise ValueError(f"{wrong_symbol!r} is in {cells.count(wrong_symbol)} cells; expected one")
        return grid
