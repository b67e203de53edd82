"""SimpleAdversary: two agents know which of two landmarks is the goal, and must not lead the adversary to it.

observation  f4 (10,)  seen from the agent: goal 2, landmarks 4, others 4; the adversary's lacks the goal
action       0 nothing, 1 push left, 2 right, 3 down, 4 up
reward       adversary: - its distance to the goal; agents: that distance less the nearer one's own
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_adversary_v3
"""

import math

from rl_lab.envs import _mpe
from rl_lab.envs import _mpe_look as look
from rl_lab.envs._mpe import Motion, as_action, distance, move, pull, put_relative, scatter, steer

from rl_lab.core.canvas import BLUE, GREEN, INK, MUTED, PURPLE, RED
from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Canvas, Discrete, World, WorldState, bounded, f4, f8, i4, kernel

AGENTS, LANDMARKS, ADVERSARY = 3, 2, 0
RADIUS, SPOT, PUSH = 0.15, 0.08, 5.0


class State(WorldState):
    position: f8[AGENTS, 2]
    velocity: f8[AGENTS, 2]
    force: f8[AGENTS, 2]
    landmark: f8[LANDMARKS, 2]
    goal: i4 = bounded(0, low=0, high=LANDMARKS - 1)
    trail: f4[_mpe.TRAIL, AGENTS, 2]


@kernel
def reset(s: State, p: Motion) -> None:
    s.goal = integers(s, LANDMARKS)
    scatter(s, s.position, 1.0)
    scatter(s, s.landmark, 1.0)


@kernel
def play(s: State, p: Motion, rewards: Array) -> bool:
    """Move all agents under their own forces, and write the rewards."""
    for a in range(AGENTS):
        move(s, a, p)
    kept_off = distance(s.position, ADVERSARY, s.landmark, s.goal)
    missed = min(distance(s.position, 1, s.landmark, s.goal), distance(s.position, 2, s.landmark, s.goal))
    rewards[ADVERSARY] = -kept_off
    rewards[1] = rewards[2] = kept_off - missed
    return False


@kernel
def step(s: State, actions: Array, p: Motion, rewards: Array) -> bool:
    for a in range(AGENTS):
        steer(s, a, actions[a], PUSH)
    return play(s, p, rewards)


@kernel
def observe(s: State, agent: int, p: Motion, out: Array) -> None:
    at = 0
    if agent != ADVERSARY:
        out[0] = s.landmark[s.goal, 0] - s.position[agent, 0]
        out[1] = s.landmark[s.goal, 1] - s.position[agent, 1]
        at = 2
    at = put_relative(s, agent, out, at, s.landmark, -1)
    put_relative(s, agent, out, at, s.position, agent)


@kernel
def wish(s: State, agent: int, p: Motion) -> tuple[float, float]:
    nearer = (distance(s.position, 1, s.landmark, 0) + distance(s.position, 2, s.landmark, 1)) - (
        distance(s.position, 1, s.landmark, 1) + distance(s.position, 2, s.landmark, 0)
    )
    if agent != ADVERSARY:  # one to each landmark, by the shorter ways: none gives the goal away
        k = agent - 1 if nearer < 0.0 else 2 - agent
        return pull(s, agent, s.landmark[k, 0], s.landmark[k, 1], PUSH, p)
    # It does not know the goal, and keeps between the landmarks: the nearer to one, the more the agents are about it.
    one = min(distance(s.position, 1, s.landmark, 0), distance(s.position, 2, s.landmark, 0))
    other = min(distance(s.position, 1, s.landmark, 1), distance(s.position, 2, s.landmark, 1))
    part = one / max(one + other, 1e-9)
    x = s.landmark[0, 0] + part * (s.landmark[1, 0] - s.landmark[0, 0])
    y = s.landmark[0, 1] + part * (s.landmark[1, 1] - s.landmark[0, 1])
    return pull(s, agent, x, y, PUSH, p)


@kernel
def expert(s: State, agent: int, p: Motion) -> int:
    right, up = wish(s, agent, p)
    return as_action(right, up)


def draw(s: State, p: Motion, canvas: Canvas) -> None:
    look.sheet(canvas, s)
    agents, landmarks = look.places(s.position), look.places(s.landmark)
    colors = RED, BLUE, PURPLE
    for a, color in enumerate(colors):
        look.wake(canvas, s, a, color, 1.2 * RADIUS)
    goal = landmarks[s.goal]
    for k, (x, y) in enumerate(landmarks):
        look.ring(canvas, x, y, RADIUS + 0.03, GREEN if k == s.goal else MUTED)
    look.dotted(canvas, goal, min(agents[1:], key=lambda at: math.dist(at, goal)), GREEN)
    look.dotted(canvas, goal, agents[ADVERSARY], RED)
    look.star(canvas, *goal, 0.1, 0.5, 5, GREEN)
    for at, color in zip(agents, colors, strict=True):
        look.marble(canvas, *at, RADIUS, color)
    x, y = agents[ADVERSARY]
    look.eyes(canvas, x, y, RADIUS, min(agents[1:], key=lambda at: math.dist(at, (x, y))))
    canvas.text(*look.bubble(canvas, x, y, RADIUS), "?", 0.17, INK)
    if math.dist(agents[1], goal) < RADIUS or math.dist(agents[2], goal) < RADIUS:
        look.star(canvas, *goal, 0.07, 0.5, 5, look.WHITE)


world = World(
    State,
    Motion,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    agents=("adversary_0", "agent_0", "agent_1"),
    observation=(_mpe.numbers(8), _mpe.numbers(10), _mpe.numbers(10)),
    action=Discrete(5),
    horizon=_mpe.HORIZON,
    frames_per_second=10,
)
