"""SpaceInvadersFull: SpaceInvaders with all of MinAtar's actions, two of which do nothing.

observation  u1 (10, 10, 6)  cannon; aliens; aliens if they march left, right; own bullets; bomb; row 0 on top
action       0 stay, 1 left, 2 up, 3 right, 4 down, 5 fire; up and down are as stay
reward       1 an alien
ends         when a bomb or an alien reaches the cannon, or aliens on the bottom row turn

Source: Young and Tian 2019 (arXiv 1903.03176); MinAtar's SpaceInvaders-v0
"""

from dataclasses import replace

from rl_lab.envs.space_invaders import ACTIONS, RampingParams, State, step_minatar_action, world
from rl_lab.envs.space_invaders import expert as expert_without_no_ops

from rl_lab.core.world import Discrete, kernel


@kernel
def step(s: State, action: int, p: RampingParams) -> tuple[float, bool]:
    return step_minatar_action(s, action, p)


@kernel
def expert(s: State, p: RampingParams) -> int:
    return ACTIONS[expert_without_no_ops(s, p)]


world = replace(world, step=step, expert=expert, action=Discrete(6))
