"""SimpleAdversaryContinuous: SimpleAdversary with pushes of any strength.

observation  f4 (10,)  seen from the agent: goal 2, landmarks 4, others 4; the adversary's lacks the goal
action       f4 (5,)   0 to 1: any, push left, right, down, up; opposite ones cancel
reward       adversary: - its distance to the goal; agents: that distance less the nearer one's own
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_adversary_v3
"""

from dataclasses import replace

from rl_lab.envs._mpe import MotionParams, set_continuous_force, write_continuous_action
from rl_lab.envs.simple_adversary import AGENTS, PUSH, State, expert_push, move_and_reward
from rl_lab.envs.simple_adversary import world as discrete_world

from rl_lab.core.world import Array, Box, kernel


@kernel
def step(s: State, actions: Array, p: MotionParams, rewards: Array) -> bool:
    for a in range(AGENTS):
        set_continuous_force(s, a, actions[a], PUSH)
    return move_and_reward(s, p, rewards)


@kernel
def expert(s: State, agent: int, p: MotionParams, action: Array) -> None:
    right, up = expert_push(s, agent, p)
    write_continuous_action(right, up, action)


world = replace(
    discrete_world,
    step=step,
    expert=expert,
    observation=discrete_world.observation_spaces,
    action=Box(0, 1, (5,)),
)
