"""SimpleAdversary: two agents know which of two landmarks is the goal, and must not lead the adversary to it.

observation  f4 (10,)  seen from the agent: goal 2, landmarks 4, others 4; the adversary's lacks the goal
action       0 nothing, 1 push left, 2 right, 3 down, 4 up
reward       adversary: - its distance to the goal; agents: that distance less the nearer one's own
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_adversary_v3
"""

import math

from rl_lab.envs import _mpe
from rl_lab.envs import _mpe_drawing as drawing
from rl_lab.envs._mpe import (
    MotionParams,
    distance,
    move,
    push_to_rest_at,
    set_discrete_force,
    set_random_points,
    to_discrete_action,
    write_relative_points,
)

from rl_lab.core.canvas import BLUE, GREEN, INK, MUTED, PURPLE, RED
from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Canvas, Discrete, World, WorldState, bounded, f4, f8, i4, kernel

AGENTS, LANDMARKS, ADVERSARY = 3, 2, 0
RADIUS, PUSH = 0.15, 5.0


class State(WorldState):
    position: f8[AGENTS, 2]
    velocity: f8[AGENTS, 2]
    force: f8[AGENTS, 2]
    landmark: f8[LANDMARKS, 2]
    goal: i4 = bounded(0, low=0, high=LANDMARKS - 1)
    trail: f4[_mpe.TRAIL_LENGTH, AGENTS, 2]


@kernel
def reset(s: State, p: MotionParams) -> None:
    s.goal = integers(s, LANDMARKS)
    set_random_points(s, s.position, 1.0)
    set_random_points(s, s.landmark, 1.0)


@kernel
def move_and_reward(s: State, p: MotionParams, rewards: Array) -> bool:
    """Move all agents under their own forces, and write the rewards."""
    for a in range(AGENTS):
        move(s, a, p)
    adversary_distance = distance(s.position, ADVERSARY, s.landmark, s.goal)
    nearest_distance = min(distance(s.position, 1, s.landmark, s.goal), distance(s.position, 2, s.landmark, s.goal))
    rewards[ADVERSARY] = -adversary_distance
    rewards[1] = rewards[2] = adversary_distance - nearest_distance
    return False


@kernel
def step(s: State, actions: Array, p: MotionParams, rewards: Array) -> bool:
    for a in range(AGENTS):
        set_discrete_force(s, a, actions[a], PUSH)
    return move_and_reward(s, p, rewards)


@kernel
def observe(s: State, agent: int, p: MotionParams, out: Array) -> None:
    index = 0
    if agent != ADVERSARY:
        out[0] = s.landmark[s.goal, 0] - s.position[agent, 0]
        out[1] = s.landmark[s.goal, 1] - s.position[agent, 1]
        index = 2
    index = write_relative_points(s, agent, out, index, s.landmark, -1)
    write_relative_points(s, agent, out, index, s.position, agent)


@kernel
def expert_push(s: State, agent: int, p: MotionParams) -> tuple[float, float]:
    """Return the expert's pushes right and up, as fractions of PUSH."""
    nearer = (distance(s.position, 1, s.landmark, 0) + distance(s.position, 2, s.landmark, 1)) - (
        distance(s.position, 1, s.landmark, 1) + distance(s.position, 2, s.landmark, 0)
    )
    if agent != ADVERSARY:  # one to each landmark, by the shorter ways: none gives the goal away
        k = agent - 1 if nearer < 0.0 else 2 - agent
        return push_to_rest_at(s, agent, s.landmark[k, 0], s.landmark[k, 1], PUSH, p)
    # It does not know the goal, and keeps between the landmarks: the nearer to one, the more the agents are about it.
    nearest_to_first = min(distance(s.position, 1, s.landmark, 0), distance(s.position, 2, s.landmark, 0))
    nearest_to_second = min(distance(s.position, 1, s.landmark, 1), distance(s.position, 2, s.landmark, 1))
    part = nearest_to_first / max(nearest_to_first + nearest_to_second, 1e-9)
    x = s.landmark[0, 0] + part * (s.landmark[1, 0] - s.landmark[0, 0])
    y = s.landmark[0, 1] + part * (s.landmark[1, 1] - s.landmark[0, 1])
    return push_to_rest_at(s, agent, x, y, PUSH, p)


@kernel
def expert(s: State, agent: int, p: MotionParams) -> int:
    right, up = expert_push(s, agent, p)
    return to_discrete_action(right, up)


def draw(s: State, p: MotionParams, canvas: Canvas) -> None:
    drawing.draw_paper(canvas, s)
    agents, landmarks = drawing.as_points(s.position), drawing.as_points(s.landmark)
    colors = RED, BLUE, PURPLE
    for a, color in enumerate(colors):
        drawing.draw_trail(canvas, s, a, color, 1.2 * RADIUS)
    goal = landmarks[s.goal]
    for k, (x, y) in enumerate(landmarks):
        drawing.draw_ring(canvas, x, y, RADIUS + 0.03, GREEN if k == s.goal else MUTED)
    drawing.draw_dotted_line(canvas, goal, min(agents[1:], key=lambda point: math.dist(point, goal)), GREEN)
    drawing.draw_dotted_line(canvas, goal, agents[ADVERSARY], RED)
    drawing.draw_star(canvas, *goal, 0.1, 0.5, 5, GREEN)
    for point, color in zip(agents, colors, strict=True):
        drawing.draw_marble(canvas, *point, RADIUS, color)
    x, y = agents[ADVERSARY]
    drawing.draw_eyes(canvas, x, y, RADIUS, min(agents[1:], key=lambda point: math.dist(point, (x, y))))
    canvas.text(*drawing.draw_speech_bubble(canvas, x, y, RADIUS), "?", 0.17, INK)
    if math.dist(agents[1], goal) < RADIUS or math.dist(agents[2], goal) < RADIUS:
        drawing.draw_star(canvas, *goal, 0.07, 0.5, 5, drawing.WHITE)


world = World(
    State,
    MotionParams,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    agents=("adversary_0", "agent_0", "agent_1"),
    observation=(_mpe.unbounded_box(8), _mpe.unbounded_box(10), _mpe.unbounded_box(10)),
    action=Discrete(5),
    horizon=_mpe.HORIZON,
    frames_per_second=10,
)
