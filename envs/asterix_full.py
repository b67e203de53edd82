"""AsterixFull: Asterix with all of MinAtar's actions, one of which does nothing.

observation  u1 (10, 10, 4)  player, enemies, trails of enemies and gold, gold; row 0 on top
action       0 stay, 1 left, 2 up, 3 right, 4 down, 5 fire; fire is the same as stay
reward       1 a piece of gold
ends         when the player meets an enemy

Source: Young and Tian 2019 (arXiv 1903.03176); MinAtar's Asterix-v0
"""

from dataclasses import replace

from rl_lab.envs.asterix import RampingParams as Params
from rl_lab.envs.asterix import State, world
from rl_lab.envs.asterix import step as step_of_five

from rl_lab.core.world import Discrete, kernel


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    return step_of_five(s, action, p)  # a world has its name from the file of its step


world = replace(world, step=step, action=Discrete(6))
