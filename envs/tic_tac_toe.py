"""Tic-tac-toe: three of your marks in a row, a column or a diagonal of a board of nine cells.

observation  u1 (3, 3, 2)  own marks, the other player's; row 0 on top
action       0 to 8, the empty cell to mark: 3 row + column
reward       +1 for a player with three in a line, -1 for the other; 0 for a draw
ends         when there are three in a line, or no cell is empty

x moves first. The novice completes and blocks lines; the expert never loses.

Source: PettingZoo's tictactoe_v3 (observations), OpenSpiel's tic_tac_toe (cells); the expert's order of rules is Newell
and Simon's (1972)
"""

import math

import numpy as np
from rl_lab.envs._games import random_set_bit

from rl_lab.core.canvas import BLUE, FAINT, GOLD, INK, ORANGE, translucent
from rl_lab.core.rng import bits
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, i4, kernel

BOARD, CENTRE, CORNERS = 0b111111111, 0b000010000, 0b101000101
LINE_SHIFTS = (
    (0b001001001, 1),
    (0b000000111, 3),
    (1, 4),
    (4, 2),
)  # cells at which lines begin, and the shift from a cell to the next one
LINES = 0o007, 0o070, 0o700, 0o111, 0o222, 0o444, 0o421, 0o124


class State(WorldState):
    to_move: i4 = bounded(0, low=0, high=1)
    last: i4 = bounded(0, low=0, high=9)  # cell marked last, from 1
    marks: i4[2] = bounded(0, low=0, high=BOARD)  # of x and o: bit 3 row + column


class Params(Record):
    pass


@kernel
def line_starts(board: int) -> int:
    """Return the first cells of the lines of three on a board, 0 if there is none."""
    first_cells = 0
    for start_cells, shift in LINE_SHIFTS:
        first_cells |= board & board >> shift & board >> 2 * shift & start_cells
    return first_cells


@kernel
def reset(s: State, p: Params) -> None:
    bits(s)  # the rules have no chance, but scripted players use random numbers that differ between episodes


@kernel
def step(s: State, action: int, p: Params, rewards: Array) -> bool:
    me = s.to_move
    mine = s.marks[me] | 1 << action
    s.marks[me], s.last, s.to_move = mine, i4(action + 1), 1 - me
    if line_starts(mine):
        rewards[me], rewards[1 - me] = 1.0, -1.0
        return True
    return (mine | s.marks[1 - me]) == BOARD


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    mine, theirs = s.marks[agent], s.marks[1 - agent]
    for row in range(3):
        for column in range(3):
            out[row, column, 0] = mine >> (3 * row + column) & 1
            out[row, column, 1] = theirs >> (3 * row + column) & 1


@kernel
def action_mask(s: State, agent: int, p: Params, mask: Array) -> None:
    empty = ~(s.marks[0] | s.marks[1])
    for cell in range(9):
        mask[cell] = empty >> cell & 1


@kernel
def rotate_seats(s: State, p: Params) -> None:
    s.marks[0], s.marks[1], s.to_move = s.marks[1], s.marks[0], 1 - s.to_move


@kernel
def completing_cells(mine: int, theirs: int) -> int:
    """Return the empty cells that would complete a line."""
    cells = 0
    for start_cells, shift in LINE_SHIFTS:
        a, b, c = mine & start_cells, mine >> shift & start_cells, mine >> 2 * shift & start_cells
        cells |= b & c | (a & c) << shift | (a & b) << 2 * shift
    return cells & ~(mine | theirs)


@kernel
def forks(mine: int, theirs: int) -> int:
    """Return the empty cells that would threaten two lines at once."""
    cells, empty = 0, BOARD & ~(mine | theirs)
    for cell in range(9):
        threats = completing_cells(mine | 1 << cell, theirs)
        cells |= 1 << cell if threats & threats - 1 else 0
    return cells & empty


@kernel
def best_cells(s: State, agent: int) -> int:
    """Return the best cells by the expert's rules; it chooses one of them at random."""
    mine, theirs = i4(s.marks[agent]), i4(s.marks[1 - agent])
    empty, safe = BOARD & ~(mine | theirs), 0
    wins, blocks = completing_cells(mine, theirs), completing_cells(theirs, mine)
    if wins or blocks:
        return wins if wins else blocks
    if empty == BOARD:
        return CENTRE | CORNERS
    fork_cells = forks(mine, theirs)
    for cell in range(9):
        marked = mine | 1 << cell
        threat = completing_cells(marked, theirs)
        # The other player must answer a threat in one cell, so only that cell, or any cell, must not be its fork.
        safe |= 1 << cell if forks(theirs, marked) & (threat if threat else BOARD) == 0 else 0
    safe &= empty
    return fork_cells if fork_cells else safe & CENTRE or safe & CORNERS or safe or empty


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    return random_set_bit(s, best_cells(s, agent))


@kernel
def novice(s: State, agent: int, p: Params) -> int:
    mine, theirs = i4(s.marks[agent]), i4(s.marks[1 - agent])
    wins, blocks = completing_cells(mine, theirs), completing_cells(theirs, mine)
    return random_set_bit(s, wins if wins else blocks if blocks else BOARD & ~(mine | theirs))


def draw(s: State, p: Params, canvas: Canvas) -> None:
    def at(cell: int) -> tuple[float, float]:
        return cell % 3 + 0.5, 2.5 - cell // 3

    canvas.view(-0.3, -0.3, 3.3, 3.3)
    canvas.clear((236, 232, 224))
    canvas.rectangle(1.5, 1.45, 3.2, 3.2, translucent(INK, 0.14), corner=0.24)  # the board's shadow
    canvas.rectangle(1.5, 1.5, 3.2, 3.2, (255, 254, 251), corner=0.24)
    if s.last:
        canvas.rectangle(*at(s.last - 1), 0.88, 0.88, translucent(GOLD, 0.17), corner=0.14)
    for k in (1, 2):
        canvas.line([(k, 0.1), (k, 2.9)], FAINT, 0.035)
        canvas.line([(0.1, k), (2.9, k)], FAINT, 0.035)
    winning_lines = [line for line in LINES if line in (line & s.marks[0], line & s.marks[1])]
    for cell in range(9):
        (x, y), r = at(cell), 0.25
        ring = [(x + r * math.cos(k * math.pi / 24), y + r * math.sin(k * math.pi / 24)) for k in range(49)]
        cross = [[(x - r, y - r), (x + r, y + r)], [(x - r, y + r), (x + r, y - r)]]
        pale = winning_lines and not any(line >> cell & 1 for line in winning_lines)
        for marks, color, strokes in (s.marks[0], BLUE, cross), (s.marks[1], ORANGE, [ring]):
            for stroke in strokes if marks >> cell & 1 else ():
                canvas.line(stroke, tuple(255 - (255 - c) // (4 if pale else 1) for c in color), 0.14)
    for line in winning_lines:
        first, *_, last = (at(cell) for cell in range(9) if line >> cell & 1)
        ends = [
            tuple(u + 0.18 * (u - v) for u, v in zip(*pair, strict=True)) for pair in ((first, last), (last, first))
        ]
        canvas.line(ends, translucent(INK, 0.85), 0.06)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    action_mask=action_mask,
    expert=expert,
    novice=novice,
    rotate_seats=rotate_seats,
    draw=draw,
    observation=Box(0, 1, (3, 3, 2), np.uint8),
    action=Discrete(9),
    horizon=10,
    agents=("x", "o"),
    current_player_field="to_move",
    zero_sum=True,
    frames_per_second=2,
)
