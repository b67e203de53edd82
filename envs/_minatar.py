"""What MinAtar's games share: the actions, one of which may stick, and the board that they are drawn on.

Source of the games: Young and Tian 2019, "MinAtar: An Atari-Inspired Testbed" (arXiv 1903.03176), and its README. The
rules are written from these, and settled where they are silent by playing the installed package, as the tests
tests/test_oracle_minatar_*.py do. A game called X has the actions that do something in it, as MinAtar's X-v1; X_full
has all six.
"""

import numpy as np

from rl_lab.canvas import FAINT, translucent
from rl_lab.rng import uniform
from rl_lab.world import Box, Canvas, Record, WorldState, bounded, f4, i4, kernel

SIDE = 10
STAY, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
HORIZON = 10_000  # MinAtar has none; agents good enough to play for ever must be stopped
ZERO, ONE = f4(0), f4(1)


class GameState(WorldState):
    action: i4 = bounded(0, low=STAY, high=FIRE)  # that was obeyed in the last step; an episode begins with STAY


class GameParams(Record):
    sticky_action_prob: f4 = bounded(0.1, low=0, high=1)  # that the last action is obeyed again instead of the new one


class RampingParams(GameParams):
    difficulty_ramping: i4 = bounded(1, low=0, high=1)  # whether the game gets harder as it goes on


def board(channels: int) -> Box:
    """Return the observation space: 1 where a thing is, row 0 on top."""
    return Box(0, 1, (SIDE, SIDE, channels), np.uint8)


@kernel
def obeyed(s: GameState, action: int, p: GameParams) -> int:
    """Return the action of this step: the one given or, by chance, the last one again. Makes one draw."""
    s.action = action if uniform(s, ZERO, ONE) >= p.sticky_action_prob else s.action  # no branch to be guessed wrong
    return s.action


def cells(canvas: Canvas) -> None:
    """Show an empty board. Cell (row, column) is centred at `centre(row, column)` and 1 wide."""
    canvas.view(-0.25, -0.25, SIDE + 0.25, SIDE + 0.25)
    canvas.clear()
    for row in range(SIDE):
        for column in range(SIDE):
            canvas.rectangle(*centre(row, column), 0.94, 0.94, translucent(FAINT, 0.55), corner=0.12)


def centre(row: float, column: float) -> tuple[float, float]:
    """Return where on the canvas a cell's middle is."""
    return column + 0.5, SIDE - 0.5 - row
