"""This module has Arena's State, and the kernels for walls, sight, shots, movement and ammunition.

arena.py has the rules, _arena_scripts.py the expert and the novice, _arena_picture.py the picture. `turn_agent`,
`update_sight`, `move`, `shoot` and `update_ammunition` write the state; the other kernels only read it.

Lengths are in metres, times in steps. Agents 0 and 2 are the red team, 1 and 3 the blue one: agent (a + k) % AGENTS is
an opponent of agent a where k is odd, and its team mate where k is 2.
"""

import math

from rl_lab.core.trig import cos, sin
from rl_lab.core.world import Record, WorldState, bounded, f4, f8, i4, kernel, u1

AGENTS, WALLS, CRATES = 4, 8, 2
WAIT, FORWARD, BACK, LEFT, RIGHT, TURN_LEFT, TURN_RIGHT, SHOOT, RELOAD = range(9)
# Columns of `body`, f4 [AGENTS, BODY_COLUMNS], metres:
#   X, Y                      where the fighter is; the middle of the field is 0, 0
#   AHEAD_X, AHEAD_Y          its heading, a vector of length 1
#   OLD_X, OLD_Y              where it was before this step
#   LAST_SEEN_X, LAST_SEEN_Y  where the other team has last seen it
#   SHOT_END_X, SHOT_END_Y    where its last shot ended
X, Y, AHEAD_X, AHEAD_Y, OLD_X, OLD_Y, LAST_SEEN_X, LAST_SEEN_Y, SHOT_END_X, SHOT_END_Y, BODY_COLUMNS = range(11)
# Columns of `counters`, i4 [AGENTS, COUNTER_COLUMNS]:
#   HEADING        in sixteenths of a turn
#   HEALTH         hits that it can still take, 0 when it is out
#   ROUNDS, SPARE  rounds in the magazine, and others
#   RELOAD_LEFT    steps until it has reloaded, 0 if it does not reload
#   COOLDOWN_LEFT  steps until it may shoot again
#   HITS_TAKEN     hits in this step
#   SEES_MASK      bit k is 1 if it sees agent (a + k) % AGENTS
#   SIGHTING       SIGHTING_STEPS when the other team sees it or is hit by it, then 1 less each step, down to 0
HEADING, HEALTH, ROUNDS, SPARE, RELOAD_LEFT, COOLDOWN_LEFT, HITS_TAKEN, SEES_MASK, SIGHTING, COUNTER_COLUMNS = range(10)
HEADINGS, COOLDOWN_STEPS, RELOAD_STEPS, SIGHTING_STEPS = 16, 5, 10, 60  # the last three in steps
ZERO, HALF, ONE, TWO = f4(0), f4(0.5), f4(1), f4(2)
HALF_WIDTH, HALF_HEIGHT = f4(8), f4(6)  # of the field
RADIUS, STEP_LENGTH = f4(0.3), f4(0.3)  # of a fighter; metres a step
HEADING_ANGLE = f4(math.pi / 8)  # radians, the angle of one heading
# Cosines of the angles to either side at which a fighter sees, 60 degrees, and hits, 15 degrees.
VIEW_COSINE, AIM_COSINE = f4(math.cos(math.pi / 3)), f4(math.cos(math.pi / 12))
EPSILON = f4(1e-6)  # in place of 0 as a divisor
FAR_SQUARED = f4(1e6)  # square metres: more than between any two fighters
CRATE_REACH = HALF  # how near a fighter must come to a crate


class Log(Record):
    shots: f8
    hits: f8
    fallen: f8


class State(WorldState):
    body: f4[AGENTS, BODY_COLUMNS]
    counters: i4[AGENTS, COUNTER_COLUMNS] = bounded(0, low=0, high=255)
    alive: u1[AGENTS]
    walls: f4[
        WALLS, 4
    ]  # middle x, y and half the sides; wall k + 4 is wall k turned by half a turn, and so are the crates
    crate: f4[CRATES, 2]
    crate_wait: i4[CRATES]  # steps until the crate is there again
    log: Log


@kernel
def is_free(s: State, x: float, y: float) -> bool:
    """Return True if the field and its walls leave room for a fighter at this place."""
    if abs(x) > HALF_WIDTH - RADIUS or abs(y) > HALF_HEIGHT - RADIUS:
        return False
    for k in range(WALLS):
        if abs(x - s.walls[k, 0]) < s.walls[k, 2] + RADIUS and abs(y - s.walls[k, 1]) < s.walls[k, 3] + RADIUS:
            return False
    return True


@kernel
def has_line_of_sight(s: State, ax: float, ay: float, bx: float, by: float) -> bool:
    """Return True if no wall lies between two points; the same bits from a to b as from b to a.

    Source: the separating axis theorem, as in Ericson 2005, "Real-time collision detection", section 5.3.3.
    """
    mx, my, dx, dy = HALF * (ax + bx), HALF * (ay + by), HALF * (bx - ax), HALF * (by - ay)
    for k in range(WALLS):
        cx, cy, w, h = mx - s.walls[k, 0], my - s.walls[k, 1], s.walls[k, 2], s.walls[k, 3]
        if abs(cx) <= w + abs(dx) and abs(cy) <= h + abs(dy) and abs(cx * dy - cy * dx) <= w * abs(dy) + h * abs(dx):
            return False
    return True


@kernel
def wall_distances(s: State, x: float, y: float, ux: float, uy: float, margin: float) -> tuple[float, float]:
    """Return the distances to the first wall in a direction, of length 1, and in the opposite one.

    The walls, the border included, are thicker by a margin.

    Source: the slab method of Kay and Kajiya 1986, "Ray tracing complex scenes".
    """
    ix = ONE / (ux if abs(ux) > EPSILON else EPSILON)
    iy = ONE / (uy if abs(uy) > EPSILON else EPSILON)
    w, h = abs(ix) * (HALF_WIDTH - margin), abs(iy) * (HALF_HEIGHT - margin)
    ahead, behind = min(w - ix * x, h - iy * y), min(w + ix * x, h + iy * y)
    for k in range(WALLS):
        cx, cy = ix * (s.walls[k, 0] - x), iy * (s.walls[k, 1] - y)
        w, h = abs(ix) * (s.walls[k, 2] + margin), abs(iy) * (s.walls[k, 3] + margin)
        near, far = max(cx - w, cy - h), min(cx + w, cy + h)
        if near < far:
            ahead = min(ahead, max(near, ZERO)) if far > ZERO else ahead
            behind = min(behind, max(-far, ZERO)) if near < ZERO else behind
    return ahead, behind


@kernel
def in_agent_frame(s: State, a: int, x: float, y: float) -> tuple[float, float]:
    """Return a point in a fighter's frame: metres ahead and to the left."""
    ux, uy, dx, dy = s.body[a, AHEAD_X], s.body[a, AHEAD_Y], x - s.body[a, X], y - s.body[a, Y]
    return dx * ux + dy * uy, dy * ux - dx * uy


@kernel
def turn_agent(s: State, a: int, by: int) -> None:
    """Turn a fighter left by this many sixteenths of a turn."""
    s.counters[a, HEADING] = (s.counters[a, HEADING] + by) % HEADINGS
    angle = HEADING_ANGLE * f4(s.counters[a, HEADING])
    s.body[a, AHEAD_X], s.body[a, AHEAD_Y] = cos(angle), sin(angle)


@kernel
def sees(s: State, a: int, b: int, sight: float) -> bool:
    """Return True if a sees b.

    Both are alive, b is at most `sight` metres away and 60 degrees off a's heading, and no wall is between them.
    """
    if not (s.alive[a] and s.alive[b]):
        return False
    ahead, left = in_agent_frame(s, a, s.body[b, X], s.body[b, Y])
    square = ahead * ahead + left * left
    if square > sight * sight or ahead < ZERO or ahead * ahead < VIEW_COSINE * VIEW_COSINE * square:
        return False
    return has_line_of_sight(s, s.body[a, X], s.body[a, Y], s.body[b, X], s.body[b, Y])


@kernel
def update_sight(s: State, sight: float) -> None:
    """Update which agents each one sees (bit k of SEEN: agent (a + k) % AGENTS), and their last known places."""
    for a in range(AGENTS):
        s.counters[a, SEES_MASK] = 0
        s.counters[a, SIGHTING] = max(s.counters[a, SIGHTING] - 1, 0) * s.alive[a]
    for a in range(AGENTS):
        for k in range(1, AGENTS, 2):
            b = (a + k) % AGENTS
            if sees(s, a, b, sight):
                s.counters[a, SEES_MASK] |= 1 << k
                s.counters[b, SIGHTING] = SIGHTING_STEPS
                s.body[b, LAST_SEEN_X], s.body[b, LAST_SEEN_Y] = s.body[b, X], s.body[b, Y]


@kernel
def in_aim(s: State, a: int, k: int) -> bool:
    """Return True if a sees agent (a + k) % AGENTS at less than 15 degrees off its heading.

    A shot hits the nearest opponent for which this is true.
    """
    b = (a + k) % AGENTS
    if not (s.counters[a, SEES_MASK] >> k) & 1 or not s.alive[b]:
        return False
    ahead, left = in_agent_frame(s, a, s.body[b, X], s.body[b, Y])
    return ahead > ZERO and ahead * ahead > AIM_COSINE * AIM_COSINE * (ahead * ahead + left * left)


@kernel
def next_position(s: State, a: int, action: int) -> tuple[float, float]:
    """Return the place to which a step, FORWARD to RIGHT, would lead."""
    ux, uy = STEP_LENGTH * s.body[a, AHEAD_X], STEP_LENGTH * s.body[a, AHEAD_Y]
    dx, dy = (ux, uy) if action in (FORWARD, BACK) else (-uy, ux)
    if action in (BACK, RIGHT):
        dx, dy = -dx, -dy
    return s.body[a, X] + dx, s.body[a, Y] + dy


@kernel
def may_shoot(s: State, a: int) -> bool:
    """Return True if a round is ready and an opponent is in sight; shots without a target are illegal."""
    if s.counters[a, ROUNDS] == 0 or s.counters[a, RELOAD_LEFT] > 0 or s.counters[a, COOLDOWN_LEFT] > 0:
        return False
    left, right = (a + 1) % AGENTS, (a + 3) % AGENTS
    return ((s.counters[a, SEES_MASK] >> 1) & s.alive[left]) + ((s.counters[a, SEES_MASK] >> 3) & s.alive[right]) > 0


@kernel
def may_reload(s: State, a: int, magazine: int) -> bool:
    """Return True if there are spare rounds and the magazine, of this many rounds, is not full."""
    return s.counters[a, RELOAD_LEFT] == 0 and s.counters[a, SPARE] > 0 and s.counters[a, ROUNDS] < magazine


@kernel
def move(s: State, a: int, action: int) -> None:
    """Take a step, unless it would end within two radii of another live fighter, and nearer to it than before.

    A step that leads apart is always allowed. Other fighters are where they were before this step of the world, so that
    the order of the seats does not matter. Walls are the action mask's concern.
    """
    x, y = next_position(s, a, action)
    for b in range(AGENTS):
        if b != a and s.alive[b]:
            dx, dy = s.body[b, OLD_X] - x, s.body[b, OLD_Y] - y
            ex, ey = s.body[b, OLD_X] - s.body[a, X], s.body[b, OLD_Y] - s.body[a, Y]
            if dx * dx + dy * dy < min(f4(4) * RADIUS * RADIUS, ex * ex + ey * ey):
                return
    s.body[a, X], s.body[a, Y] = x, y


@kernel
def shoot(s: State, a: int) -> None:
    """Hit the nearest opponent in aim, or else the first wall straight ahead."""
    s.counters[a, COOLDOWN_LEFT] = COOLDOWN_STEPS
    s.counters[a, ROUNDS] -= 1
    s.log.shots += 1.0
    ux, uy, nearest, hit = s.body[a, AHEAD_X], s.body[a, AHEAD_Y], FAR_SQUARED, -1
    ahead, _ = wall_distances(s, s.body[a, X], s.body[a, Y], ux, uy, ZERO)
    s.body[a, SHOT_END_X], s.body[a, SHOT_END_Y] = s.body[a, X] + ahead * ux, s.body[a, Y] + ahead * uy
    for k in range(1, AGENTS, 2):
        b = (a + k) % AGENTS
        dx, dy = s.body[b, X] - s.body[a, X], s.body[b, Y] - s.body[a, Y]
        if in_aim(s, a, k) and dx * dx + dy * dy < nearest:
            nearest, hit = dx * dx + dy * dy, b
    if hit >= 0:
        s.counters[hit, HITS_TAKEN] += 1
        s.log.hits += 1.0
        s.body[a, SHOT_END_X], s.body[a, SHOT_END_Y] = s.body[hit, X], s.body[hit, Y]
        s.counters[a, SIGHTING] = SIGHTING_STEPS  # a fighter that is hit learns where the shot came from
        s.body[a, LAST_SEEN_X], s.body[a, LAST_SEEN_Y] = s.body[a, X], s.body[a, Y]


@kernel
def update_ammunition(s: State, p: Record) -> None:
    """Finish reloading, and take rounds from crates; all fighters that reach one in the same step get rounds."""
    for k in range(CRATES):
        if s.crate_wait[k] > 0:
            s.crate_wait[k] -= 1
            continue
        for a in range(AGENTS):
            dx, dy = s.body[a, X] - s.crate[k, 0], s.body[a, Y] - s.crate[k, 1]
            if s.alive[a] and dx * dx + dy * dy < CRATE_REACH * CRATE_REACH and s.counters[a, SPARE] < 2 * p.magazine:
                s.counters[a, SPARE] = min(s.counters[a, SPARE] + p.magazine, 2 * p.magazine)
                s.crate_wait[k] = p.refill
    for a in range(AGENTS):
        s.counters[a, COOLDOWN_LEFT] = max(s.counters[a, COOLDOWN_LEFT] - 1, 0)
        if s.counters[a, RELOAD_LEFT] > 0:
            s.counters[a, RELOAD_LEFT] -= 1
            if s.counters[a, RELOAD_LEFT] == 0:
                fill = min(p.magazine - s.counters[a, ROUNDS], s.counters[a, SPARE])
                s.counters[a, ROUNDS] += fill
                s.counters[a, SPARE] -= fill
