"""SpaceInvaders: shoot down wave after wave of aliens that march across, turn, come down and drop bombs.

observation  u1 (10, 10, 6)  cannon; aliens; aliens if they march left, right; own bullets; bomb; row 0 on top
action       0 stay, 1 left, 2 right, 3 fire
reward       1 an alien
ends         when a bomb or an alien reaches the cannon, or aliens on the bottom row turn

A wave is 4 x 6 aliens, and moves every 12 steps, or as many as there are aliens left where these are fewer. With
difficulty_ramping the 12 becomes 11 with the second wave, 10 with the third and so on down to 6. Episodes are truncated
after 10,000 steps; MinAtar has no limit.

Source: Young and Tian 2019 (arXiv 1903.03176); MinAtar's SpaceInvaders-v1
"""

from rl_lab.envs._minatar import (
    FIRE,
    HORIZON,
    LEFT,
    RIGHT,
    SIDE,
    STAY,
    GameState,
    RampingParams,
    apply_sticky_action,
    board_space,
    cell_center,
    draw_board,
)

from rl_lab.core.canvas import BACKGROUND, BLUE, GOLD, GREEN, INK, ORANGE, PURPLE, RED, Color, translucent
from rl_lab.core.world import Array, Canvas, Discrete, World, bounded, i4, kernel

ACTIONS = STAY, LEFT, RIGHT, FIRE
FLOOR = SIDE - 1
ROWS, COLUMNS, FIRST_COLUMN = 4, 6, 2  # of a wave
ALL_COLUMNS, FULL_WAVE = 2**COLUMNS - 1, 2 ** (ROWS * COLUMNS) - 1
RELOAD_STEPS, BOMB_INTERVAL, SLOWEST_INTERVAL, FASTEST_INTERVAL = 5, 10, 12, 6  # steps
ROW_COLORS = PURPLE, ORANGE, GREEN, GOLD  # of a wave's rows
RELOAD_BAR_COLOR: Color = (255, 255, 255, 150)


class State(GameState):
    cannon: i4 = bounded(0, low=0, high=FLOOR)
    aliens: i4 = bounded(0, low=0, high=FULL_WAVE)  # bit 6 r + c: the alien in row r, column c of the wave
    left: i4 = bounded(0, low=-COLUMNS, high=FLOOR)  # where the wave's first column is, and its first row
    top: i4 = bounded(0, low=0, high=SIDE)
    heading: i4 = bounded(0, low=-1, high=1)  # of the wave: -1 left, 1 right
    interval: i4 = bounded(0, low=0, high=SLOWEST_INTERVAL)  # between its moves, while there are enough aliens
    move_wait: i4 = bounded(0, low=0, high=SLOWEST_INTERVAL)  # steps before it moves
    bomb_wait: i4 = bounded(0, low=0, high=BOMB_INTERVAL)
    fire_wait: i4 = bounded(0, low=0, high=RELOAD_STEPS)
    # Two bullets at most fly at a time, and one bomb: the last one has left the board when the next may follow.
    bullet_x: i4[2] = bounded(0, low=0, high=FLOOR)
    bullet_up: i4[2] = bounded(0, low=0, high=FLOOR)  # rows above the cannon; 0: there is none
    bomb_x: i4 = bounded(0, low=0, high=FLOOR)
    bomb_fall: i4 = bounded(0, low=0, high=SIDE)  # rows until it is off the board; 0: there is none


Params = RampingParams


@kernel
def reset(s: State, p: RampingParams) -> None:
    s.cannon = SIDE // 2
    s.heading = -1
    s.interval = s.move_wait = SLOWEST_INTERVAL
    s.bomb_wait = BOMB_INTERVAL
    s.aliens, s.left = FULL_WAVE, FIRST_COLUMN


@kernel
def alien_bit(aliens: int, left: int, top: int, x: int, y: int) -> int:
    """Return the bit of the alien at (x, y) of a wave whose corner is at (left, top), 0 if there is none."""
    row, column = (y - top) % SIDE, x - left  # a row that turns on the bottom is last seen on top
    if row >= ROWS or column < 0 or column >= COLUMNS:
        return 0
    return aliens & (1 << (COLUMNS * row + column))


@kernel
def occupied_columns(aliens: int) -> int:
    """Return the columns of a wave that have an alien, as bits."""
    return (aliens | aliens >> COLUMNS | aliens >> 2 * COLUMNS | aliens >> 3 * COLUMNS) & ALL_COLUMNS


@kernel
def wave_after_move(aliens: int, left: int, top: int, heading: int) -> tuple[int, int, int]:
    """Return the wave's corner and heading after a move; at the wall it moves down and turns."""
    column_at_wall = (FLOOR if heading > 0 else 0) - left  # the column of the wave that is at the wall
    if 0 <= column_at_wall < COLUMNS and occupied_columns(aliens) >> column_at_wall & 1:
        return left, top + 1, -heading
    return left + heading, top, heading


@kernel
def count_aliens(aliens: int) -> int:
    n = 0
    while aliens:
        aliens &= aliens - 1  # takes the last bit away
        n += 1
    return n


@kernel
def drop_bomb(s: State) -> None:
    """Drop a bomb from the lowest alien of the column nearest to the cannon, the left one of two."""
    for distance in range(SIDE):
        for side in range(2):
            x = s.cannon + (distance if side else -distance)
            lowest = -1
            for y in range(SIDE if 0 <= x < SIDE else 0):
                if alien_bit(s.aliens, s.left, s.top, x, y):
                    lowest = y
            if lowest >= 0:
                s.bomb_x, s.bomb_fall = x, SIDE - lowest
                return


@kernel
def step_minatar_action(s: State, action: int, p: RampingParams) -> tuple[float, bool]:
    action = apply_sticky_action(s, action, p)
    for k in range(2):
        s.bullet_up[k] = (s.bullet_up[k] + 1) % SIDE if s.bullet_up[k] else 0
    if action == FIRE and s.fire_wait == 0:
        s.bullet_x[1], s.bullet_up[1] = s.bullet_x[0], s.bullet_up[0]
        s.bullet_x[0], s.bullet_up[0] = s.cannon, 1
        s.fire_wait = RELOAD_STEPS
    elif action == LEFT:
        s.cannon = max(s.cannon - 1, 0)
    elif action == RIGHT:
        s.cannon = min(s.cannon + 1, FLOOR)

    s.bomb_fall = max(s.bomb_fall - 1, 0)
    over = s.bomb_fall == 1 and s.bomb_x == s.cannon
    over |= alien_bit(s.aliens, s.left, s.top, s.cannon, FLOOR) != 0
    if s.move_wait == 0:
        s.move_wait = min(count_aliens(s.aliens), s.interval)
        top = s.top
        s.left, s.top, s.heading = wave_after_move(s.aliens, s.left, top, s.heading)
        lowest = (FLOOR - top) % SIDE  # the row of the wave that was on the bottom
        over |= s.top > top and lowest < ROWS and s.aliens >> COLUMNS * lowest & ALL_COLUMNS != 0
        over |= alien_bit(s.aliens, s.left, s.top, s.cannon, FLOOR) != 0
    if s.bomb_wait == 0:
        s.bomb_wait = BOMB_INTERVAL
        drop_bomb(s)
    s.move_wait -= 1
    s.bomb_wait -= 1
    s.fire_wait = max(s.fire_wait - 1, 0)

    reward = 0.0
    for k in range(2):
        if s.bullet_up[k]:
            hit = alien_bit(s.aliens, s.left, s.top, s.bullet_x[k], FLOOR - s.bullet_up[k])
            if hit:
                s.aliens ^= hit
                s.bullet_up[k] = 0
                reward += 1.0
    if s.aliens == 0:
        if p.difficulty_ramping and s.interval > FASTEST_INTERVAL:
            s.interval -= 1
        s.aliens, s.left, s.top = FULL_WAVE, FIRST_COLUMN, 0
    return reward, over


@kernel
def step(s: State, action: int, p: RampingParams) -> tuple[float, bool]:
    return step_minatar_action(s, ACTIONS[action], p)


@kernel
def observe(s: State, p: RampingParams, out: Array) -> None:
    out[FLOOR, s.cannon, 0] = 1
    towards = 2 if s.heading < 0 else 3
    for row in range(ROWS):
        y = (s.top + row) % SIDE
        for column in range(COLUMNS):
            x = s.left + column
            if s.aliens >> (COLUMNS * row + column) & 1 and 0 <= x < SIDE:
                out[y, x, 1] = out[y, x, towards] = 1
    for k in range(2):
        if s.bullet_up[k]:
            out[FLOOR - s.bullet_up[k], s.bullet_x[k], 4] = 1
    if s.bomb_fall:
        out[SIDE - s.bomb_fall, s.bomb_x, 5] = 1


@kernel
def steps_to_hit(s: State, x: int, delay: int) -> int:
    """Return the steps until a bullet that is fired from column x after a delay hits an alien, 0 if it does not."""
    left, top, heading, wait, interval = s.left, s.top, s.heading, s.move_wait, min(count_aliens(s.aliens), s.interval)
    for k in range(1, delay + SIDE):
        if wait == 0:
            left, top, heading = wave_after_move(s.aliens, left, top, heading)
            wait = interval
        wait -= 1
        if k > delay and alien_bit(s.aliens, left, top, x, FLOOR - (k - delay)):
            return k
    return 0


@kernel
def expert(s: State, p: RampingParams) -> int:
    # It goes where a bullet hits soonest, avoids the bomb's column, and leaves it while there is time.
    target, soonest = s.cannon, 3 * SIDE
    for x in range(SIDE):
        hit = steps_to_hit(s, x, max(abs(x - s.cannon), s.fire_wait))
        if 0 < hit < soonest:
            target, soonest = x, hit
    cannon_offset, steps_to_landing = s.cannon - s.bomb_x, s.bomb_fall - 1  # where from, and in how many steps
    if 0 < steps_to_landing <= 4 and cannon_offset == 0:
        right = target > s.cannon if target != s.cannon else s.cannon < SIDE // 2
        return 2 if (right or s.cannon == 0) and s.cannon < FLOOR else 1
    move = 3 if s.fire_wait == 0 and target == s.cannon else 0 if target == s.cannon else 1 if target < s.cannon else 2
    if 0 < steps_to_landing <= 3 and (cannon_offset == 1 and move == 1 or cannon_offset == -1 and move == 2):
        return 3 if s.fire_wait == 0 else 0
    return move


def draw(s: State, p: RampingParams, canvas: Canvas) -> None:
    draw_board(canvas)
    for k in range(ROWS * COLUMNS):
        if s.aliens >> k & 1:
            row, column = divmod(k, COLUMNS)
            x, y = cell_center((s.top + row) % SIDE, s.left + column)
            color, raised = ROW_COLORS[row], 0.06 if (s.left + s.top) % 2 else -0.06
            for side in (-1, 1):
                canvas.line([(x + 0.12 * side, y + 0.2), (x + 0.22 * side, y + 0.4)], color, 0.07)
                canvas.line([(x + 0.3 * side, y), (x + 0.42 * side, y + 0.12 + raised)], color, 0.09)
                canvas.line([(x + 0.14 * side, y - 0.2), (x + (0.24 + raised) * side, y - 0.38)], color, 0.09)
            canvas.rectangle(x, y, 0.64, 0.46, color, corner=0.2)
            for side in (-1, 1):
                canvas.circle(x + 0.14 * side + 0.03 * s.heading, y + 0.05, 0.09, BACKGROUND)
                canvas.circle(x + 0.14 * side + 0.07 * s.heading, y + 0.04, 0.045, INK)
    for k in range(2):
        if s.bullet_up[k]:
            x, y = cell_center(FLOOR - s.bullet_up[k], s.bullet_x[k])
            canvas.line([(x, y - 0.6), (x, y)], translucent(BLUE, 0.25), 0.1)
            canvas.line([(x, y - 0.12), (x, y + 0.22)], BLUE, 0.14)
    if s.bomb_fall:
        x, y = cell_center(SIDE - s.bomb_fall, s.bomb_x)
        canvas.line([(x, y + 0.6), (x, y)], translucent(RED, 0.25), 0.1)
        canvas.polygon([(x, y - 0.34), (x - 0.17, y + 0.06), (x + 0.17, y + 0.06)], RED)
        canvas.circle(x, y + 0.05, 0.17, RED)
    x, y = cell_center(FLOOR, s.cannon)
    canvas.rectangle(x, y + 0.2, 0.16, 0.44, BLUE, corner=0.06)
    canvas.rectangle(x, y - 0.22, 0.9, 0.36, BLUE, corner=0.12)
    canvas.rectangle(x, y, 0.5, 0.3, BLUE, corner=0.12)
    canvas.rectangle(x, y - 0.28, 0.66 * (1 - s.fire_wait / RELOAD_STEPS), 0.08, RELOAD_BAR_COLOR, corner=0.04)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=board_space(6),
    action=Discrete(len(ACTIONS)),
    horizon=HORIZON,
    frames_per_second=12,
    reward_threshold=96,  # four waves
)
