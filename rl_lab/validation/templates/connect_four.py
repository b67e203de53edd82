"""Exhaustive search that decides whether the first player, red, wins connect four from a position.

A template that depends on no world: see `connect_four_solver`. Boards are numbers as in envs/connect_four.py: bit 7
column + height, the seventh bit of a column stays 0. Heights count from 0, so that red's threats at even heights come
to pass when columns fill up in pairs.

Sources: Allis 1988, "A knowledge-based approach of connect-four" (follow-up, zugzwang); Tromp's Fhourstones (boards,
mirrored positions); Breuker, Uiterwijk and van den Herik 1994 (a table of two levels)
"""

from __future__ import annotations

from typing import Any

from rl_lab.engine.template_context import decorators

inline, recursive_jit = decorators().inline, decorators().recursive_jit

COLUMNS, COLUMN_BITS, COLUMN_MASK = 7, 7, 127
# The bottom cell of each column.
FLOOR = sum(1 << COLUMN_BITS * column for column in range(COLUMNS))
BOARD, EVEN_HEIGHTS = FLOOR * 63, FLOOR * 21
ODD_HEIGHTS = BOARD - EVEN_HEIGHTS
UNKNOWN = -1
MIRROR_BELOW = 22  # positions of fewer discs share an entry with their mirror image; later ones rarely meet it
MIX, SHIFT = 0x9E3779B97F4A7C1, 20  # 2**60 / golden ratio, so that it fits int64; the product wraps
KEY_SHIFT, LEVEL_MASK = 7, 63  # an entry is a position's key, from bit 7, log2 of the nodes spent on it, and the answer


@inline
def _completing_cells(m: Any) -> Any:
    """Return the cells, taken or not, that would complete a line of four."""
    found = 0
    for step in (1, COLUMN_BITS, COLUMN_BITS - 1, COLUMN_BITS + 1):
        before, after = m << step & m << 2 * step, m >> step & m >> 2 * step
        found |= before & (m << 3 * step | m >> step) | after & (m >> 3 * step | m << step)
    return found & BOARD


@inline
def _has_line(m: Any) -> Any:
    """Return whether there are four in a line."""
    found = 0
    for step in (1, COLUMN_BITS, COLUMN_BITS - 1, COLUMN_BITS + 1):
        pairs = m & m >> step
        found |= pairs & pairs >> 2 * step
    return found != 0


@inline
def _best_move(moves: Any, mine: Any, full: Any) -> Any:
    """Return the move that leaves most cells that would complete a line.

    Of equals, it is one of the middle column, else one of the columns 1, 2, 4 and 5, else the lowest bit.
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
def _follow_up_answer(red: Any, yellow: Any, turn: Any, cells: Any, empty: Any) -> Any:
    """Return 1 or 0 if follow-up decides the game, else UNKNOWN: a player answers each disc by one on top of it."""
    if turn == 0:
        # Yellow then gets every odd height, red the even ones.
        return 0 if (cells & ODD_HEIGHTS) == 0 and not _has_line(red | (empty & EVEN_HEIGHTS)) else UNKNOWN
    lone = cells & ODD_HEIGHTS
    if lone == 0 or lone & (lone - 1):
        return UNKNOWN
    # Red follows in the other columns; in the one that is left over yellow must come to play below red's threat.
    column = COLUMN_MASK
    while (column & lone) == 0:
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
    """Return the position's number; one of fewer than MIRROR_BELOW discs shares it with its mirror image."""
    key = full + red + FLOOR
    if discs >= MIRROR_BELOW:
        return key
    other = FLOOR
    for column in range(COLUMNS):
        other += (
            (full >> COLUMN_BITS * column & COLUMN_MASK) + (red >> COLUMN_BITS * column & COLUMN_MASK)
        ) << COLUMN_BITS * (6 - column)
    return min(key, other)


@inline
def _store(table: Any, place: Any, key: Any, spent: Any, answer: Any) -> None:
    """Store an answer in table[place] or table[place + 1].

    It goes first if it took at least as many nodes (log2) as the first entry, which then moves to the second place;
    otherwise it replaces the second.
    """
    level = 0
    while spent > 1:
        spent >>= 1
        level += 1
    entry = key << KEY_SHIFT | level << 1 | answer
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
    that they see whole entries. `nodes`, int64 [1], counts positions.
    """
    nodes[0] += 1
    full = red | yellow
    mover_wins, mover_fails = 1 - turn, turn
    cells, empty = (full + FLOOR) & BOARD, BOARD & ~full
    mine, theirs = (red, yellow) if turn == 0 else (yellow, red)
    if _completing_cells(mine) & cells:
        return mover_wins
    danger = _completing_cells(theirs) & empty
    moves = cells
    if danger & cells:
        moves &= danger
        if moves & (moves - 1):
            return mover_fails
    moves &= ~(danger >> 1)  # a disc below such a cell would let the other player complete a line
    if cells == 0:
        return 0  # a full board is a draw
    if moves == 0:
        return mover_fails
    if not _has_line(red | empty):
        return 0
    answer = _follow_up_answer(red, yellow, turn, cells, empty)
    if answer != UNKNOWN:
        return answer
    key = _key(red, full, discs)
    place = (key * MIX >> SHIFT) & (len(table) - 2)
    for entry in (table[place], table[place + 1]):
        if entry >> KEY_SHIFT == key:
            return entry & 1
    before, answer = nodes[0], mover_fails
    while moves and answer == mover_fails:
        cell = _best_move(moves, mine, full)
        moves ^= cell
        if turn == 0:
            answer = red_wins(red | cell, yellow, 1, discs + 1, table, nodes)
        else:
            answer = red_wins(red, yellow | cell, 0, discs + 1, table, nodes)
    _store(table, place, key, nodes[0] - before, answer)
    return answer
