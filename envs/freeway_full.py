"""FreewayFull: Freeway with all of MinAtar's actions, four of which do nothing.

observation  u1 (10, 10, 7)  chicken, cars, where cars came from: a channel for each speed 1 to 5; row 0 on top
action       0 stay, 1 left, 2 up, 3 right, 4 down, 5 fire; left, right and fire are as stay
reward       1 a crossing
ends         at step 2,501

Source: Young and Tian 2019 (arXiv 1903.03176); MinAtar's Freeway-v0
"""

from dataclasses import replace

from rl_lab.envs.freeway import ACTIONS, Params, State, step_minatar_action, world
from rl_lab.envs.freeway import expert as expert_without_no_ops

from rl_lab.core.world import Discrete, kernel


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    return step_minatar_action(s, action, p)


@kernel
def expert(s: State, p: Params) -> int:
    return ACTIONS[expert_without_no_ops(s, p)]


world = replace(world, step=step, expert=expert, action=Discrete(6))
