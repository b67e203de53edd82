"""SimpleSpeakerListener: a speaker that knows the goal and cannot move talks to a listener that has to go there.

observation  f4 (11,)  speaker: the goal's colour 3; listener: own velocity 2, landmarks 6 seen from it, last word 3
action       speaker: the word, 0 to 2; listener: 0 nothing, 1 push left, 2 right, 3 down, 4 up
reward       both: - the square of the listener's distance to the goal
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_speaker_listener_v4
"""

from rl_lab.envs import _mpe
from rl_lab.envs import _mpe_drawing as drawing
from rl_lab.envs._mpe import (
    MotionParams,
    move,
    push_to_rest_at,
    set_discrete_force,
    set_random_points,
    to_discrete_action,
    write_point,
    write_relative_points,
)

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
    message: f4[WORDS]
    trail: f4[_mpe.TRAIL_LENGTH, 2, 2]


@kernel
def reset(s: State, p: MotionParams) -> None:
    s.goal = integers(s, WORDS)
    set_random_points(s, s.position, 1.0)
    set_random_points(s, s.landmark, 1.0)


@kernel
def move_and_reward(s: State, p: MotionParams, rewards: Array) -> bool:
    """Move the listener under its own force, and write both rewards."""
    move(s, LISTENER, p)
    x, y = s.position[LISTENER, 0] - s.landmark[s.goal, 0], s.position[LISTENER, 1] - s.landmark[s.goal, 1]
    rewards[SPEAKER] = rewards[LISTENER] = -(x * x + y * y)
    return False


@kernel
def step(s: State, actions: Array, p: MotionParams, rewards: Array) -> bool:
    for k in range(WORDS):
        s.message[k] = 1 if actions[SPEAKER] == k else 0
    set_discrete_force(s, LISTENER, actions[LISTENER], PUSH)
    return move_and_reward(s, p, rewards)


@kernel
def observe(s: State, agent: int, p: MotionParams, out: Array) -> None:
    if agent == SPEAKER:
        for k in range(WORDS):
            out[k] = STRONG if k == s.goal else WEAK
    else:
        index = write_point(out, 0, s.velocity, LISTENER)
        index = write_relative_points(s, LISTENER, out, index, s.landmark, -1)
        for k in range(WORDS):
            out[index + k] = s.message[k]


@kernel
def expert_push(s: State, p: MotionParams) -> tuple[float, float]:
    """Return the expert listener's pushes right and up, as fractions of PUSH."""
    # The listener goes to the landmark of the last word or, before the first word, to the middle of all landmarks.
    total, x, y = 0.0, 0.0, 0.0
    for k in range(WORDS):
        weight = max(f8(s.message[k]), 1e-6)
        total, x, y = total + weight, x + weight * s.landmark[k, 0], y + weight * s.landmark[k, 1]
    return push_to_rest_at(s, LISTENER, x / total, y / total, PUSH, p)


@kernel
def expert(s: State, agent: int, p: MotionParams) -> int:
    if agent == SPEAKER:
        return s.goal
    right, up = expert_push(s, p)
    return to_discrete_action(right, up)


def draw(s: State, p: MotionParams, canvas: Canvas) -> None:
    drawing.draw_paper(canvas, s)
    colors = RED, GREEN, BLUE
    speaker, listener = drawing.as_points(s.position)
    landmarks = drawing.as_points(s.landmark)
    loudest = max(range(WORDS), key=lambda k: s.message[k])
    heard = colors[loudest] if s.message[loudest] > 0 else MUTED
    drawing.draw_trail(canvas, s, LISTENER, heard, 1.4 * RADIUS)
    for k, (x, y) in enumerate(landmarks):
        drawing.draw_ring(canvas, x, y, RADIUS + 0.04, colors[k])
    drawing.draw_dotted_line(canvas, landmarks[s.goal], listener, colors[s.goal])
    drawing.draw_star(canvas, *landmarks[s.goal], 0.07, 0.5, 5, colors[s.goal])
    if s.t:
        for k in range(3):  # the word on its way
            part = (s.t / 3 + k / 3) % 1
            x, y = (a + (b - a) * part for a, b in zip(speaker, listener, strict=True))
            canvas.circle(x, y, 0.02, translucent(heard, 0.6))
    drawing.draw_marble(canvas, *speaker, 1.4 * RADIUS, drawing.STONE)
    drawing.draw_eyes(canvas, *speaker, 1.4 * RADIUS, landmarks[s.goal])
    drawing.draw_marble(canvas, *listener, RADIUS, drawing.mix_colors(drawing.STONE, heard, 0.7))
    drawing.draw_eyes(canvas, *listener, RADIUS, speaker)
    x, y = drawing.draw_speech_bubble(canvas, *speaker, 1.4 * RADIUS)
    if s.t:
        canvas.circle(x, y, 0.06, heard)
    else:
        canvas.text(x, y, "...", 0.14, INK)


world = World(
    State,
    MotionParams,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    agents=("speaker_0", "listener_0"),
    observation=(_mpe.unbounded_box(3), _mpe.unbounded_box(11)),
    action=(Discrete(WORDS), Discrete(5)),
    horizon=_mpe.HORIZON,
    frames_per_second=10,
)
