"""This module has the expert and the novice of Arena. Their kernels only read the state."""

import math

from rl_lab.envs._arena import (
    AGENTS,
    BACK,
    FAR_SQUARED,
    FORWARD,
    HALF,
    HEADING,
    HEADING_ANGLE,
    HEADINGS,
    LAST_SEEN_X,
    LAST_SEEN_Y,
    LEFT,
    ONE,
    RELOAD,
    RELOAD_LEFT,
    RIGHT,
    ROUNDS,
    SEES_MASK,
    SHOOT,
    SIGHTING,
    SIGHTING_STEPS,
    SPARE,
    STEP_LENGTH,
    TURN_LEFT,
    TURN_RIGHT,
    WAIT,
    ZERO,
    State,
    X,
    Y,
    in_agent_frame,
    in_aim,
    is_free,
    may_reload,
    may_shoot,
    next_position,
    wall_distances,
)

from rl_lab.core.trig import cos, sin
from rl_lab.core.world import Record, f4, kernel

WALK_MARGIN = f4(0.25)  # metres: `walk_to` keeps this distance from walls


@kernel
def walk_to(s: State, a: int, x: float, y: float) -> int:
    """Return the action that leads to a point, in the free direction that is nearest to the straight one."""
    ahead, left = in_agent_frame(s, a, x, y)
    square = ahead * ahead + left * left
    needed = f4(math.sqrt(square)) if square < ONE else ONE
    best, sectors = f4(-99), 0
    for k in range(HEADINGS):
        angle, offset = HEADING_ANGLE * f4(s.counters[a, HEADING] + k), HEADING_ANGLE * f4(k)
        ux, uy, closer = cos(angle), sin(angle), ahead * cos(offset) + left * sin(offset)
        x, y = s.body[a, X], s.body[a, Y]
        way, _ = wall_distances(s, x, y, ux, uy, WALK_MARGIN)
        if closer > best and is_free(s, x + STEP_LENGTH * ux, y + STEP_LENGTH * uy) and way >= needed:
            best, sectors = closer, k
    if sectors == 0:
        next_x, next_y = next_position(s, a, FORWARD)
        return FORWARD if is_free(s, next_x, next_y) else TURN_LEFT
    return TURN_LEFT if sectors <= HEADINGS // 2 else TURN_RIGHT


@kernel
def dodge(s: State, a: int, first: int) -> int:
    """Return a step that is free of walls: the first choice, or else left, right or back."""
    for k in range(4):
        action = first if k == 0 else LEFT if k == 1 else RIGHT if k == 2 else BACK
        x, y = next_position(s, a, action)
        if is_free(s, x, y):
            return action
    return WAIT


@kernel
def expert(s: State, agent: int, p: Record) -> int:
    # It uses its team's knowledge: it shoots, turns to opponents in sight, hunts those seen before, and searches.
    target, nearest, sidestep = 1, FAR_SQUARED, LEFT if s.t // 6 % 2 else RIGHT
    for k in range(1, AGENTS, 2):
        b = (agent + k) % AGENTS
        ahead, left = in_agent_frame(s, agent, s.body[b, LAST_SEEN_X], s.body[b, LAST_SEEN_Y])
        staleness = (
            ZERO
            if (s.counters[agent, SEES_MASK] >> k) & 1
            else f4(400 + 10 * (SIGHTING_STEPS - s.counters[b, SIGHTING]))
        )
        if s.alive[b] and ahead * ahead + left * left + staleness < nearest:
            target, nearest = k, ahead * ahead + left * left + staleness
        if may_shoot(s, agent) and in_aim(s, agent, k):
            return SHOOT
    b = (agent + target) % AGENTS
    x, y, fresh = s.body[b, LAST_SEEN_X], s.body[b, LAST_SEEN_Y], s.counters[b, SIGHTING]
    rounds, in_sight = s.counters[agent, ROUNDS], (s.counters[agent, SEES_MASK] >> target) & 1
    if may_reload(s, agent, p.magazine) and (
        rounds == 0 or (fresh < SIGHTING_STEPS - 6 and 3 * rounds < 2 * p.magazine)
    ):
        return RELOAD
    if in_sight and (rounds == 0 or s.counters[agent, RELOAD_LEFT] > 0):
        return dodge(s, agent, BACK)
    if in_sight and in_aim(s, agent, target):
        return dodge(s, agent, sidestep)
    ahead, left = in_agent_frame(s, agent, x, y)
    if in_sight:
        return TURN_LEFT if left > ZERO else TURN_RIGHT
    if rounds + s.counters[agent, SPARE] <= p.magazine // 2 or (fresh == 0 and s.t // 40 % 2):
        k = s.t // 80 % 2  # a crate lies in the middle, where one meets the others, too
        x, y = s.crate[k, 0], s.crate[k, 1]
        ahead, left = in_agent_frame(s, agent, x, y)
    return walk_to(s, agent, x, y) if ahead * ahead + left * left > HALF * HALF else TURN_LEFT


@kernel
def novice(s: State, agent: int, p: Record) -> int:
    # It shoots, turns to opponents in sight, and otherwise walks straight on.
    for k in range(1, AGENTS, 2):
        b = (agent + k) % AGENTS
        if in_aim(s, agent, k):
            return SHOOT if may_shoot(s, agent) else RELOAD if may_reload(s, agent, 1) else WAIT
        if (s.counters[agent, SEES_MASK] >> k) & 1:
            _, left = in_agent_frame(s, agent, s.body[b, X], s.body[b, Y])
            return TURN_LEFT if left > ZERO else TURN_RIGHT
    x, y = next_position(s, agent, FORWARD)
    return FORWARD if is_free(s, x, y) else TURN_LEFT
