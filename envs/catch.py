"""Catch: move a paddle under a falling ball.

observation  f4 (10, 5)  1 where the ball or the paddle is, row 0 on top
action       0 left, 1 stay, 2 right
reward       +1 caught, -1 missed, on the last step
ends         when the ball reaches the bottom row

Source: bsuite/environments/catch.py (Osband et al. 2020)
"""

from rl_lab.core.canvas import BLUE, FAINT, ORANGE, translucent
from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, i4, kernel

ROWS, COLUMNS = 10, 5


class State(WorldState):  # WorldState adds the random stream and t, the number of steps
    ball_x: i4 = bounded(0, low=0, high=COLUMNS - 1)
    ball_y: i4 = bounded(0, low=0, high=ROWS - 1)
    paddle_x: i4 = bounded(0, low=0, high=COLUMNS - 1)


class Params(Record):
    speed: i4 = bounded(1, low=1, high=ROWS)  # rows the ball falls a step


@kernel
def reset(s: State, p: Params) -> None:
    s.ball_x = integers(s, COLUMNS)  # fields that reset does not set are 0
    s.paddle_x = COLUMNS // 2


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    s.paddle_x = min(max(s.paddle_x + action - 1, 0), COLUMNS - 1)
    s.ball_y = min(s.ball_y + p.speed, ROWS - 1)
    if s.ball_y < ROWS - 1:
        return 0.0, False
    return (1.0 if s.ball_x == s.paddle_x else -1.0), True


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[s.ball_y, s.ball_x] = 1.0
    out[ROWS - 1, s.paddle_x] = 1.0


@kernel
def expert(s: State, p: Params) -> int:
    return 1 + min(max(s.ball_x - s.paddle_x, -1), 1)


def draw(s: State, p: Params, canvas: Canvas) -> None:
    canvas.view(-0.2, -0.2, COLUMNS + 0.2, ROWS + 0.2)  # column k spans k to k + 1, row 0 is on top
    canvas.clear()
    for row in range(ROWS):
        for column in range(COLUMNS):
            canvas.rectangle(column + 0.5, row + 0.5, 0.94, 0.94, translucent(FAINT, 0.55), corner=0.12)
    x, y = s.ball_x + 0.5, ROWS - 0.5 - s.ball_y
    canvas.line([(x, y), (x, ROWS - 0.5)], translucent(ORANGE, 0.18), width=0.3)  # the way it fell
    canvas.rectangle(s.paddle_x + 0.5, 0.3, 0.94, 0.34, BLUE, corner=0.17)
    canvas.circle(x, max(y, 0.75), 0.28, ORANGE)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(0, 1, (ROWS, COLUMNS)),
    action=Discrete(3),
    horizon=100,
    frames_per_second=6,
    reward_threshold=1.0,
)
