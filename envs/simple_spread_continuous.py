"""SimpleSpreadContinuous: SimpleSpread with pushes of any strength.

observation  f4 (18,)  own velocity 2, position 2; seen from the agent landmarks 6, others 4; 4 zeros
action       f4 (5,)   0 to 1: any, push left, right, down, up; opposite ones cancel
reward       half: - sum of the landmarks' distances to the nearest agents; half: -1 for each agent touched
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_spread_v3
"""

from dataclasses import replace

from rl_lab.envs._mpe import set_continuous_force, write_continuous_action
from rl_lab.envs.simple_spread import AGENTS, PUSH, Params, State, expert_push, move_and_reward, novice_push
from rl_lab.envs.simple_spread import world as discrete_world

from rl_lab.core.world import Array, Box, kernel


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    for a in range(AGENTS):
        set_continuous_force(s, a, actions[a], PUSH)
    return move_and_reward(s, p, rewards)


@kernel
def expert(s: State, agent: int, p: Params, action: Array) -> None:
    right, up = expert_push(s, agent, p)
    write_continuous_action(right, up, action)


@kernel
def novice(s: State, agent: int, p: Params, action: Array) -> None:
    right, up = novice_push(s, agent, p)
    write_continuous_action(right, up, action)


world = replace(
    discrete_world,
    step=step,
    expert=expert,
    novice=novice,
    observation=discrete_world.observation_spaces,
    action=Box(0, 1, (5,)),
)
