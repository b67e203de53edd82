"""This module finds the neighbours of Swarm's birds with a grid of cells, in time proportional to the number of birds.

`update_neighbours` is called after each move. It writes those fields of the State that describe cells and neighbours,
`cell_row` to `push_sum_y`, which swarm.py declares.
"""

import math

from rl_lab.envs._torus import displacement

from rl_lab.core.world import WorldState, f4, i4, kernel

MAX_COMPARED_PER_CELL = 24  # birds of one cell that a bird is compared with: this bounds the work in a crowd
ZERO, ONE, TINY = f4(0), f4(1), f4(1e-6)
SIGHT, PUSH_DISTANCE = f4(1.3), f4(0.6)  # metres, at which birds become neighbours, and push each other away


def grid_size(agents: int) -> tuple[float, float, int, int]:
    """Return width and height in metres, and the numbers of rows and columns of cells, for a number of birds."""
    width = math.sqrt(agents * 4 / 3)
    return width, 0.75 * width, max(int(0.75 * width / SIGHT), 1), max(int(width / SIGHT), 1)


@kernel
def world_size(s: WorldState) -> tuple[float, float]:
    """Return width and height in metres: one square metre per bird, in the ratio 4 to 3."""
    width = f4(math.sqrt(len(s.x) * 4 / 3))
    return width, f4(0.75) * width


@kernel
def sort_by_cell(s: WorldState) -> None:
    """Sort the birds by cells of a grid (a counting sort); a cell is at least SIGHT wide, or the whole world."""
    width, height = world_size(s)
    rows, columns = s.cell_count.shape
    for row in range(rows):
        for column in range(columns):
            s.cell_count[row, column] = 0
    for a in range(s.num_birds):
        s.cell_row[a] = min(i4(s.y[a] / height * f4(rows)), rows - 1)
        s.cell_column[a] = min(i4(s.x[a] / width * f4(columns)), columns - 1)
        s.cell_count[s.cell_row[a], s.cell_column[a]] += 1
    end = 0  # `cell_start` is the end of each cell's birds at first; each bird that is placed moves it down by one
    for row in range(rows):
        for column in range(columns):
            end += s.cell_count[row, column]
            s.cell_start[row, column] = end
    for a in range(s.num_birds - 1, -1, -1):
        s.cell_start[s.cell_row[a], s.cell_column[a]] -= 1
        s.birds_by_cell[s.cell_start[s.cell_row[a], s.cell_column[a]]] = a


@kernel
def sum_neighbours(s: WorldState, a: int) -> None:
    """Write the sums over a bird's neighbours, which are in its own cell and the eight around it."""
    width, height = world_size(s)
    rows, columns = s.cell_count.shape
    num_neighbours, least = ZERO, PUSH_DISTANCE * PUSH_DISTANCE
    middle_x, middle_y, heading_x, heading_y, push_x, push_y = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for i in range(min(3, rows)):
        row = (s.cell_row[a] + rows - 1 + i) % rows
        for j in range(min(3, columns)):
            column = (s.cell_column[a] + columns - 1 + j) % columns
            first = s.cell_start[row, column]
            last = first + min(s.cell_count[row, column], MAX_COMPARED_PER_CELL)
            s.pairs += last - first
            for k in range(first, last):
                b = s.birds_by_cell[k]
                dx, dy = displacement(s.x[b], s.x[a], width), displacement(s.y[b], s.y[a], height)
                squared_distance = dx * dx + dy * dy
                # Sums weighted by 1 or 0 are faster here than an unpredictable branch.
                weight = ONE if squared_distance < SIGHT * SIGHT and b != a else ZERO
                num_neighbours += weight
                middle_x += weight * dx
                middle_y += weight * dy
                heading_x += weight * s.ux[b]
                heading_y += weight * s.uy[b]
                if squared_distance < PUSH_DISTANCE * PUSH_DISTANCE and b != a:
                    least = min(least, squared_distance)
                    push = PUSH_DISTANCE / f4(math.sqrt(squared_distance + TINY)) - ONE
                    push_x -= push * dx
                    push_y -= push * dy
    s.num_neighbours[a], s.nearest[a] = num_neighbours, math.sqrt(least)
    s.offset_sum_x[a], s.offset_sum_y[a] = middle_x, middle_y
    s.heading_sum_x[a], s.heading_sum_y[a] = heading_x, heading_y
    s.push_sum_x[a], s.push_sum_y[a] = push_x, push_y


@kernel
def update_neighbours(s: WorldState) -> None:
    """Write the neighbours of all birds."""
    sort_by_cell(s)
    s.pairs = 0
    for a in range(s.num_birds):
        sum_neighbours(s, a)
