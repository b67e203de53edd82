"""SimpleTagContinuous: SimpleTag with pushes of any strength.

observation  f4 (16,)  predators: own velocity 2, position 2; relative positions of boulders 4, of others 6; prey's
             velocity 2. Prey (14,): the same without the last two
action       f4 (5,)   0 to 1: any, push left, right, down, up; opposite ones cancel
reward       predators: 10 for each of them that touches the prey; prey: -10 for each, and up to -10 an axis outside
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_tag_v3
"""

from dataclasses import replace

from rl_lab.envs._mpe import set_continuous_force, write_continuous_action
from rl_lab.envs.simple_tag import AGENTS, PUSH, Params, State, best_push, move_and_reward, strength
from rl_lab.envs.simple_tag import world as discrete_world

from rl_lab.core.world import Array, Box, kernel


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    for a in range(AGENTS):
        set_continuous_force(s, a, actions[a], PUSH[a] * strength(a, p))
    return move_and_reward(s, p, rewards)


@kernel
def expert(s: State, agent: int, p: Params, action: Array) -> None:
    right, up = best_push(s, agent, p)
    write_continuous_action(right, up, action)


world = replace(
    discrete_world,
    step=step,
    expert=expert,
    observation=discrete_world.observation_spaces,
    action=Box(0, 1, (5,)),
)
