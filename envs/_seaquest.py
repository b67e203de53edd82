"""This module has Seaquest's state, and the kernels for swimmers, torpedoes, shots and surfacing."""

from rl_lab.envs._minatar import DOWN, LEFT, RIGHT, SIDE, UP, GameState, RampingParams

from rl_lab.core.rng import integers
from rl_lab.core.world import Array, bounded, i1, i2, i8, kernel

LAST, DEEPEST = SIDE - 1, SIDE - 2
HALF = SIDE * SIDE // 2  # cells: a board of bits is two words, the upper five rows and the lower
FIRST = sum(1 << SIDE * row for row in range(SIDE // 2))  # the first column's bits in a word
ALL = 2**HALF - 1
BUT_FIRST, BUT_LAST = ALL - FIRST, ALL - (FIRST << LAST)
AIR, CREW = 200, 6
RELOAD, DIVER_EVERY, DIVER_PACE, SHOT_EVERY = 5, 30, 5, 10  # steps
SLOWEST_SPAWN, SLOWEST_PACE, FASTEST_PACE = 20, 5, 2
FISH, SUB, DIVER = 5, 6, 9  # kinds of swimmer, by their channels
X, Y, HEADING, WAIT, AIM, KIND = range(6)  # cell, -1 left or 1 right, steps to its next move, to a next shot
AWAY = -1  # the column of a swimmer that is to be removed
MANY = 36  # the most swimmers; at the fastest rate, fewer are present


class State(GameState):
    # The fields are small and in the order of use, so that a step reads two or three cache lines instead of eight.
    x: i1 = bounded(0, low=0, high=LAST)  # of the bow
    y: i1 = bounded(0, low=0, high=DEEPEST)
    heading: i1 = bounded(0, low=-1, high=1)
    surfaced: i1 = bounded(0, low=0, high=1)  # and not dived again since
    air: i2 = bounded(0, low=-1, high=AIR)
    aboard: i2 = bounded(0, high=CREW)  # divers; fewer than none are owed
    level: i2 = bounded(0, low=0)
    spawn: i1 = bounded(0, low=0, high=SLOWEST_SPAWN)  # steps from enemy to enemy
    pace: i1 = bounded(0, low=0, high=SLOWEST_PACE)  # steps that an enemy rests between moves
    spawn_wait: i1 = bounded(0, low=0, high=SLOWEST_SPAWN)
    diver_wait: i1 = bounded(0, low=0, high=DIVER_EVERY)
    fire_wait: i1 = bounded(0, low=0, high=RELOAD)
    count: i1 = bounded(0, low=0, high=MANY)  # of swimmers
    torpedoes: i8[2, 2] = bounded(0, low=0, high=ALL)  # flying left and right; a bit a cell, see HALF
    shots: i8[2, 2] = bounded(0, low=0, high=ALL)  # of the enemies' submarines
    them: i1[MANY, 6] = bounded(0, low=-1, high=LAST)  # swimmers as they came; one range for all: AIM goes down to -1


Params = RampingParams


@kernel
def come(s: State, enemy: bool) -> None:
    """Add a swimmer at a side, but no enemy that would swim towards another enemy in its row."""
    heading = 1 - 2 * integers(s, 2)
    kind = DIVER if not enemy else SUB if integers(s, 3) == 0 else FISH
    y = 1 + integers(s, DEEPEST)
    n = s.count
    full = n == MANY
    for i in range(n if enemy else 0):
        full |= s.them[i, KIND] != DIVER and s.them[i, Y] == y and s.them[i, HEADING] != heading
    if not full:
        it = s.them[n]
        it[X], it[Y], it[HEADING], it[KIND] = 0 if heading > 0 else LAST, y, heading, kind
        it[WAIT], it[AIM] = s.pace if enemy else DIVER_PACE, SHOT_EVERY - 1
        s.count = n + 1


@kernel
def launch(flying: Array, x: int, y: int, heading: int) -> None:
    side, half = 1 if heading > 0 else 0, 1 if y >= SIDE // 2 else 0
    flying[side, half] |= 1 << SIDE * y + x - HALF * half


@kernel
def fly(flying: Array) -> None:
    """Move torpedoes or shots by one cell."""
    for half in range(2):
        flying[0, half] = (flying[0, half] & BUT_FIRST) >> 1
        flying[1, half] = (flying[1, half] & BUT_LAST) << 1


@kernel
def at(flying: Array, x: int, y: int) -> bool:
    half = 1 if y >= SIDE // 2 else 0
    return (flying[0, half] | flying[1, half]) >> SIDE * y + x - HALF * half & 1 != 0


@kernel
def row(flying: Array, side: int, y: int) -> int:
    """Return the torpedoes or shots in a row that fly to a side, one bit per column."""
    half = 1 if y >= SIDE // 2 else 0
    return flying[side, half] >> SIDE * y - HALF * half & 2**SIDE - 1


@kernel
def struck(s: State, i: int) -> bool:
    """Return True if a torpedo is in a swimmer's cell; then remove the torpedo and mark the swimmer for removal."""
    x, y = s.them[i, X], s.them[i, Y]
    hit = 0 <= x <= LAST and at(s.torpedoes, x, y)
    if hit:
        half = 1 if y >= SIDE // 2 else 0
        for side in range(2):
            s.torpedoes[side, half] &= ~(1 << SIDE * y + x - HALF * half)
        s.them[i, X] = AWAY
    return hit


@kernel
def part(s: State) -> None:
    """Remove swimmers that have left the board or are marked; the order of the others is kept."""
    n = 0
    for i in range(s.count):
        if 0 <= s.them[i, X] <= LAST:
            for field in range(6):
                s.them[n, field] = s.them[i, field]
            n += 1
    for i in range(n, s.count):
        for field in range(6):
            s.them[i, field] = 0
    s.count = n


@kernel
def move_torpedoes(s: State) -> float:
    """Move the player's torpedoes and return the number of hits: in each cell, the first fish or else submarine."""
    fly(s.torpedoes)
    near = False
    for i in range(s.count):
        near |= (s.them[i, KIND] != DIVER) & at(s.torpedoes, s.them[i, X], s.them[i, Y])
    hits = 0.0
    if near:
        for kind in range(FISH, SUB + 1):
            for i in range(s.count):
                if s.them[i, KIND] == kind and struck(s, i):
                    hits += 1.0
        part(s)
    return hits


@kernel
def move_swimmers(s: State) -> tuple[float, bool]:
    """Move the swimmers; return the number that swam into a torpedo, and whether an enemy touched the bow.

    The last swimmer moves first, which matters if only one more diver fits aboard. Of enemies in a torpedo's cell,
    submarines are hit first.
    """
    over, near = False, False
    for i in range(s.count - 1, -1, -1):
        it = s.them[i]
        x, y, kind, wait, aim = it[X], it[Y], it[KIND], it[WAIT], it[AIM]
        diver, moves, met = kind == DIVER, wait == 0, (x == s.x) & (y == s.y)
        x += it[HEADING] if moves else 0
        meets = met | ((x == s.x) & (y == s.y))
        boards = meets & diver & (s.aboard < CREW)
        s.aboard += 1 if boards else 0
        over |= meets & (not diver)
        x = AWAY if boards else x
        it[X], it[WAIT] = x, (DIVER_PACE if diver else s.pace) if moves else wait - 1
        gone = (x < 0) | (x > LAST)
        if kind == SUB and aim < 0 and not gone:
            launch(s.shots, x, y, it[HEADING])
        it[AIM] = SHOT_EVERY - 1 if aim < 0 else aim - 1
        near |= gone | at(s.torpedoes, max(x, 0), y)
    hits = 0.0
    if near:
        # Swimmers that were in a torpedo's cell before were hit by `move_torpedoes`, so only those that moved are left.
        for kind in range(SUB, FISH - 1, -1):
            for i in range(s.count - 1, -1, -1):
                touches = s.them[i, X] == s.x and s.them[i, Y] == s.y
                if s.them[i, KIND] == kind and not touches and struck(s, i):
                    hits += 1.0
        part(s)
    return hits, over


@kernel
def gauge(air: int) -> int:
    """Return the number of cells of air that are left."""
    return air * SIDE // AIR


@kernel
def surface(s: State, p: Params) -> float:
    """Refill the air, land a diver or, for a reward, the whole crew, and raise the difficulty; return the reward."""
    reward = 0.0
    if s.aboard == CREW:
        reward = 1.0 * gauge(s.air)
        s.aboard = 0
    s.aboard -= 1
    s.air, s.surfaced = AIR, 1
    if p.difficulty_ramping and (s.spawn > 1 or s.pace > FASTEST_PACE):
        if s.level % 2 and s.pace > FASTEST_PACE:
            s.pace -= 1
        s.spawn = max(s.spawn - 1, 1)
        s.level += 1
    return reward


@kernel
def steered(x: int, y: int, heading: int, action: int) -> tuple[int, int, int]:
    """Return the bow's cell and heading after an action, without branches, which would be unpredictable here."""
    dx, dy = (action == RIGHT) - (action == LEFT), (action == DOWN) - (action == UP)
    return min(max(x + dx, 0), LAST), min(max(y + dy, 0), DEEPEST), dx if dx != 0 else heading
