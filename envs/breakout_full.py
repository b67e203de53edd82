"""BreakoutFull: Breakout with all of MinAtar's actions, half of which do nothing.

observation  u1 (10, 10, 4)  paddle, ball, where the ball was, bricks; row 0 on top
action       0 stay, 1 left, 2 up, 3 right, 4 down, 5 fire; up, down and fire are as stay
reward       1 a brick
ends         when the ball reaches the bottom row beside the paddle

Source: Young and Tian 2019 (arXiv 1903.03176); MinAtar's Breakout-v0
"""

from dataclasses import replace

from rl_lab.envs.breakout import ACTIONS, Params, State, step_minatar_action, world
from rl_lab.envs.breakout import expert as expert_without_no_ops

from rl_lab.core.world import Discrete, kernel


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    return step_minatar_action(s, action, p)


@kernel
def expert(s: State, p: Params) -> int:
    return ACTIONS[expert_without_no_ops(s, p)]


world = replace(world, step=step, expert=expert, action=Discrete(6))
