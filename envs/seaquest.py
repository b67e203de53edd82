"""Seaquest: torpedo fish and submarines, pick up divers, and come up for air in time.

observation  u1 (10, 10, 10)  bow, stern, torpedo, trails of swimmers, shot, fish, submarine, air, aboard, diver
action       0 stay, 1 left, 2 up, 3 right, 4 down, 5 fire
reward       1 a fish or submarine hit; 1 a cell of air left, up to 10, for surfacing with 6 divers aboard
ends         when something hits the bow, the air is used up, or the boat surfaces with no diver aboard

Row 0 is the surface. The air, which lasts 200 steps, and the divers aboard are bars on the bottom row. Surfacing costs
a diver and, with difficulty_ramping, makes enemies come more often and, every other time, swim faster. As in MinAtar,
surfacing with 6 divers costs 7, so the count becomes -1; since that is not 0, the boat may surface once more. Episodes
are truncated after 10,000 steps; MinAtar has no limit.

Source: Young and Tian 2019 (arXiv 1903.03176); MinAtar's Seaquest-v0 and v1, whose actions are the same
"""

import math

from rl_lab.envs._minatar import FIRE, HORIZON, SIDE, apply_sticky_action, board_space, cell_center, draw_board
from rl_lab.envs._seaquest import (
    AIM,
    DIVER,
    DIVER_INTERVAL,
    FISH,
    HEADING,
    KIND,
    LAST,
    LONGEST_REST,
    MAX_AIR,
    MAX_DIVERS,
    RELOAD_STEPS,
    SLOWEST_SPAWN_INTERVAL,
    SUB,
    WAIT,
    Params,
    State,
    X,
    Y,
    add_shot,
    boat_after_action,
    has_shot_at,
    move_shots,
    move_swimmers,
    move_torpedoes,
    shots_in_row,
    spawn_swimmer,
    surface,
)

from rl_lab.core.canvas import BACKGROUND, BLUE, GOLD, GREEN, INK, ORANGE, RED, Color, translucent
from rl_lab.core.world import Array, Canvas, Discrete, World, kernel

UNIT_CIRCLE = [(math.cos(k * math.pi / 12), math.sin(k * math.pi / 12)) for k in range(24)]  # the outline of a disc
WINDOW_COLOR: Color = (255, 226, 150)


@kernel
def reset(s: State, p: Params) -> None:
    s.x, s.heading, s.is_surfaced, s.air = SIDE // 2, -1, 1, MAX_AIR
    s.spawn_interval = s.spawn_wait = SLOWEST_SPAWN_INTERVAL
    s.diver_wait, s.enemy_rest = DIVER_INTERVAL, LONGEST_REST


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    action = apply_sticky_action(s, action, p)
    if s.spawn_wait == 0:
        spawn_swimmer(s, True)
        s.spawn_wait = s.spawn_interval
    if s.diver_wait == 0:
        spawn_swimmer(s, False)
        s.diver_wait = DIVER_INTERVAL
    s.x, s.y, s.heading = boat_after_action(s.x, s.y, s.heading, action)
    if action == FIRE and s.fire_wait == 0:
        add_shot(s.torpedoes, s.x, s.y, s.heading)
        s.fire_wait = RELOAD_STEPS
    reward = move_torpedoes(s)
    hits, over = move_swimmers(s)
    reward += hits
    over |= has_shot_at(s.shots, s.x, s.y)
    move_shots(s.shots)
    over |= has_shot_at(s.shots, s.x, s.y) or s.air <= 0
    s.spawn_wait, s.diver_wait, s.fire_wait = s.spawn_wait - 1, s.diver_wait - 1, max(s.fire_wait - 1, 0)
    if s.y > 0:
        s.air -= 1
        s.is_surfaced = 0
    elif not s.is_surfaced and s.divers_aboard == 0:
        over = True
    elif not s.is_surfaced:
        reward += surface(s, p)
    return reward, over


@kernel
def write_shots(shots: Array, channel: int, out: Array) -> None:
    for half in range(2):
        bits, y = shots[0, half] | shots[1, half], SIDE // 2 * half
        while bits != 0:
            for x in range(SIDE if bits & 2**SIDE - 1 else 0):
                out[y, x, channel] = bits >> x & 1
            bits, y = bits >> SIDE, y + 1


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[s.y, s.x, 0] = 1
    out[s.y, min(max(s.x - s.heading, 0), LAST), 1] = 1
    for i in range(s.num_swimmers):
        swimmer = s.swimmers[i]
        x, y = swimmer[X], swimmer[Y]
        out[y, x, swimmer[KIND]] = 1
        behind = x - swimmer[HEADING]
        if 0 <= behind <= LAST:
            out[y, behind, 3] = 1
    write_shots(s.torpedoes, 2, out)
    write_shots(s.shots, 4, out)
    for k in range(SIDE):
        out[LAST, k, 7] = s.air >= MAX_AIR // SIDE * (k + 1)
    for k in range(MAX_DIVERS):
        out[LAST, LAST - 1 - k, 8] = k < s.divers_aboard


@kernel
def danger(s: State, x: int, y: int) -> int:
    """Return 2 if something may hit a bow in this cell now, 1 if in the step after, 0 if not."""
    worst = 1 if s.spawn_wait <= 1 and y > 0 and (x == 0 or x == LAST) else 0
    for i in range(s.num_swimmers):
        swimmer = s.swimmers[i]
        if swimmer[Y] == y and swimmer[KIND] != DIVER:
            ahead = (x - swimmer[X]) * swimmer[HEADING]  # cells that it has to go
            shoots = swimmer[KIND] == SUB and swimmer[AIM] <= 0 and ahead <= 3
            if ahead == 0 or (ahead > 0 and ((ahead == 1 and swimmer[WAIT] == 0) or (shoots and ahead < 3))):
                worst = 2
            elif ahead > 0 and ((ahead == 1 and swimmer[WAIT] == 1) or shoots):
                worst = max(worst, 1)
    for away in range(3):
        if (shots_in_row(s.shots, 0, y) >> x >> away | shots_in_row(s.shots, 1, y) << away >> x) & 1:
            worst = max(worst, 2 if away < 2 else 1)
    return worst


@kernel
def expert(s: State, p: Params) -> int:
    # It avoids danger, surfaces for air or with a full crew, fetches the nearest diver, or aims at an enemy.
    up = s.divers_aboard == MAX_DIVERS or (s.divers_aboard != 0 and s.air < 3 * s.y + 15)
    best_action, best = 0, -9999
    for action in range(6):
        x, y, heading = boat_after_action(s.x, s.y, s.heading, action)
        score, diver, enemy, hits = -300 * danger(s, x, y), 99, 99, False
        for i in range(s.num_swimmers):
            away, aside = (s.swimmers[i, X] - x) * heading, abs(s.swimmers[i, Y] - y)
            if s.swimmers[i, KIND] == DIVER:
                diver = min(diver, abs(away) + aside)
            else:
                enemy = min(enemy, 3 * aside + abs(away - 3) + max(6 - 2 * away, 0))
                hits |= away > 0 and aside == 0
        if y == 0 and s.y > 0 and not up:
            score -= 2000 if s.divers_aboard == 0 else 150
        if y <= 1 and s.y > 1 and s.divers_aboard == 0:
            score -= 200  # if this sticks, the next step surfaces
        if up:
            score -= 10 * y
        else:
            score -= (
                enemy + 4 * (diver if s.divers_aboard < MAX_DIVERS else 0) + abs(2 * y - 9) // 2 + abs(2 * x - 9) // 2
            )
        if action == FIRE:
            score += 40 if hits and s.fire_wait == 0 else -1
        if score > best:
            best_action, best = action, score
    return best_action


def draw_boat(canvas: Canvas, x: float, y: float, ahead: int, length: float, hull: Color, glass: Color) -> None:
    tower = x + 0.06 * ahead
    canvas.line([(tower, y + 0.2), (tower, y + 0.44), (tower + 0.12 * ahead, y + 0.44)], hull, 0.07)
    canvas.rectangle(tower, y + 0.2, 0.36, 0.22, hull, corner=0.07)
    canvas.rectangle(x - ahead * (length / 2 + 0.04), y - 0.03, 0.07, 0.36, hull, corner=0.03)
    canvas.rectangle(x, y - 0.03, length, 0.42, hull, corner=0.21)
    for k in range(round(3 * length)):
        canvas.circle(x + 0.27 * (k - round(3 * length) / 2 + 0.5), y - 0.02, 0.07, glass)


def draw_swimmer(canvas: Canvas, kind: int, x: float, y: float, ahead: int) -> None:
    for k in range(4):  # bubbles where it was
        canvas.circle(x - ahead * (0.6 + 0.17 * k), y + 0.1 * (k % 2), 0.08 - 0.012 * k, (255, 255, 255, 210))
    if kind == SUB:
        draw_boat(canvas, x, y, ahead, 0.8, RED, BACKGROUND)
    elif kind == FISH:
        canvas.polygon([(x - u * ahead, y + v) for u, v in ((0.1, 0), (0.46, 0.27), (0.38, 0), (0.46, -0.27))], ORANGE)
        canvas.polygon([(x + (0.08 + 0.34 * u) * ahead, y + 0.22 * v) for u, v in UNIT_CIRCLE], ORANGE)
        canvas.circle(x + 0.23 * ahead, y + 0.06, 0.05, INK)
    else:
        canvas.line([(x - u * ahead, y + v) for u, v in ((0.44, -0.2), (0.24, -0.08), (-0.1, 0))], GREEN, 0.14)
        canvas.line([(x + 0.06 * ahead, y), (x + 0.4 * ahead, y - 0.14)], GREEN, 0.09)
        canvas.rectangle(x - 0.06 * ahead, y + 0.13, 0.34, 0.13, GOLD, corner=0.06)
        canvas.circle(x + 0.24 * ahead, y + 0.1, 0.15, GREEN)
        canvas.circle(x + 0.3 * ahead, y + 0.11, 0.08, BACKGROUND)


def draw(s: State, p: Params, canvas: Canvas) -> None:
    draw_board(canvas)
    for deep in range(1, SIDE):  # the water, darker the deeper
        for size, light in (1.0, 10), (0.94, 0):
            color = 226 - 10 * deep - light, 238 - 6 * deep - light, 247 - 3 * deep - light
            for column in range(SIDE):
                canvas.rectangle(*cell_center(deep, column), size, size, color, corner=0.12 if size < 1 else 0)
    canvas.line([(k / 16, LAST + 0.06 * math.sin(0.8 * k + 0.4 * s.t)) for k in range(16 * SIDE + 1)], BLUE, 0.08)
    for i in range(s.num_swimmers):
        swimmer = s.swimmers[i]
        draw_swimmer(canvas, swimmer[KIND], *cell_center(swimmer[Y], swimmer[X]), swimmer[HEADING])
    for shots, color in (s.torpedoes, BLUE), (s.shots, RED):
        for deep, column in (divmod(k, SIDE) for k in range(SIDE * SIDE)):
            for side, ahead in (0, -1), (1, 1):
                if shots_in_row(shots, side, deep) >> column & 1:
                    x, y = cell_center(deep, column)
                    canvas.line([(x - 0.5 * ahead, y), (x, y)], translucent(color, 0.3), 0.1)
                    canvas.line([(x - 0.1 * ahead, y), (x + 0.25 * ahead, y)], color, 0.17)
    x, y = cell_center(s.y, s.x)
    draw_boat(canvas, x - 0.46 * s.heading, y, s.heading, 1.76, BLUE, WINDOW_COLOR)
    air = max(s.air, 0) / MAX_AIR * SIDE
    canvas.rectangle(SIDE / 2, 0.3, SIDE, 0.34, BACKGROUND, corner=0.17)
    canvas.rectangle(air / 2, 0.3, air, 0.34, RED if s.air < MAX_AIR / 4 else BLUE, corner=min(air / 2, 0.17))
    for k in range(min(abs(s.divers_aboard), MAX_DIVERS)):  # rings are owed
        color = GREEN if s.divers_aboard > 0 else BACKGROUND
        canvas.circle(LAST - k - 0.5, 0.74, 0.19, color, GREEN, 0.05)
        canvas.circle(LAST - k - 0.42, 0.75, 0.09, BACKGROUND)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=board_space(10),
    action=Discrete(6),
    horizon=HORIZON,
    frames_per_second=12,
    reward_threshold=30,
)
