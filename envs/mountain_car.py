"""MountainCar: an engine too weak for the hill must rock the car out of the valley.

observation  f4 (2,)  position, velocity
action       0 push left, 1 coast, 2 push right
reward       -1 a step
ends         when the car reaches the flag

Source: Moore 1990; Gymnasium's MountainCar-v0
"""

import math

import numpy as np

from rl_lab.core import canvas as palette
from rl_lab.core.rng import uniform
from rl_lab.core.trig import cos
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, f4, kernel

ZERO, THREE = f4(0), f4(3)
LEFT_WALL, RIGHT_EDGE = f4(-1.2), f4(0.6)
MAX_SPEED = f4(0.07)
MAX_STEPS = 200  # of an episode, and those that the expert looks ahead


class State(WorldState):
    position: f4
    velocity: f4


class Params(Record):
    push: f4 = 0.001  # the engine's acceleration
    gravity: f4 = 0.0025
    goal: f4 = 0.5


@kernel
def reset(s: State, p: Params) -> None:
    s.position = uniform(s, f4(-0.6), f4(-0.4))


@kernel
def next_motion(position: f4, velocity: f4, push: f4, p: Params) -> tuple[f4, f4]:
    """Return position and velocity one step later; `push` is the engine's acceleration in this step."""
    velocity = min(max(velocity + push - p.gravity * cos(THREE * position), -MAX_SPEED), MAX_SPEED)
    position = min(max(position + velocity, LEFT_WALL), RIGHT_EDGE)
    if position == LEFT_WALL and velocity < ZERO:
        velocity = ZERO  # the wall takes all of the car's speed
    return position, velocity


@kernel
def is_at_goal(position: f4, velocity: f4, p: Params) -> bool:
    return position >= p.goal and velocity >= ZERO


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    s.position, s.velocity = next_motion(s.position, s.velocity, f4(action - 1) * p.push, p)
    return -1.0, is_at_goal(s.position, s.velocity, p)


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[0], out[1] = s.position, s.velocity


@kernel
def steps_to_goal(position: f4, velocity: f4, push: f4, p: Params) -> int:
    """Return the steps to the goal with `push` first and then pushes along the motion, or MAX_STEPS."""
    for steps in range(MAX_STEPS):
        position, velocity = next_motion(position, velocity, push, p)
        if is_at_goal(position, velocity, p):
            return steps
        push = -p.push if velocity < ZERO else p.push
    return MAX_STEPS


@kernel
def expert(s: State, p: Params) -> int:
    # Pushing along the motion reaches the goal, but late: compare both first pushes with that rule afterwards.
    left = steps_to_goal(s.position, s.velocity, -p.push, p)
    right = steps_to_goal(s.position, s.velocity, p.push, p)
    return 0 if left < right else 2


def height(x: float) -> float:
    return 0.55 + 0.45 * math.sin(3 * x)


def draw(s: State, p: Params, canvas: Canvas) -> None:
    canvas.view(-1.35, -0.1, 0.75, 1.5)
    canvas.clear()
    ground = [(x / 30, height(x / 30)) for x in range(-72, 55)]
    canvas.polygon([*ground, (1.8, -9.0), (-2.4, -9.0)], palette.FAINT)
    canvas.line(ground, palette.INK, 0.012)

    wall, goal = float(LEFT_WALL) - 0.06, float(p.goal)  # the car's tail meets the wall
    canvas.line([(wall, height(wall)), (wall, height(wall) + 0.22)], palette.MUTED, 0.018)
    top = height(goal) + 0.28
    canvas.line([(goal, height(goal)), (goal, top)], palette.INK, 0.012)
    canvas.polygon([(goal, top), (goal + 0.13, top - 0.045), (goal, top - 0.09)], palette.GREEN)

    x, slope = float(s.position), math.atan(1.35 * math.cos(3 * s.position))
    along, up = (math.cos(slope), math.sin(slope)), (-math.sin(slope), math.cos(slope))

    def at(forward: float, above: float) -> tuple[float, float]:
        return x + forward * along[0] + above * up[0], height(x) + forward * along[1] + above * up[1]

    canvas.polygon([at(-0.065, 0.075), at(-0.035, 0.14), at(0.03, 0.14), at(0.06, 0.075)], palette.BLUE)
    canvas.polygon([at(-0.04, 0.085), at(-0.024, 0.125), at(0.022, 0.125), at(0.04, 0.085)], palette.BACKGROUND)
    canvas.rectangle(*at(0, 0.07), 0.2, 0.055, palette.BLUE, slope, 0.022)
    for wheel in (-0.058, 0.058):
        canvas.circle(*at(wheel, 0.042), 0.034, palette.FAINT, palette.INK, 0.018)


HIGHEST = np.array([RIGHT_EDGE, MAX_SPEED], np.float32)
LOWEST = np.array([LEFT_WALL, -MAX_SPEED], np.float32)
world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(LOWEST, HIGHEST),
    action=Discrete(3),
    horizon=MAX_STEPS,
    reward_threshold=-110,
)
