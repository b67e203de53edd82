"""This module has Junction's State, the geometry of cars in the crossing, the expert and the novice, and the picture.

junction.py has the rules. A car's path follows from its road and its turn alone; `progress`, the metres that it has
driven, says where on it the car is. The kernels here only read the state.
"""

import math

from rl_lab.core.canvas import Canvas, Color, translucent
from rl_lab.core.trig import cos, sin
from rl_lab.core.world import Record, WorldState, bounded, f4, f8, i4, kernel, u1

CARS = 8
LEFT, AHEAD, RIGHT = range(3)
ZERO, HALF, ONE, TWO = f4(0), f4(0.5), f4(1), f4(2)
# Metres. The origin is the middle of the crossing; a lane's middle lies LANE_OFFSET to the right of its road's.
LANE_OFFSET, HALF_CROSSING, APPROACH_LENGTH, EXIT_LENGTH, SIGHT = f4(2), f4(8), f4(34), f4(24), f4(36)
HALF_LENGTH, HALF_WIDTH = f4(2.2), f4(0.95)  # metres, of a car
WIDE_ARC, TIGHT_ARC = HALF_CROSSING + LANE_OFFSET, HALF_CROSSING - LANE_OFFSET  # radii of a left and a right turn
QUARTER_TURN = f4(math.pi / 2)  # radians
TIME_STEP, DECELERATION, ACCELERATION = f4(0.2), f4(6), f4(3)  # seconds, m/s2
# A table of bits: bit (turn * 4 + side) * 3 + other's turn is 1 where the paths of two cars cross or join. `side` says
# where the other comes from: 0 the same road, 1 the left, 2 opposite, 3 the right.
CONFLICTS = 0x50E587D8
TURN_COLORS: tuple[Color, ...] = (246, 166, 62), (104, 178, 246), (122, 206, 140)  # by turn
GRASS, LEAVES, PAVING = (196, 212, 172), (138, 172, 118), (232, 228, 219)
ASPHALT, MARKS, GLASS, SOOT = (84, 90, 101), (238, 238, 232), (42, 50, 62), (58, 56, 58)
BRAKE, BLINK, FIRE = (255, 58, 48), (255, 196, 40), (255, 214, 92)
ROOFS = (196, 118, 92), (178, 132, 96), (150, 128, 130), (188, 104, 92)
TREES = (
    (8.6, 9.4, 1.5),
    (9.2, 15, 1.8),
    (14.5, 25, 2),
    (26, 9.6, 1.9),
    (31, 14, 2.3),
    (36.5, 10, 1.5),
    (29, 21, 2.5),
    (8.8, 22.5, 1.4),
)
WRECK_STEPS = 14  # steps for which a wreck is shown


class Log(Record):
    arrived: f8
    crashed: f8


class State(WorldState):
    road: i4[CARS] = bounded(0, low=0, high=3)  # 0 to 3: it comes from the south, west, north, east
    turn: i4[CARS] = bounded(0, low=LEFT, high=RIGHT)
    progress: f4[CARS]  # metres driven on its path
    speed: f4[CARS]
    last_action: i4[CARS]  # the action of the last step
    x: f4[CARS]
    y: f4[CARS]
    ahead_x: f4[CARS]  # unit vector of its heading
    ahead_y: f4[CARS]
    crash_step: i4[CARS]  # the step in which it crashed, 0: it has not
    is_present: u1[CARS]
    log: Log


@kernel
def crossing_length(turn: int) -> float:
    """Return the metres of a car's path that lie in the crossing."""
    return (
        WIDE_ARC * QUARTER_TURN if turn == LEFT else TIGHT_ARC * QUARTER_TURN if turn == RIGHT else TWO * HALF_CROSSING
    )


@kernel
def pose(road: int, turn: int, progress: float) -> tuple[float, float, float, float]:
    """Return x and y of a car after `progress` metres of its path, and the unit vector of its heading."""
    u = progress - APPROACH_LENGTH
    x, y, ahead_x, ahead_y = LANE_OFFSET, u - HALF_CROSSING, ZERO, ONE  # as if it came from the south
    if turn != AHEAD and u > ZERO:
        side, radius = (-ONE, WIDE_ARC) if turn == LEFT else (ONE, TIGHT_ARC)
        angle, beyond = min(u / radius, QUARTER_TURN), max(u - crossing_length(turn), ZERO)
        ahead_x, ahead_y = side * sin(angle), cos(angle)
        x = side * (HALF_CROSSING - radius * ahead_y + beyond)
        y = radius * abs(ahead_x) - HALF_CROSSING
    for _ in range(road):  # a quarter turn clockwise
        x, y, ahead_x, ahead_y = y, -x, ahead_y, -ahead_x
    return x, y, ahead_x, ahead_y


@kernel
def in_car_frame(s: State, a: int, b: int) -> tuple[float, float, float, float]:
    """Return car b in a's frame: metres ahead and to the left, cosine and sine of its heading."""
    dx, dy, ux, uy = s.x[b] - s.x[a], s.y[b] - s.y[a], s.ahead_x[a], s.ahead_y[a]
    vx, vy = s.ahead_x[b], s.ahead_y[b]
    return dx * ux + dy * uy, dy * ux - dx * uy, ux * vx + uy * vy, ux * vy - uy * vx


@kernel
def overlap_on_axes(ahead: float, left: float, cosine: float, sine: float) -> bool:
    """Return True if a car at the origin and one at this place overlap along the axes of the first."""
    c, k = abs(cosine), abs(sine)
    return (
        abs(ahead) < HALF_LENGTH + HALF_LENGTH * c + HALF_WIDTH * k
        and abs(left) < HALF_WIDTH + HALF_LENGTH * k + HALF_WIDTH * c
    )


@kernel
def cars_touch(s: State, a: int, b: int) -> bool:
    """Return True if two cars overlap. Source: the separating axis theorem, for two rectangles."""
    ahead, left, cosine, sine = in_car_frame(s, a, b)
    if not overlap_on_axes(ahead, left, cosine, sine):
        return False
    ahead, left, cosine, sine = in_car_frame(s, b, a)
    return overlap_on_axes(ahead, left, cosine, sine)  # cars touch if no axis of either separates them


@kernel
def paths_conflict(s: State, a: int, b: int) -> bool:
    """Return True if car b comes from another road and has yet to cross or to join the path of car a."""
    relation = (s.turn[a] * 4 + (s.road[b] - s.road[a]) % 4) * 3 + s.turn[b]
    return (CONFLICTS >> relation) & 1 == 1 and s.progress[b] <= APPROACH_LENGTH + crossing_length(s.turn[b]) - TWO


@kernel
def gap_ahead(s: State, a: int, b: int) -> float:
    """Return the metres that car b, which drives ahead on the same lane, leaves for car a; SIGHT for other cars."""
    ahead, left, cosine, _ = in_car_frame(s, a, b)
    if not s.is_present[b] or a == b or ahead < ZERO or abs(left) > TWO or cosine < HALF:
        return SIGHT
    return ahead - TWO * HALF_LENGTH - ONE + s.speed[b] * s.speed[b] / (TWO * DECELERATION)


@kernel
def fastest_safe_action(s: State, a: int, free_distance: float) -> int:
    """Return the fastest action after which a car can still stop within `free_distance` metres."""
    faster = s.speed[a] + TIME_STEP * ACCELERATION
    if TIME_STEP * faster + faster * faster / (TWO * DECELERATION) < free_distance:
        return 2
    return 1 if TIME_STEP * s.speed[a] + s.speed[a] * s.speed[a] / (TWO * DECELERATION) < free_distance else 0


@kernel
def expert(s: State, agent: int, p: Record) -> int:
    # Of two cars whose paths conflict, the lower number goes first; the other waits at the line before the crossing.
    free_distance, stop_distance = SIGHT, APPROACH_LENGTH - HALF_LENGTH - HALF - s.progress[agent]
    for b in range(CARS):
        free_distance = min(free_distance, gap_ahead(s, agent, b))
        if b < agent and s.is_present[b] and paths_conflict(s, agent, b) and stop_distance > -ONE:
            free_distance = min(free_distance, stop_distance)
    return fastest_safe_action(s, agent, free_distance)


@kernel
def novice(s: State, agent: int, p: Record) -> int:
    # It keeps its distance on the road, and ignores the other roads at the crossing.
    free_distance = SIGHT
    for b in range(CARS):
        free_distance = min(free_distance, gap_ahead(s, agent, b))
    return fastest_safe_action(s, agent, free_distance)


def draw_ground(canvas: Canvas) -> None:
    canvas.view(-38, -28.5, 38, 28.5)
    canvas.clear(GRASS)
    for width, color in (10.4, PAVING), (8.0, ASPHALT):
        canvas.rectangle(0, 0, width, 200, color)
        canvas.rectangle(0, 0, 200, width, color)
    for x, y in (1, 1), (1, -1), (-1, 1), (-1, -1):
        canvas.rectangle(6 * x, 6 * y, 4, 4, ASPHALT)
        canvas.circle(8 * x, 8 * y, 4, PAVING)
        canvas.rectangle(65.2 * x, 65.2 * y, 120, 120, GRASS, corner=2.8)
        canvas.rectangle(19.3 * x, 14.6 * y - 0.8, 9.4, 6.4, translucent(SOOT, 0.16), corner=0.3)
        red, green, blue = ROOFS[(1 + x) + (1 + y) // 2]
        canvas.rectangle(18.8 * x, 14.6 * y + 1.6, 9.4, 3.2, (red, green, blue))
        canvas.rectangle(18.8 * x, 14.6 * y - 1.6, 9.4, 3.2, (red - 30, green - 24, blue - 18))
        canvas.rectangle(18.8 * x + 2.2, 14.6 * y + 1.7, 0.9, 0.9, (red - 80, green - 50, blue - 30))
        for k, (u, v, r) in enumerate(TREES):
            u, v = (u * x, v * y) if x * y > 0 else (v * x, u * y)
            canvas.circle(u + 0.5, v - 0.7, r, translucent(SOOT, 0.16))
            canvas.circle(u, v, r, LEAVES)
            canvas.circle(u - 0.2 * r, v + 0.25 * r, 0.6 * r, (150 + 3 * k, 184 + 2 * k, 128))
    for road in range(4):

        def at(u: float, v: float, road: int = road) -> tuple[float, float]:
            for _ in range(road):
                u, v = v, -u
            return u, v

        for k in range(8):  # a zebra crossing
            canvas.line([at(k - 3.5, -5.6), at(k - 3.5, -7.2)], MARKS, 0.5)
        canvas.line([at(0.4, -8.3), at(3.6, -8.3)], MARKS, 0.5)
        for k in range(12):
            canvas.line([at(0, -9 - 4 * k), at(0, -11 - 4 * k)], MARKS, 0.2)


def draw_car(canvas: Canvas, x: float, y: float, ux: float, uy: float, paint: Color, stops: bool, blinks: int) -> None:
    angle = math.atan2(uy, ux)

    def at(u: float, v: float) -> tuple[float, float]:
        return x + u * ux - v * uy, y + u * uy + v * ux

    dark = tuple(int(0.72 * c) for c in paint[:3])
    canvas.rectangle(x + 0.25, y - 0.35, 4.5, 2.0, translucent((20, 22, 28), 0.35), angle, 0.6)
    canvas.rectangle(x, y, 4.4, 1.9, dark, angle, 0.6)  # type: ignore[arg-type]
    canvas.rectangle(*at(0, 0), 4.2, 1.66, paint, angle, 0.5)
    canvas.rectangle(*at(-0.25, 0), 2.7, 1.5, GLASS, angle, 0.4)
    canvas.rectangle(*at(-0.4, 0), 1.5, 1.42, paint, angle, 0.25)
    for side in (-0.6, 0.6):
        canvas.circle(*at(2.0, side), 0.2, (255, 250, 220))
        canvas.rectangle(*at(-2.1, side), 0.22, 0.5, BRAKE if stops else (150, 40, 44), angle, 0.1)
        if stops:
            canvas.circle(*at(-2.2, side), 0.65, translucent(BRAKE, 0.35))
    if blinks:
        for u in (-1.95, 1.85):
            canvas.circle(*at(u, 0.82 * blinks), 0.26, BLINK)
            canvas.circle(*at(u, 0.82 * blinks), 0.6, translucent(BLINK, 0.3))


def draw(s: State, p: Record, canvas: Canvas) -> None:
    draw_ground(canvas)
    for a in range(CARS):
        if s.is_present[a]:  # the way before it
            total_length = APPROACH_LENGTH + crossing_length(s.turn[a]) + EXIT_LENGTH
            ways = [min(s.progress[a] + 2.5 + 1.5 * k, total_length + 12) for k in range(54)]
            path = [pose(s.road[a], s.turn[a], f4(progress))[:2] for progress in ways]
            canvas.line(path, translucent(TURN_COLORS[s.turn[a]], 0.4), 0.5)
    for a in range(CARS):
        age = s.t - s.crash_step[a]
        where = float(s.x[a]), float(s.y[a]), float(s.ahead_x[a]), float(s.ahead_y[a])
        if s.is_present[a]:
            turning = (
                APPROACH_LENGTH - 20 < s.progress[a] < APPROACH_LENGTH + crossing_length(s.turn[a]) and s.t % 4 < 2
            )
            draw_car(
                canvas, *where, TURN_COLORS[s.turn[a]], s.last_action[a] == 0 and s.t > 0, turning * (1 - s.turn[a])
            )
        elif s.crash_step[a] and age < WRECK_STEPS:
            draw_car(canvas, *where, SOOT, False, 0)
            for k in range(9):  # sparks
                reach, angle = 1.2 + 0.7 * age + k % 3, 0.7 * k + a
                tip = where[0] + reach * math.cos(angle), where[1] + reach * math.sin(angle)
                canvas.circle(*tip, max(0.7 - 0.06 * age, 0.0) + 0.1, translucent(FIRE, 1 - age / WRECK_STEPS))
            for radius, color in (3.4, (255, 120, 40)), (2.2, FIRE), (1.1, (255, 250, 226)):
                canvas.circle(
                    *where[:2], max(radius - 0.12 * age, 0.1), translucent(color, 0.75 * (1 - age / WRECK_STEPS))
                )
