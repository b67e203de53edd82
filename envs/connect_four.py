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
from rl_lab.envs._games import count, dice, pick

from rl_lab.core.canvas import translucent
from rl_lab.core.rng import bits
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, i4, i8, kernel

ROWS, COLUMNS, HIGH = 6, 7, 7  # HIGH: bits a column, of which the top one stays 0
FLOOR = sum(1 << HIGH * column for column in range(COLUMNS))
BOARD = FLOOR * (2**ROWS - 1)
WAYS = 1, HIGH, HIGH - 1, HIGH + 1  # from a cell to the next one of a line: up, right, and both diagonals


WALL, TABLE, PANEL, FRAME = (243, 239, 231), (226, 216, 199), (45, 104, 190), (31, 78, 150)
COLORS = ((222, 70, 66), (188, 45, 46)), ((250, 200, 62), (224, 165, 26))  # faces and rims of discs


class State(WorldState):
    to_move: i4 = bounded(0, low=0, high=1)
    discs: i8[2] = bounded(0, low=0, high=BOARD)  # of red and yellow: bit 7 column + height
    last: i8 = bounded(0, low=0, high=BOARD)  # of them, the disc that was dropped last


class Params(Record):
    pass


@kernel
def lines(m: int) -> int:
    """Return the first cells of lines of four."""
    first_cells = 0
    for way in WAYS:
        pairs = m & m >> way
        first_cells |= pairs & pairs >> 2 * way
    return first_cells


@kernel
def reset(s: State, p: Params) -> None:
    bits(s)  # the rules have no chance, but scripted players use random numbers that differ between episodes


@kernel
def step(s: State, action: int, p: Params, rewards: Array) -> bool:
    me = s.to_move
    mine, theirs = s.discs[me], s.discs[1 - me]
    cell = (mine | theirs) + (1 << HIGH * action) & 127 << HIGH * action
    mine |= cell
    s.discs[me], s.last, s.to_move = mine, cell, 1 - me
    if lines(mine):
        rewards[me], rewards[1 - me] = 1.0, -1.0
        return True
    return (mine | theirs) == BOARD


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    mine, theirs = s.discs[agent], s.discs[1 - agent]
    for row in range(ROWS):
        for column in range(COLUMNS):
            place = HIGH * column + ROWS - 1 - row
            out[row, column, 0] = mine >> place & 1
            out[row, column, 1] = theirs >> place & 1


@kernel
def action_mask(s: State, agent: int, p: Params, mask: Array) -> None:
    full = s.discs[0] | s.discs[1]
    for column in range(COLUMNS):
        mask[column] = 1 - (full >> (HIGH * column + ROWS - 1) & 1)


@kernel
def rotate_seats(s: State, p: Params) -> None:
    s.discs[0], s.discs[1], s.to_move = s.discs[1], s.discs[0], 1 - s.to_move


@kernel
def landing(full: int) -> int:
    """Return the lowest empty cell of every column."""
    return full + FLOOR & BOARD


@kernel
def completing(m: int) -> int:
    """Return the cells, empty or not, that would complete a line of four."""
    cells = 0
    for way in WAYS:
        before, after = m << way & m << 2 * way, m >> way & m >> 2 * way
        cells |= before & (m << 3 * way | m >> way) | after & (m >> 3 * way | m << way)
    return cells & BOARD


@kernel
def urgent(s: State, agent: int) -> int:
    """Return the cells that win at once or, if there are none, those with which the other player would."""
    cells = landing(s.discs[0] | s.discs[1])
    wins, blocks = completing(s.discs[agent]) & cells, completing(s.discs[1 - agent]) & cells
    return wins if wins else blocks


@kernel
def winning(m: int, full: int) -> bool:
    """Return True if the player of m wins after any reply: it has two threats at once, or one on top of another."""
    threats = completing(m) & ~full
    now = threats & landing(full)
    return now & now - 1 | now << 1 & threats != 0


@kernel
def rated(mine: int, theirs: int) -> int:
    """Return the value of a position for the player that has just moved, from three moves ahead and its threats."""
    full = mine | theirs
    cells, threats, dangers = landing(full), completing(mine) & ~full, completing(theirs) & ~full
    if dangers & cells:
        return -1000
    if winning(mine, full):
        return 1000
    answers = threats & cells if threats & cells else cells
    for column in range(COLUMNS):
        answer = answers & 127 << HIGH * column
        if answer and answer << 1 & threats == 0 and winning(theirs | answer, full | answer):
            return -500
    return 4 * (count(threats) - count(dangers))


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    cells, best, best_column, first = urgent(s, agent), -2000, 0, dice(s, COLUMNS)
    if cells == 0:
        cells = landing(s.discs[0] | s.discs[1])
    for k in range(COLUMNS):
        column = (first + k) % COLUMNS  # the random first column breaks ties
        cell = cells & 127 << HIGH * column
        if cell:
            value = rated(s.discs[agent] | cell, s.discs[1 - agent]) + 3 - abs(column - 3)
            if value > best:
                best, best_column = value, column
    return best_column


@kernel
def novice(s: State, agent: int, p: Params) -> int:
    cells = urgent(s, agent)
    return pick(s, cells if cells else landing(s.discs[0] | s.discs[1])) // HIGH


def draw(s: State, p: Params, canvas: Canvas) -> None:
    canvas.view(-0.75, -1.05, COLUMNS + 0.75, ROWS + 0.75)  # column k spans k to k + 1, and so do heights
    canvas.clear(WALL)
    canvas.rectangle(3.5, -10.65, 100, 20, TABLE)
    for foot in (-0.28, COLUMNS + 0.28):
        canvas.rectangle(foot, 2.6, 0.3, 7.0, FRAME, corner=0.15)
        canvas.rectangle(foot, -0.8, 0.95, 0.3, FRAME, corner=0.13)
    canvas.rectangle(3.5, 2.92, COLUMNS + 0.36, ROWS + 0.44, FRAME, corner=0.3)
    canvas.rectangle(3.5, 3.0, COLUMNS + 0.36, ROWS + 0.36, PANEL, corner=0.3)
    won, both = 0, (s.discs[0], s.discs[1])
    for m, way in itertools.product(both, WAYS):
        first = m & m >> way & m >> 2 * way & m >> 3 * way
        won |= first | first << way | first << 2 * way | first << 3 * way
    for column, height in itertools.product(range(COLUMNS), range(ROWS)):
        x, y, place = column + 0.5, height + 0.5, 1 << HIGH * column + height
        canvas.circle(x, y, 0.43, FRAME)
        canvas.circle(x, y - 0.025, 0.405, WALL)
        for discs, (face, rim) in zip(both, COLORS, strict=True):
            if discs & place:
                canvas.circle(x, y - 0.015, 0.415, rim)
                canvas.circle(x, y - 0.015, 0.29, face)
                if won & place:
                    canvas.circle(x, y - 0.015, 0.43, face, (255, 255, 255), 0.1)
                elif won:
                    canvas.circle(x, y - 0.015, 0.42, translucent(WALL, 0.5))
        if s.last & place and not won:
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
