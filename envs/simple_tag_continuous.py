"""SimpleTagContinuous: SimpleTag with pushes of any strength.

observation  f4 (16,)  own velocity 2, position 2; seen from the agent boulders 4, others 6; prey's velocity 2
action       f4 (5,)   0 to 1: any, push left, right, down, up; opposite ones cancel
reward       predators: 10 for each of them that touches the prey; prey: -10 for each, and up to -10 an axis outside
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_tag_v3
"""

from dataclasses import replace

from rl_lab.world import Array, Box, kernel

from ._mpe import as_shares, steer_smoothly
from .simple_tag import AGENTS, PUSH, Params, State, play, share, wish
from .simple_tag import world as discrete


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    for a in range(AGENTS):
        steer_smoothly(s, a, actions[a], PUSH[a] * share(a, p))
    return play(s, p, rewards)


@kernel
def expert(s: State, agent: int, p: Params, action: Array) -> None:
    right, up = wish(s, agent, p)
    as_shares(right, up, action)


world = replace(
    discrete,
    step=step,
    expert=expert,
    observation=discrete.observation_spaces,
    action=Box(0, 1, (5,)),
)
