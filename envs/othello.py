"""Othello: enclose the other player's discs between yours to turn them over; more discs at the end win.

observation  u1 (8, 8, 2)  own discs, the other player's; row 0 on top
action       0 to 63, the cell to place a disc on: 8 row + column; 64 passes, if no placement turns a disc
reward       +1 for the player with more discs at the end, -1 for the other; 0 for a draw
ends         when no player can place a disc

black moves first. The novice takes corners and otherwise turns as many discs as it can; the expert values corners, the
cells c_squares them, and having more placements to choose from.

Source: OpenSpiel's othello; the World Othello Federation's rules
"""

import numpy as np
from rl_lab.envs._games import count_bits, random_index

from rl_lab.core.canvas import INK, ORANGE, translucent
from rl_lab.core.rng import bits
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, i4, kernel, u8

SIDE, PASS = 8, 64
NONE, ONE, EIGHT = np.uint64(0), np.uint64(1), np.uint64(8)
DIRECTIONS = EIGHT, ONE, np.uint64(7), np.uint64(9)  # to the next cell of a line: down, right, diagonals
INSIDE = np.uint64(0x7E7E7E7E7E7E7E7E)  # no first and last column: lines do not go on from one row to the next
# Boards: bit 8 row + column. Discs at the start, and where black may place the first one.
BLACK, WHITE = np.uint64(1 << 28 | 1 << 35), np.uint64(1 << 27 | 1 << 36)
FIRST_MOVES = np.uint64(1 << 19 | 1 << 26 | 1 << 37 | 1 << 44)
CORNERS, LEFT_COLUMN = np.uint64(0x8100000000000081), np.uint64(0x0101010101010101)
INNER = np.uint64(0x007E7E7E7E7E7E00)  # but for the edges
LOWEST = -1_000_000  # below any value of a position
FELT, EDGE = (46, 132, 92), (34, 104, 72)
COLORS = ((34, 37, 43), (78, 84, 94)), ((243, 240, 232), (255, 255, 255))  # of discs, and where light falls on them


class State(WorldState):
    to_move: i4 = bounded(0, low=0, high=1)
    last: i4 = bounded(0, low=0, high=PASS + 1)  # the last action + 1; 0 before the first
    discs: u8[2]  # of black and white: bit 8 row + column
    moves: u8  # where the mover may place a disc


class Params(Record):
    pass


@kernel
def turned_discs(mine: int, theirs: int, cell: int) -> int:
    """Return the discs that a disc of mine turns over, as a board; `cell` is the board with its cell alone."""
    discs = NONE
    for k in range(4):
        direction, between = DIRECTIONS[k], theirs if k == 0 else theirs & INSIDE
        up, down = between & cell << direction, between & cell >> direction
        for _ in range(5):  # a line encloses at most 6 discs, of which the first is found
            up, down = up | between & up << direction, down | between & down >> direction
        discs |= up if up << direction & mine else NONE
        discs |= down if down >> direction & mine else NONE
    return discs


@kernel
def placements(mine: int, theirs: int) -> int:
    """Return the empty cells from which a disc of mine would enclose others."""
    cells = NONE
    for k in range(4):
        direction, between = DIRECTIONS[k], theirs if k == 0 else theirs & INSIDE
        up, down = between & mine << direction, between & mine >> direction
        for _ in range(5):
            up, down = up | between & up << direction, down | between & down >> direction
        cells |= up << direction | down >> direction
    return cells & ~(mine | theirs)


@kernel
def reset(s: State, p: Params) -> None:
    s.discs[0], s.discs[1], s.moves = BLACK, WHITE, FIRST_MOVES
    bits(s)  # the rules have no chance, but scripted players use random numbers that differ between episodes


@kernel
def step(s: State, action: int, p: Params, rewards: Array) -> bool:
    me = s.to_move
    mine, theirs = np.uint64(s.discs[me]), np.uint64(s.discs[1 - me])
    if action < PASS:
        cell = ONE << np.uint64(action)
        turned = turned_discs(mine, theirs, cell)
        mine, theirs = mine | turned | cell, theirs & ~turned
    s.discs[me], s.discs[1 - me], s.moves = mine, theirs, placements(theirs, mine)
    s.last, s.to_move = i4(action + 1), 1 - me
    if np.uint64(s.moves) != NONE or placements(mine, theirs) != NONE:
        return False
    lead = count_bits(mine) - count_bits(theirs)
    if lead != 0:
        rewards[me] = 1.0 if lead > 0 else -1.0
        rewards[1 - me] = -rewards[me]
    return True


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    mine, theirs = np.uint64(s.discs[agent]), np.uint64(s.discs[1 - agent])
    for row in range(SIDE):
        for column in range(SIDE):
            bit = np.uint64(SIDE * row + column)
            out[row, column, 0] = mine >> bit & ONE
            out[row, column, 1] = theirs >> bit & ONE


@kernel
def action_mask(s: State, agent: int, p: Params, mask: Array) -> None:
    moves = np.uint64(s.moves)
    for cell in range(PASS):
        mask[cell] = moves >> np.uint64(cell) & ONE
    mask[PASS] = 1 if moves == NONE else 0


@kernel
def rotate_seats(s: State, p: Params) -> None:
    # `moves` are those of the player to move, who stays the same.
    s.discs[0], s.discs[1], s.to_move = s.discs[1], s.discs[0], 1 - s.to_move


@kernel
def position_value(mine: int, theirs: int) -> int:
    """Return the value of a position for the player that has just moved."""
    their_next, mine_next = count_bits(placements(theirs, mine)), count_bits(placements(mine, theirs))
    if their_next + mine_next == 0:
        return 1000 * (count_bits(mine) - count_bits(theirs))
    free = CORNERS & ~(mine | theirs)
    c_squares = free << EIGHT | free >> EIGHT | (free & LEFT_COLUMN) << ONE | (free & ~LEFT_COLUMN) >> ONE
    x_squares = (c_squares << ONE | c_squares >> ONE) & INNER
    # Weights chosen by hand: corners first, then placements to choose from. Squares beside a free corner lose it.
    value = 80 * (count_bits(mine & CORNERS) - count_bits(theirs & CORNERS)) + 8 * (mine_next - their_next)
    return (
        value
        - 40 * (count_bits(mine & x_squares) - count_bits(theirs & x_squares))
        - 15 * (count_bits(mine & c_squares) - count_bits(theirs & c_squares))
    )


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    mine, theirs = np.uint64(s.discs[agent]), np.uint64(s.discs[1 - agent])
    best, best_action, first = LOWEST, PASS, random_index(s, PASS)
    for k in range(PASS):
        action = (first + k) % PASS  # the random first action breaks ties
        cell = ONE << np.uint64(action)
        if np.uint64(s.moves) & cell:
            turned = turned_discs(mine, theirs, cell)
            value = position_value(mine | turned | cell, theirs & ~turned)
            if value > best:
                best, best_action = value, action
    return best_action


@kernel
def novice(s: State, agent: int, p: Params) -> int:
    best, best_action, first = 0, PASS, random_index(s, PASS)
    for k in range(PASS):
        action = (first + k) % PASS
        cell = ONE << np.uint64(action)
        if np.uint64(s.moves) & cell:
            value = count_bits(turned_discs(np.uint64(s.discs[agent]), np.uint64(s.discs[1 - agent]), cell))
            if cell & CORNERS:
                value = PASS  # more than any number of discs
            if value > best:
                best, best_action = value, action
    return best_action


def draw(s: State, p: Params, canvas: Canvas) -> None:
    def at(cell: int) -> tuple[float, float]:
        return cell % SIDE + 0.5, SIDE - 0.5 - cell // SIDE

    canvas.view(-0.75, -0.6, SIDE + 1.65, SIDE + 0.6)
    canvas.clear((233, 229, 220))
    canvas.rectangle(4, 3.93, SIDE + 0.75, SIDE + 0.75, translucent(INK, 0.25), corner=0.3)
    canvas.rectangle(4, 4, SIDE + 0.75, SIDE + 0.75, (84, 58, 42), corner=0.3)
    canvas.rectangle(4, 4, SIDE + 0.14, SIDE + 0.14, EDGE, corner=0.05)
    for cell in range(PASS):
        canvas.rectangle(*at(cell), 0.965, 0.965, FELT)
    for x, y in (2, 2), (2, 6), (6, 2), (6, 6):
        canvas.circle(x, y, 0.09, EDGE)
    for cell in range(PASS):
        x, y = at(cell)
        for discs, (face, light) in zip((s.discs[0], s.discs[1]), COLORS, strict=True):
            if discs >> cell & 1:
                canvas.circle(x + 0.02, y - 0.06, 0.41, (0, 0, 0, 70))
                canvas.circle(x, y, 0.41, light)
                canvas.circle(x, y - 0.03, 0.38, face)
        if s.last == cell + 1:
            canvas.circle(x, y, 0.1, ORANGE)
        if s.moves >> cell & 1:
            canvas.circle(x, y, 0.13, translucent(COLORS[s.to_move][0], 0.4))
    # A bar shows both players' numbers of discs, from its two ends.
    canvas.rectangle(9.2, 4, 0.34, SIDE, (205, 199, 187), corner=0.17)
    for discs, end, up in (s.discs[0], 0, 1), (s.discs[1], SIDE, -1):
        bar_length = max(SIDE * count_bits(discs) / PASS, 0.34)
        canvas.rectangle(9.2, end + up * bar_length / 2, 0.34, bar_length, COLORS[0 if up > 0 else 1][0], corner=0.17)


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
    observation=Box(0, 1, (SIDE, SIDE, 2), np.uint8),
    action=Discrete(SIDE * SIDE + 1),
    horizon=2 * SIDE * SIDE,  # never reached: at most 60 placements, and no two passes in a row
    agents=("black", "white"),
    current_player_field="to_move",
    zero_sum=True,
    frames_per_second=4,
)
