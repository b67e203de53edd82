"""This module has the common parts of MinAtar's games: sticky actions, and the board on which they are drawn.

Source of the games: Young and Tian 2019, "MinAtar: An Atari-Inspired Testbed" (arXiv 1903.03176), and its README. The
rules are written from these; where they leave something open, it was found by playing the installed package, as the
tests tests/test_oracle_minatar_*.py do. A game called X has only the actions that have an effect in it, like MinAtar's
X-v1; X_full has all six.
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


def board(channels: int) -> Box:
    """Return the observation space: 1 for a cell with an object, row 0 on top."""
    return Box(0, 1, (SIDE, SIDE, channels), np.uint8)


@kernel
def obeyed(s: GameState, action: int, p: GameParams) -> int:
    """Return the effective action of this step: the agent's or, by chance, the last one. It uses one random number."""
    s.action = action if uniform(s, ZERO, ONE) >= p.sticky_action_prob else s.action  # compiles without a branch
    return s.action


def cells(canvas: Canvas) -> None:
    """Draw an empty board. Cell (row, column) is centred at `centre(row, column)` and 1 wide."""
    canvas.view(-0.25, -0.25, SIDE + 0.25, SIDE + 0.25)
    canvas.clear()
    for row in range(SIDE):
        for column in range(SIDE):
            canvas.rectangle(*centre(row, column), 0.94, 0.94, translucent(FAINT, 0.55), corner=0.12)


def centre(row: float, column: float) -> tuple[float, float]:
    """Return the canvas position of a cell's middle."""
    return column + 0.5, SIDE - 0.5 - row
