"""This template has an exhaustive search that decides whether the first player, red, wins connect four from a position.

It depends on no world and is compiled once; `connect_four_solver` calls `red_wins`, which writes the transposition
table and a counter of nodes that it is given. It is recursive, with these means to search less:

- A move that completes a line wins; a move that lets the other player complete one at once is not tried.
- Where no line of red can still be completed, red does not win.
- Follow-up: a player who answers each disc by one on top of it gets every second cell of each column. Where that
  decides the game, it is not searched (`_follow_up_result`).
- Moves that leave most cells that would complete a line are tried first.
- The transposition table keeps results; early positions share an entry with their mirror image.

A board is an integer with bit 7 * column + height for each disc of one player, as in envs/connect_four.py; the seventh
bit of a column stays 0. Heights count from 0: of a column that fills up in pairs, the player who moves first in it gets
the even heights.

Source: Allis 1988, "A knowledge-based approach of connect-four" (follow-up, zugzwang); Tromp's program Fhourstones
(boards, mirrored positions); Breuker, Uiterwijk and van den Herik 1994, "Replacement schemes for transposition tables"
(a table of two levels).
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators

inline, recursive_jit = decorators().inline, decorators().recursive_jit

COLUMNS, COLUMN_BITS, COLUMN_MASK = 7, 7, 127
BOTTOM_ROW = sum(1 << COLUMN_BITS * column for column in range(COLUMNS))
ALL_CELLS, EVEN_HEIGHTS = BOTTOM_ROW * 63, BOTTOM_ROW * 21  # bits 0 to 5, and bits 0, 2 and 4, of each column
ODD_HEIGHTS = ALL_CELLS - EVEN_HEIGHTS
UNKNOWN = -1
MIRROR_BELOW = 22  # positions of fewer discs share an entry with their mirror image; later ones rarely occur mirrored
# Multiplicative hashing: a multiplier of 2**60 / golden ratio, which fits int64, and a shift; the product wraps around.
HASH_MULTIPLIER, HASH_SHIFT = 0x9E3779B97F4A7C1, 20
# A table entry is the position's key from bit 7 on, log2 of the nodes spent on it in bits 1 to 6, and the result in bit
# 0.
KEY_SHIFT, LEVEL_MASK = 7, 63


@inline
def _completing_cells(board: Any) -> Any:
    """Return the cells, taken or not, that would complete a line of four of this player.

    `before` has the cells after two discs of a line, and `after` those before two; a third disc is beyond these two or
    on the other side of the cell.
    """
    cells = 0
    for step in (1, COLUMN_BITS, COLUMN_BITS - 1, COLUMN_BITS + 1):  # column, row and both diagonals
        before, after = board << step & board << 2 * step, board >> step & board >> 2 * step
        cells |= before & (board << 3 * step | board >> step) | after & (board >> 3 * step | board << step)
    return cells & ALL_CELLS


@inline
def _has_line(board: Any) -> Any:
    """Return whether there are four in a line."""
    lines = 0
    for step in (1, COLUMN_BITS, COLUMN_BITS - 1, COLUMN_BITS + 1):
        pairs = board & board >> step
        lines |= pairs & pairs >> 2 * step
    return lines != 0


@inline
def _best_move(moves: Any, mine: Any, full: Any) -> Any:
    """Return the move, a board of one cell, that leaves most free cells that would complete a line.

    `moves` are the cells to choose from, `mine` the mover's board and `full` all discs. Each such cell counts 4; the
    middle column counts 2, and the columns 1, 2, 4 and 5 count 1. Of equals, it is the lowest bit.
    """
    best, move = -1, 0
    while moves:
        cell = moves & -moves
        moves ^= cell
        threats, score = _completing_cells(mine | cell) & ~full, 0
        while threats:
            threats &= threats - 1
            score += 4
        for distance in range(3):
            middle = COLUMN_MASK << COLUMN_BITS * (3 - distance) | COLUMN_MASK << COLUMN_BITS * (3 + distance)
            score += (cell & middle != 0) * (distance == 0) + (cell & middle != 0)
        if score > best:
            best, move = score, cell
    return move


@inline
def _follow_up_result(red: Any, yellow: Any, turn: Any, playable: Any, empty: Any) -> Any:
    """Return 1 if red wins by follow-up, 0 if yellow prevents it by follow-up, else UNKNOWN.

    `turn` is 0 if red is to move, `playable` has the lowest free cell of each column, and `empty` all free cells.
    """
    if turn == 0:
        # If all columns are filled evenly, yellow can follow up everywhere: it gets all odd heights, red the even ones.
        return 0 if (playable & ODD_HEIGHTS) == 0 and not _has_line(red | (empty & EVEN_HEIGHTS)) else UNKNOWN
    odd_playable = playable & ODD_HEIGHTS
    if odd_playable == 0 or odd_playable & (odd_playable - 1):
        return UNKNOWN  # there is no column, or more than one, that is filled oddly
    # Red follows up in the other columns. When these are full, yellow must play in the one that is filled oddly, until
    # its disc is below a cell that completes red's line (`threat`). Yellow must not complete a line before.
    column = COLUMN_MASK
    while (column & odd_playable) == 0:
        column <<= COLUMN_BITS
    threat = _completing_cells(red) & empty & EVEN_HEIGHTS & column
    threat &= -threat
    if threat == 0 or _has_line(
        yellow | (empty & EVEN_HEIGHTS & ~column) | (empty & ODD_HEIGHTS & column & (threat - 1))
    ):
        return UNKNOWN
    return 1


@inline
def _key(red: Any, full: Any, discs: Any) -> Any:
    """Return a number that identifies the position; those of fewer than MIRROR_BELOW discs share it when mirrored.

    `full` plus the bottom row has one bit for each column, its lowest free cell; red's discs are added below it.
    """
    key = full + red + BOTTOM_ROW
    if discs >= MIRROR_BELOW:
        return key
    mirrored_key = BOTTOM_ROW
    for column in range(COLUMNS):
        mirrored_key += (
            (full >> COLUMN_BITS * column & COLUMN_MASK) + (red >> COLUMN_BITS * column & COLUMN_MASK)
        ) << COLUMN_BITS * (6 - column)
    return min(key, mirrored_key)


@inline
def _store(table: Any, place: Any, key: Any, num_nodes: Any, result: Any) -> None:
    """Store a result in table[place] or table[place + 1].

    It goes first if it took at least as many nodes (log2) as the first entry, which then moves to the second place;
    otherwise it replaces the second.
    """
    level = 0
    while num_nodes > 1:
        num_nodes >>= 1
        level += 1
    entry = key << KEY_SHIFT | level << 1 | result
    if level >= table[place] >> 1 & LEVEL_MASK:
        table[place + 1] = table[place]
        table[place] = entry
    else:
        table[place + 1] = entry


@recursive_jit
def red_wins(red: Any, yellow: Any, turn: Any, discs: Any, table: Any, nodes: Any) -> Any:
    """Return 1 if red wins from a position without four in a line, else 0.

    `red` and `yellow` are int64 boards, `discs` is the number of discs, `turn` is 0 if red is to move and 1 if yellow.
    `table`, int64 of a length that is a power of two, starts as zeros. Threads may share it: an entry is one word, so
    no thread reads half of another's entry. `nodes`, int64 [1], counts the positions searched.
    """
    nodes[0] += 1
    full = red | yellow
    mover_wins, mover_fails = 1 - turn, turn
    # Adding the bottom row carries to the lowest free cell of each column.
    playable, empty = (full + BOTTOM_ROW) & ALL_CELLS, ALL_CELLS & ~full
    mine, theirs = (red, yellow) if turn == 0 else (yellow, red)
    if _completing_cells(mine) & playable:
        return mover_wins
    threats = _completing_cells(theirs) & empty
    moves = playable
    if threats & playable:
        moves &= threats
        if moves & (moves - 1):  # two cells cannot both be blocked
            return mover_fails
    moves &= ~(threats >> 1)  # a disc below such a cell would let the other player complete a line
    if playable == 0:
        return 0  # a full board is a draw
    if moves == 0:
        return mover_fails
    if not _has_line(red | empty):
        return 0
    result = _follow_up_result(red, yellow, turn, playable, empty)
    if result != UNKNOWN:
        return result
    key = _key(red, full, discs)
    place = (key * HASH_MULTIPLIER >> HASH_SHIFT) & (len(table) - 2)
    for entry in (table[place], table[place + 1]):
        if entry >> KEY_SHIFT == key:
            return entry & 1
    nodes_before, result = nodes[0], mover_fails
    while moves and result == mover_fails:
        cell = _best_move(moves, mine, full)
        moves ^= cell
        if turn == 0:
            result = red_wins(red | cell, yellow, 1, discs + 1, table, nodes)
        else:
            result = red_wins(red, yellow | cell, 0, discs + 1, table, nodes)
    _store(table, place, key, nodes[0] - nodes_before, result)
    return result
