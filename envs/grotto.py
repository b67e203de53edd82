"""Grotto: pilot a little submarine through a winding sea cave, past drifting jellyfish, to the daylight.

observation  f4 (23,)  velocity 2, current, the next two jellyfish (distance, height above the hull, climb), rock
                       below and above the hull: here, then every 1.2 m ahead, 7 times 2
action       f4 (2,)   thrust ahead and thrust up, each -1 to 1
reward       0.1 a metre ahead, +2 at the daylight, -2 a crash
ends         at the daylight, or when the hull touches rock or a jellyfish
"""

import math

from rl_lab.canvas import Canvas, translucent
from rl_lab.rng import uniform
from rl_lab.trig import cos, sin
from rl_lab.world import Array, Box, Record, World, WorldState, f4, f8, i4, kernel

JELLIES, LOOKS, TRAIL = 8, 7, 32
SENSES = 9 + 2 * LOOKS
ZERO, ONE, TWO, HALF, TENTH, PI = f4(0), f4(1), f4(2), f4(0.5), f4(0.1), f4(math.pi)
DAYLIGHT, SPACING, HULL, BELL, SIGHT, CLEARANCE = f4(64), f4(7), f4(0.35), f4(0.65), f4(10), f4(4)  # metres
TIME_STEP, SWING = f4(0.05), f4(0.04)  # seconds, radians a step


class Log(Record):
    metres: f8
    crashed: f8
    finished: f8


class State(WorldState):
    x: f4
    y: f4
    velocity_x: f4
    velocity_y: f4
    current: f4  # m/s2, up
    jelly: i4  # the next one
    bends: f4[3]  # phases of the cave's windings
    jellies: f4[JELLIES, 2]  # place along the cave, phase of the bobbing
    trail: f4[TRAIL, 2]  # where the submarine was at step t, in row t % TRAIL
    log: Log


class Params(Record):
    gap: f4 = 2.3  # half the height of the cave, metres
    jellies: i4 = 8  # at most 8
    bob: f4 = 0.7  # how far a jellyfish drifts up and down, metres
    current: f4 = 1.0  # the strongest, up or down, m/s2
    thrust: f4 = 5.0  # m/s2
    drag: f4 = 1.0  # 1/s


@kernel
def length(x: float, y: float) -> float:
    return f4(math.sqrt(x * x + y * y))


@kernel
def cave(s: State, x: float, p: Params) -> tuple[float, float]:
    """Return the heights of its floor and its ceiling at x."""
    middle = f4(1.2) * sin(f4(0.3) * x + s.bends[0]) + f4(0.6) * sin(f4(0.65) * x + s.bends[1])
    half = p.gap + f4(0.3) * sin(f4(1.1) * x + s.bends[2])
    return middle - half, middle + half


@kernel
def jellyfish(s: State, k: int, t: float, p: Params) -> tuple[float, float, float]:
    """Return where the k-th is at step t, and how it climbs, -1 to 1."""
    if k >= min(p.jellies, JELLIES):
        return TWO * DAYLIGHT, ZERO, ZERO
    floor, ceiling = cave(s, s.jellies[k, 0], p)
    phase = SWING * t + s.jellies[k, 1]
    return s.jellies[k, 0], HALF * (floor + ceiling) + p.bob * sin(phase), cos(phase)


@kernel
def reset(s: State, p: Params) -> None:
    s.current = uniform(s, -p.current, p.current)
    for k in range(3):
        s.bends[k] = uniform(s, -PI, PI)
    for k in range(JELLIES):
        s.jellies[k, 0] = SPACING * f4(k + 1) + uniform(s, ZERO, TWO)
        s.jellies[k, 1] = uniform(s, -PI, PI)
    floor, ceiling = cave(s, s.x, p)
    s.y = HALF * (floor + ceiling)


@kernel
def step(s: State, action: Array, p: Params) -> tuple[float, bool]:
    s.trail[s.t % TRAIL, 0], s.trail[s.t % TRAIL, 1] = s.x, s.y
    s.velocity_x += TIME_STEP * (p.thrust * action[0] - p.drag * s.velocity_x)
    s.velocity_y += TIME_STEP * (p.thrust * action[1] + s.current - p.drag * s.velocity_y)
    s.x += TIME_STEP * s.velocity_x
    s.y += TIME_STEP * s.velocity_y
    reward = TENTH * TIME_STEP * s.velocity_x
    floor, ceiling = cave(s, s.x, p)
    x, y, _ = jellyfish(s, s.jelly, f4(s.t), p)
    near = (x - s.x) * (x - s.x) + (y - s.y) * (y - s.y) < (HULL + BELL) * (HULL + BELL)
    if near or s.y - HULL < floor or s.y + HULL > ceiling or s.x < -TWO:
        s.log.crashed = 1.0
        return reward - TWO, True
    if x < s.x - HULL - BELL:
        s.jelly += 1
    s.log.metres = s.x
    if s.x > DAYLIGHT:
        s.log.finished = 1.0
        return reward + TWO, True
    return reward, False


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[0], out[1], out[2] = s.velocity_x / (p.thrust / p.drag), s.velocity_y / CLEARANCE, s.current / p.thrust
    for k in range(2):
        x, y, climb = jellyfish(s, s.jelly + k, f4(s.t), p)
        out[3 + 3 * k], out[4 + 3 * k], out[5 + 3 * k] = (x - s.x) / SIGHT, (y - s.y) / CLEARANCE, climb
    for k in range(LOOKS):
        floor, ceiling = cave(s, s.x + f4(1.2) * f4(k), p)
        out[9 + 2 * k], out[10 + 2 * k] = (floor - s.y) / CLEARANCE, (ceiling - s.y) / CLEARANCE
    for k in range(SENSES):
        out[k] = min(max(out[k], -ONE), ONE)


@kernel
def expert(s: State, p: Params, action: Array) -> None:
    """Try steady thrusts for a second and a half in its head, and begin the best."""
    best, most = ZERO, -SIGHT * SIGHT
    for choice in range(15):
        thrust_x, thrust_y = f4(choice % 3) - ONE, HALF * f4(choice // 3) - ONE
        x, y, vx, vy, score = s.x, s.y, s.velocity_x, s.velocity_y, ZERO
        for k in range(1, 26):
            vx += TIME_STEP * (p.thrust * thrust_x - p.drag * vx)
            vy += TIME_STEP * (p.thrust * thrust_y + s.current - p.drag * vy) if k < 12 else -f4(0.15) * vy
            x, y = x + TIME_STEP * vx, y + TIME_STEP * vy
            floor, ceiling = cave(s, x, p)
            jx, jy, _ = jellyfish(s, s.jelly, f4(s.t + k), p)
            room = min(min(y - floor, ceiling - y) - HULL, length(jx - x, jy - y) - HULL - BELL)
            score += f4(1.0) * min(room, HALF)
            if room < f4(0.1): 
                score -= f4(26 + 14 - k)
                break
        score += x
        if score > most:
            most = score
            action[0], action[1] = thrust_x, thrust_y


def draw(s: State, p: Params, canvas: Canvas) -> None:
    canvas.view(s.x - 4, -5, s.x + 9.33, 5)
    canvas.clear((18, 62, 84))


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(-1, 1, (SENSES,)),
    action=Box(-1, 1, (2,)),
    horizon=600,
    solved=6.0,
)
