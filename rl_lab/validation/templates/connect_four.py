"""Whether red wins at connect four from a position: every line of play that matters, searched to its end.

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

COLUMNS, HIGH, COLUMN = 7, 7, 127
FLOOR = sum(1 << HIGH * column for column in range(COLUMNS))
BOARD, EVEN = FLOOR * 63, FLOOR * 21
ODD = BOARD - EVEN
UNKNOWN = -1
MIRRORED = 22  # discs up to which a position and its mirror image share an entry
MIX, SHIFT = 0x9E3779B97F4A7C1, 20
KEY, LEVELS = 7, 63  # an entry is a position's key, from bit 7, log2 of the nodes spent on it, and the answer


@inline
def _completing_cells(m: Any) -> Any:
    """Return the cells, taken or not, that would complete a line of four."""
    found = 0
    for way in (1, HIGH, HIGH - 1, HIGH + 1):
        before, after = m << way & m << 2 * way, m >> way & m >> 2 * way
        found |= before & (m << 3 * way | m >> way) | after & (m >> 3 * way | m << way)
    return found & BOARD


@inline
def _has_line(m: Any) -> Any:
    """Return whether there are four in a line."""
    found = 0
    for way in (1, HIGH, HIGH - 1, HIGH + 1):
        pairs = m & m >> way
        found |= pairs & pairs >> 2 * way
    return found != 0


@inline
def _best_move(moves: Any, mine: Any, full: Any) -> Any:
    """Return the move that leaves most threats, of equals the one nearest to the middle."""
    best, move = -1, 0
    while moves:
        cell = moves & -moves
        moves ^= cell
        threats, score = _completing_cells(mine | cell) & ~full, 0
        while threats:
            threats &= threats - 1
            score += 4
        for distance in range(3):
            middle = COLUMN << HIGH * (3 - distance) | COLUMN << HIGH * (3 + distance)
            score += (cell & middle != 0) * (distance == 0) + (cell & middle != 0)
        if score > best:
            best, move = score, cell
    return move


@inline
def _follow_up_answer(red: Any, yellow: Any, turn: Any, cells: Any, empty: Any) -> Any:
    """Return the answer where follow-up decides: a player answers each disc by one on top of it; else UNKNOWN."""
    if turn == 0:
        # Yellow then gets every odd height, red the even ones.
        return 0 if cells & ODD == 0 and not _has_line(red | empty & EVEN) else UNKNOWN
    lone = cells & ODD
    if lone == 0 or lone & lone - 1:
        return UNKNOWN
    # Red follows in the other columns; in the one that is left over yellow must come to play below red's threat.
    column = COLUMN
    while column & lone == 0:
        column <<= HIGH
    threat = _completing_cells(red) & empty & EVEN & column
    threat &= -threat
    if threat == 0 or _has_line(yellow | empty & EVEN & ~column | empty & ODD & column & threat - 1):
        return UNKNOWN
    return 1


@inline
def _key(red: Any, full: Any, discs: Any) -> Any:
    """Return a number that no other position has, but early ones' mirror images."""
    key = full + red + FLOOR
    if discs >= MIRRORED:
        return key
    other = FLOOR
    for column in range(COLUMNS):
        other += ((full >> HIGH * column & COLUMN) + (red >> HIGH * column & COLUMN)) << HIGH * (6 - column)
    return min(key, other)


@inline
def _store(table: Any, place: Any, key: Any, spent: Any, answer: Any) -> None:
    """Keep an answer in one of two entries: the first has what took longest, the other what came last."""
    level = 0
    while spent > 1:
        spent >>= 1
        level += 1
    entry = key << KEY | level << 1 | answer
    if level >= table[place] >> 1 & LEVELS:
        table[place + 1] = table[place]
        table[place] = entry
    else:
        table[place + 1] = entry


@recursive_jit
def red_wins(red: Any, yellow: Any, turn: Any, discs: Any, table: Any, nodes: Any) -> Any:
    """Return 1 if red, who moves where `turn` is 0, wins from a position without four in a line, else 0.

    `table`, int64 of a length that is a power of two, starts as zeros and may be shared by threads; `nodes`, int64 [1],
    counts positions.
    """
    nodes[0] += 1
    full = red | yellow
    cells, empty = full + FLOOR & BOARD, BOARD & ~full
    mine, theirs = (red, yellow) if turn == 0 else (yellow, red)
    if _completing_cells(mine) & cells:
        return 1 - turn
    danger = _completing_cells(theirs) & empty
    moves = cells
    if danger & cells:
        moves &= danger
        if moves & moves - 1:
            return turn
    moves &= ~(danger >> 1)  # below a cell where the other wins
    if moves == 0:
        return turn if cells else 0
    if not _has_line(red | empty):
        return 0
    answer = _follow_up_answer(red, yellow, turn, cells, empty)
    if answer != UNKNOWN:
        return answer
    key = _key(red, full, discs)
    place = (key * MIX >> SHIFT) & len(table) - 2
    for entry in (table[place], table[place + 1]):
        if entry >> KEY == key:
            return entry & 1
    before, answer = nodes[0], turn
    while moves and answer == turn:
        cell = _best_move(moves, mine, full)
        moves ^= cell
        if turn == 0:
            answer = red_wins(red | cell, yellow, 1, discs + 1, table, nodes)
        else:
            answer = red_wins(red, yellow | cell, 0, discs + 1, table, nodes)
    _store(table, place, key, nodes[0] - before, answer)
    return answer
