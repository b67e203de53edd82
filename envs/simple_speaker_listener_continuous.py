"""SimpleSpeakerListenerContinuous: SimpleSpeakerListener with pushes of any strength and words between words.

observation  f4 (11,)  speaker: the goal's colour 3; listener: own velocity 2, landmarks 6 seen from it, what it hears 3
action       f4 (5,)   0 to 1; speaker: how much to say of each word 3; listener: any, push left, right, down, up
reward       both: - the square of the listener's distance to the goal
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_speaker_listener_v4
"""

from dataclasses import replace

from rl_lab.envs._mpe import MotionParams, set_continuous_force, write_continuous_action
from rl_lab.envs.simple_speaker_listener import LISTENER, PUSH, SPEAKER, WORDS, State, expert_push, move_and_reward
from rl_lab.envs.simple_speaker_listener import world as discrete_world

from rl_lab.core.world import Array, Box, kernel


@kernel
def step(s: State, actions: Array, p: MotionParams, rewards: Array) -> bool:
    for k in range(WORDS):
        s.message[k] = actions[SPEAKER, k]
    set_continuous_force(s, LISTENER, actions[LISTENER], PUSH)
    return move_and_reward(s, p, rewards)


@kernel
def expert(s: State, agent: int, p: MotionParams, action: Array) -> None:
    if agent == SPEAKER:
        for k in range(WORDS):
            action[k] = 1 if k == s.goal else 0
    else:
        right, up = expert_push(s, p)
        write_continuous_action(right, up, action)


world = replace(
    discrete_world,
    step=step,
    expert=expert,
    observation=discrete_world.observation_spaces,
    action=(Box(0, 1, (WORDS,)), Box(0, 1, (5,))),
)
