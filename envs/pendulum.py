"""Pendulum: swing a rod up with a motor too weak to lift it straight, and hold it there.

observation  f4 (3,)  cosine and sine of the angle from upright (counterclockwise), angular velocity
action       f4 (1,)  torque, -2 to 2
reward       -(angle^2 + 0.1 velocity^2 + 0.001 torque^2) a step
ends         never

Source: Gymnasium's Pendulum-v1
"""

import math

import numpy as np

from rl_lab.core import canvas as palette
from rl_lab.core.rng import uniform
from rl_lab.core.trig import cos, sin
from rl_lab.core.world import Array, Box, Canvas, Record, World, WorldState, f4, kernel

ONE, HALF, THREE = f4(1), f4(0.5), f4(3)
ONE_AND_HALF = f4(1.5)
PI, TWO_PI = f4(math.pi), f4(2 * math.pi)
MAX_SPEED = f4(8)
MAX_TORQUE = f4(2)
SPEED_COST, TORQUE_COST = f4(0.1), f4(0.001)


class State(WorldState):
    angle: f4  # from upright, -pi to pi
    spin: f4
    torque: f4  # the last one, for the picture


class Params(Record):
    gravity: f4 = 10.0
    mass: f4 = 1.0
    length: f4 = 1.0
    time_step: f4 = 0.05  # seconds


@kernel
def reset(s: State, p: Params) -> None:
    s.angle = uniform(s, -PI, PI)
    s.spin = uniform(s, -ONE, ONE)


@kernel
def step(s: State, action: Array, p: Params) -> tuple[float, bool]:
    s.torque = action[0]
    cost = s.angle * s.angle + SPEED_COST * s.spin * s.spin + TORQUE_COST * s.torque * s.torque
    fall = ONE_AND_HALF * p.gravity / p.length * sin(s.angle)
    lift = THREE / (p.mass * p.length * p.length) * s.torque
    s.spin = min(max(s.spin + (fall + lift) * p.time_step, -MAX_SPEED), MAX_SPEED)
    s.angle += s.spin * p.time_step
    # The angle is kept within one turn, because a growing one would lose digits.
    if s.angle > PI:
        s.angle -= TWO_PI
    elif s.angle < -PI:
        s.angle += TWO_PI
    return -cost, False


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[0], out[1], out[2] = cos(s.angle), sin(s.angle), s.spin


@kernel
def expert(s: State, p: Params, action: Array) -> None:
    if abs(s.angle) < HALF:
        torque = -f4(15) * s.angle - f4(4) * s.spin
    else:
        # The energy relative to standing upright: push along the motion while it is negative, and against it after.
        energy = HALF * s.spin * s.spin + ONE_AND_HALF * p.gravity / p.length * (cos(s.angle) - ONE)
        torque = energy if s.spin < f4(0) else -energy
    action[0] = min(max(torque, -MAX_TORQUE), MAX_TORQUE)


def point_at_angle(angle: float, radius: float = 1.0) -> tuple[float, float]:
    return -radius * math.sin(angle), radius * math.cos(angle)


def draw(s: State, p: Params, canvas: Canvas) -> None:
    length, torque = float(p.length), float(s.torque)
    canvas.view(-1.32 * length, -1.32 * length, 1.32 * length, 1.32 * length)
    canvas.clear()
    rim = [point_at_angle(math.radians(degrees), length) for degrees in range(0, 361, 5)]
    canvas.line(rim, palette.FAINT, 0.015 * length)
    canvas.line([point_at_angle(0, 1.18 * length), point_at_angle(0, 1.25 * length)], palette.GREEN, 0.03 * length)

    canvas.line([(0, 0), point_at_angle(s.angle, length)], palette.BLUE, 0.11 * length)
    canvas.circle(*point_at_angle(s.angle, length), 0.13 * length, palette.BLUE)
    canvas.circle(0, 0, 0.075 * length, palette.BACKGROUND, palette.INK, 0.035 * length)

    if abs(torque) > 0.05:  # an arrow around the axle, as long as the torque is strong
        sweep = 0.6 * math.pi * torque / float(MAX_TORQUE)
        start = s.angle + math.pi
        arc = [point_at_angle(start + sweep * k / 24, 0.3 * length) for k in range(25)]
        tip = start + sweep + math.copysign(0.3, torque)
        canvas.line(arc, palette.ORANGE, 0.035 * length)
        canvas.polygon(
            [point_at_angle(tip, 0.3 * length), *(point_at_angle(start + sweep, r * length) for r in (0.23, 0.37))],
            palette.ORANGE,
        )


BOUND = np.array([1, 1, MAX_SPEED], np.float32)
world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(-BOUND, BOUND),
    action=Box(-MAX_TORQUE, MAX_TORQUE, (1,)),
    horizon=200,
    frames_per_second=20,
)
