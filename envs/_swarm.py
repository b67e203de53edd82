"""This module finds the neighbours of Swarm's birds with a grid of cells, in time proportional to their number."""

import math

from rl_lab.envs._torus import way

from rl_lab.core.world import WorldState, f4, i4, kernel

SEEN = 24  # the most birds of one cell that others see, which bounds the work in a crowd
ZERO, ONE, TINY = f4(0), f4(1), f4(1e-6)
SIGHT, NEAR = f4(1.3), f4(0.6)  # metres: to see others, to be pushed away by them


def grid(agents: int) -> tuple[float, float, int, int]:
    """Return width and height in metres, and the numbers of rows and columns of cells, for a number of birds."""
    width = math.sqrt(agents * 4 / 3)
    return width, 0.75 * width, max(int(0.75 * width / SIGHT), 1), max(int(width / SIGHT), 1)


@kernel
def sides(s: WorldState) -> tuple[float, float]:
    """Return width and height in metres: one square metre per bird, in the ratio 4 to 3."""
    width = f4(math.sqrt(len(s.x) * 4 / 3))
    return width, f4(0.75) * width


@kernel
def sort(s: WorldState) -> None:
    """Sort the birds by cells of a grid; a cell is at least SIGHT wide, or the whole world."""
    width, height = sides(s)
    rows, columns = s.count.shape
    for row in range(rows):
        for column in range(columns):
            s.count[row, column] = 0
    for a in range(s.birds):
        s.row[a] = min(i4(s.y[a] / height * f4(rows)), rows - 1)
        s.column[a] = min(i4(s.x[a] / width * f4(columns)), columns - 1)
        s.count[s.row[a], s.column[a]] += 1
    end = 0
    for row in range(rows):
        for column in range(columns):
            end += s.count[row, column]
            s.first[row, column] = end
    for a in range(s.birds - 1, -1, -1):
        s.first[s.row[a], s.column[a]] -= 1
        s.order[s.first[s.row[a], s.column[a]]] = a


@kernel
def look(s: WorldState, a: int) -> None:
    """Sum up the neighbours of a bird."""
    width, height = sides(s)
    rows, columns = s.count.shape
    number, least = ZERO, NEAR * NEAR
    middle_x, middle_y, heading_x, heading_y, push_x, push_y = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for i in range(min(3, rows)):
        row = (s.row[a] + rows - 1 + i) % rows
        for j in range(min(3, columns)):
            column = (s.column[a] + columns - 1 + j) % columns
            first = s.first[row, column]
            last = first + min(s.count[row, column], SEEN)
            s.pairs += last - first
            for k in range(first, last):
                b = s.order[k]
                dx, dy = way(s.x[b], s.x[a], width), way(s.y[b], s.y[a], height)
                square = dx * dx + dy * dy
                # Sums weighted by 1 or 0 are faster here than an unpredictable branch.
                near = ONE if square < SIGHT * SIGHT and b != a else ZERO
                number += near
                middle_x += near * dx
                middle_y += near * dy
                heading_x += near * s.ux[b]
                heading_y += near * s.uy[b]
                if square < NEAR * NEAR and b != a:
                    least = min(least, square)
                    push = NEAR / f4(math.sqrt(square + TINY)) - ONE
                    push_x -= push * dx
                    push_y -= push * dy
    s.number[a], s.nearest[a] = number, math.sqrt(least)
    s.middle_x[a], s.middle_y[a] = middle_x, middle_y
    s.heading_x[a], s.heading_y[a] = heading_x, heading_y
    s.push_x[a], s.push_y[a] = push_x, push_y


@kernel
def look_around(s: WorldState) -> None:
    sort(s)
    s.pairs = 0
    for a in range(s.birds):
        look(s, a)
