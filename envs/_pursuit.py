"""This module has Pursuit's state, the geometry of its torus, and its scripted players; pursuit.py has the rules."""

import math

from rl_lab.envs._torus import way

from rl_lab.core.trig import cos, sin
from rl_lab.core.world import Record, WorldState, bounded, f4, f8, kernel, u1

PREDATORS, PREY, TRAIL = 8, 2, 24
AGENTS = PREDATORS + PREY
ZERO, ONE, TWO, HALF, FAR, TINY = f4(0), f4(1), f4(2), f4(0.5), f4(1e9), f4(1e-6)
WIDTH, HEIGHT = f4(12), f4(9)  # metres, of the torus
CLEAR = f4(4.5)  # metres, the largest value of `freedom`
EIGHTH, SLANT = f4(math.pi / 4), f4(math.tan(math.pi / 8))  # the angle between two actions, and the slope of half of it


class Log(Record):
    caught: f8
    cleared: f8  # 1 if all prey were caught


class State(WorldState):
    x: f4[AGENTS] = bounded(0, low=0, high=WIDTH)
    y: f4[AGENTS] = bounded(0, low=0, high=HEIGHT)
    velocity_x: f4[AGENTS] = bounded(0, low=-1, high=1)  # metres a step
    velocity_y: f4[AGENTS] = bounded(0, low=-1, high=1)
    free: u1[AGENTS] = bounded(0, low=0, high=1)  # not caught; predators always are
    apart: f4[AGENTS, AGENTS] = bounded(0, low=0, high=8)  # distances, metres
    near: f4[AGENTS] = bounded(0, low=0, high=8)  # metres to the nearest foe before the step
    trail: f4[TRAIL, AGENTS, 2] = bounded(0, low=0, high=WIDTH)  # the positions at step t, in row t % TRAIL
    log: Log


class Params(Record):
    predator_speed: f4 = bounded(0.1, low=0.01, high=0.3)  # metres a step, after pushing for long
    prey_speed: f4 = bounded(0.13, low=0.01, high=0.3)
    grip: f4 = bounded(0.3, low=0.05, high=1)  # how much of a change of velocity one step brings
    reach: f4 = bounded(0.35, low=0.1, high=1)  # a predator so near to a prey, in metres, catches it


@kernel
def measure(s: State) -> None:
    for a in range(AGENTS):
        for b in range(a):
            dx, dy = way(s.x[b], s.x[a], WIDTH), way(s.y[b], s.y[a], HEIGHT)
            s.apart[a, b] = s.apart[b, a] = math.sqrt(dx * dx + dy * dy)


@kernel
def nearest_foe(s: State, agent: int) -> int:
    """Return the nearest free prey to a predator, or the nearest predator to a prey; the agent itself without any."""
    first, last = (PREDATORS, AGENTS) if agent < PREDATORS else (0, PREDATORS)
    best, least = agent, FAR
    for b in range(first, last):
        if s.free[b] and s.apart[agent, b] < least:
            best, least = b, s.apart[agent, b]
    return best


@kernel
def compass(dx: float, dy: float) -> int:
    """Return the action whose direction is nearest to (dx, dy)."""
    wide, tall = abs(dx) > SLANT * abs(dy), abs(dy) > SLANT * abs(dx)  # not nearly north or south; nor east or west
    if wide and tall:
        return (2 if dy > ZERO else 8) if dx > ZERO else (4 if dy > ZERO else 6)
    if wide:
        return 1 if dx > ZERO else 5
    return (3 if dy > ZERO else 7) if tall else 0


@kernel
def freedom(s: State, prey: int, ux: float, uy: float, p: Params) -> float:
    """Return the metres, at most CLEAR, that a prey can run in a direction before any predator can reach it."""
    slower, least = p.predator_speed / p.prey_speed, CLEAR
    for a in range(PREDATORS):
        dx, dy = way(s.x[a], s.x[prey], WIDTH), way(s.y[a], s.y[prey], HEIGHT)
        # After r metres the predator is as near as it can get when |r u - d| = slower r + reach.
        b = ux * dx + uy * dy + slower * p.reach
        c = max(dx * dx + dy * dy - p.reach * p.reach, ZERO)
        inner = b * b - (ONE - slower * slower) * c
        if inner >= ZERO and b + f4(math.sqrt(inner)) > ZERO:
            least = min(least, c / (b + f4(math.sqrt(inner))))
    return least


@kernel
def flight(s: State, agent: int, p: Params) -> int:
    """Return a prey's best action: the one of greatest freedom, with a bonus for fleeing and for keeping its course."""
    away_x, away_y = ZERO, ZERO
    for a in range(PREDATORS):
        dx, dy = way(s.x[agent], s.x[a], WIDTH), way(s.y[agent], s.y[a], HEIGHT)
        weight = HALF / (f4(0.1) + dx * dx + dy * dy)
        away_x += weight * dx
        away_y += weight * dy
    away_x += TWO * s.velocity_x[agent]
    away_y += TWO * s.velocity_y[agent]
    best, most = 0, -FAR
    for action in range(1, 9):
        ux, uy = cos(EIGHTH * f4(action - 1)), sin(EIGHTH * f4(action - 1))
        value = freedom(s, agent, ux, uy, p) + ux * away_x + uy * away_y
        if value > most:
            best, most = action, value
    return best


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    if agent >= PREDATORS:
        return flight(s, agent, p)
    # All predators hunt the prey that is nearest to the pack. Each approaches its predicted place, and moves around it
    # towards gaps in the ring.
    prey, least = agent, FAR
    for b in range(PREDATORS, AGENTS):
        total = ZERO
        for a in range(PREDATORS):
            total += s.apart[a, b]
        if s.free[b] and total < least:
            prey, least = b, total
    lead = min(f4(8), s.apart[agent, prey] / (p.predator_speed + p.prey_speed))
    dx = way(s.x[agent], s.x[prey] + lead * s.velocity_x[prey], WIDTH)
    dy = way(s.y[agent], s.y[prey] + lead * s.velocity_y[prey], HEIGHT)
    far = f4(math.sqrt(dx * dx + dy * dy)) + TINY
    ux, uy = dx / far, dy / far  # from the prey to oneself
    push = ZERO  # of the others round the ring, counterclockwise
    for a in range(PREDATORS):
        if a != agent and s.apart[agent, prey] > f4(0.8):
            vx, vy = way(s.x[a], s.x[prey], WIDTH), way(s.y[a], s.y[prey], HEIGHT)
            near = HALF + HALF * (ux * vx + uy * vy) / (s.apart[a, prey] + TINY)  # 1 side by side, 0 opposite
            push += f4(1.5) * near * near * near * (-ONE if ux * vy > uy * vx else ONE)
    return compass(-ux - push * uy, -uy + push * ux)


@kernel
def novice(s: State, agent: int, p: Params) -> int:
    foe = nearest_foe(s, agent)
    dx, dy = way(s.x[foe], s.x[agent], WIDTH), way(s.y[foe], s.y[agent], HEIGHT)
    return compass(dx, dy) if agent < PREDATORS else compass(-dx, -dy)
