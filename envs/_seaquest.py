"""This module has Seaquest's State and the kernels of its rules; seaquest.py has step, observe, expert and the picture.

Swimmers are fish, enemy submarines and divers: the first `num_swimmers` rows of `s.swimmers`, in the order in which
they came; the numbers of a row have the indices X to KIND. Torpedoes are the player's, shots the enemy submarines';
both are boards of bits [2, 2]: axis 0 is the direction, left or right; axis 1 the upper and the lower half of the
board, one int64 each, with the bit of cell (x, y) at `bit_index(x, y, half)`.
"""

from rl_lab.envs._minatar import DOWN, LEFT, RIGHT, SIDE, UP, GameState, RampingParams

from rl_lab.core.rng import integers
from rl_lab.core.world import Array, bounded, i1, i2, i8, kernel

LAST, DEEPEST = SIDE - 1, SIDE - 2  # the last column and row; the lowest row of the boat and the swimmers
BITS_PER_WORD = SIDE * SIDE // 2  # cells of half a board
FIRST_COLUMN_BITS = sum(1 << SIDE * row for row in range(SIDE // 2))  # in a word
ALL_BITS = 2**BITS_PER_WORD - 1
ALL_BUT_FIRST_COLUMN, ALL_BUT_LAST_COLUMN = ALL_BITS - FIRST_COLUMN_BITS, ALL_BITS - (FIRST_COLUMN_BITS << LAST)
MAX_AIR, MAX_DIVERS = 200, 6  # steps; divers aboard
RELOAD_STEPS, DIVER_INTERVAL, DIVER_REST, SHOT_INTERVAL = 5, 30, 5, 10  # steps
SLOWEST_SPAWN_INTERVAL, LONGEST_REST, SHORTEST_REST = 20, 5, 2  # steps; of enemies
FISH, SUB, DIVER = 5, 6, 9  # kinds of swimmer, by their channels
# Indices into a row of `swimmers`: its cell, -1 left or 1 right, steps to its next move, steps to its next shot, kind.
X, Y, HEADING, WAIT, AIM, KIND = range(6)
REMOVED = -1  # X of a swimmer that is to be removed
MAX_SWIMMERS = 36  # even at the fastest rate, fewer are present


class State(GameState):
    # The fields are small and in the order of use, so that a step reads two or three cache lines instead of eight.
    x: i1 = bounded(0, low=0, high=LAST)  # of the bow
    y: i1 = bounded(0, low=0, high=DEEPEST)
    heading: i1 = bounded(0, low=-1, high=1)
    is_surfaced: i1 = bounded(0, low=0, high=1)  # 1 from surfacing until the next dive
    air: i2 = bounded(0, low=-1, high=MAX_AIR)
    divers_aboard: i2 = bounded(0, high=MAX_DIVERS)  # below 0: divers that are owed, see seaquest.py
    level: i2 = bounded(0, low=0)
    spawn_interval: i1 = bounded(0, low=0, high=SLOWEST_SPAWN_INTERVAL)  # steps from enemy to enemy
    enemy_rest: i1 = bounded(0, low=0, high=LONGEST_REST)  # steps that an enemy rests between moves
    spawn_wait: i1 = bounded(0, low=0, high=SLOWEST_SPAWN_INTERVAL)
    diver_wait: i1 = bounded(0, low=0, high=DIVER_INTERVAL)
    fire_wait: i1 = bounded(0, low=0, high=RELOAD_STEPS)
    num_swimmers: i1 = bounded(0, low=0, high=MAX_SWIMMERS)
    torpedoes: i8[2, 2] = bounded(0, low=0, high=ALL_BITS)  # flying left and right; one bit a cell
    shots: i8[2, 2] = bounded(0, low=0, high=ALL_BITS)  # of the enemies' submarines
    swimmers: i1[MAX_SWIMMERS, 6] = bounded(0, low=-1, high=LAST)  # one range for all of them: AIM goes down to -1


Params = RampingParams


@kernel
def spawn_swimmer(s: State, enemy: bool) -> None:
    """Add an enemy or a diver at a random side and row, but no enemy that would swim towards another one in its row."""
    heading = 1 - 2 * integers(s, 2)
    kind = DIVER if not enemy else SUB if integers(s, 3) == 0 else FISH
    y = 1 + integers(s, DEEPEST)
    n = s.num_swimmers
    full = n == MAX_SWIMMERS
    for i in range(n if enemy else 0):
        full |= s.swimmers[i, KIND] != DIVER and s.swimmers[i, Y] == y and s.swimmers[i, HEADING] != heading
    if not full:
        swimmer = s.swimmers[n]
        swimmer[X], swimmer[Y], swimmer[HEADING], swimmer[KIND] = 0 if heading > 0 else LAST, y, heading, kind
        swimmer[WAIT], swimmer[AIM] = s.enemy_rest if enemy else DIVER_REST, SHOT_INTERVAL - 1
        s.num_swimmers = n + 1


@kernel
def bit_index(x: int, y: int, half: int) -> int:
    """Return the position of a cell's bit in the int64 of its half of the board."""
    return (SIDE * y) + x - (BITS_PER_WORD * half)


@kernel
def add_shot(shots: Array, x: int, y: int, heading: int) -> None:
    """Add a torpedo or shot at a cell, with this heading, to a board of bits."""
    side, half = 1 if heading > 0 else 0, 1 if y >= SIDE // 2 else 0
    shots[side, half] |= 1 << bit_index(x, y, half)


@kernel
def move_shots(shots: Array) -> None:
    """Move all torpedoes or shots of a board of bits by one cell; those at the edge leave the board."""
    for half in range(2):
        shots[0, half] = (shots[0, half] & ALL_BUT_FIRST_COLUMN) >> 1
        shots[1, half] = (shots[1, half] & ALL_BUT_LAST_COLUMN) << 1


@kernel
def has_shot_at(shots: Array, x: int, y: int) -> bool:
    """Return True if a torpedo or shot is in a cell."""
    half = 1 if y >= SIDE // 2 else 0
    return ((shots[0, half] | shots[1, half]) >> bit_index(x, y, half)) & 1 != 0


@kernel
def shots_in_row(shots: Array, side: int, y: int) -> int:
    """Return the torpedoes or shots in a row that fly to a side, one bit per column."""
    half = 1 if y >= SIDE // 2 else 0
    return (shots[side, half] >> bit_index(0, y, half)) & (2**SIDE - 1)


@kernel
def hit_by_torpedo(s: State, i: int) -> bool:
    """Return True if a torpedo is in a swimmer's cell; then remove the torpedo and mark the swimmer for removal."""
    x, y = s.swimmers[i, X], s.swimmers[i, Y]
    hit = 0 <= x <= LAST and has_shot_at(s.torpedoes, x, y)
    if hit:
        half = 1 if y >= SIDE // 2 else 0
        for side in range(2):
            s.torpedoes[side, half] &= ~(1 << bit_index(x, y, half))
        s.swimmers[i, X] = REMOVED
    return hit


@kernel
def remove_marked_swimmers(s: State) -> None:
    """Remove swimmers that have left the board or are marked; the order of the others is kept."""
    n = 0
    for i in range(s.num_swimmers):
        if 0 <= s.swimmers[i, X] <= LAST:
            for field in range(6):
                s.swimmers[n, field] = s.swimmers[i, field]
            n += 1
    for i in range(n, s.num_swimmers):
        for field in range(6):
            s.swimmers[i, field] = 0
    s.num_swimmers = n


@kernel
def move_torpedoes(s: State) -> float:
    """Move the player's torpedoes and return the number of hits: in each cell, the first fish or else submarine.

    MinAtar compares each torpedo with all fish before all submarines.
    """
    move_shots(s.torpedoes)
    needs_second_pass = False  # a torpedo is in the cell of an enemy, which a second loop removes
    for i in range(s.num_swimmers):
        needs_second_pass |= (s.swimmers[i, KIND] != DIVER) & has_shot_at(
            s.torpedoes, s.swimmers[i, X], s.swimmers[i, Y]
        )
    hits = 0.0
    if needs_second_pass:
        for kind in range(FISH, SUB + 1):
            for i in range(s.num_swimmers):
                if s.swimmers[i, KIND] == kind and hit_by_torpedo(s, i):
                    hits += 1.0
        remove_marked_swimmers(s)
    return hits


@kernel
def move_swimmers(s: State) -> tuple[float, bool]:
    """Move the swimmers; return the number that swam into a torpedo, and whether an enemy touched the bow.

    The last swimmer moves first, which matters if only one more diver fits aboard. Of enemies in a torpedo's cell,
    submarines are hit first. Both orders are MinAtar's, which moves each kind from the last to the first, and
    submarines before fish.
    """
    over = False
    needs_second_pass = False  # a swimmer has left the board or is to be removed, or is in a torpedo's cell
    for i in range(s.num_swimmers - 1, -1, -1):
        swimmer = s.swimmers[i]
        x, y, kind, wait, aim = swimmer[X], swimmer[Y], swimmer[KIND], swimmer[WAIT], swimmer[AIM]
        diver, is_moving, was_at_bow = kind == DIVER, wait == 0, (x == s.x) & (y == s.y)
        x += swimmer[HEADING] if is_moving else 0
        touches_bow = was_at_bow | ((x == s.x) & (y == s.y))
        is_picked_up = touches_bow & diver & (s.divers_aboard < MAX_DIVERS)
        s.divers_aboard += 1 if is_picked_up else 0
        over |= touches_bow & (not diver)
        x = REMOVED if is_picked_up else x
        swimmer[X], swimmer[WAIT] = x, (DIVER_REST if diver else s.enemy_rest) if is_moving else wait - 1
        has_left = (x < 0) | (x > LAST)
        if kind == SUB and aim < 0 and not has_left:
            add_shot(s.shots, x, y, swimmer[HEADING])
        swimmer[AIM] = SHOT_INTERVAL - 1 if aim < 0 else aim - 1
        needs_second_pass |= has_left | has_shot_at(s.torpedoes, max(x, 0), y)
    hits = 0.0
    if needs_second_pass:
        # Swimmers that were in a torpedo's cell before were hit by `move_torpedoes`, so only those that moved are left.
        for kind in range(SUB, FISH - 1, -1):
            for i in range(s.num_swimmers - 1, -1, -1):
                touches = s.swimmers[i, X] == s.x and s.swimmers[i, Y] == s.y
                if s.swimmers[i, KIND] == kind and not touches and hit_by_torpedo(s, i):
                    hits += 1.0
        remove_marked_swimmers(s)
    return hits, over


@kernel
def air_cells(air: int) -> int:
    """Return the number of cells of air that are left."""
    return air * SIDE // MAX_AIR


@kernel
def surface(s: State, p: Params) -> float:
    """Refill the air, land a diver or, for a reward, the whole crew, and raise the difficulty; return the reward."""
    reward = 0.0
    if s.divers_aboard == MAX_DIVERS:
        reward = 1.0 * air_cells(s.air)
        s.divers_aboard = 0
    s.divers_aboard -= 1
    s.air, s.is_surfaced = MAX_AIR, 1
    if p.difficulty_ramping and (s.spawn_interval > 1 or s.enemy_rest > SHORTEST_REST):
        if s.level % 2 and s.enemy_rest > SHORTEST_REST:
            s.enemy_rest -= 1
        s.spawn_interval = max(s.spawn_interval - 1, 1)
        s.level += 1
    return reward


@kernel
def boat_after_action(x: int, y: int, heading: int, action: int) -> tuple[int, int, int]:
    """Return the bow's cell and heading after an action, without branches, which would be unpredictable here."""
    dx, dy = (action == RIGHT) - (action == LEFT), (action == DOWN) - (action == UP)
    return min(max(x + dx, 0), LAST), min(max(y + dy, 0), DEEPEST), dx if dx != 0 else heading
