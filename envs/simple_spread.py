"""SimpleSpread: three agents have to cover three landmarks without touching each other.

observation  f4 (18,)  own velocity 2, position 2; seen from the agent landmarks 6, others 4; 4 zeros
action       0 nothing, 1 push left, 2 right, 3 down, 4 up
reward       half: - sum of the landmarks' distances to the nearest agents; half: -1 for each agent touched
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_spread_v3
"""

import math

from rl_lab.envs import _mpe
from rl_lab.envs import _mpe_drawing as drawing
from rl_lab.envs._mpe import (
    add_contact_force,
    distance,
    move,
    push_to_rest_at,
    set_discrete_force,
    set_random_points,
    to_discrete_action,
    write_point,
    write_relative_points,
)

from rl_lab.core.canvas import BLUE, GREEN, MUTED, ORANGE, PURPLE, RED, translucent
from rl_lab.core.world import Array, Canvas, Discrete, World, WorldState, bounded, f4, f8, kernel

AGENTS = 3
RADIUS, PUSH = 0.15, 5.0


class State(WorldState):
    position: f8[AGENTS, 2]
    velocity: f8[AGENTS, 2]
    force: f8[AGENTS, 2]
    landmark: f8[AGENTS, 2]
    trail: f4[_mpe.TRAIL_LENGTH, AGENTS, 2]


class Params(_mpe.MotionParams):
    local_ratio: f8 = bounded(0.5, low=0, high=1)  # how much of the reward is about an agent's own collisions


@kernel
def reset(s: State, p: Params) -> None:
    set_random_points(s, s.position, 1.0)
    set_random_points(s, s.landmark, 1.0)


@kernel
def move_and_reward(s: State, p: Params, rewards: Array) -> bool:
    """Move all agents under their own forces, and write the rewards."""
    for a in range(AGENTS):
        for b in range(a + 1, AGENTS):
            add_contact_force(s, a, b, 2 * RADIUS)
    for a in range(AGENTS):
        move(s, a, p)
    uncovered_distance = 0.0
    for k in range(AGENTS):
        nearest = distance(s.position, 0, s.landmark, k)
        for a in range(1, AGENTS):
            nearest = min(nearest, distance(s.position, a, s.landmark, k))
        uncovered_distance += nearest
    for a in range(AGENTS):
        touched = 0
        for b in range(AGENTS):
            if b != a and distance(s.position, a, s.position, b) < 2 * RADIUS:
                touched += 1
        rewards[a] = -uncovered_distance * (1 - p.local_ratio) - touched * p.local_ratio
    return False


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    for a in range(AGENTS):
        set_discrete_force(s, a, actions[a], PUSH)
    return move_and_reward(s, p, rewards)


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    index = write_point(out, 0, s.velocity, agent)
    index = write_point(out, index, s.position, agent)
    index = write_relative_points(s, agent, out, index, s.landmark, -1)
    write_relative_points(s, agent, out, index, s.position, agent)


@kernel
def own_landmark(s: State, agent: int) -> int:
    """Return an agent's landmark in the assignment with the least sum of distances."""
    best, shortest = 0, 1e9
    for first in range(AGENTS):
        for turn in range(1, AGENTS):
            way = 0.0
            for a in range(AGENTS):
                way += distance(s.position, a, s.landmark, (first + turn * a) % AGENTS)
            if way < shortest:
                best, shortest = (first + turn * agent) % AGENTS, way
    return best


@kernel
def nearest_landmark(s: State, agent: int) -> int:
    best = 0
    for k in range(1, AGENTS):
        if distance(s.position, agent, s.landmark, k) < distance(s.position, agent, s.landmark, best):
            best = k
    return best


@kernel
def expert_push(s: State, agent: int, p: Params) -> tuple[float, float]:
    """Return the expert's pushes right and up, as fractions of PUSH."""
    k = own_landmark(s, agent)
    return push_to_rest_at(s, agent, s.landmark[k, 0], s.landmark[k, 1], PUSH, p)


@kernel
def novice_push(s: State, agent: int, p: Params) -> tuple[float, float]:
    """Return the novice's pushes right and up, as fractions of PUSH."""
    k = nearest_landmark(s, agent)  # without regard to the other agents
    return push_to_rest_at(s, agent, s.landmark[k, 0], s.landmark[k, 1], PUSH, p)


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    right, up = expert_push(s, agent, p)
    return to_discrete_action(right, up)


@kernel
def novice(s: State, agent: int, p: Params) -> int:
    right, up = novice_push(s, agent, p)
    return to_discrete_action(right, up)


def draw(s: State, p: Params, canvas: Canvas) -> None:
    drawing.draw_paper(canvas, s)
    agents, landmarks = drawing.as_points(s.position), drawing.as_points(s.landmark)
    colors = BLUE, PURPLE, ORANGE
    for a, color in enumerate(colors):
        drawing.draw_trail(canvas, s, a, color, 1.2 * RADIUS)
    for x, y in landmarks:
        owner = min(agents, key=lambda point: math.dist(point, (x, y)))
        covered = math.dist(owner, (x, y)) < RADIUS
        drawing.draw_ring(canvas, x, y, RADIUS + 0.03, GREEN if covered else MUTED)
        if not covered:
            drawing.draw_dotted_line(canvas, (x, y), owner, MUTED)  # what the reward counts
    for a, (x, y) in enumerate(agents):
        if any(b != a and math.dist((x, y), point) < 2 * RADIUS for b, point in enumerate(agents)):
            for k in range(4):
                canvas.circle(x, y, RADIUS + 0.018 * (k + 1), translucent(RED, 0.2))
    for (x, y), color in zip(agents, colors, strict=True):
        drawing.draw_marble(canvas, x, y, RADIUS, color)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    novice=novice,
    draw=draw,
    agents=("agent_0", "agent_1", "agent_2"),
    observation=_mpe.unbounded_box(18),
    action=Discrete(5),
    horizon=_mpe.HORIZON,
    frames_per_second=10,
)
