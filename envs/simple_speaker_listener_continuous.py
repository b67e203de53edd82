"""SimpleSpeakerListenerContinuous: SimpleSpeakerListener with pushes of any strength and words between words.

observation  f4 (11,)  speaker: the goal's colour 3; listener: own velocity 2, landmarks 6 seen from it, what it hears 3
action       f4 (5,)   0 to 1; speaker: how much to say of each word 3; listener: any, push left, right, down, up
reward       both: - the square of the listener's distance to the goal
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_speaker_listener_v4
"""

from dataclasses import replace

from rl_lab.envs._mpe import Motion, as_shares, steer_smoothly
from rl_lab.envs.simple_speaker_listener import LISTENER, PUSH, SPEAKER, WORDS, State, play, wish
from rl_lab.envs.simple_speaker_listener import world as discrete

from rl_lab.core.world import Array, Box, kernel


@kernel
def step(s: State, actions: Array, p: Motion, rewards: Array) -> bool:
    for k in range(WORDS):
        s.said[k] = actions[SPEAKER, k]
    steer_smoothly(s, LISTENER, actions[LISTENER], PUSH)
    return play(s, p, rewards)


@kernel
def expert(s: State, agent: int, p: Motion, action: Array) -> None:
    if agent == SPEAKER:
        for k in range(WORDS):
            action[k] = 1 if k == s.goal else 0
    else:
        right, up = wish(s, p)
        as_shares(right, up, action)


world = replace(
    discrete,
    step=step,
    expert=expert,
    observation=discrete.observation_spaces,
    action=(Box(0, 1, (WORDS,)), Box(0, 1, (5,))),
)
