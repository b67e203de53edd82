"""Connect four: drop discs into a standing board until four of yours are in a line.

observation  u1 (6, 7, 2)  own discs, the other player's; row 0 on top
action       0 to 6, the column to drop a disc into
reward       +1 for a player with four in a line, -1 for the other; 0 for a draw
ends         when there are four in a line, or the board is full

red moves first. The novice completes and blocks lines of four; the expert looks three moves ahead as well.

Source: PettingZoo's connect_four_v3 (observations), OpenSpiel's connect_four; boards as numbers with a spare bit over
every column, so that lines of four are found with shifts (Tromp's Fhourstones)
"""

import itertools

import numpy as np
from rl_lab.envs._games import count_bits, random_index, random_set_bit

from rl_lab.core.canvas import translucent
from rl_lab.core.rng import bits
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, i4, i8, kernel

ROWS, COLUMNS, BITS_PER_COLUMN = 6, 7, 7  # the top bit of a column stays 0, so that lines end there
BOTTOM_ROW = sum(1 << BITS_PER_COLUMN * column for column in range(COLUMNS))
BOARD = BOTTOM_ROW * (2**ROWS - 1)
# Shifts from the bit of a cell to that of the next cell of a line: up, right, and both diagonals.
LINE_SHIFTS = 1, BITS_PER_COLUMN, BITS_PER_COLUMN - 1, BITS_PER_COLUMN + 1

WALL, TABLE, PANEL, FRAME = (243, 239, 231), (226, 216, 199), (45, 104, 190), (31, 78, 150)
COLORS = ((222, 70, 66), (188, 45, 46)), ((250, 200, 62), (224, 165, 26))  # faces and rims of discs


class State(WorldState):
    to_move: i4 = bounded(0, low=0, high=1)
    discs: i8[2] = bounded(0, low=0, high=BOARD)  # of red and yellow: bit 7 column + height
    last: i8 = bounded(0, low=0, high=BOARD)  # of them, the disc that was dropped last


class Params(Record):
    pass


@kernel
def line_starts(board: int) -> int:
    """Return the first cells of the lines of four on a board, 0 if there is none."""
    first_cells = 0
    for shift in LINE_SHIFTS:
        pairs = board & board >> shift
        first_cells |= pairs & pairs >> 2 * shift
    return first_cells


@kernel
def reset(s: State, p: Params) -> None:
    bits(s)  # the rules have no chance, but scripted players use random numbers that differ between episodes


@kernel
def step(s: State, action: int, p: Params, rewards: Array) -> bool:
    me = s.to_move
    mine, theirs = s.discs[me], s.discs[1 - me]
    cell = (mine | theirs) + (1 << BITS_PER_COLUMN * action) & 127 << BITS_PER_COLUMN * action
    mine |= cell
    s.discs[me], s.last, s.to_move = mine, cell, 1 - me
    if line_starts(mine):
        rewards[me], rewards[1 - me] = 1.0, -1.0
        return True
    return (mine | theirs) == BOARD


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    mine, theirs = s.discs[agent], s.discs[1 - agent]
    for row in range(ROWS):
        for column in range(COLUMNS):
            bit = BITS_PER_COLUMN * column + ROWS - 1 - row
            out[row, column, 0] = mine >> bit & 1
            out[row, column, 1] = theirs >> bit & 1


@kernel
def action_mask(s: State, agent: int, p: Params, mask: Array) -> None:
    full = s.discs[0] | s.discs[1]
    for column in range(COLUMNS):
        mask[column] = 1 - (full >> (BITS_PER_COLUMN * column + ROWS - 1) & 1)


@kernel
def rotate_seats(s: State, p: Params) -> None:
    s.discs[0], s.discs[1], s.to_move = s.discs[1], s.discs[0], 1 - s.to_move


@kernel
def landing_cells(full: int) -> int:
    """Return the lowest empty cell of every column; `full` has all discs."""
    # Adding the bottom cells carries through the discs of each column to its first empty cell.
    return full + BOTTOM_ROW & BOARD


@kernel
def completing_cells(board: int) -> int:
    """Return the cells, empty or not, that would complete a line of four."""
    cells = 0
    for shift in LINE_SHIFTS:
        before, after = board << shift & board << 2 * shift, board >> shift & board >> 2 * shift
        cells |= before & (board << 3 * shift | board >> shift) | after & (board >> 3 * shift | board << shift)
    return cells & BOARD


@kernel
def forced_cells(s: State, agent: int) -> int:
    """Return the cells that win at once or, if there are none, those with which the other player would."""
    cells = landing_cells(s.discs[0] | s.discs[1])
    wins, blocks = completing_cells(s.discs[agent]) & cells, completing_cells(s.discs[1 - agent]) & cells
    return wins if wins else blocks


@kernel
def has_won_threat(board: int, full: int) -> bool:
    """Return True if the player of `board` wins after any reply; `full` has all discs.

    It then has two threats at once (more than one bit), or one on top of another.
    """
    threats = completing_cells(board) & ~full
    ready_threats = threats & landing_cells(full)
    return ready_threats & ready_threats - 1 | ready_threats << 1 & threats != 0


@kernel
def evaluate_position(mine: int, theirs: int) -> int:
    """Return the value of a position for the player that has just moved, from three moves ahead and its threats."""
    full = mine | theirs
    cells, threats, dangers = landing_cells(full), completing_cells(mine) & ~full, completing_cells(theirs) & ~full
    if dangers & cells:
        return -1000
    if has_won_threat(mine, full):
        return 1000
    answers = threats & cells if threats & cells else cells
    for column in range(COLUMNS):
        answer = answers & 127 << BITS_PER_COLUMN * column
        if answer and answer << 1 & threats == 0 and has_won_threat(theirs | answer, full | answer):
            return -500
    return 4 * (count_bits(threats) - count_bits(dangers))


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    cells, best, best_column, first = forced_cells(s, agent), -2000, 0, random_index(s, COLUMNS)
    if cells == 0:
        cells = landing_cells(s.discs[0] | s.discs[1])
    for k in range(COLUMNS):
        column = (first + k) % COLUMNS  # the random first column breaks ties
        cell = cells & 127 << BITS_PER_COLUMN * column
        if cell:
            value = evaluate_position(s.discs[agent] | cell, s.discs[1 - agent]) + 3 - abs(column - 3)
            if value > best:
                best, best_column = value, column
    return best_column


@kernel
def novice(s: State, agent: int, p: Params) -> int:
    cells = forced_cells(s, agent)
    return random_set_bit(s, cells if cells else landing_cells(s.discs[0] | s.discs[1])) // BITS_PER_COLUMN


def draw(s: State, p: Params, canvas: Canvas) -> None:
    canvas.view(-0.75, -1.05, COLUMNS + 0.75, ROWS + 0.75)  # column k spans k to k + 1, and so do heights
    canvas.clear(WALL)
    canvas.rectangle(3.5, -10.65, 100, 20, TABLE)
    for foot in (-0.28, COLUMNS + 0.28):
        canvas.rectangle(foot, 2.6, 0.3, 7.0, FRAME, corner=0.15)
        canvas.rectangle(foot, -0.8, 0.95, 0.3, FRAME, corner=0.13)
    canvas.rectangle(3.5, 2.92, COLUMNS + 0.36, ROWS + 0.44, FRAME, corner=0.3)
    canvas.rectangle(3.5, 3.0, COLUMNS + 0.36, ROWS + 0.36, PANEL, corner=0.3)
    winning_cells, both = 0, (s.discs[0], s.discs[1])
    for board, shift in itertools.product(both, LINE_SHIFTS):
        first = board & board >> shift & board >> 2 * shift & board >> 3 * shift
        winning_cells |= first | first << shift | first << 2 * shift | first << 3 * shift
    for column, height in itertools.product(range(COLUMNS), range(ROWS)):
        x, y, bit = column + 0.5, height + 0.5, 1 << BITS_PER_COLUMN * column + height
        canvas.circle(x, y, 0.43, FRAME)
        canvas.circle(x, y - 0.025, 0.405, WALL)
        for discs, (face, rim) in zip(both, COLORS, strict=True):
            if discs & bit:
                canvas.circle(x, y - 0.015, 0.415, rim)
                canvas.circle(x, y - 0.015, 0.29, face)
                if winning_cells & bit:
                    canvas.circle(x, y - 0.015, 0.43, face, (255, 255, 255), 0.1)
                elif winning_cells:
                    canvas.circle(x, y - 0.015, 0.42, translucent(WALL, 0.5))
        if s.last & bit and not winning_cells:
            canvas.circle(x, y - 0.015, 0.09, (255, 255, 255))


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
    observation=Box(0, 1, (ROWS, COLUMNS, 2), np.uint8),
    action=Discrete(COLUMNS),
    horizon=ROWS * COLUMNS + 1,
    agents=("red", "yellow"),
    current_player_field="to_move",
    zero_sum=True,
    frames_per_second=3,
)
