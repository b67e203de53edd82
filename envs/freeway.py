"""Freeway: get a chicken across eight lanes of cars, again and again until time is up.

observation  u1 (10, 10, 7)  chicken, cars, trails of cars with a channel for each speed 1 to 5; row 0 on top
action       0 stay, 1 up, 2 down
reward       1 a crossing
ends         at step 2,501 (the paper's 2,500 frames, and the step in which time is up)

The chicken rests for two steps after each of its own. A car of speed k moves a cell every k + 1 steps, and comes in
again on the other side. A chicken that is hit, and one that has crossed, starts again at the bottom; after a crossing
all cars get new speeds and directions. Nothing gets harder: no difficulty_ramping. The horizon is never reached.

Source: Young and Tian 2019 (arXiv 1903.03176); MinAtar's Freeway-v1
"""

from rl_lab.envs._minatar import (
    DOWN,
    HORIZON,
    SIDE,
    STAY,
    UP,
    GameParams,
    GameState,
    apply_sticky_action,
    board_space,
    cell_center,
    draw_board,
)

from rl_lab.core.canvas import BLUE, GREEN, INK, ORANGE, PURPLE, RED, translucent
from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Canvas, Discrete, World, bounded, i1, i4, kernel

ACTIONS = STAY, UP, DOWN
LANES, NUM_SPEEDS, MAX_FRAMES, REST_STEPS = 8, 5, 2500, 3
BOTTOM, CHICKEN_COLUMN = SIDE - 1, 4  # where the chicken starts
SPEED_COLORS = RED, ORANGE, GREEN, BLUE, PURPLE  # by speed
ROAD, WHITE, LAMP = (92, 97, 106), (252, 250, 246), (255, 236, 150)


class State(GameState):
    row: i4 = bounded(0, low=0, high=BOTTOM)  # the chicken's
    rest: i4 = bounded(0, low=0, high=REST_STEPS)  # steps until it can move
    cars: i1[LANES] = bounded(0, low=0, high=SIDE - 1)  # columns; lane k is row k + 1
    speeds: i1[LANES] = bounded(1, low=-NUM_SPEEDS, high=NUM_SPEEDS)  # steps between two moves; below 0 to the left
    waits: i1[LANES] = bounded(0, low=0, high=NUM_SPEEDS)  # steps until the next move


Params = GameParams


@kernel
def draw_car_speeds(s: State) -> None:
    """Draw a speed and a direction for every car from the world's random stream."""
    for k in range(LANES):
        value = integers(s, 2 * NUM_SPEEDS)
        s.waits[k] = 1 + value % NUM_SPEEDS
        s.speeds[k] = s.waits[k] if value < NUM_SPEEDS else -s.waits[k]


@kernel
def reset(s: State, p: Params) -> None:
    s.row, s.rest = BOTTOM, REST_STEPS
    draw_car_speeds(s)


@kernel
def next_column(x: int, speed: int) -> int:
    """Return the column of the next cell in the direction of the speed, with wrap-around at the edges."""
    x += 1 if speed > 0 else -1
    return SIDE - 1 if x < 0 else 0 if x >= SIDE else x


@kernel
def is_row_safe(s: State, row: int, steps: int) -> bool:
    """Return True if no car hits a chicken that stays in this row for the next steps."""
    if row < 1 or row > LANES:
        return True
    x, wait, speed = s.cars[row - 1], s.waits[row - 1], s.speeds[row - 1]
    for _ in range(steps):
        if x == CHICKEN_COLUMN:
            return False
        if wait == 0:
            x, wait = next_column(x, speed), abs(speed)
        else:
            wait -= 1
    return x != CHICKEN_COLUMN


@kernel
def step_minatar_action(s: State, action: int, p: Params) -> tuple[float, bool]:
    action = apply_sticky_action(s, action, p)
    if s.rest == 0 and action in (UP, DOWN):
        s.row, s.rest = (max(s.row - 1, 0) if action == UP else min(s.row + 1, BOTTOM)), REST_STEPS
    crossed = s.row == 0
    if crossed:
        draw_car_speeds(s)
    if crossed or not is_row_safe(s, s.row, 1):
        s.row = BOTTOM
    for k in range(LANES):
        if s.waits[k] > 0:
            s.waits[k] -= 1
        else:
            s.cars[k], s.waits[k] = next_column(s.cars[k], s.speeds[k]), abs(s.speeds[k])
    s.rest = max(s.rest - 1, 0)
    return (1.0 if crossed else 0.0), s.t > MAX_FRAMES


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    return step_minatar_action(s, ACTIONS[action], p)


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[s.row, CHICKEN_COLUMN, 0] = 1
    for k in range(LANES):
        out[k + 1, s.cars[k], 1] = 1
        out[k + 1, next_column(s.cars[k], -s.speeds[k]), 1 + abs(s.speeds[k])] = 1


@kernel
def expert(s: State, p: Params) -> int:
    # Go on if the next lane stays free while the chicken rests; else stay, or step back from a car that comes.
    return 1 if s.rest == 0 and is_row_safe(s, s.row - 1, REST_STEPS) else 0 if is_row_safe(s, s.row, 1) else 2


def draw(s: State, p: Params, canvas: Canvas) -> None:
    draw_board(canvas)
    canvas.rectangle(SIDE / 2, SIDE / 2, SIDE, LANES, ROAD, corner=0.1)
    for k in range(SIDE * (LANES - 1)):
        canvas.rectangle(k % SIDE + 0.5, k // SIDE + 2, 0.45, 0.05, translucent(WHITE, 0.5))
    for lane in range(LANES):
        (x, y), ahead = cell_center(lane + 1, s.cars[lane]), 1 if s.speeds[lane] > 0 else -1
        color, tip = SPEED_COLORS[max(abs(s.speeds[lane]), 1) - 1], min(max(x - ahead, 0), SIDE)
        canvas.polygon([(x, y + 0.24), (x, y - 0.24), (tip, y)], translucent(color, 0.4))
        for k in (-1, 1):
            canvas.rectangle(x + 0.24 * k, y, 0.2, 0.72, INK, corner=0.06)  # wheels
            canvas.rectangle(x + 0.42 * ahead, y + 0.2 * k, 0.1, 0.14, LAMP, corner=0.03)
        canvas.rectangle(x, y, 0.88, 0.6, color, corner=0.16)
        canvas.rectangle(x + 0.1 * ahead, y, 0.18, 0.46, translucent(INK, 0.75), corner=0.07)
    x, y = cell_center(s.row, CHICKEN_COLUMN)
    canvas.polygon([(x, y + 0.1), (x - 0.26, y - 0.42), (x, y - 0.34), (x + 0.26, y - 0.42)], LAMP)  # tail
    canvas.circle(x, y - 0.04, 0.34, WHITE, LAMP, 0.05)
    canvas.polygon([(x - 0.1, y + 0.26), (x + 0.1, y + 0.26), (x, y + 0.48)], ORANGE)
    canvas.circle(x, y + 0.16, 0.19, WHITE, LAMP, 0.04)
    canvas.rectangle(x, y + 0.12, 0.09, 0.26, RED, corner=0.04)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=board_space(7),
    action=Discrete(len(ACTIONS)),
    horizon=HORIZON,
    frames_per_second=20,
    reward_threshold=50,
)
