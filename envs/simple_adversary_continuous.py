"""SimpleAdversaryContinuous: SimpleAdversary with pushes of any strength.

observation  f4 (10,)  seen from the agent: goal 2, landmarks 4, others 4; the adversary's lacks the goal
action       f4 (5,)   0 to 1: any, push left, right, down, up; opposite ones cancel
reward       adversary: - its distance to the goal; agents: that distance less the nearer one's own
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_adversary_v3
"""

from dataclasses import replace

from rl_lab.envs._mpe import Motion, as_shares, steer_smoothly
from rl_lab.envs.simple_adversary import AGENTS, PUSH, State, play, wish
from rl_lab.envs.simple_adversary import world as discrete

from rl_lab.core.world import Array, Box, kernel


@kernel
def step(s: State, actions: Array, p: Motion, rewards: Array) -> bool:
    for a in range(AGENTS):
        steer_smoothly(s, a, actions[a], PUSH)
    return play(s, p, rewards)


@kernel
def expert(s: State, agent: int, p: Motion, action: Array) -> None:
    right, up = wish(s, agent, p)
    as_shares(right, up, action)


world = replace(
    discrete,
    step=step,
    expert=expert,
    observation=discrete.observation_spaces,
    action=Box(0, 1, (5,)),
)
