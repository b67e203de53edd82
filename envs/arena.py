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
    AGENTS,
    AHEAD_X,
    AHEAD_Y,
    BODY_COLUMNS,
    COOLDOWN_LEFT,
    COOLDOWN_STEPS,
    COUNTER_COLUMNS,
    CRATES,
    EPSILON,
    FORWARD,
    HALF,
    HEADINGS,
    HEALTH,
    HITS_TAKEN,
    LAST_SEEN_X,
    LAST_SEEN_Y,
    OLD_X,
    OLD_Y,
    ONE,
    RELOAD,
    RELOAD_LEFT,
    RELOAD_STEPS,
    RIGHT,
    ROUNDS,
    SEES_MASK,
    SHOOT,
    SIGHTING,
    SIGHTING_STEPS,
    SPARE,
    TURN_LEFT,
    TURN_RIGHT,
    TWO,
    WAIT,
    WALLS,
    ZERO,
    State,
    X,
    Y,
    in_agent_frame,
    in_aim,
    is_free,
    may_reload,
    may_shoot,
    move,
    next_position,
    shoot,
    turn_agent,
    update_ammunition,
    update_sight,
    wall_distances,
)
from rl_lab.envs._arena_picture import draw
from rl_lab.envs._arena_scripts import expert, novice

from rl_lab.core.rng import integers, uniform
from rl_lab.core.world import Array, Box, Discrete, Record, World, bounded, f4, i4, kernel

# Parts of an observation: rays to walls; the numbers about oneself, a place, a crate, the team mate and an opponent.
NUM_RAYS, OWN_SIZE, PLACE_SIZE, CRATE_SIZE, MATE_SIZE, FOE_SIZE = 8, 6, 3, 4, 5, 9
OBSERVATION_SIZE = OWN_SIZE + PLACE_SIZE + CRATES * CRATE_SIZE + NUM_RAYS + MATE_SIZE + 2 * FOE_SIZE
DISTANCE_SCALE, RAY_SCALE = f4(16), f4(8)  # metres, by which observed distances are divided
DIAGONAL = f4(0.70710678)  # cosine of 45 degrees
HIT_REWARD, ELIMINATION_REWARD = f4(0.1), f4(0.5)


class Params(Record):
    health: i4 = bounded(6, low=1, high=20)  # hits to take
    magazine: i4 = bounded(6, low=1, high=20)  # rounds in it; as many spare ones at the start, and in each crate
    sight: f4 = bounded(8, low=1, high=20)
    refill: i4 = bounded(80, low=1, high=200)  # steps from taking a crate to the next


@kernel
def reset(s: State, p: Params) -> None:
    # Four random walls, and the same four turned by half a turn; then the crates; then the agents.
    for k in range(WALLS // 2):
        x, y = (f4(-4.4), f4(3.8) * f4(k - 1)) if k < 3 else (ZERO, f4(3.8))
        shape = integers(s, 3)  # 0: long in x, 1: long in y, 2: square
        long, short = uniform(s, f4(0.9), f4(1.2)), uniform(s, f4(0.22), f4(0.4))
        s.walls[k, 0], s.walls[k, 1] = x + uniform(s, -f4(0.3), f4(0.3)), y + uniform(s, -f4(0.3), f4(0.3))
        s.walls[k, 2] = f4(1.25) * long if shape == 0 else short if shape == 1 else f4(0.7) * long
        s.walls[k, 3] = short if shape == 0 else long if shape == 1 else f4(0.7) * long
        for j in range(4):
            s.walls[k + WALLS // 2, j] = -s.walls[k, j] if j < 2 else s.walls[k, j]
    s.crate[0, 0], s.crate[0, 1] = uniform(s, -ONE, ONE), uniform(s, f4(0.5), f4(1.5))
    s.crate[1, 0], s.crate[1, 1] = -s.crate[0, 0], -s.crate[0, 1]
    for a in range(AGENTS):  # each in its own quarter; crates and walls are the same for both teams, starts are not
        side, half = (ONE if a % 2 else -ONE), (-ONE if a < 2 else ONE)
        x, y = f4(7) * side, f4(4) * half  # always free of walls, and the first place where opponents expect it
        s.body[a, X], s.body[a, Y], s.body[a, LAST_SEEN_X], s.body[a, LAST_SEEN_Y] = x, y, x, y
        for _ in range(20):
            x, y = side * uniform(s, TWO, f4(7)), half * uniform(s, HALF, f4(5.5))
            if is_free(s, x, y):
                s.body[a, X], s.body[a, Y] = x, y
                break
        turn_agent(s, a, integers(s, 9) + (4 if a % 2 else 12))  # towards the other side, more or less
        s.counters[a, HEALTH], s.counters[a, ROUNDS], s.counters[a, SPARE] = p.health, p.magazine, p.magazine
        s.alive[a] = 1
    update_sight(s, p.sight)


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    update_ammunition(s, p)
    for a in range(AGENTS):
        s.counters[a, HITS_TAKEN] = 0
        s.body[a, OLD_X], s.body[a, OLD_Y] = s.body[a, X], s.body[a, Y]
    for a in range(AGENTS):
        if s.alive[a]:
            if FORWARD <= actions[a] <= RIGHT:
                move(s, a, actions[a])
            elif actions[a] == TURN_LEFT or actions[a] == TURN_RIGHT:
                turn_agent(s, a, 1 if actions[a] == TURN_LEFT else HEADINGS - 1)
            elif actions[a] == RELOAD:
                s.counters[a, RELOAD_LEFT] = RELOAD_STEPS
    update_sight(s, p.sight)
    for a in range(AGENTS):
        if s.alive[a] and actions[a] == SHOOT:
            shoot(s, a)
    hits, eliminations = 0, 0  # those by the red team less those by the blue team
    red_alive, blue_alive = 0, 0
    for a in range(AGENTS):
        if s.counters[a, HITS_TAKEN] > 0:
            side, damage = (1 if a % 2 else -1), min(s.counters[a, HITS_TAKEN], s.counters[a, HEALTH])
            hits += side * damage
            s.counters[a, HEALTH] -= damage
            if s.counters[a, HEALTH] == 0:
                eliminations += side
                s.alive[a] = 0
                s.log.fallen += 1.0
        red_alive += s.alive[a] * (1 - a % 2)
        blue_alive += s.alive[a] * (a % 2)
    gain = HIT_REWARD * f4(hits) + ELIMINATION_REWARD * f4(eliminations)
    for a in range(AGENTS):
        rewards[a] = -gain if a % 2 else gain
    return red_alive == 0 or blue_alive == 0


@kernel
def write_bearing(s: State, a: int, x: float, y: float, out: Array, at: int) -> None:
    """Write the cosine and sine of a place's bearing, and its distance, into `out` from index `at` on."""
    ahead, left = in_agent_frame(s, a, x, y)
    distance = f4(math.sqrt(ahead * ahead + left * left)) + EPSILON
    out[at], out[at + 1], out[at + 2] = ahead / distance, left / distance, distance / DISTANCE_SCALE


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    if not s.alive[agent]:
        return
    out[0] = f4(s.counters[agent, HEALTH]) / f4(p.health)
    out[1] = f4(s.counters[agent, ROUNDS]) / f4(p.magazine)
    out[2] = f4(s.counters[agent, SPARE]) / f4(2 * p.magazine)
    out[3] = f4(s.counters[agent, RELOAD_LEFT]) / f4(RELOAD_STEPS)
    out[4] = f4(s.counters[agent, COOLDOWN_LEFT]) / f4(COOLDOWN_STEPS)
    out[5] = HALF * f4(min(s.counters[agent, HITS_TAKEN], 2))
    write_bearing(s, agent, ZERO, ZERO, out, OWN_SIZE)
    at = OWN_SIZE + PLACE_SIZE
    for k in range(CRATES):
        out[at] = ONE if s.crate_wait[k] == 0 else ZERO
        write_bearing(s, agent, s.crate[k, 0], s.crate[k, 1], out, at + 1)
        at += CRATE_SIZE
    ux, uy = s.body[agent, AHEAD_X], s.body[agent, AHEAD_Y]
    for k in range(NUM_RAYS // 2):
        ahead, behind = wall_distances(s, s.body[agent, X], s.body[agent, Y], ux, uy, ZERO)
        out[at + k], out[at + k + NUM_RAYS // 2] = min(ahead / RAY_SCALE, ONE), min(behind / RAY_SCALE, ONE)
        ux, uy = DIAGONAL * (ux - uy), DIAGONAL * (ux + uy)  # an eighth of a turn
    at += NUM_RAYS
    mate = (agent + 2) % AGENTS
    if s.alive[mate]:
        out[at] = ONE
        write_bearing(s, agent, s.body[mate, X], s.body[mate, Y], out, at + 1)
        out[at + 1 + PLACE_SIZE] = f4(s.counters[mate, HEALTH]) / f4(p.health)
    at += MATE_SIZE
    for k in range(1, AGENTS, 2):
        b = (agent + k) % AGENTS
        if s.alive[b]:
            out[at] = f4(s.counters[b, SIGHTING]) / f4(SIGHTING_STEPS)
            write_bearing(s, agent, s.body[b, LAST_SEEN_X], s.body[b, LAST_SEEN_Y], out, at + 3)
            if (s.counters[agent, SEES_MASK] >> k) & 1:
                ux, uy, vx, vy = s.body[agent, AHEAD_X], s.body[agent, AHEAD_Y], s.body[b, AHEAD_X], s.body[b, AHEAD_Y]
                out[at + 1], out[at + 2] = ONE, ONE if in_aim(s, agent, k) else ZERO
                out[at + 6], out[at + 7] = ux * vx + uy * vy, ux * vy - uy * vx
                out[at + 8] = f4(s.counters[b, HEALTH]) / f4(p.health)
        at += FOE_SIZE
    for k in range(OBSERVATION_SIZE):
        out[k] = min(max(out[k], -ONE), ONE)  # rounding, and the longest diagonal, exceed the bounds


@kernel
def action_mask(s: State, agent: int, p: Params, mask: Array) -> None:
    mask[WAIT] = mask[TURN_LEFT] = mask[TURN_RIGHT] = 1
    for action in range(FORWARD, RIGHT + 1):
        x, y = next_position(s, agent, action)
        mask[action] = 1 if is_free(s, x, y) else 0
    mask[SHOOT] = 1 if may_shoot(s, agent) else 0
    mask[RELOAD] = 1 if may_reload(s, agent, p.magazine) else 0


@kernel
def rotate_seats(s: State, p: Params) -> None:
    # Three exchanges move each agent's part to the next agent.
    for a in range(AGENTS - 1, 0, -1):
        for k in range(BODY_COLUMNS):
            s.body[a, k], s.body[a - 1, k] = s.body[a - 1, k], s.body[a, k]
        for k in range(COUNTER_COLUMNS):
            s.counters[a, k], s.counters[a - 1, k] = s.counters[a - 1, k], s.counters[a, k]
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
    observation=Box(-1, 1, (OBSERVATION_SIZE,)),
    action=Discrete(9),
    agents=("red_0", "blue_0", "red_1", "blue_1"),
    alive_field="alive",
    zero_sum=True,
    horizon=300,
    frames_per_second=10,
)
