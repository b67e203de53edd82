"""This module draws Arena: the field, what each fighter sees, the fighters and their shots. It only reads the state."""

import math

import numpy as np
from rl_lab.envs._arena import (
    AGENTS,
    AHEAD_X,
    AHEAD_Y,
    COOLDOWN_LEFT,
    COOLDOWN_STEPS,
    CRATES,
    HALF_HEIGHT,
    HALF_WIDTH,
    HEADING,
    HEADINGS,
    HEALTH,
    HITS_TAKEN,
    LAST_SEEN_X,
    LAST_SEEN_Y,
    RELOAD_LEFT,
    RELOAD_STEPS,
    ROUNDS,
    SHOT_END_X,
    SHOT_END_Y,
    SIGHTING,
    SIGHTING_STEPS,
    WALLS,
    State,
    X,
    Y,
)

from rl_lab.core.canvas import Canvas, Color, translucent
from rl_lab.core.world import Record

TEAM_COLORS: tuple[Color, ...] = (240, 92, 84), (86, 156, 250)
HEALTH_COLORS = (240, 92, 84), (250, 190, 70), (110, 210, 130)
INK, FLOOR, TILE, STEEL = (22, 25, 32), (40, 46, 57), (47, 54, 66), (104, 114, 130)
WHITE, GOLD, SKIN, GUN = (250, 250, 246), (250, 200, 80), (236, 196, 160), (190, 198, 210)


def view_polygon(s: State, a: int, sight: float) -> list[tuple[float, float]]:
    """Return the outline of the area that a fighter sees: the ends of many rays, with two at every corner of a wall."""
    x, y = float(s.body[a, X]), float(s.body[a, Y])
    walls = np.array(s.walls, np.float64)
    corners = (walls[:, None, :2] + walls[:, None, 2:] * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])).reshape(-1, 2)
    bearings = np.arctan2(corners[:, 1] - y, corners[:, 0] - x) - 2 * math.pi / HEADINGS * s.counters[a, HEADING]
    bearings = (np.concatenate([bearings - 1e-3, bearings + 1e-3]) + math.pi) % (2 * math.pi) - math.pi
    bearings = np.sort([*bearings[abs(bearings) < math.pi / 3], *np.linspace(-math.pi / 3, math.pi / 3, 31)])
    angles = bearings + 2 * math.pi / HEADINGS * s.counters[a, HEADING]
    step = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, None] + 1e-9
    middle, half = (walls[:, :2] - (x, y)) / step, walls[:, 2:] / abs(step)
    near, far = (middle - half).max(axis=-1), (middle + half).min(axis=-1)
    wall = np.where((near < far) & (far > 0), near.clip(0), 99.0).min(axis=-1)
    border = ((float(HALF_WIDTH), float(HALF_HEIGHT)) / abs(step[:, 0]) - (x, y) / step[:, 0]).min(axis=-1)
    length = np.minimum(np.minimum(wall, border), sight)
    return [(x, y), *((x + r * u, y + r * v) for r, (u, v) in zip(length.tolist(), step[:, 0].tolist(), strict=True))]


def draw_fighter(canvas: Canvas, s: State, a: int, p: Record) -> None:
    x, y, ux, uy = (float(s.body[a, k]) for k in (X, Y, AHEAD_X, AHEAD_Y))
    angle, color = math.atan2(uy, ux), TEAM_COLORS[a % 2]

    def at(u: float, v: float) -> tuple[float, float]:
        return x + u * ux - v * uy, y + u * uy + v * ux

    red, green, blue = (int(0.7 * c) for c in color[:3])
    canvas.circle(x + 0.07, y - 0.12, 0.42, translucent(INK, 0.5))
    canvas.rectangle(*at(0.46, -0.11), 0.64, 0.17, GUN, angle, 0.05)
    for side in (-1, 1):  # hands
        canvas.circle(*at(0.3, 0.18 * side - 0.06), 0.11, SKIN)
    canvas.rectangle(*at(-0.02, 0), 0.48, 0.76, (red, green, blue), angle, 0.22)
    canvas.circle(x, y, 0.28, WHITE if s.counters[a, HITS_TAKEN] else color, INK, 0.045)
    canvas.circle(*at(0.07, 0.07), 0.09, translucent(WHITE, 0.5))
    if s.counters[a, HITS_TAKEN]:
        canvas.circle(x, y, 0.6, translucent((255, 240, 200), 0.4))
    bar, share = 0.9, s.counters[a, HEALTH] / p.health
    canvas.rectangle(x, y + 0.68, bar + 0.08, 0.2, translucent((10, 12, 16), 0.85), corner=0.08)
    canvas.rectangle(
        x - bar * (1 - share) / 2, y + 0.68, bar * share, 0.12, HEALTH_COLORS[min(int(3 * share), 2)], corner=0.05
    )
    rounds = max(int(p.magazine), 1)
    for k in range(rounds):  # in the magazine, or on their way into it
        full = k < (
            rounds * (1 - s.counters[a, RELOAD_LEFT] / RELOAD_STEPS)
            if s.counters[a, RELOAD_LEFT]
            else s.counters[a, ROUNDS]
        )
        shade = (GOLD if not s.counters[a, RELOAD_LEFT] else WHITE) if full else (74, 82, 96)
        canvas.rectangle(x + bar * ((k + 0.5) / rounds - 0.5), y + 0.51, 0.7 * bar / rounds, 0.09, shade)


def draw(s: State, p: Record, canvas: Canvas) -> None:
    canvas.view(-8.3, -6.3, 8.3, 6.3)
    canvas.clear(INK)
    canvas.rectangle(0, 0, 16.24, 12.24, STEEL, corner=0.12)
    canvas.rectangle(0, 0, 16, 12, FLOOR)
    for k in range(-7, 8):
        canvas.line([(k, -6), (k, 6)], TILE)
        canvas.line([(-8, min(max(k, -5), 5)), (8, min(max(k, -5), 5))], TILE)
    for a in range(AGENTS):
        if s.alive[a]:
            canvas.polygon(view_polygon(s, a, p.sight), translucent(TEAM_COLORS[a % 2], 0.2))
    for k in range(CRATES):
        x, y = s.crate[k, 0], s.crate[k, 1]
        canvas.circle(x, y, 0.5, translucent(GOLD, 0.05 if s.crate_wait[k] else 0.16))
        if not s.crate_wait[k]:
            canvas.rectangle(x, y, 0.56, 0.46, (116, 82, 36), corner=0.06)
            for u in (-0.15, 0, 0.15):
                canvas.rectangle(x + u, y + 0.02, 0.09, 0.28, GOLD, corner=0.045)
    for k in range(WALLS):
        x, y, w, h = (float(s.walls[k, j]) for j in range(4))
        canvas.rectangle(x + 0.1, y - 0.14, 2 * w, 2 * h, translucent((0, 0, 0), 0.4), corner=0.08)
        canvas.rectangle(x, y, 2 * w, 2 * h, STEEL, corner=0.08)
        canvas.rectangle(x, y + 0.05, 2 * w - 0.1, 2 * h - 0.16, (148, 158, 174), corner=0.06)
    for a in range(AGENTS):
        x, y, color = s.body[a, X], s.body[a, Y], TEAM_COLORS[a % 2]
        if not s.alive[a]:
            canvas.circle(x, y, 0.34, translucent(color, 0.25))
            for side in (-1, 1):
                canvas.line([(x - 0.17, y - 0.17 * side), (x + 0.17, y + 0.17 * side)], translucent(color, 0.8), 0.09)
        elif 0 < s.counters[a, SIGHTING] < SIGHTING_STEPS:  # where the others think that it is
            gx, gy, faint = (
                s.body[a, LAST_SEEN_X],
                s.body[a, LAST_SEEN_Y],
                0.6 * s.counters[a, SIGHTING] / SIGHTING_STEPS,
            )
            for k in range(8):
                turns = [0.785 * k + 0.12 * j for j in range(4)]
                dash = [(gx + 0.36 * math.cos(t), gy + 0.36 * math.sin(t)) for t in turns]
                canvas.line(dash, translucent(color, faint), 0.06)
    for a in range(AGENTS):
        if s.alive[a]:
            draw_fighter(canvas, s, a, p)
    for a in range(AGENTS):
        if s.counters[a, COOLDOWN_LEFT] == COOLDOWN_STEPS:  # has just shot
            x, y, u, v = (float(s.body[a, k]) for k in (X, Y, AHEAD_X, AHEAD_Y))
            muzzle, end = (
                (x + 0.75 * u + 0.11 * v, y + 0.75 * v - 0.11 * u),
                (s.body[a, SHOT_END_X], s.body[a, SHOT_END_Y]),
            )
            for width, color in (0.22, translucent(GOLD, 0.25)), (0.1, translucent(GOLD, 0.7)), (0.04, WHITE):
                canvas.line([muzzle, end], color, width)
            for point, size in (muzzle, 0.22), (end, 0.3):
                canvas.circle(*point, size, translucent((255, 196, 84), 0.7))
                canvas.circle(*point, size / 2, WHITE)
