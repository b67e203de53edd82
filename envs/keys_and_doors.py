"""Keys and doors: find the keys of three locked doors, in order, and walk through four rooms to the exit.

observation  u1 (8, 8, 8)  1 where a wall or locked door is; the exit; each of the 3 keys; each of their locked doors
action       0 left, 1 right, 2 down, 3 up, 4 take the key in this cell, 5 open a door beside it whose key was taken
reward       +1 at the exit, nothing before
ends         at the exit

A level is one of the world's own, or one of those that `world.params.level_grids=FILE` names.

The agent stands in row 4, column 4 of what it observes: the board is moved, and not the agent. A wall around the board
fills one row and one column, and what leaves the view on one side comes back on the other, so all is seen. A
network that has learned to walk to a key in one place can thus walk to it from anywhere.
"""

import numpy as np

from rl_lab.core.canvas import ACCENTS, BACKGROUND, GREEN, INK, translucent
from rl_lab.core.levels import Levels
from rl_lab.core.rng import bits, integers, philox
from rl_lab.core.symmetry import Symmetry
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, f8, i4, i8, kernel, u1

SIZE, ROOM, DOORS, CELLS = 7, 3, 3, 49
VIEW, CENTRE = SIZE + 1, 4  # the view has one row and one column more than the board, for the wall around it
CHANNELS = 2 + 2 * DOORS
NOWHERE = -1  # of a key that was taken and of a door that was opened
LEFT, RIGHT, DOWN, UP, TAKE, OPEN = range(6)
BOARD = i8(2**CELLS - 1)  # sets of cells are integers: bit x + SIZE * y is the cell in column x and row y
NOT_LEFT = i8(sum(1 << cell for cell in range(CELLS) if cell % SIZE > 0))
NOT_RIGHT = i8(sum(1 << cell for cell in range(CELLS) if cell % SIZE < SIZE - 1))
ONE = i8(1)
SYMBOLS, MOST_GRIDS = ".#@XabcABC", 1000  # floor, wall, agent, exit, keys and doors
WALL, AGENT, EXIT, KEY, DOOR = 1, 2, 3, 4, 4 + DOORS  # numbers of symbols; keys and doors are numbered from there


class Log(Record):
    keys: f8
    doors: f8
    solved: f8


class State(WorldState):
    cell: i4 = bounded(0, low=0, high=CELLS - 1)  # the agent's: column + SIZE * row, row 0 at the bottom
    exit: i4 = bounded(0, low=0, high=CELLS - 1)
    keys: i4[DOORS] = bounded(0, low=NOWHERE, high=CELLS - 1)
    doors: i4[DOORS] = bounded(0, low=NOWHERE, high=CELLS - 1)
    walls: u1[CELLS]
    log: Log


class Params(Record):
    levels: i4 = bounded(0, low=0, high=1_000_000)  # how many levels of its own there are; 0: all 69,984
    level_grids: u1[MOST_GRIDS, CELLS] = bounded(0, low=0, high=len(SYMBOLS) - 1)  # levels to play in their place
    num_level_grids: i4 = bounded(0, low=0, high=MOST_GRIDS)  # how many of these; 0: its own levels


@kernel
def choose(level: int, index: int, count: int) -> int:
    """Return the level's choice number `index` among 0 to count - 1."""
    return i8(philox(np.uint64(level), np.uint64(index)) >> np.uint64(8)) % count


@kernel
def cell_in_room(room: int, place: int) -> int:
    """Return the cell at place 0 to 8 of a room; rooms 0 to 3 go counterclockwise from the lower left."""
    x = (ROOM + 1 if room == 1 or room == 2 else 0) + place % ROOM
    y = (ROOM + 1 if room >= 2 else 0) + place // ROOM
    return x + SIZE * y


@kernel
def cell_in_wall(wall: int, place: int) -> int:
    """Return the cell at place 0 to 2 of the wall between rooms `wall` and (wall + 1) % 4."""
    along = place + (ROOM + 1 if wall == 1 or wall == 2 else 0)
    return ROOM + SIZE * along if wall % 2 == 0 else along + SIZE * ROOM


@kernel
def reset_to_grid(s: State, p: Params) -> None:
    """Begin in one of the levels that the parameters hold."""
    number = integers(s, p.num_level_grids)
    for place in range(CELLS):
        cell = place % SIZE + SIZE * (SIZE - 1 - place // SIZE)  # the grid's first row is at the top
        symbol = i8(p.level_grids[number, place])
        if symbol == WALL:
            s.walls[cell] = 1
        elif symbol == AGENT:
            s.cell = cell
        elif symbol == EXIT:
            s.exit = cell
        elif symbol >= DOOR:
            s.doors[symbol - DOOR] = cell
        elif symbol >= KEY:
            s.keys[symbol - KEY] = cell


@kernel
def reset(s: State, p: Params) -> None:
    if p.num_level_grids > 0:
        reset_to_grid(s, p)
        return
    number = i8(bits(s))
    level = number % p.levels if p.levels > 0 else number
    for k in range(SIZE):
        s.walls[ROOM + SIZE * k] = s.walls[k + SIZE * ROOM] = 1
    # The way leads from the first room around to the fourth; the wall between these two has no door.
    first, turn = choose(level, 0, 4), 1 + 2 * choose(level, 1, 2)  # 3 = -1 modulo 4: clockwise
    # The things in a room lie at different places, because 1, 2, 4, 5, 7 and 8 have no common divisor with 9.
    place, spacing = choose(level, 2, 9), choose(level, 3, 6)
    spacing += 1 + spacing // 2
    s.cell = cell_in_room(first, place)
    s.exit = cell_in_room((first + 3 * turn) % 4, place)
    for k in range(DOORS):
        room, room_of_key = (first + k * turn) % 4, (first + choose(level, 4 + k, k + 1) * turn) % 4
        s.keys[k] = cell_in_room(room_of_key, (place + (k + 1) * spacing) % 9)
        s.doors[k] = cell_in_wall(room if turn == 1 else (room + 3) % 4, choose(level, 7 + k, ROOM))
        s.walls[s.doors[k]] = 0


@kernel
def neighbour(cell: int, direction: int) -> int:
    """Return the next cell in a direction, or the same cell at the edge of the board."""
    x, y = cell % SIZE, cell // SIZE
    if direction == LEFT:
        x = max(x - 1, 0)
    elif direction == RIGHT:
        x = min(x + 1, SIZE - 1)
    elif direction == DOWN:
        y = max(y - 1, 0)
    else:
        y = min(y + 1, SIZE - 1)
    return x + SIZE * y


@kernel
def is_free(s: State, cell: int) -> bool:
    """Return True if the agent may walk into a cell."""
    free = s.walls[cell] == 0
    for k in range(DOORS):
        free = free and s.doors[k] != cell
    return free


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    if action == TAKE:
        for k in range(DOORS):
            if s.keys[k] == s.cell:
                s.keys[k] = NOWHERE
                s.log.keys += 1.0
    elif action == OPEN:
        for k in range(DOORS):
            for direction in range(4):
                if s.keys[k] == NOWHERE and s.doors[k] == neighbour(s.cell, direction):
                    s.doors[k] = NOWHERE
                    s.log.doors += 1.0
    else:
        target = neighbour(s.cell, action)
        if is_free(s, target):
            s.cell = target
    if s.cell != s.exit:
        return 0.0, False
    s.log.solved = 1.0
    return 1.0, True


@kernel
def seen_at(position: int, own: int) -> int:
    """Return the row of the view that shows a row of the board, for an agent in row `own`; columns are alike."""
    return (position - own + CENTRE + VIEW) % VIEW


@kernel
def mark(s: State, cell: int, channel: int, out: Array) -> None:
    """Write a 1 into a channel of the observation, where the agent sees a cell of the board."""
    out[seen_at(cell // SIZE, s.cell // SIZE), seen_at(cell % SIZE, s.cell % SIZE), channel] = 1


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    for k in range(VIEW):
        out[seen_at(SIZE, s.cell // SIZE), k, 0] = out[k, seen_at(SIZE, s.cell % SIZE), 0] = 1
    for cell in range(CELLS):
        if s.walls[cell] == 1:
            mark(s, cell, 0, out)
    mark(s, s.exit, 1, out)
    for k in range(DOORS):
        if s.keys[k] != NOWHERE:
            mark(s, s.keys[k], 2 + k, out)
        if s.doors[k] != NOWHERE:
            mark(s, s.doors[k], 0, out)
            mark(s, s.doors[k], 2 + DOORS + k, out)


@kernel
def expert(s: State, p: Params) -> int:
    # It goes for the key of the first locked door, then for the door, and at last for the exit.
    target, act = i8(s.exit), OPEN
    for k in range(DOORS - 1, -1, -1):
        if s.doors[k] != NOWHERE:
            is_held = s.keys[k] == NOWHERE
            target, act = i8(s.doors[k] if is_held else s.keys[k]), OPEN if is_held else TAKE
    if act == TAKE and s.cell == target:
        return TAKE
    free = i8(0)
    for cell in range(CELLS):
        if is_free(s, cell):
            free |= ONE << i8(cell)
    # Breadth-first search from the target, all cells of one distance at a time, until it reaches the agent.
    reached = ONE << target
    for _ in range(CELLS):
        for direction in range(4):
            beside = neighbour(s.cell, direction)
            if beside != s.cell and (reached >> i8(beside)) & ONE == ONE:
                return OPEN if beside == target and act == OPEN and target != s.exit else direction
        spread = (
            ((reached & NOT_RIGHT) << ONE)
            | ((reached & NOT_LEFT) >> ONE)
            | (reached << i8(SIZE))
            | (reached >> i8(SIZE))
        )
        reached |= spread & free & BOARD
    return LEFT


def draw(s: State, p: Params, canvas: Canvas) -> None:
    canvas.view(-0.6, -0.6, SIZE + 1.6, SIZE + 0.6)
    canvas.clear()
    canvas.rectangle(SIZE / 2, SIZE / 2, SIZE + 0.7, SIZE + 0.7, INK, corner=0.3)
    for cell in range(CELLS):
        x, y = cell % SIZE + 0.5, cell // SIZE + 0.5
        if not s.walls[cell]:
            canvas.rectangle(x, y, 1.02, 1.02, (246, 241, 231) if (x + y) % 2 else (238, 231, 218))
    x, y = s.exit % SIZE + 0.5, s.exit // SIZE + 0.5
    canvas.rectangle(x, y, 0.8, 0.8, translucent(GREEN, 0.35), corner=0.15)
    canvas.rectangle(x, y, 0.5, 0.5, GREEN, corner=0.1)
    for k in range(DOORS):
        color = (ACCENTS[0], ACCENTS[1], ACCENTS[4])[k]
        if s.doors[k] != NOWHERE:
            x, y = s.doors[k] % SIZE + 0.5, s.doors[k] // SIZE + 0.5
            canvas.rectangle(x, y, 0.92, 0.92, color, corner=0.08)
            canvas.circle(x, y + 0.08, 0.13, INK)
            canvas.polygon([(x - 0.06, y), (x + 0.06, y), (x + 0.12, y - 0.26), (x - 0.12, y - 0.26)], INK)
            is_held = s.keys[k] == NOWHERE  # then it is drawn beside the board, until its door is open
            x, y = (SIZE + 1.0, SIZE - 0.5 - k) if is_held else (s.keys[k] % SIZE + 0.5, s.keys[k] // SIZE + 0.5)
            canvas.circle(x - 0.16, y, 0.17, color)
            canvas.circle(x - 0.16, y, 0.07, BACKGROUND)
            canvas.line([(x, y), (x + 0.3, y), (x + 0.3, y - 0.13)], color, 0.09)
    x, y = s.cell % SIZE + 0.5, s.cell // SIZE + 0.5
    canvas.circle(x, y, 0.33, (250, 190, 50), INK, 0.05)
    for side in (-0.11, 0.11):
        canvas.circle(x + side, y + 0.06, 0.05, INK)


def encode(s: State) -> list[int]:
    """Return the level as a grid, from its state after a reset."""
    cells = [WALL if s.walls[cell] else 0 for cell in range(CELLS)]
    cells[s.cell], cells[s.exit] = AGENT, EXIT
    for k in range(DOORS):
        cells[s.keys[k]], cells[s.doors[k]] = KEY + k, DOOR + k
    return [cells[x + SIZE * y] for y in reversed(range(SIZE)) for x in range(SIZE)]


def mirrored(is_left_right: bool, is_up_down: bool, is_diagonal: bool) -> Symmetry:
    """Return what is observed and done on a mirrored board; the agent stays in the middle of its view."""
    view = np.arange(VIEW * VIEW * CHANNELS).reshape(VIEW, VIEW, CHANNELS)
    reverse, actions = (2 * CENTRE - np.arange(VIEW)) % VIEW, np.arange(6)
    if is_left_right:
        view, actions = view[:, reverse], np.array([RIGHT, LEFT, DOWN, UP, TAKE, OPEN])[actions]
    if is_up_down:
        view, actions = view[reverse], np.array([LEFT, RIGHT, UP, DOWN, TAKE, OPEN])[actions]
    if is_diagonal:
        view, actions = view.swapaxes(0, 1), np.array([DOWN, UP, LEFT, RIGHT, TAKE, OPEN])[actions]
    return Symmetry(view.reshape(-1), actions)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(0, 1, (VIEW, VIEW, CHANNELS), np.uint8),
    action=Discrete(6),
    horizon=200,
    frames_per_second=8,
    reward_threshold=1.0,
    symmetries=tuple(mirrored(bool(k & 1), bool(k & 2), bool(k & 4)) for k in range(1, 8)),
    levels=Levels((SIZE, SIZE), SYMBOLS, "@XabcABC", encode),
)
