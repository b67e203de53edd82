"""Asterix: collect gold and keep out of the way of enemies, which come faster and faster.

observation  u1 (10, 10, 4)  player, enemies, trails of enemies and gold, gold; row 0 on top
action       0 stay, 1 left, 2 up, 3 right, 4 down
reward       1 a piece of gold
ends         when the player meets an enemy

One object at a time crosses each of the eight middle rows; two of three are enemies. Every 102 steps, nine times,
objects come a step sooner after each other, and every second time they move a step sooner, too (not if
difficulty_ramping=0).
Time runs out at 10,000 steps; MinAtar and Pgx have no limit, Gymnax 1,000.

Source: Young and Tian 2019 (arXiv 1903.03176); MinAtar's Asterix-v1
"""

from rl_lab.envs._minatar import (
    DOWN,
    HORIZON,
    LEFT,
    RIGHT,
    SIDE,
    UP,
    GameState,
    RampingParams,
    apply_sticky_action,
    board_space,
    cell_center,
    draw_board,
)

from rl_lab.core.canvas import BLUE, GOLD, INK, ORANGE, RED, translucent
from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Canvas, Discrete, World, bounded, i1, i4, kernel

NOTHING, ENEMY, TRAIL, TREASURE = 0, 1, 2, 3  # kinds of objects, and their channels of the observation
ROWS, LEVELS, LEVEL_STEPS = 8, 9, 102
SPAWN_INTERVAL, MOVE_INTERVAL = 10, 5  # steps between two new objects, and between two moves of all objects, at level 0
TAIL_COLORS = translucent(INK, 0), translucent(RED, 0.25), INK, translucent(GOLD, 0.25)  # by kind
SKIN, SHINE, WHITE = (255, 226, 196), (250, 214, 104), (255, 255, 255)


class State(GameState):
    x: i4 = bounded(0, low=0, high=SIDE - 1)  # the player's
    y: i4 = bounded(1, low=1, high=ROWS)
    kinds: i1[ROWS] = bounded(NOTHING, low=NOTHING, high=TREASURE)  # element k: of the object in row k + 1 of the board
    columns: i1[ROWS] = bounded(0, low=0, high=SIDE - 1)
    headings: i1[ROWS] = bounded(0, low=-1, high=1)  # of the objects: -1 left, 1 right
    spawn_wait: i4 = bounded(0, low=0, high=SPAWN_INTERVAL)  # steps until the next object comes
    move_wait: i4 = bounded(0, low=0, high=MOVE_INTERVAL)


@kernel
def reset(s: State, p: RampingParams) -> None:
    s.x, s.y, s.spawn_wait, s.move_wait = SIDE // 2, SIDE // 2, SPAWN_INTERVAL, MOVE_INTERVAL


@kernel
def spawn(s: State) -> None:
    free = 0
    for k in range(ROWS):
        free += s.kinds[k] == NOTHING
    value = integers(s, 6 * free)
    kind_and_side, rows_to_skip = value % 6, value // 6
    for k in range(ROWS):
        if s.kinds[k] == NOTHING:
            if rows_to_skip == 0:
                s.kinds[k] = TREASURE if kind_and_side % 3 == 0 else ENEMY
                s.headings[k], s.columns[k] = (1, 0) if kind_and_side < 3 else (-1, SIDE - 1)
            rows_to_skip -= 1


@kernel
def player_after(x: int, y: int, action: int) -> tuple[int, int]:
    """Return the player's cell after an action."""
    x, y = x + (action == RIGHT) - (action == LEFT), y + (action == DOWN) - (action == UP)
    return min(max(x, 0), SIDE - 1), min(max(y, 1), ROWS)


@kernel
def take_object_at_player(s: State) -> int:
    """Return the kind of object in the player's cell; gold is removed."""
    kind = s.kinds[s.y - 1] if s.columns[s.y - 1] == s.x else NOTHING
    if kind == TREASURE:
        s.kinds[s.y - 1] = NOTHING
    return kind


@kernel
def step(s: State, action: int, p: RampingParams) -> tuple[float, bool]:
    level = min((s.t - 1) // LEVEL_STEPS, LEVELS) * p.difficulty_ramping
    action = apply_sticky_action(s, action, p)
    if s.spawn_wait == 0:
        spawn(s)
        s.spawn_wait = SPAWN_INTERVAL - level
    s.x, s.y = player_after(s.x, s.y, action)
    kind = take_object_at_player(s)
    if s.move_wait == 0:
        s.move_wait = MOVE_INTERVAL - level // 2
        for k in range(ROWS):
            column = s.columns[k] + s.headings[k]
            if 0 <= column < SIDE:
                s.columns[k] = column
            else:
                s.kinds[k] = NOTHING
        kind = max(kind, take_object_at_player(s))
    s.spawn_wait -= 1
    s.move_wait -= 1
    return (1.0 if kind == TREASURE else 0.0), kind == ENEMY


@kernel
def observe(s: State, p: RampingParams, out: Array) -> None:
    out[s.y, s.x, 0] = 1
    for k in range(ROWS):
        if s.kinds[k] != NOTHING:
            out[k + 1, s.columns[k], s.kinds[k]] = 1
            column_behind = s.columns[k] - s.headings[k]
            if 0 <= column_behind < SIDE:
                out[k + 1, column_behind, TRAIL] = 1


@kernel
def expert(s: State, p: RampingParams) -> int:
    # Go to gold, out of every enemy's way and to the middle; look a step further, for the action may stick.
    best, choice = -(10**6), 0
    for action in range(DOWN + 1):
        x, y, value = s.x, s.y, 0
        for weight in (10, 1):
            x, y = player_after(x, y, action)
            nearest, steps_past = 2 * SIDE, (x - s.columns[y - 1]) * s.headings[y - 1]
            for k in range(ROWS):
                if s.kinds[k] == TREASURE:
                    nearest = min(nearest, abs(x - s.columns[k] - s.headings[k]) + abs(y - 1 - k))
            value -= weight * (abs(2 * x - SIDE + 1) + abs(2 * y - SIDE + 1) + 20 * nearest)
            if s.kinds[y - 1] == ENEMY and 0 <= steps_past <= 2:
                value -= weight * 900 // (1 + steps_past + s.move_wait * min(steps_past, 1))
        if value > best:
            best, choice = value, action
    return choice


def draw(s: State, p: RampingParams, canvas: Canvas) -> None:
    draw_board(canvas)
    for k in range(ROWS):
        (x, y), ahead = cell_center(k + 1, s.columns[k]), s.headings[k]
        tail, column_behind = min(max(x - 1.2 * ahead, 0), SIDE), x - 0.36 * ahead
        canvas.polygon([(x, y + 0.3), (tail, y), (x, y - 0.3)], TAIL_COLORS[s.kinds[k]])
        if s.kinds[k] == ENEMY:
            canvas.polygon([(x + 0.44 * ahead, y), (column_behind, y + 0.4), (x, y), (column_behind, y - 0.4)], RED)
            canvas.circle(x - 0.04 * ahead, y, 0.24, RED)
            canvas.circle(x + 0.1 * ahead, y, 0.1, INK, WHITE, 0.06)
        elif s.kinds[k] == TREASURE:
            canvas.circle(x, y, 0.34, SHINE, GOLD, 0.07)
            canvas.rectangle(x, y, 0.09, 0.28, GOLD, corner=0.04)
    x, y = cell_center(s.y, s.x)
    canvas.polygon([(x, y), (x - 0.46, y + 0.44), (x, y + 0.2), (x + 0.46, y + 0.44)], ORANGE)  # wings of a helmet
    canvas.circle(x, y, 0.36, BLUE)
    canvas.circle(x, y - 0.06, 0.24, SKIN)
    canvas.line([(x - 0.2, y - 0.22), (x, y - 0.16), (x + 0.2, y - 0.22)], ORANGE, 0.09)
    for side in (-0.09, 0.09):
        canvas.circle(x + side, y - 0.02, 0.04, INK)


world = World(
    State,
    RampingParams,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=board_space(4),
    action=Discrete(DOWN + 1),
    horizon=HORIZON,
    frames_per_second=15,
    reward_threshold=20,
)
