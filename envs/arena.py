"""Arena: two teams of two fight among walls; a fighter sees only what is in front of it, and has few rounds.

observation  f4 (48,)  own health, rounds, spare rounds, time to reload and to shoot again, hits of the last step; then,
                       each place as cosine and sine of its bearing and distance: the middle of the field; two
                       ammunition crates (1 if present, place); walls in eight directions; the team mate (alive, place,
                       health); both opponents: how recently the team saw it, whether the fighter itself sees it, and
                       would hit it, the place where it was last seen, and, while the fighter sees it, cosine and sine
                       of its heading relative to one's own, its health
action       0 wait, 1 ahead, 2 back, 3 left, 4 right (where no wall is), 5 turn left, 6 turn right, 7 shoot (with a
             round ready and an opponent in sight), 8 reload (with spare rounds, and room for them)
reward       +0.1 to each agent of a team for each of the team's hits and +0.5 for each opponent out of health; the
             agents of the other team get the negative
ends         for an agent without health; for all agents when a team has no agent left
"""

import math

from rl_lab.envs._arena import (
    BODY,
    BOXES,
    COOLDOWN,
    COOLING,
    CRATES,
    FORWARD,
    FRESH,
    GHOST_X,
    GHOST_Y,
    HALF,
    HEADINGS,
    HEALTH,
    HURT,
    KIT,
    MEMORY,
    OLD_X,
    OLD_Y,
    ONE,
    RELOAD,
    RELOAD_TIME,
    RELOADING,
    RIGHT,
    ROUNDS,
    SEATS,
    SEEN,
    SHOOT,
    SPARE,
    TINY,
    TURN_LEFT,
    TURN_RIGHT,
    TWO,
    UX,
    UY,
    WAIT,
    ZERO,
    State,
    X,
    Y,
    from_seat,
    in_aim,
    is_free,
    may_reload,
    may_shoot,
    move,
    next_place,
    shoot,
    stock_up,
    turn,
    update_sight,
    wall_distances,
)
from rl_lab.envs._arena_picture import draw
from rl_lab.envs._arena_scripts import expert, novice

from rl_lab.core.rng import integers, uniform
from rl_lab.core.world import Array, Box, Discrete, Record, World, bounded, f4, i4, kernel

RAYS, OWN, PLACE, CRATE, MATE, FOE = 8, 6, 3, 4, 5, 9
SIZE = OWN + PLACE + CRATES * CRATE + RAYS + MATE + 2 * FOE
FIELD, LOOK, DIAGONAL, HIT, OUT = f4(16), f4(8), f4(0.70710678), f4(0.1), f4(0.5)


class Params(Record):
    health: i4 = bounded(6, low=1, high=20)  # hits to take
    magazine: i4 = bounded(6, low=1, high=20)  # rounds in it; as many spare ones at the start, and in each crate
    sight: f4 = bounded(8, low=1, high=20)
    refill: i4 = bounded(80, low=1, high=200)  # steps from taking a crate to the next


@kernel
def reset(s: State, p: Params) -> None:
    for k in range(BOXES // 2):
        x, y = (f4(-4.4), f4(3.8) * f4(k - 1)) if k < 3 else (ZERO, f4(3.8))
        kind = integers(s, 3)  # lying, standing, square
        long, short = uniform(s, f4(0.9), f4(1.2)), uniform(s, f4(0.22), f4(0.4))
        s.walls[k, 0], s.walls[k, 1] = x + uniform(s, -f4(0.3), f4(0.3)), y + uniform(s, -f4(0.3), f4(0.3))
        s.walls[k, 2] = f4(1.25) * long if kind == 0 else short if kind == 1 else f4(0.7) * long
        s.walls[k, 3] = short if kind == 0 else long if kind == 1 else f4(0.7) * long
        for j in range(4):
            s.walls[k + BOXES // 2, j] = -s.walls[k, j] if j < 2 else s.walls[k, j]
    s.crate[0, 0], s.crate[0, 1] = uniform(s, -ONE, ONE), uniform(s, f4(0.5), f4(1.5))
    s.crate[1, 0], s.crate[1, 1] = -s.crate[0, 0], -s.crate[0, 1]
    for a in range(SEATS):  # each in its own quarter; crates and walls are the same for both teams, starts are not
        side, half = (ONE if a % 2 else -ONE), (-ONE if a < 2 else ONE)
        x, y = f4(7) * side, f4(4) * half  # always free of walls, and the first place where opponents expect it
        s.body[a, X], s.body[a, Y], s.body[a, GHOST_X], s.body[a, GHOST_Y] = x, y, x, y
        for _ in range(20):
            x, y = side * uniform(s, TWO, f4(7)), half * uniform(s, HALF, f4(5.5))
            if is_free(s, x, y):
                s.body[a, X], s.body[a, Y] = x, y
                break
        turn(s, a, integers(s, 9) + (4 if a % 2 else 12))  # towards the other side, more or less
        s.kit[a, HEALTH], s.kit[a, ROUNDS], s.kit[a, SPARE] = p.health, p.magazine, p.magazine
        s.alive[a] = 1
    update_sight(s, p.sight)


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    stock_up(s, p)
    for a in range(SEATS):
        s.kit[a, HURT] = 0
        s.body[a, OLD_X], s.body[a, OLD_Y] = s.body[a, X], s.body[a, Y]
    for a in range(SEATS):
        if s.alive[a]:
            if FORWARD <= actions[a] <= RIGHT:
                move(s, a, actions[a])
            elif actions[a] == TURN_LEFT or actions[a] == TURN_RIGHT:
                turn(s, a, 1 if actions[a] == TURN_LEFT else HEADINGS - 1)
            elif actions[a] == RELOAD:
                s.kit[a, RELOADING] = RELOAD_TIME
    update_sight(s, p.sight)
    for a in range(SEATS):
        if s.alive[a] and actions[a] == SHOOT:
            shoot(s, a)
    hits, outs, red, blue = 0, 0, 0, 0  # the red team's less the blue's; then the numbers of live agents
    for a in range(SEATS):
        if s.kit[a, HURT] > 0:
            side, damage = (1 if a % 2 else -1), min(s.kit[a, HURT], s.kit[a, HEALTH])
            hits += side * damage
            s.kit[a, HEALTH] -= damage
            if s.kit[a, HEALTH] == 0:
                outs += side
                s.alive[a] = 0
                s.log.fallen += 1.0
        red += s.alive[a] * (1 - a % 2)
        blue += s.alive[a] * (a % 2)
    gain = HIT * f4(hits) + OUT * f4(outs)
    for a in range(SEATS):
        rewards[a] = -gain if a % 2 else gain
    return red == 0 or blue == 0


@kernel
def point(s: State, a: int, x: float, y: float, out: Array, at: int) -> None:
    """Write the cosine and sine of a place's bearing, and its distance."""
    ahead, left = from_seat(s, a, x, y)
    distance = f4(math.sqrt(ahead * ahead + left * left)) + TINY
    out[at], out[at + 1], out[at + 2] = ahead / distance, left / distance, distance / FIELD


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    if not s.alive[agent]:
        return
    out[0] = f4(s.kit[agent, HEALTH]) / f4(p.health)
    out[1] = f4(s.kit[agent, ROUNDS]) / f4(p.magazine)
    out[2] = f4(s.kit[agent, SPARE]) / f4(2 * p.magazine)
    out[3] = f4(s.kit[agent, RELOADING]) / f4(RELOAD_TIME)
    out[4] = f4(s.kit[agent, COOLING]) / f4(COOLDOWN)
    out[5] = HALF * f4(min(s.kit[agent, HURT], 2))
    point(s, agent, ZERO, ZERO, out, OWN)
    at = OWN + PLACE
    for k in range(CRATES):
        out[at] = ONE if s.away[k] == 0 else ZERO
        point(s, agent, s.crate[k, 0], s.crate[k, 1], out, at + 1)
        at += CRATE
    ux, uy = s.body[agent, UX], s.body[agent, UY]
    for k in range(RAYS // 2):
        ahead, behind = wall_distances(s, s.body[agent, X], s.body[agent, Y], ux, uy, ZERO)
        out[at + k], out[at + k + RAYS // 2] = min(ahead / LOOK, ONE), min(behind / LOOK, ONE)
        ux, uy = DIAGONAL * (ux - uy), DIAGONAL * (ux + uy)  # an eighth of a turn
    at += RAYS
    mate = (agent + 2) % SEATS
    if s.alive[mate]:
        out[at] = ONE
        point(s, agent, s.body[mate, X], s.body[mate, Y], out, at + 1)
        out[at + 1 + PLACE] = f4(s.kit[mate, HEALTH]) / f4(p.health)
    at += MATE
    for k in range(1, SEATS, 2):
        b = (agent + k) % SEATS
        if s.alive[b]:
            out[at] = f4(s.kit[b, FRESH]) / f4(MEMORY)
            point(s, agent, s.body[b, GHOST_X], s.body[b, GHOST_Y], out, at + 3)
            if (s.kit[agent, SEEN] >> k) & 1:
                ux, uy, vx, vy = s.body[agent, UX], s.body[agent, UY], s.body[b, UX], s.body[b, UY]
                out[at + 1], out[at + 2] = ONE, ONE if in_aim(s, agent, k) else ZERO
                out[at + 6], out[at + 7] = ux * vx + uy * vy, ux * vy - uy * vx
                out[at + 8] = f4(s.kit[b, HEALTH]) / f4(p.health)
        at += FOE
    for k in range(SIZE):
        out[k] = min(max(out[k], -ONE), ONE)  # rounding, and the longest diagonal, exceed the bounds


@kernel
def action_mask(s: State, agent: int, p: Params, mask: Array) -> None:
    mask[WAIT] = mask[TURN_LEFT] = mask[TURN_RIGHT] = 1
    for action in range(FORWARD, RIGHT + 1):
        x, y = next_place(s, agent, action)
        mask[action] = 1 if is_free(s, x, y) else 0
    mask[SHOOT] = 1 if may_shoot(s, agent) else 0
    mask[RELOAD] = 1 if may_reload(s, agent, p.magazine) else 0


@kernel
def rotate_seats(s: State, p: Params) -> None:
    # Three exchanges move each agent's part to the next agent.
    for a in range(SEATS - 1, 0, -1):
        for k in range(BODY):
            s.body[a, k], s.body[a - 1, k] = s.body[a - 1, k], s.body[a, k]
        for k in range(KIT):
            s.kit[a, k], s.kit[a - 1, k] = s.kit[a - 1, k], s.kit[a, k]
        s.alive[a], s.alive[a - 1] = s.alive[a - 1], s.alive[a]


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    action_mask=action_mask,
    expert=expert,
    novice=novice,
    rotate_seats=rotate_seats,
    draw=draw,
    observation=Box(-1, 1, (SIZE,)),
    action=Discrete(9),
    agents=("red_0", "blue_0", "red_1", "blue_1"),
    alive_field="alive",
    zero_sum=True,
    horizon=300,
    frames_per_second=10,
)
