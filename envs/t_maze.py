"""T-maze: a sign at the start says whether to turn up or down at the end of a corridor, and is seen only there.

observation  f4 (4,)  the sign says up; the sign says down, both 0 after the first step; x / length; at the junction
action       0 ahead, 1 turn up, 2 turn down; in the corridor a turn does nothing, and at the junction going ahead does
reward       +1 for the turn that the sign said
ends         at a turn at the junction

A policy without memory turns the right way in at most half of the episodes: what it observes at the junction is equal
for both signs, and so is its probability of turning up. The expert remembers the sign.

Source: Bakker 2001, "Reinforcement Learning with Long Short-Term Memory", the T-maze, here without a way back
"""

from rl_lab.core.canvas import BLUE, FAINT, GREEN, INK, MUTED, ORANGE
from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, f4, f8, i4, kernel

AHEAD, UP, DOWN = range(3)


class Log(Record):
    solved: f8


class State(WorldState):
    sign: i4 = bounded(UP, low=UP, high=DOWN)
    x: i4 = bounded(0, low=0, high=100)  # cells from the start; the junction is at p.length
    turn: i4 = bounded(AHEAD, low=AHEAD, high=DOWN)  # the turn taken at the junction
    log: Log


class Params(Record):
    length: i4 = bounded(8, low=1, high=100)  # of the corridor, cells


@kernel
def reset(s: State, p: Params) -> None:
    s.sign = UP + integers(s, 2)


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    if s.x < p.length:
        s.x += 1 if action == AHEAD else 0
        return 0.0, False
    s.turn = action
    if action == AHEAD:
        return 0.0, False
    s.log.solved = 1.0 if action == s.sign else 0.0
    return (1.0 if action == s.sign else 0.0), True


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    if s.t == 0:
        out[s.sign - UP] = 1.0
    out[2] = f4(s.x) / f4(p.length)
    out[3] = 1.0 if s.x == p.length else 0.0


@kernel
def expert(s: State, p: Params) -> int:
    return s.sign if s.x == p.length else AHEAD


def draw(s: State, p: Params, canvas: Canvas) -> None:
    end = p.length
    canvas.view(-1.2, -2.4, end + 1.2, 2.4)
    canvas.clear()
    for x, y in [*((x, 0) for x in range(end + 1)), (end, 1), (end, -1)]:
        canvas.rectangle(x, y, 0.96, 0.96, FAINT, corner=0.1)
    right = 1 if s.sign == UP else -1
    canvas.circle(end, right, 0.22, GREEN)
    color = ORANGE if s.t == 0 else MUTED  # the agent sees the sign in the first step only
    canvas.rectangle(0, 1.3, 0.9, 0.9, color, corner=0.12)
    canvas.polygon([(-0.25, 1.3 - 0.2 * right), (0.25, 1.3 - 0.2 * right), (0, 1.3 + 0.25 * right)], (255, 255, 255))
    canvas.line([(0, 0.5), (0, 0.85)], INK, 0.06)
    canvas.circle(s.x, {AHEAD: 0, UP: 1, DOWN: -1}[int(s.turn)], 0.3, BLUE)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(0, 1, (4,)),
    action=Discrete(3),
    horizon=150,
    frames_per_second=6,
    reward_threshold=1.0,
)
