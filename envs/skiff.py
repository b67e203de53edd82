"""Skiff: race a jet skiff through five gates on a windy bay, between drifting ice floes.

observation  f4 (28,)  as seen from the hull, x ahead and y to port: velocity 2, spin, gate direction 2, distance,
                       gate axis 2, the gate after it 2, wind 2, and 16 rays counterclockwise from ahead:
                       0 nothing within 6 m, 1 ice or shore touches the hull
action       f4 (2,)   throttle from -1 astern to 1 ahead, rudder from -1 starboard to 1 port
reward       0.1 a metre nearer to the gate, +1 a gate, -2 a crash
ends         after the last gate, or when the hull touches ice or shore
"""

import math

import numpy as np

from rl_lab.canvas import BACKGROUND, BLUE, INK, ORANGE, RED, translucent
from rl_lab.rng import uniform
from rl_lab.trig import cos, sin
from rl_lab.world import Array, Box, Canvas, Record, World, WorldState, f4, f8, i4, kernel

GATES, FLOES, RAYS, TRAIL = 5, 8, 16, 40
ZERO, ONE, TENTH, PI = f4(0), f4(1), f4(0.1), f4(math.pi)
HALF_WIDTH, HALF_HEIGHT = f4(9.2), f4(6.8)  # of the bay, metres
HULL, GAP, HALF_GATE, SIGHT = f4(0.35), f4(1.0), f4(0.9), f4(6.0)  # metres; GAP is the least water around ice
TIME_STEP, TURN, SPIN_DRAG, KEEL, ASTERN = f4(0.05), f4(9.0), f4(3.5), f4(1.6), f4(0.4)
RAY_COS, RAY_SIN = f4(math.cos(2 * math.pi / RAYS)), f4(math.sin(2 * math.pi / RAYS))


class Log(Record):
    gates: f8
    crashed: f8
    finished: f8


class State(WorldState):
    x: f4
    y: f4
    velocity_x: f4
    velocity_y: f4
    heading: f4
    spin: f4
    throttle: f4
    wind_x: f4
    wind_y: f4
    gate: i4  # the next one
    gates: f4[GATES, 4]  # x, y and the direction in which one passes, either way
    floes: f4[FLOES, 5]  # x, y, radius (0: none) and velocity
    trail: f4[TRAIL, 2]  # where the stern was at step t, in row t % TRAIL
    log: Log


class Params(Record):
    floes: i4 = 6  # at most 8
    drift: f4 = 0.5  # of the fastest floe, m/s
    wind: f4 = 0.6  # the strongest, m/s2
    thrust: f4 = 3.2  # m/s2
    drag: f4 = 0.8  # along the hull, 1/s; the keel adds to it sideways


@kernel
def length(x: float, y: float) -> float:
    return f4(math.sqrt(x * x + y * y))


@kernel
def is_free(s: State, x: float, y: float, radius: float, floe: int) -> bool:
    # Gates not placed yet lie at the start, (0, 0), and keep it free.
    free = abs(x) < HALF_WIDTH - radius - GAP and abs(y) < HALF_HEIGHT - radius - GAP
    free = free and length(s.x - x, s.y - y) > radius + GAP
    for k in range(GATES):
        free = free and length(s.gates[k, 0] - x, s.gates[k, 1] - y) > radius + GAP + HULL
    for k in range(FLOES):
        r = s.floes[k, 2]
        free = free and (k == floe or r == ZERO or length(s.floes[k, 0] - x, s.floes[k, 1] - y) > radius + r + GAP)
    return free


@kernel
def find_place(s: State, radius: float) -> tuple[float, float, bool]:
    for _ in range(100):
        x, y = uniform(s, -HALF_WIDTH, HALF_WIDTH), uniform(s, -HALF_HEIGHT, HALF_HEIGHT)
        if is_free(s, x, y, radius, -1):
            return x, y, True
    return ZERO, ZERO, False


@kernel
def reset(s: State, p: Params) -> None:
    s.heading = uniform(s, -PI, PI)
    strength, angle = uniform(s, ZERO, p.wind), uniform(s, -PI, PI)
    s.wind_x, s.wind_y = strength * cos(angle), strength * sin(angle)
    for k in range(GATES):
        x, y, _ = find_place(s, ONE)
        angle = uniform(s, -PI, PI)
        s.gates[k, 0], s.gates[k, 1], s.gates[k, 2], s.gates[k, 3] = x, y, cos(angle), sin(angle)
    for k in range(min(p.floes, FLOES)):
        radius, drift, angle = uniform(s, f4(0.5), f4(1.1)), uniform(s, ZERO, p.drift), uniform(s, -PI, PI)
        x, y, found = find_place(s, radius)
        if found:
            s.floes[k, 0], s.floes[k, 1], s.floes[k, 2] = x, y, radius
            s.floes[k, 3], s.floes[k, 4] = drift * cos(angle), drift * sin(angle)


@kernel
def step(s: State, action: Array, p: Params) -> tuple[float, bool]:
    for k in range(FLOES):
        x, y = s.floes[k, 0] + TIME_STEP * s.floes[k, 3], s.floes[k, 1] + TIME_STEP * s.floes[k, 4]
        if is_free(s, x, y, s.floes[k, 2], k):
            s.floes[k, 0], s.floes[k, 1] = x, y
        else:  # back the way it came: gates stay open, and no floe rams the skiff
            s.floes[k, 3], s.floes[k, 4] = -s.floes[k, 3], -s.floes[k, 4]

    s.throttle = action[0] if action[0] > ZERO else ASTERN * action[0]
    s.spin += TIME_STEP * (TURN * action[1] - SPIN_DRAG * s.spin)
    s.heading += TIME_STEP * s.spin
    hx, hy = cos(s.heading), sin(s.heading)
    sideways = s.velocity_y * hx - s.velocity_x * hy
    ahead, abeam = p.thrust * s.throttle, -KEEL * sideways
    s.velocity_x += TIME_STEP * (ahead * hx - abeam * hy + s.wind_x - p.drag * s.velocity_x)
    s.velocity_y += TIME_STEP * (ahead * hy + abeam * hx + s.wind_y - p.drag * s.velocity_y)
    ...
