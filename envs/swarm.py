"""Swarm: a thousand starlings have to stay together, avoid collisions and escape a hawk that hunts single birds.

observation  f4 (13,)  in the bird's own frame, ahead and left: number of neighbours; displacement to their middle 2;
                       their heading 2; push away from those too near 2; the nearest one's distance, up to 0.6 m; and
                       for a hawk within 4 m: 1; displacement to it 2; its heading 2
action       0 hard right, 1 right, 2 straight on, 3 left, 4 hard left
reward       0.01 times the agreement of its heading with its neighbours', full with six or more; -0.02 a step in touch
             with another bird; -0.5 a step in the hawk's claws
ends         at the horizon

Source of the expert's rules: Reynolds 1987, "Flocks, herds, and schools: a distributed behavioral model". The density
is constant, so the area grows with the number of birds. `rl-lab check` plays a smaller world, which `make_world` makes.
"""

import cmath
import math

import numpy as np
from rl_lab.envs._swarm import PUSH_DISTANCE, SIGHT, grid_size, update_neighbours, world_size
from rl_lab.envs._torus import displacement, draw_polygon, wrap

from rl_lab.core.rng import uniform
from rl_lab.core.trig import cos, sin
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, f4, f8, i4, kernel

ZERO, ONE, TWO, HALF, FAR, TINY, TAU = f4(0), f4(1), f4(2), f4(0.5), f4(1e9), f4(1e-6), f4(math.tau)
TOUCH_DISTANCE, HAWK_SIGHT, STRIKE_DISTANCE = f4(0.2), f4(4), f4(0.4)  # metres
ENOUGH_NEIGHBOURS = f4(6)  # for the full reward

SKY, RED = (20, 20, 38), (255, 84, 70)
TURN, SHADES = [0, 24, 48, 72, 96], [(72, 255, 250, 150, 72), (202, 206, 120, 118, 202), (190, 96, 104, 236, 190)]
HUES = [tuple(int(np.interp(k, TURN, shade)) for shade in SHADES) for k in range(96)]  # of a bird, by its heading
BIRD = [0.3, -0.2 + 0.17j, -0.1, -0.2 - 0.17j]
HAWK = [0.6, 0.35 + 0.1j, 0.25 + 0.3j, -0.1 + 0.95j, -0.12 + 0.4j, -0.3 + 0.1j, -0.65 + 0.22j, -0.6]
HAWK += [z.conjugate() for z in HAWK[-2:0:-1]]


class Log(Record):
    order: f8  # mean over the episode of the length of the mean heading: 1 when all fly one way
    touches: f8  # steps in touch with another, a bird
    struck: f8  # steps in the claws, a bird


class Params(Record):
    speed: f4 = bounded(0.15, low=0.02, high=0.3)  # metres a step
    turn: f4 = bounded(0.2, low=0.02, high=0.6)  # radians, of a hard turn; others are half as much
    hawk_speed: f4 = bounded(0.22, low=0, high=0.4)
    hawk_turn: f4 = bounded(0.1, low=0.01, high=0.6)


@kernel
def wrap_angle(angle: float) -> float:
    if angle >= TAU:
        return angle - TAU
    return angle + TAU if angle < ZERO else angle


@kernel
def reset(s: WorldState, p: Params) -> None:
    width, height = world_size(s)
    s.num_birds = len(s.x)
    for a in range(s.num_birds):
        s.x[a], s.y[a] = uniform(s, ZERO, width), uniform(s, ZERO, height)
        s.angle[a] = uniform(s, ZERO, TAU)
        s.ux[a], s.uy[a] = cos(s.angle[a]), sin(s.angle[a])
    s.hawk_x, s.hawk_y, s.hawk_angle = uniform(s, ZERO, width), uniform(s, ZERO, height), uniform(s, ZERO, TAU)
    s.hawk_ux, s.hawk_uy = cos(s.hawk_angle), sin(s.hawk_angle)
    update_neighbours(s)


@kernel
def move_hawk(s: WorldState, p: Params) -> None:
    """Turn the hawk towards a near bird with few neighbours, and move it."""
    width, height = world_size(s)
    ahead, left, least = ZERO, ZERO, FAR
    for a in range(s.num_birds):
        dx, dy = displacement(s.x[a], s.hawk_x, width), displacement(s.y[a], s.hawk_y, height)
        value = dx * dx + dy * dy + s.num_neighbours[a]
        if value < least:
            least = value
            ahead, left = dx * s.hawk_ux + dy * s.hawk_uy, dy * s.hawk_ux - dx * s.hawk_uy
    if abs(left) > f4(0.1) * ahead:
        s.hawk_angle = wrap_angle(s.hawk_angle + (p.hawk_turn if left > ZERO else -p.hawk_turn))
    s.hawk_ux, s.hawk_uy = cos(s.hawk_angle), sin(s.hawk_angle)
    s.hawk_x = wrap(s.hawk_x + p.hawk_speed * s.hawk_ux, width)
    s.hawk_y = wrap(s.hawk_y + p.hawk_speed * s.hawk_uy, height)


@kernel
def step(s: WorldState, actions: Array, p: Params, rewards: Array) -> bool:
    width, height = world_size(s)
    num_birds, all_x, all_y, num_touches, num_strikes = len(s.x), ZERO, ZERO, 0, 0
    for a in range(s.num_birds):
        s.angle[a] = wrap_angle(s.angle[a] + HALF * p.turn * f4(actions[a] - 2))
        s.ux[a], s.uy[a] = cos(s.angle[a]), sin(s.angle[a])
        s.x[a] = wrap(s.x[a] + p.speed * s.ux[a], width)
        s.y[a] = wrap(s.y[a] + p.speed * s.uy[a], height)
        all_x += s.ux[a]
        all_y += s.uy[a]
    move_hawk(s, p)
    update_neighbours(s)
    for a in range(s.num_birds):
        agreement = s.heading_sum_x[a] * s.ux[a] + s.heading_sum_y[a] * s.uy[a]
        rewards[a] = f4(0.01) * agreement / max(s.num_neighbours[a], ENOUGH_NEIGHBOURS)
        if s.nearest[a] < TOUCH_DISTANCE:
            rewards[a] -= f4(0.02)
            num_touches += 1
        dx, dy = displacement(s.hawk_x, s.x[a], width), displacement(s.hawk_y, s.y[a], height)
        if dx * dx + dy * dy < STRIKE_DISTANCE * STRIKE_DISTANCE:
            rewards[a] -= HALF
            num_strikes += 1
    order = f4(math.sqrt(all_x * all_x + all_y * all_y)) / num_birds
    s.log.order += (order - s.log.order) / s.t
    s.log.touches += num_touches / num_birds
    s.log.struck += num_strikes / num_birds
    return False


@kernel
def observe(s: WorldState, agent: int, p: Params, out: Array) -> None:
    width, height = world_size(s)
    ux, uy = s.ux[agent], s.uy[agent]
    inverse_count = ONE / max(s.num_neighbours[agent], ONE)
    out[0] = s.num_neighbours[agent] / (TWO * ENOUGH_NEIGHBOURS)
    x, y = inverse_count * s.offset_sum_x[agent] / SIGHT, inverse_count * s.offset_sum_y[agent] / SIGHT
    out[1], out[2] = x * ux + y * uy, y * ux - x * uy
    x, y = inverse_count * s.heading_sum_x[agent], inverse_count * s.heading_sum_y[agent]
    out[3], out[4] = x * ux + y * uy, y * ux - x * uy
    x, y = s.push_sum_x[agent], s.push_sum_y[agent]
    out[5], out[6] = x * ux + y * uy, y * ux - x * uy
    out[7] = s.nearest[agent] / PUSH_DISTANCE
    x = displacement(s.hawk_x, s.x[agent], width) / HAWK_SIGHT
    y = displacement(s.hawk_y, s.y[agent], height) / HAWK_SIGHT
    if x * x + y * y < ONE:
        out[8] = ONE
        out[9], out[10] = x * ux + y * uy, y * ux - x * uy
        out[11], out[12] = s.hawk_ux * ux + s.hawk_uy * uy, s.hawk_uy * ux - s.hawk_ux * uy
    for k in range(13):
        out[k] = min(max(out[k], -ONE), ONE)


@kernel
def action_towards(s: WorldState, a: int, x: float, y: float) -> int:
    """Return the action that turns a bird towards the direction (x, y)."""
    ahead, left = x * s.ux[a] + y * s.uy[a], y * s.ux[a] - x * s.uy[a]
    if ahead < ZERO or abs(left) > f4(0.2) * ahead:
        return 4 if left > ZERO else 0
    if abs(left) > f4(0.05) * ahead:
        return 3 if left > ZERO else 1
    return 2


@kernel
def novice(s: WorldState, agent: int, p: Params) -> int:
    return action_towards(s, agent, s.heading_sum_x[agent], s.heading_sum_y[agent])


@kernel
def expert(s: WorldState, agent: int, p: Params) -> int:
    # It adds its own heading, the neighbours' heading, their middle, the push from near ones and the hawk's threat.
    width, height = world_size(s)
    inverse_count = ONE / max(s.num_neighbours[agent], ONE)
    x = (
        s.ux[agent]
        + inverse_count * (s.heading_sum_x[agent] + HALF * s.offset_sum_x[agent])
        + f4(3) * s.push_sum_x[agent]
    )
    y = (
        s.uy[agent]
        + inverse_count * (s.heading_sum_y[agent] + HALF * s.offset_sum_y[agent])
        + f4(3) * s.push_sum_y[agent]
    )
    dx = displacement(s.x[agent], s.hawk_x + s.hawk_ux, width)
    dy = displacement(s.y[agent], s.hawk_y + s.hawk_uy, height)
    far = f4(math.sqrt(dx * dx + dy * dy)) + TINY
    if far < TWO:
        x += TWO * (TWO - far) * dx / far
        y += TWO * (TWO - far) * dy / far
    return action_towards(s, agent, x, y)


def draw(s: WorldState, p: Params, canvas: Canvas) -> None:
    width, height = map(float, world_size(s))
    canvas.view(0, 0, width, height)
    canvas.clear(SKY)
    hawk, ahead = complex(s.hawk_x, s.hawk_y), complex(s.hawk_ux, s.hawk_uy)
    for radius, opacity in (1, 16), (0.7, 18), (0.4, 22):
        around = [hawk + cmath.rect(radius * float(HAWK_SIGHT), math.tau * k / 72) for k in range(72)]
        draw_polygon(canvas, around, (*RED, opacity), width, height)
    x, y, angle = np.asarray(s.x), np.asarray(s.y), np.asarray(s.angle)
    positions = x + 1j * y
    outlines = positions[:, None] + np.exp(1j * angle)[:, None] * np.array(BIRD)
    for position, outline, hue in zip(positions, outlines, (angle * (96 / math.tau)).astype(int) % 96, strict=True):
        color = HUES[hue]
        if 0.4 < position.real < width - 0.4 and 0.4 < position.imag < height - 0.4:
            canvas.polygon([(z.real, z.imag) for z in outline], color)
        else:
            draw_polygon(canvas, outline.tolist(), color, width, height)
    draw_polygon(canvas, [hawk + ahead * z for z in HAWK], RED, width, height)


def make_world(agents: int) -> World:
    """Return the world for a number of birds, each of which is an agent."""
    width, height, rows, columns = grid_size(agents)

    class State(WorldState):
        num_birds: i4 = bounded(agents, low=0, high=agents)  # a field, because LLVM unrolls loops of constant length
        x: f4[agents] = bounded(0, low=0, high=f4(width))
        y: f4[agents] = bounded(0, low=0, high=f4(height))
        angle: f4[agents] = bounded(0, low=0, high=7)
        ux: f4[agents] = bounded(0, low=-2, high=2)  # its cosine and sine
        uy: f4[agents] = bounded(0, low=-2, high=2)
        hawk_x: f4 = bounded(0, low=0, high=f4(width))
        hawk_y: f4 = bounded(0, low=0, high=f4(height))
        hawk_angle: f4 = bounded(0, low=0, high=7)
        hawk_ux: f4 = bounded(0, low=-2, high=2)
        hawk_uy: f4 = bounded(0, low=-2, high=2)
        cell_row: i4[agents] = bounded(0, low=0, high=rows - 1)  # of its cell
        cell_column: i4[agents] = bounded(0, low=0, high=columns - 1)
        birds_by_cell: i4[agents] = bounded(0, low=0, high=agents - 1)  # the birds, sorted by cells
        cell_start: i4[rows, columns] = bounded(0, low=0, high=agents)  # where in `birds_by_cell` a cell's birds begin
        cell_count: i4[rows, columns] = bounded(0, low=0, high=agents)  # how many birds are in a cell
        pairs: i4  # of birds that were compared in this step
        num_neighbours: f4[agents]  # neighbours of each bird; the fields below are sums over them
        nearest: f4[agents]  # metres, at most NEAR
        offset_sum_x: f4[agents]
        offset_sum_y: f4[agents]
        heading_sum_x: f4[agents]
        heading_sum_y: f4[agents]
        push_sum_x: f4[agents]
        push_sum_y: f4[agents]
        log: Log

    return World(
        State,
        Params,
        reset,
        step,
        observe,
        draw=draw,
        expert=expert,
        novice=novice,
        observation=Box(-1, 1, (13,)),
        action=Discrete(5),
        horizon=600,
        agents=tuple(f"bird_{k}" for k in range(agents)),
        frames_per_second=30,
    )


world = make_world(1024)
