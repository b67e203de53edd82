"""Grotto: pilot a little submarine through a winding sea cave, past bobbing jellyfish, to the daylight.

observation  f4 (23,)  velocity 2; current; the next two jellyfish, each: distance, height above the hull, climb;
                       floor and ceiling over the hull's height, here and at six places up to 7.2 m ahead
action       f4 (2,)   thrust ahead and thrust up, each -1 to 1
reward       0.1 a metre ahead, +2 in the daylight, -2 for a crash
ends         in the daylight, or when the hull touches rock or a jellyfish
"""

import math

from rl_lab.rng import uniform
from rl_lab.trig import cos, sin
from rl_lab.world import Array, Box, Canvas, Record, World, WorldState, f4, f8, i4, kernel

JELLIES, LOOKS, TRAIL = 8, 7, 32
ZERO, ONE, TWO, HALF, TENTH, PI = f4(0), f4(1), f4(2), f4(0.5), f4(0.1), f4(math.pi)
DAYLIGHT, HULL, BELL, SIGHT, ROOM = f4(64), f4(0.35), f4(0.6), f4(10), f4(5)  # metres
TIME_STEP, SWING = f4(0.05), f4(0.04)  # seconds; radians a step


class Log(Record):
    metres: f8
    finished: f8


class State(WorldState):
    x: f4
    y: f4
    velocity_x: f4
    velocity_y: f4
    current: f4  # m/s2 upwards
    jelly: i4  # the next one
    bends: f4[3]  # phases of the cave's windings
    jellies: f4[JELLIES, 2]  # place along the cave, phase of the bobbing
    trail: f4[TRAIL, 2]  # where the hull was at step t, in row t % TRAIL
    log: Log


class Params(Record):
    gap: f4 = 2.3  # half the height of the cave, metres
    jellies: i4 = 8  # at most 8
    bob: f4 = 0.8  # of a jellyfish up and down, metres
    current: f4 = 1.5  # the strongest, m/s2
    thrust: f4 = 5.0  # m/s2
    drag: f4 = 1.0  # 1/s


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
def room(s: State, x: float, y: float, t: float, p: Params) -> float:
    """Return the water around the hull at (x, y) and step t, below 0 in a crash."""
    floor, ceiling = cave(s, x, p)
    jelly_x, jelly_y, _ = jellyfish(s, s.jelly, t, p)
    away = f4(math.sqrt((jelly_x - x) * (jelly_x - x) + (jelly_y - y) * (jelly_y - y)))
    return min(min(min(y - floor, ceiling - y), x + TWO), away - BELL) - HULL


@kernel
def reset(s: State, p: Params) -> None:
    s.current = uniform(s, -p.current, p.current)
    for k in range(3):
        s.bends[k] = uniform(s, -PI, PI)
    for k in range(JELLIES):
        s.jellies[k, 0] = f4(7 * k + 7) + uniform(s, ZERO, TWO)
        s.jellies[k, 1] = uniform(s, -PI, PI)
    floor, ceiling = cave(s, s.x, p)
    s.y = HALF * (floor + ceiling)


@kernel
def moved(place: float, velocity: float, push: float, p: Params) -> tuple[float, float]:
    velocity += TIME_STEP * (push - p.drag * velocity)
    return place + TIME_STEP * velocity, velocity


@kernel
def step(s: State, action: Array, p: Params) -> tuple[float, bool]:
    s.trail[s.t % TRAIL, 0], s.trail[s.t % TRAIL, 1] = s.x, s.y
    s.x, s.velocity_x = moved(s.x, s.velocity_x, p.thrust * action[0], p)
    s.y, s.velocity_y = moved(s.y, s.velocity_y, p.thrust * action[1] + s.current, p)
    s.log.metres = s.x
    reward = TENTH * TIME_STEP * s.velocity_x
    if room(s, s.x, s.y, f4(s.t), p) < ZERO:
        return reward - TWO, True
    if s.jelly < JELLIES and s.jellies[s.jelly, 0] < s.x - HULL - BELL:
        s.jelly += 1
    if s.x > DAYLIGHT:
        s.log.finished = 1.0
        return reward + TWO, True
    return reward, False


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[0], out[1], out[2] = s.velocity_x / ROOM, s.velocity_y / ROOM, s.current / ROOM
    for k in range(2):
        x, y, climb = jellyfish(s, s.jelly + k, f4(s.t), p)
        out[3 + 3 * k], out[4 + 3 * k], out[5 + 3 * k] = (x - s.x) / SIGHT, (y - s.y) / ROOM, climb
    for k in range(LOOKS):
        floor, ceiling = cave(s, s.x + f4(1.2) * f4(k), p)
        out[9 + 2 * k], out[10 + 2 * k] = (floor - s.y) / ROOM, (ceiling - s.y) / ROOM
    for k in range(9 + 2 * LOOKS):
        out[k] = min(max(out[k], -ONE), ONE)


@kernel
def expert(s: State, p: Params, action: Array) -> None:
    """Try 15 steady thrusts for half a second in its head, and begin the best."""
    most = -SIGHT * SIGHT
    for choice in range(15):
        ahead, up = f4(choice % 3 - 1), HALF * f4(choice // 3 - 2)
        x, y, velocity_x, velocity_y, score = s.x, s.y, s.velocity_x, s.velocity_y, ZERO
        for k in range(1, 12):
            x, velocity_x = moved(x, velocity_x, p.thrust * ahead, p)
            y, velocity_y = moved(y, velocity_y, p.thrust * up + s.current, p)
            water = room(s, x, y, f4(s.t + k), p)
            score += TENTH * min(water, HALF) if water > TENTH else -ONE
        if score + x > most:
            most, action[0], action[1] = score + x, ahead, up


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
    observation=Box(-1, 1, (9 + 2 * LOOKS,)),
    action=Box(-1, 1, (2,)),
    horizon=600,
    frames_per_second=20,
    solved=6.0,
)
