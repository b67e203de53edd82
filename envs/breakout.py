"""Breakout: bounce a ball off a paddle until no brick is left, and then the next wall.

observation  u1 (10, 10, 4)  paddle, ball, where the ball was, bricks; row 0 on top
action       0 stay, 1 left, 2 right
reward       1 a brick
ends         when the ball reaches the bottom row beside the paddle

The ball flies diagonally. It bounces up off a paddle that is below it, back off one that is where the ball would be
next. A new wall comes when the ball is at the bottom and no brick is left. Nothing gets harder: no difficulty_ramping.
Time runs out at 10,000 steps; MinAtar and Pgx have no limit, Gymnax 1,000.

Source: Young and Tian 2019 (arXiv 1903.03176); MinAtar's Breakout-v1
"""

from rl_lab.envs._minatar import (
    HORIZON,
    LEFT,
    RIGHT,
    SIDE,
    STAY,
    GameParams,
    GameState,
    apply_sticky_action,
    board_space,
    cell_center,
    draw_board,
)

from rl_lab.core.canvas import BLUE, GOLD, INK, ORANGE, RED, translucent
from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Canvas, Discrete, World, bounded, i4, kernel

ACTIONS = STAY, LEFT, RIGHT
FLOOR, TOP, ROWS = SIDE - 1, 1, 3  # the paddle's row, the wall's first, and how many it has
FULL_WALL = 2 ** (ROWS * SIDE) - 1
ROW_COLORS = RED, ORANGE, GOLD  # of bricks, by row
LIGHT, SHADOW = (255, 255, 255, 110), translucent(INK, 0.11)


class State(GameState):
    paddle: i4 = bounded(0, low=0, high=SIDE - 1)
    ball_x: i4 = bounded(0, low=0, high=SIDE - 1)
    ball_y: i4 = bounded(0, low=0, high=SIDE - 1)
    last_x: i4 = bounded(0, low=0, high=SIDE - 1)  # where the ball was
    last_y: i4 = bounded(0, low=0, high=SIDE - 1)
    velocity_x: i4 = bounded(0, low=-1, high=1)  # -1 or 1 a step
    velocity_y: i4 = bounded(0, low=-1, high=1)  # 1 down
    last_hit_brick: i4 = bounded(0, low=0, high=1)  # the ball has met a brick in the last step
    bricks: i4 = bounded(0, low=0, high=FULL_WALL)  # bit 10 r + c: the brick of row r of the wall, column c


Params = GameParams


@kernel
def reset(s: State, p: Params) -> None:
    s.velocity_x, s.velocity_y = 1 - 2 * integers(s, 2), 1
    s.ball_x = s.last_x = 0 if s.velocity_x > 0 else SIDE - 1
    s.ball_y = s.last_y = TOP + ROWS - 1
    s.paddle = 4
    s.bricks = FULL_WALL


@kernel
def brick_bit(x: int, y: int) -> int:
    """Return the bit of `bricks` for the cell (x, y), 0 for a cell outside of the wall of bricks."""
    return 1 << (SIDE * (y - TOP) + x) if TOP <= y < TOP + ROWS else 0


@kernel
def ball_after_step(x: int, y: int, vx: int, vy: int, last_hit_brick: int, bricks: int) -> tuple[int, ...]:
    """Return the six arguments one step later; the caller handles the paddle and the floor."""
    next_x, next_y = x + vx, y + vy
    if next_x < 0 or next_x >= SIDE:
        next_x, vx = x, -vx
    brick_hit = bricks & brick_bit(next_x, next_y)
    if next_y < 0:
        next_y, vy = 0, 1
    elif (
        brick_hit and not last_hit_brick
    ):  # of two bricks in its way the ball breaks the first and flies through the second
        bricks ^= brick_hit
        next_y, vy = y, -vy
    return next_x, next_y, vx, vy, 1 if brick_hit else 0, bricks


@kernel
def step_minatar_action(s: State, action: int, p: Params) -> tuple[float, bool]:
    action = apply_sticky_action(s, action, p)
    s.paddle = min(max(s.paddle + (action == RIGHT) - (action == LEFT), 0), FLOOR)
    s.last_x, s.last_y = s.ball_x, s.ball_y
    x, y, vx, vy, last_hit_brick, bricks = ball_after_step(
        s.ball_x, s.ball_y, s.velocity_x, s.velocity_y, s.last_hit_brick, s.bricks
    )
    reward, over = 0.0 if bricks == s.bricks else 1.0, False
    if y >= FLOOR:
        bricks = FULL_WALL if bricks == 0 else bricks
        y, over = FLOOR, s.paddle != s.last_x and s.paddle != x
        if not over:
            y, vx, vy = s.last_y, vx if s.paddle == s.last_x else -vx, -1
    s.ball_x, s.ball_y, s.velocity_x, s.velocity_y, s.last_hit_brick, s.bricks = x, y, vx, vy, last_hit_brick, bricks
    return reward, over


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    return step_minatar_action(s, ACTIONS[action], p)


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[FLOOR, s.paddle, 0] = 1
    out[s.ball_y, s.ball_x, 1] = 1
    out[s.last_y, s.last_x, 2] = 1
    for row in range(ROWS):
        for column in range(SIDE):
            out[TOP + row, column, 3] = s.bricks >> (SIDE * row + column) & 1


@kernel
def expert(s: State, p: Params) -> int:
    # Have the paddle where the ball will come down.
    x, y, vx, vy, last_hit_brick, bricks = s.ball_x, s.ball_y, s.velocity_x, s.velocity_y, s.last_hit_brick, s.bricks
    last, steps = x, 0
    while y < FLOOR and steps < 4 * SIDE:
        last, steps = x, steps + 1
        x, y, vx, vy, last_hit_brick, bricks = ball_after_step(x, y, vx, vy, last_hit_brick, bricks)
    # Either column will do. While there is time, the choice alternates: else a ball could fly round for ever.
    column = last if abs(last - s.paddle) < abs(x - s.paddle) else x
    if steps > SIDE // 2:
        column = x if s.t >> 6 & 1 else last
    return 0 if column == s.paddle else 1 if column < s.paddle else 2


def draw(s: State, p: Params, canvas: Canvas) -> None:
    draw_board(canvas)
    for k in range(ROWS * SIDE):
        if s.bricks >> k & 1:
            x, y = cell_center(TOP + k // SIDE, k % SIDE)
            canvas.rectangle(x, y, 0.94, 0.94, ROW_COLORS[k // SIDE], corner=0.12)
            canvas.rectangle(x, y + 0.3, 0.7, 0.1, LIGHT, corner=0.05)
    (x, y), (last_x, last_y) = cell_center(s.ball_y, s.ball_x), cell_center(s.last_y, s.last_x)
    for k in range(8):
        canvas.circle(last_x + k / 8 * (x - last_x), last_y + k / 8 * (y - last_y), 0.1 + 0.02 * k, SHADOW)
    canvas.circle(x, y, 0.3, INK)
    canvas.circle(x - 0.09, y + 0.1, 0.07, LIGHT)
    x, y = cell_center(FLOOR, s.paddle)
    canvas.rectangle(x, y, 0.94, 0.5, BLUE, corner=0.25)
    canvas.rectangle(x, y + 0.12, 0.6, 0.08, LIGHT, corner=0.04)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=board_space(4),
    action=Discrete(len(ACTIONS)),
    horizon=HORIZON,
    frames_per_second=12,
    reward_threshold=30,  # a whole wall
)
