"""This module has what all worlds of MinAtar's games share: action numbers, sticky actions, spaces and the empty board.

Used by asterix, breakout, freeway, seaquest and space_invaders. `apply_sticky_action` writes `s.action` and advances
the world's random stream; nothing else here changes a state.

A world called X has only the actions that have an effect in the game, like MinAtar's X-v1; X_full has all six, like
MinAtar's X-v0. The kernel `step_minatar_action` of such a world takes MinAtar's action numbers, STAY to FIRE.

Source of the games: Young and Tian 2019, "MinAtar: An Atari-Inspired Testbed" (arXiv 1903.03176), and its README. The
rules are written from these. Where they leave something open, the installed package decides: the tests
tests/oracles/test_minatar_*.py step both side by side.
"""

import numpy as np

from rl_lab.core.canvas import FAINT, translucent
from rl_lab.core.rng import uniform
from rl_lab.core.world import Box, Canvas, Record, WorldState, bounded, f4, i4, kernel

SIDE = 10
STAY, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
HORIZON = 10_000  # MinAtar has no limit, but the episodes of good agents would not end
ZERO, ONE = f4(0), f4(1)


class GameState(WorldState):
    action: i4 = bounded(0, low=STAY, high=FIRE)  # the last step's effective action; an episode begins with STAY


class GameParams(Record):
    sticky_action_prob: f4 = bounded(0.1, low=0, high=1)  # the probability that the last action is repeated


class RampingParams(GameParams):
    difficulty_ramping: i4 = bounded(1, low=0, high=1)  # whether the game gets harder as it goes on


def board_space(channels: int) -> Box:
    """Return the observation space of a game with this many channels: 1 for a cell with an object, row 0 on top."""
    return Box(0, 1, (SIDE, SIDE, channels), np.uint8)


@kernel
def apply_sticky_action(s: GameState, action: int, p: GameParams) -> int:
    """Return the effective action of this step, and store it in `s.action`: the agent's or, by chance, the last one."""
    s.action = action if uniform(s, ZERO, ONE) >= p.sticky_action_prob else s.action  # one draw
    return s.action


def draw_board(canvas: Canvas) -> None:
    """Set the view, clear the canvas and draw an empty board. A cell is 1 wide, and its middle is at `cell_center`."""
    canvas.view(-0.25, -0.25, SIDE + 0.25, SIDE + 0.25)
    canvas.clear()
    for row in range(SIDE):
        for column in range(SIDE):
            canvas.rectangle(*cell_center(row, column), 0.94, 0.94, translucent(FAINT, 0.55), corner=0.12)


def cell_center(row: float, column: float) -> tuple[float, float]:
    """Return the canvas position of a cell's middle."""
    return column + 0.5, SIDE - 0.5 - row
