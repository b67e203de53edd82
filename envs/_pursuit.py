"""This module has Pursuit's State and Params, distances between its agents, and its expert and novice.

pursuit.py has the rules and the picture. Agents 0 to PREDATORS - 1 are predators, the others prey. The kernels only
read the state, except `update_distances`, which writes `s.distances`.
"""

import math

from rl_lab.envs._torus import displacement

from rl_lab.core.trig import cos, sin
from rl_lab.core.world import Record, WorldState, bounded, f4, f8, kernel, u1

PREDATORS, PREY, TRAIL_LENGTH = 8, 2, 24
AGENTS = PREDATORS + PREY
ZERO, ONE, TWO, HALF, FAR, TINY = f4(0), f4(1), f4(2), f4(0.5), f4(1e9), f4(1e-6)
WIDTH, HEIGHT = f4(12), f4(9)  # metres, of the torus
MAX_ESCAPE_DISTANCE = f4(4.5)  # metres, the largest value of `escape_distance`
# The angle between two actions in radians, and the slope of a line at half of it.
EIGHTH_TURN, HALF_EIGHTH_SLOPE = f4(math.pi / 4), f4(math.tan(math.pi / 8))


class Log(Record):
    caught: f8
    cleared: f8  # 1 if all prey were caught


class State(WorldState):
    x: f4[AGENTS] = bounded(0, low=0, high=WIDTH)
    y: f4[AGENTS] = bounded(0, low=0, high=HEIGHT)
    velocity_x: f4[AGENTS] = bounded(0, low=-1, high=1)  # metres a step
    velocity_y: f4[AGENTS] = bounded(0, low=-1, high=1)
    is_free: u1[AGENTS] = bounded(0, low=0, high=1)  # 1 until it is caught; predators always have 1
    distances: f4[AGENTS, AGENTS] = bounded(0, low=0, high=8)  # metres, between agents
    last_foe_distance: f4[AGENTS] = bounded(0, low=0, high=8)  # metres, before the step
    # The positions at step t are in row t % TRAIL_LENGTH.
    trail: f4[TRAIL_LENGTH, AGENTS, 2] = bounded(0, low=0, high=WIDTH)
    log: Log


class Params(Record):
    predator_speed: f4 = bounded(0.1, low=0.01, high=0.3)  # metres a step, after pushing for long
    prey_speed: f4 = bounded(0.13, low=0.01, high=0.3)
    grip: f4 = bounded(0.3, low=0.05, high=1)  # how much of a change of velocity one step brings
    reach: f4 = bounded(0.35, low=0.1, high=1)  # a predator so near to a prey, in metres, catches it


@kernel
def update_distances(s: State) -> None:
    """Write the distances between all agents."""
    for a in range(AGENTS):
        for b in range(a):
            dx, dy = displacement(s.x[b], s.x[a], WIDTH), displacement(s.y[b], s.y[a], HEIGHT)
            s.distances[a, b] = s.distances[b, a] = math.sqrt(dx * dx + dy * dy)


@kernel
def nearest_foe(s: State, agent: int) -> int:
    """Return the nearest free prey to a predator, or the nearest predator to a prey; the agent itself without any."""
    first, last = (PREDATORS, AGENTS) if agent < PREDATORS else (0, PREDATORS)
    best, smallest = agent, FAR
    for b in range(first, last):
        if s.is_free[b] and s.distances[agent, b] < smallest:
            best, smallest = b, s.distances[agent, b]
    return best


@kernel
def direction_action(dx: float, dy: float) -> int:
    """Return the action whose direction is nearest to (dx, dy)."""
    wide = abs(dx) > HALF_EIGHTH_SLOPE * abs(dy)  # the direction has an eastern or western part
    tall = abs(dy) > HALF_EIGHTH_SLOPE * abs(dx)  # it has a northern or southern part
    if wide and tall:
        return (2 if dy > ZERO else 8) if dx > ZERO else (4 if dy > ZERO else 6)
    if wide:
        return 1 if dx > ZERO else 5
    return (3 if dy > ZERO else 7) if tall else 0


@kernel
def escape_distance(s: State, prey: int, ux: float, uy: float, p: Params) -> float:
    """Return how far a prey can run in a direction before any predator can reach it, at most MAX_ESCAPE_DISTANCE."""
    speed_ratio, smallest = p.predator_speed / p.prey_speed, MAX_ESCAPE_DISTANCE
    for a in range(PREDATORS):
        dx, dy = displacement(s.x[a], s.x[prey], WIDTH), displacement(s.y[a], s.y[prey], HEIGHT)
        # After r metres the predator is as near as it can get when |r u - d| = speed_ratio r + reach.
        b = ux * dx + uy * dy + speed_ratio * p.reach
        c = max(dx * dx + dy * dy - p.reach * p.reach, ZERO)
        inner = b * b - (ONE - speed_ratio * speed_ratio) * c
        if inner >= ZERO and b + f4(math.sqrt(inner)) > ZERO:
            smallest = min(smallest, c / (b + f4(math.sqrt(inner))))
    return smallest


@kernel
def best_prey_action(s: State, agent: int, p: Params) -> int:
    """Return a prey's best action: the greatest escape distance counts, and fleeing, and keeping its course."""
    away_x, away_y = ZERO, ZERO
    for a in range(PREDATORS):
        dx, dy = displacement(s.x[agent], s.x[a], WIDTH), displacement(s.y[agent], s.y[a], HEIGHT)
        weight = HALF / (f4(0.1) + dx * dx + dy * dy)
        away_x += weight * dx
        away_y += weight * dy
    away_x += TWO * s.velocity_x[agent]
    away_y += TWO * s.velocity_y[agent]
    best, most = 0, -FAR
    for action in range(1, 9):
        ux, uy = cos(EIGHTH_TURN * f4(action - 1)), sin(EIGHTH_TURN * f4(action - 1))
        value = escape_distance(s, agent, ux, uy, p) + ux * away_x + uy * away_y
        if value > most:
            best, most = action, value
    return best


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    if agent >= PREDATORS:
        return best_prey_action(s, agent, p)
    # All predators hunt the prey to which the sum of their distances is least. Each approaches the place where the prey
    # will be when they meet, and moves sideways, away from predators on the same side of the prey, to encircle it.
    prey, smallest = agent, FAR
    for b in range(PREDATORS, AGENTS):
        total = ZERO
        for a in range(PREDATORS):
            total += s.distances[a, b]
        if s.is_free[b] and total < smallest:
            prey, smallest = b, total
    lead_steps = min(f4(8), s.distances[agent, prey] / (p.predator_speed + p.prey_speed))
    dx = displacement(s.x[agent], s.x[prey] + lead_steps * s.velocity_x[prey], WIDTH)
    dy = displacement(s.y[agent], s.y[prey] + lead_steps * s.velocity_y[prey], HEIGHT)
    distance = f4(math.sqrt(dx * dx + dy * dy)) + TINY
    ux, uy = dx / distance, dy / distance  # from the prey to oneself
    sideways = ZERO  # how strongly to move counterclockwise around the prey; below 0 clockwise
    for a in range(PREDATORS):
        if a != agent and s.distances[agent, prey] > f4(0.8):
            vx, vy = displacement(s.x[a], s.x[prey], WIDTH), displacement(s.y[a], s.y[prey], HEIGHT)
            near = HALF + HALF * (ux * vx + uy * vy) / (s.distances[a, prey] + TINY)  # 1 side by side, 0 opposite
            sideways += f4(1.5) * near * near * near * (-ONE if ux * vy > uy * vx else ONE)
    return direction_action(-ux - sideways * uy, -uy + sideways * ux)


@kernel
def novice(s: State, agent: int, p: Params) -> int:
    foe = nearest_foe(s, agent)
    dx, dy = displacement(s.x[foe], s.x[agent], WIDTH), displacement(s.y[foe], s.y[agent], HEIGHT)
    return direction_action(dx, dy) if agent < PREDATORS else direction_action(-dx, -dy)
