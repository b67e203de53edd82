"""This module formats tables of plain text for the terminal: one function, which returns a string."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def format_table(rows: Sequence[Sequence[str]], left: Collection[int] = (), *, indent: str = "") -> str:
    """Return rows of cells as lines whose columns are two spaces apart and as wide as their widest cell.

    Args:
        rows: cells, equally many in each row; the header, if any, is the first row. Without rows the text is empty.
        left: indices of columns that are aligned left; the others, which hold numbers, are aligned right.
        indent: text before each line.
    """
    if not rows:
        return ""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    align = [str.ljust if k in left else str.rjust for k in range(len(widths))]
    cells = ([fit(cell, width) for fit, cell, width in zip(align, row, widths, strict=True)] for row in rows)
    return "\n".join((indent + "  ".join(line)).rstrip() for line in cells)
