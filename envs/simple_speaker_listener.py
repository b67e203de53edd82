"""SimpleSpeakerListener: a speaker that knows the goal and cannot move talks to a listener that has to go there.

observation  f4 (11,)  speaker: the goal's colour 3; listener: own velocity 2, landmarks 6 seen from it, last word 3
action       speaker: the word, 0 to 2; listener: 0 nothing, 1 push left, 2 right, 3 down, 4 up
reward       both: - the square of the listener's distance to the goal
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_speaker_listener_v4
"""

from rl_lab.envs import _mpe
from rl_lab.envs import _mpe_look as look
from rl_lab.envs._mpe import Motion, as_action, move, pull, put, put_relative, scatter, steer

from rl_lab.core.canvas import BLUE, GREEN, INK, MUTED, RED, translucent
from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Canvas, Discrete, World, WorldState, bounded, f4, f8, i4, kernel

SPEAKER, LISTENER, WORDS = 0, 1, 3  # a word for each landmark
RADIUS, PUSH = 0.075, 5.0
STRONG, WEAK = f4(0.65), f4(0.15)  # the goal's colour is strong in one of three parts


class State(WorldState):
    position: f8[2, 2]
    velocity: f8[2, 2]
    force: f8[2, 2]
    landmark: f8[WORDS, 2]
    goal: i4 = bounded(0, low=0, high=WORDS - 1)
    said: f4[WORDS]
    trail: f4[_mpe.TRAIL, 2, 2]


@kernel
def reset(s: State, p: Motion) -> None:
    s.goal = integers(s, WORDS)
    scatter(s, s.position, 1.0)
    scatter(s, s.landmark, 1.0)


@kernel
def play(s: State, p: Motion, rewards: Array) -> bool:
    """Move the listener under its own force, and write both rewards."""
    move(s, LISTENER, p)
    x, y = s.position[LISTENER, 0] - s.landmark[s.goal, 0], s.position[LISTENER, 1] - s.landmark[s.goal, 1]
    rewards[SPEAKER] = rewards[LISTENER] = -(x * x + y * y)
    return False


@kernel
def step(s: State, actions: Array, p: Motion, rewards: Array) -> bool:
    for k in range(WORDS):
        s.said[k] = 1 if actions[SPEAKER] == k else 0
    steer(s, LISTENER, actions[LISTENER], PUSH)
    return play(s, p, rewards)


@kernel
def observe(s: State, agent: int, p: Motion, out: Array) -> None:
    if agent == SPEAKER:
        for k in range(WORDS):
            out[k] = STRONG if k == s.goal else WEAK
    else:
        at = put(out, 0, s.velocity, LISTENER)
        at = put_relative(s, LISTENER, out, at, s.landmark, -1)
        for k in range(WORDS):
            out[at + k] = s.said[k]


@kernel
def wish(s: State, p: Motion) -> tuple[float, float]:
    # The listener goes to the landmark of the last word or, before the first word, to the middle of all landmarks.
    total, x, y = 0.0, 0.0, 0.0
    for k in range(WORDS):
        weight = max(f8(s.said[k]), 1e-6)
        total, x, y = total + weight, x + weight * s.landmark[k, 0], y + weight * s.landmark[k, 1]
    return pull(s, LISTENER, x / total, y / total, PUSH, p)


@kernel
def expert(s: State, agent: int, p: Motion) -> int:
    if agent == SPEAKER:
        return s.goal
    right, up = wish(s, p)
    return as_action(right, up)


def draw(s: State, p: Motion, canvas: Canvas) -> None:
    look.sheet(canvas, s)
    colors = RED, GREEN, BLUE
    speaker, listener = look.places(s.position)
    landmarks = look.places(s.landmark)
    loudest = max(range(WORDS), key=lambda k: s.said[k])
    heard = colors[loudest] if s.said[loudest] > 0 else MUTED
    look.wake(canvas, s, LISTENER, heard, 1.4 * RADIUS)
    for k, (x, y) in enumerate(landmarks):
        look.ring(canvas, x, y, RADIUS + 0.04, colors[k])
    look.dotted(canvas, landmarks[s.goal], listener, colors[s.goal])
    look.star(canvas, *landmarks[s.goal], 0.07, 0.5, 5, colors[s.goal])
    if s.t:
        for k in range(3):  # the word on its way
            part = (s.t / 3 + k / 3) % 1
            x, y = (a + (b - a) * part for a, b in zip(speaker, listener, strict=True))
            canvas.circle(x, y, 0.02, translucent(heard, 0.6))
    look.marble(canvas, *speaker, 1.4 * RADIUS, look.STONE)
    look.eyes(canvas, *speaker, 1.4 * RADIUS, landmarks[s.goal])
    look.marble(canvas, *listener, RADIUS, look.mixed(look.STONE, heard, 0.7))
    look.eyes(canvas, *listener, RADIUS, speaker)
    x, y = look.bubble(canvas, *speaker, 1.4 * RADIUS)
    if s.t:
        canvas.circle(x, y, 0.06, heard)
    else:
        canvas.text(x, y, "...", 0.14, INK)


world = World(
    State,
    Motion,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    agents=("speaker_0", "listener_0"),
    observation=(_mpe.numbers(3), _mpe.numbers(11)),
    action=(Discrete(WORDS), Discrete(5)),
    horizon=_mpe.HORIZON,
    frames_per_second=10,
)
