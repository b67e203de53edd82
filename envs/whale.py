"""Whale: steer a small submarine through the throat of a whale that gulps and breathes, and out of its mouth.

observation  f4 (17,)  velocity 2; breath; then floor and ceiling relative to the hull, at it and every metre for 6 m
action       f4 (2,)   thrust ahead and thrust up, each -1 to 1
reward       0.1 a metre ahead, -0.005 a step, +2 outside, -2 for touching the whale
ends         outside, or when the hull touches the whale
"""

import math

from rl_lab.core.rng import uniform
from rl_lab.core.trig import sin
from rl_lab.core.world import Array, Box, Canvas, Record, World, WorldState, bounded, f4, f8, kernel

NUM_PROBES, TRAIL_LENGTH = 7, 36
ZERO, ONE, TWO, THREE, HALF, PI = f4(0), f4(1), f4(2), f4(3), f4(0.5), f4(math.pi)
MOUTH_X, HULL_RADIUS, OBSERVATION_SCALE = f4(60), f4(0.35), f4(6)  # metres; the last scales observations
THRUST, TIME_STEP = f4(6), f4(0.05)  # m/s2; seconds
SEA, LIGHT, RIB = (120, 205, 240, 14), (255, 236, 170, 14), (246, 208, 190, 34)
FLESH = (0.0, (240, 142, 142)), (0.16, (206, 88, 100)), (0.8, (168, 60, 80)), (1.7, (128, 42, 64))  # by depth


class Log(Record):
    metres: f8
    escaped: f8


class State(WorldState):
    x: f4
    y: f4
    velocity_x: f4
    velocity_y: f4
    breath: f4  # now, m/s2 towards the mouth
    phases: f4[4]  # of two bends of the throat, of gulps, of breath
    trail: f4[TRAIL_LENGTH, 2]  # where the hull was at step t, in row t % TRAIL
    log: Log


class Params(Record):
    gap: f4 = bounded(1.7, low=0.5, high=4)  # half the height of the throat, metres
    gulp: f4 = bounded(0.7, low=0, high=3)  # by how much it widens and narrows, metres
    breath: f4 = bounded(2, low=0, high=6)  # the strongest, m/s2
    drag: f4 = bounded(1.2, low=0, high=9)  # of the water, 1/s


@kernel
def throat(s: State, x: float, steps_ahead: int, p: Params) -> tuple[float, float]:
    """Return the heights of floor and ceiling at x, `steps_ahead` steps from now."""
    middle = f4(1.4) * sin(f4(0.3) * x + s.phases[0]) + HALF * sin(f4(0.7) * x + s.phases[1])
    half = p.gap + p.gulp * sin(f4(0.9) * x + f4(0.06) * f4(s.t + steps_ahead) + s.phases[2])
    return middle - half, middle + half


@kernel
def reset(s: State, p: Params) -> None:
    for k in range(4):
        s.phases[k] = uniform(s, -PI, PI)
    floor, ceiling = throat(s, s.x, 0, p)
    s.y = HALF * (floor + ceiling)


@kernel
def step(s: State, action: Array, p: Params) -> tuple[float, bool]:
    s.trail[s.t % TRAIL_LENGTH, 0], s.trail[s.t % TRAIL_LENGTH, 1] = s.x, s.y
    s.breath = p.breath * sin(f4(0.05) * f4(s.t) + s.phases[3])
    s.velocity_x += TIME_STEP * (THRUST * action[0] + s.breath - p.drag * s.velocity_x)
    s.velocity_y += TIME_STEP * (THRUST * action[1] - p.drag * s.velocity_y)
    s.x += TIME_STEP * s.velocity_x
    s.y += TIME_STEP * s.velocity_y
    s.log.metres = s.x
    reward = f4(0.1) * TIME_STEP * s.velocity_x - f4(0.005)
    if s.x > MOUTH_X:
        s.log.escaped = 1.0
        return reward + TWO, True
    (floor, ceiling), (bow_floor, bow_ceiling) = throat(s, s.x - HULL_RADIUS, 0, p), throat(s, s.x + HULL_RADIUS, 0, p)
    touched = s.y - HULL_RADIUS < max(floor, bow_floor) or s.y + HULL_RADIUS > min(ceiling, bow_ceiling)
    return (reward - TWO if touched else reward), touched


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[0], out[1] = s.velocity_x / OBSERVATION_SCALE, s.velocity_y / OBSERVATION_SCALE
    out[2] = s.breath / OBSERVATION_SCALE
    for k in range(NUM_PROBES):
        floor, ceiling = throat(s, s.x + f4(k), 0, p)
        out[3 + 2 * k], out[4 + 2 * k] = (floor - s.y) / OBSERVATION_SCALE, (ceiling - s.y) / OBSERVATION_SCALE
    for k in range(3 + 2 * NUM_PROBES):
        out[k] = min(max(out[k], -ONE), ONE)


@kernel
def expert(s: State, p: Params, action: Array) -> None:
    # It steers to the middle of the throat ahead, and slows down if that is far off or narrow.
    floor, ceiling = throat(s, s.x + f4(0.25) * s.velocity_x, 5, p)
    height_error = HALF * (floor + ceiling) - s.y
    speed = HALF * (ceiling - floor) + f4(4.5) - THREE * abs(height_error)
    action[0] = min(max(speed - s.velocity_x - s.breath / THRUST, -ONE), ONE)
    action[1] = min(max(THREE * height_error - f4(0.4) * s.velocity_y, -ONE), ONE)


def draw(s: State, p: Params, canvas: Canvas) -> None:
    tilt = 0.1 * s.velocity_y

    def at(u: float, v: float) -> tuple[float, float]:
        return s.x + u * math.cos(tilt) - v * math.sin(tilt), s.y + u * math.sin(tilt) + v * math.cos(tilt)

    canvas.view(s.x - 4, -5, s.x + 9.33, 5)
    canvas.clear((61, 16, 34))
    xs = [x for k in range(-40, 65) if (x := 0.25 * (k + math.floor(4 * s.x))) <= MOUTH_X]
    walls = [throat(s, f4(x), 0, p) for x in xs]
    for x, (floor, ceiling) in zip(xs, walls, strict=True):
        if x % 2 == 0:
            arc = [(x + math.sin(0.3 * k), floor + (ceiling - floor) * k / 10) for k in range(11)]
            canvas.line(arc, RIB, 0.5)
    for k in range(50):
        canvas.rectangle(MOUTH_X + 26 - 0.4 * k, 0, 60, 40, SEA)
    for emission_step in range(max(1, s.t - TRAIL_LENGTH + 1), s.t + 1):  # bubbles
        (x, y), age = s.trail[emission_step % TRAIL_LENGTH], s.t - emission_step
        canvas.circle(
            x - 0.6, y + 0.02 * age, 0.13 * (emission_step * emission_step % 7) / 6, (255, 235, 230, 130 - 3 * age)
        )
    for k in range(4, 13):
        canvas.polygon([at(0.3, 0), at(k / 2, 0.16 * k), at(k / 2, -0.16 * k)], LIGHT)
    for side, up in (0, -1), (1, 1):
        for x, wall in zip(xs, walls, strict=True):
            if x > MOUTH_X - 3 and x % 0.5 == 0:  # a tooth
                y = wall[side] + 0.1 * up
                canvas.polygon([(x, y), (x - 0.4, y), (x - 0.2, y - 0.5 * up)], (252, 246, 232))
        for depth, color in FLESH:
            edge = [(x - 0.3 * depth, wall[side] + up * depth) for x, wall in zip(xs, walls, strict=True)]
            canvas.polygon([*edge, (xs[-1] - 9, 30 * up), (xs[0], 30 * up)], color)
    canvas.rectangle(*at(-0.62, 0), 0.09, 0.5 * abs(math.cos(1.3 * s.t)), (70, 76, 88), tilt)
    canvas.rectangle(*at(0.05, 0.33), 0.34, 0.3, (214, 140, 30), tilt, 0.1)
    canvas.rectangle(*at(-0.05, 0), 1.1, 0.56, (250, 190, 50), tilt, 0.28)
    for u in (-0.25, 0.1):
        canvas.circle(*at(u, 0.03), 0.12, (52, 92, 122), (255, 244, 214), 0.04)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(-1, 1, (3 + 2 * NUM_PROBES,)),
    action=Box(-1, 1, (2,)),
    horizon=600,
    frames_per_second=20,
    reward_threshold=6.0,
)
