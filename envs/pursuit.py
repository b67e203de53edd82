"""Pursuit: eight predators on a torus must encircle two prey that outrun each of them.

observation  f4 (33,)  own velocity 2, +1 predator -1 prey; the 2 nearest prey and the 4 nearest predators, nearest
                       first, each: displacement to it 2, its velocity relative to one's own 2, 1 if there is one
action       0 coast, 1-8 push east, north-east, north ... south-east
reward       predator: +1 a catch by any, -0.001 a step and free prey, 0.05 a metre nearer to the nearest free prey;
             prey: -1 caught, +0.001 a step free, 0.05 a metre farther from the nearest predator
ends         when all prey are caught; a caught one leaves at once
"""

import cmath
import math

from rl_lab.envs._pursuit import (
    AGENTS,
    EIGHTH_TURN,
    HALF,
    HEIGHT,
    ONE,
    PREDATORS,
    PREY,
    TRAIL_LENGTH,
    WIDTH,
    ZERO,
    Params,
    State,
    escape_distance,
    expert,
    nearest_foe,
    novice,
    update_distances,
)
from rl_lab.envs._torus import displacement, draw_polygon, wrap

from rl_lab.core.rng import uniform
from rl_lab.core.trig import cos, sin
from rl_lab.core.world import Array, Box, Canvas, Discrete, World, f4, kernel

DISTANCE_SCALE, SPEED_SCALE = f4(6), f4(0.6)  # metres, metres a step: scale what is observed
SEA, WATER, FOAM, GOLD, LIGHT = (10, 26, 54), (120, 190, 220), (224, 238, 244), (255, 190, 70), (46, 206, 190)
SHARK = [0.3, 0.12 + 0.07j, 0.02 + 0.08j, -0.1 + 0.2j, -0.08 + 0.06j, -0.26 + 0.02j, -0.38 + 0.14j, -0.33]
FISH = [0.21, 0.14 + 0.08j, 0.03 + 0.11j, -0.08 + 0.07j, -0.16 + 0.02j, -0.29 + 0.12j, -0.24]


@kernel
def reset(s: State, p: Params) -> None:
    # The predators start in a disc, and the prey at a distance from it.
    x, y = uniform(s, ZERO, WIDTH), uniform(s, ZERO, HEIGHT)
    for a in range(AGENTS):
        distance = uniform(s, HALF, f4(1.5)) if a < PREDATORS else uniform(s, f4(2.5), f4(4.4))
        turn = uniform(s, ZERO, f4(math.tau))
        s.x[a], s.y[a] = wrap(x + distance * cos(turn), WIDTH), wrap(y + distance * sin(turn), HEIGHT)
        s.is_free[a] = 1
        for k in range(TRAIL_LENGTH):
            s.trail[k, a, 0], s.trail[k, a, 1] = s.x[a], s.y[a]
    update_distances(s)


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    for a in range(AGENTS):
        if s.is_free[a]:
            s.last_foe_distance[a] = s.distances[a, nearest_foe(s, a)]
            speed = p.predator_speed if a < PREDATORS else p.prey_speed
            speed = speed if actions[a] > 0 else ZERO
            turn = EIGHTH_TURN * f4(actions[a] - 1)
            s.velocity_x[a] += p.grip * (speed * cos(turn) - s.velocity_x[a])
            s.velocity_y[a] += p.grip * (speed * sin(turn) - s.velocity_y[a])
            s.x[a] = wrap(s.x[a] + s.velocity_x[a], WIDTH)
            s.y[a] = wrap(s.y[a] + s.velocity_y[a], HEIGHT)
            s.trail[s.t % TRAIL_LENGTH, a, 0], s.trail[s.t % TRAIL_LENGTH, a, 1] = s.x[a], s.y[a]
    update_distances(s)
    num_free_prey, catches = 0, 0
    for a in range(AGENTS):
        if s.is_free[a]:
            nearer = s.last_foe_distance[a] - s.distances[a, nearest_foe(s, a)]
            rewards[a] = f4(0.05) * (nearer if a < PREDATORS else -nearer)
    for a in range(PREDATORS, AGENTS):
        if s.is_free[a]:
            num_free_prey += 1
            rewards[a] += f4(0.001)
            if s.distances[a, nearest_foe(s, a)] <= p.reach:
                rewards[a] -= ONE
                catches += 1
                s.is_free[a] = 0
    for a in range(PREDATORS):
        rewards[a] += f4(catches) - f4(0.001) * f4(num_free_prey)
    s.log.caught += catches
    s.log.cleared = 1.0 if num_free_prey == catches else 0.0
    return num_free_prey == catches


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    if not s.is_free[agent]:
        return
    out[0], out[1] = s.velocity_x[agent] / SPEED_SCALE, s.velocity_y[agent] / SPEED_SCALE
    out[2] = ONE if agent < PREDATORS else -ONE
    for b in range(AGENTS):
        if b != agent and s.is_free[b]:
            first, last, slots, at = (0, PREDATORS, 4, 13) if b < PREDATORS else (PREDATORS, AGENTS, 2, 3)
            rank, d = 0, s.distances[agent, b]
            for c in range(first, last):
                if (
                    c != agent
                    and s.is_free[c]
                    and (s.distances[agent, c] < d or (s.distances[agent, c] == d and c < b))
                ):
                    rank += 1
            if rank < slots:
                at += 5 * rank
                out[at] = displacement(s.x[b], s.x[agent], WIDTH) / DISTANCE_SCALE
                out[at + 1] = displacement(s.y[b], s.y[agent], HEIGHT) / DISTANCE_SCALE
                out[at + 2] = (s.velocity_x[b] - s.velocity_x[agent]) / SPEED_SCALE
                out[at + 3] = (s.velocity_y[b] - s.velocity_y[agent]) / SPEED_SCALE
                out[at + 4] = ONE
    for k in range(33):
        out[k] = min(max(out[k], -ONE), ONE)


def draw(s: State, p: Params, canvas: Canvas) -> None:
    width, height = float(WIDTH), float(HEIGHT)
    canvas.view(0, 0, width, height)
    canvas.clear(SEA)
    for k in range(90):  # plankton, so that motion is visible
        canvas.circle(k * 0.618034 % 1 * width, k * 0.754878 % 1 * height, 0.012 + 0.003 * (k % 5), (*FOAM, 50))
    positions = [complex(s.x[a], s.y[a]) for a in range(AGENTS)]
    for a in range(PREDATORS, AGENTS):
        if s.is_free[a]:  # the area that it can reach before any predator
            rays = [cmath.rect(1, math.tau * k / 90) for k in range(90)]
            reachable = [ray * float(escape_distance(s, a, f4(ray.real), f4(ray.imag), p)) for ray in rays]
            for part in 1, 0.8, 0.6, 0.4, 0.2:
                draw_polygon(canvas, [positions[a] + part * edge for edge in reachable], (*LIGHT, 36), width, height)
        else:
            for k in range(3):
                canvas.circle(s.x[a], s.y[a], 0.1 + 0.14 * k, (*GOLD, 0), (*GOLD, 150 - 45 * k), 0.035)
    for a in range(AGENTS):
        if not s.is_free[a]:
            continue
        shape, color, wake = (SHARK, FOAM, WATER) if a < PREDATORS else (FISH, GOLD, GOLD)
        path, left, right = [positions[a]], [], []
        for age in range(1, min(s.t, TRAIL_LENGTH)):
            x, y = s.trail[(s.t - age) % TRAIL_LENGTH, a]
            last = path[-1]
            ago_x, ago_y = (
                displacement(x, f4(last.real % width), WIDTH),
                displacement(y, f4(last.imag % height), HEIGHT),
            )
            path.append(last + complex(ago_x, ago_y))
            side = 1j * (last - path[-1])
            side *= 0.08 * (1 - age / TRAIL_LENGTH) / (abs(side) or 1)
            left.append(last + side)
            right.append(last - side)
        if left:
            draw_polygon(canvas, [*left, path[-1], *right[::-1]], (*wake, 90), width, height)
        ahead = cmath.rect(1, cmath.phase(complex(s.velocity_x[a], s.velocity_y[a])))
        outline = [*shape, *(z.conjugate() for z in shape[-2:0:-1])]  # shapes are symmetric
        draw_polygon(canvas, [positions[a] + ahead * z for z in outline], color, width, height)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    novice=novice,
    observation=Box(-1, 1, (33,)),
    action=Discrete(9),
    horizon=400,
    agents=(*(f"predator_{k}" for k in range(PREDATORS)), *(f"prey_{k}" for k in range(PREY))),
    draw=draw,
    alive_field="is_free",
    frames_per_second=20,
)
