"""Acrobot: two links hang from a shoulder, and only the elbow has a motor; swing the tip over the line.

observation  f4 (6,)  cosine and sine of the shoulder's angle from hanging and of the elbow's from straight,
                      then both angular velocities
action       0, 1, 2  torque -1, 0, +1 at the elbow
reward       -1 a step, 0 on the last
ends         when the tip is one link's length above the shoulder

Source: Sutton 1996; Sutton and Barto 1998, section 11.3; Gymnasium's Acrobot-v1
"""

import math
from math import cos, floor, pi, sin

import numpy as np

from rl_lab.core import canvas as palette
from rl_lab.core.rng import uniform
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, f4, f8, kernel

MAX_SHOULDER_SPIN = 4 * pi
MAX_ELBOW_SPIN = 9 * pi


class State(WorldState):
    # Double precision: near the highest speeds one step multiplies a rounding error ten-thousandfold.
    shoulder: f8
    elbow: f8
    shoulder_spin: f8
    elbow_spin: f8


class Params(Record):
    gravity: f8 = 9.8
    link_length: f8 = 1.0
    link_mass: f8 = 1.0
    link_inertia: f8 = 1.0  # of a link about its middle
    torque: f8 = 1.0
    time_step: f8 = 0.2  # seconds


@kernel
def reset(s: State, p: Params) -> None:
    s.shoulder = uniform(s, f4(-0.1), f4(0.1))
    s.elbow = uniform(s, f4(-0.1), f4(0.1))
    s.shoulder_spin = uniform(s, f4(-0.1), f4(0.1))
    s.elbow_spin = uniform(s, f4(-0.1), f4(0.1))


@kernel
def accelerations(shoulder: f8, elbow: f8, shoulder_spin: f8, elbow_spin: f8, torque: f8, p: Params) -> tuple[f8, f8]:
    """Return the angular accelerations of shoulder and elbow."""
    middle = 0.5 * p.link_length
    lever = p.link_mass * p.link_length * middle
    swing = p.link_mass * middle * middle + p.link_inertia  # inertia of a link about its joint
    sine, cosine = sin(elbow), cos(elbow)
    inertia = 2 * swing + p.link_mass * p.link_length * p.link_length + 2 * lever * cosine
    coupling = swing + lever * cosine
    weight = p.link_mass * middle * p.gravity
    elbow_load = weight * sin(shoulder + elbow)
    shoulder_load = (
        3 * weight * sin(shoulder) + elbow_load - lever * elbow_spin * (elbow_spin + 2 * shoulder_spin) * sine
    )
    ratio = coupling / inertia
    elbow_up = torque + ratio * shoulder_load - lever * shoulder_spin * shoulder_spin * sine - elbow_load
    elbow_up /= swing - ratio * coupling
    return -(coupling * elbow_up + shoulder_load) / inertia, elbow_up


@kernel
def wrap_angle(angle: f8) -> f8:
    """Return an angle moved into the range from -pi to pi."""
    return angle - 2 * pi * floor((angle + pi) / (2 * pi))


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    # Runge and Kutta's fourth-order step, written out: a1..a4 and b1..b4 are the two accelerations' slopes.
    torque, h = (action - 1) * p.torque, p.time_step
    x, y, u1, v1 = s.shoulder, s.elbow, s.shoulder_spin, s.elbow_spin
    a1, b1 = accelerations(x, y, u1, v1, torque, p)
    u2, v2 = u1 + h / 2 * a1, v1 + h / 2 * b1
    a2, b2 = accelerations(x + h / 2 * u1, y + h / 2 * v1, u2, v2, torque, p)
    u3, v3 = u1 + h / 2 * a2, v1 + h / 2 * b2
    a3, b3 = accelerations(x + h / 2 * u2, y + h / 2 * v2, u3, v3, torque, p)
    u4, v4 = u1 + h * a3, v1 + h * b3
    a4, b4 = accelerations(x + h * u3, y + h * v3, u4, v4, torque, p)
    s.shoulder = wrap_angle(x + h / 6 * (u1 + 2 * u2 + 2 * u3 + u4))
    s.elbow = wrap_angle(y + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4))
    shoulder_spin = u1 + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
    elbow_spin = v1 + h / 6 * (b1 + 2 * b2 + 2 * b3 + b4)
    s.shoulder_spin = min(max(shoulder_spin, -MAX_SHOULDER_SPIN), MAX_SHOULDER_SPIN)
    s.elbow_spin = min(max(elbow_spin, -MAX_ELBOW_SPIN), MAX_ELBOW_SPIN)
    over = -cos(s.shoulder) - cos(s.shoulder + s.elbow) > 1.0
    return 0.0 if over else -1.0, over


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[0], out[1], out[2], out[3] = cos(s.shoulder), sin(s.shoulder), cos(s.elbow), sin(s.elbow)
    out[4], out[5] = s.shoulder_spin, s.elbow_spin


@kernel
def expert(s: State, p: Params) -> int:
    # Torque along the elbow's motion adds energy; the shoulder's angle leads it into step with the swing.
    return 2 if s.elbow_spin + 2 * s.shoulder > 0 else 0


def draw(s: State, p: Params, canvas: Canvas) -> None:
    length = float(p.link_length)
    canvas.view(-2.3 * length, -2.3 * length, 2.3 * length, 2.3 * length)
    canvas.clear()
    rim = [math.radians(degrees) for degrees in range(0, 361, 5)]
    canvas.line([(2 * length * cos(a), 2 * length * sin(a)) for a in rim], palette.FAINT, 0.025 * length)
    for dash in range(-20, 20):
        x = (dash + 0.5) * 0.24 * length
        canvas.line([(x - 0.06 * length, length), (x + 0.06 * length, length)], palette.GREEN, 0.03 * length)

    elbow = length * sin(s.shoulder), -length * cos(s.shoulder)
    both = s.shoulder + s.elbow
    tip = elbow[0] + length * sin(both), elbow[1] - length * cos(both)
    canvas.line([(0, 0), elbow], palette.BLUE, 0.17 * length)
    canvas.line([elbow, tip], palette.ORANGE, 0.17 * length)
    canvas.circle(0, 0, 0.12 * length, palette.BACKGROUND, palette.INK, 0.05 * length)
    canvas.circle(*elbow, 0.1 * length, palette.INK)
    if tip[1] > length:
        canvas.circle(*tip, 0.13 * length, palette.GREEN)


BOUND = np.array([1, 1, 1, 1, MAX_SHOULDER_SPIN, MAX_ELBOW_SPIN], np.float32)
world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(-BOUND, BOUND),
    action=Discrete(3),
    horizon=500,
    frames_per_second=15,
    reward_threshold=-100,
)
