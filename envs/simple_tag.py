"""SimpleTag: three predators hunt a faster prey around two boulders.

observation  f4 (16,)  predators: own velocity 2, position 2; relative positions of boulders 4, of others 6; prey's
             velocity 2. Prey (14,): the same without the last two
action       0 nothing, 1 push left, 2 right, 3 down, 4 up
reward       predators: 10 for each of them that touches the prey; prey: -10 for each, and up to -10 an axis outside
ends         never: truncated after 25 steps

Source: Lowe et al. 2017 (arXiv 1706.02275); mpe2's simple_tag_v3
"""

import math

from rl_lab.envs import _mpe
from rl_lab.envs import _mpe_drawing as drawing
from rl_lab.envs._mpe import (
    TIME_STEP,
    add_contact_force,
    add_obstacle_force,
    distance,
    length,
    limit_speed,
    move,
    set_discrete_force,
    set_random_points,
    to_discrete_action,
    write_point,
    write_relative_points,
)

from rl_lab.core.canvas import GOLD, GREEN, RED
from rl_lab.core.world import Array, Canvas, Discrete, World, WorldState, bounded, f4, f8, kernel

AGENTS, PREY, BOULDERS = 4, 3, 2  # the prey comes after the predators
RADIUS, BOULDER_RADIUS = (0.075, 0.075, 0.075, 0.05), 0.2  # of each agent; of a boulder
PUSH, LIMIT = (3.0, 3.0, 3.0, 4.0), (1.0, 1.0, 1.0, 1.3)  # each agent's force and greatest speed
LOOKAHEAD_STEPS = (6, 6, 6, 8)  # steps that an expert looks ahead


class State(WorldState):
    position: f8[AGENTS, 2]
    velocity: f8[AGENTS, 2]
    force: f8[AGENTS, 2]
    boulder: f8[BOULDERS, 2]
    trail: f4[_mpe.TRAIL_LENGTH, AGENTS, 2]


class Params(_mpe.MotionParams):
    prey_speed: f8 = bounded(1.0, low=0.1, high=2)  # how strong and fast the prey is; mpe2's curriculum: 0.5, 0.75, 1


@kernel
def reset(s: State, p: Params) -> None:
    set_random_points(s, s.position, 1.0)
    set_random_points(s, s.boulder, 0.9)


@kernel
def strength(agent: int, p: Params) -> float:
    """Return the factor of an agent's push and of its greatest speed."""
    return p.prey_speed if agent == PREY else 1.0


@kernel
def edge_penalty(x: float) -> float:
    """Return the prey's penalty for being at x, which rises softly near the edge of the arena."""
    x = abs(x)
    return 0.0 if x < 0.9 else (x - 0.9) * 10 if x < 1.0 else min(math.exp(2 * x - 2), 10.0)


@kernel
def move_and_reward(s: State, p: Params, rewards: Array) -> bool:
    """Add the contact forces to the agents' own, move the agents and write the rewards; return False, for no end."""
    for a in range(AGENTS):
        for b in range(a + 1, AGENTS):
            add_contact_force(s, a, b, RADIUS[a] + RADIUS[b])
        for k in range(BOULDERS):
            add_obstacle_force(s, a, s.boulder[k, 0], s.boulder[k, 1], RADIUS[a] + BOULDER_RADIUS)
    caught = 0.0
    for a in range(AGENTS):
        limit_speed(s, a, move(s, a, p), LIMIT[a] * strength(a, p))
    for a in range(PREY):
        if distance(s.position, a, s.position, PREY) < RADIUS[a] + RADIUS[PREY]:
            caught += 10.0
    for a in range(PREY):
        rewards[a] = caught
    rewards[PREY] = -caught - edge_penalty(s.position[PREY, 0]) - edge_penalty(s.position[PREY, 1])
    return False


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    for a in range(AGENTS):
        set_discrete_force(s, a, actions[a], PUSH[a] * strength(a, p))
    return move_and_reward(s, p, rewards)


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    index = write_point(out, 0, s.velocity, agent)
    index = write_point(out, index, s.position, agent)
    index = write_relative_points(s, agent, out, index, s.boulder, -1)
    index = write_relative_points(s, agent, out, index, s.position, agent)
    if agent != PREY:
        write_point(out, index, s.velocity, PREY)


@kernel
def prey_cost(s: State, x: float, y: float, ahead: int) -> float:
    """Return the prey's cost of being at (x, y) `ahead` steps from now."""
    cost = edge_penalty(x) + edge_penalty(y)
    for a in range(PREY):
        reach = 0.475 + 0.06 * ahead  # of a predator, which will have come nearer
        cost += 3 * max(0.0, reach - length(x - s.position[a, 0], y - s.position[a, 1]))
    return cost


@kernel
def distance_to_prey(s: State, x: float, y: float, ahead: int) -> float:
    """Return the distance from (x, y) to the prey `ahead` steps from now, if it keeps its course up to the edge."""
    u = s.position[PREY, 0] + TIME_STEP * ahead * s.velocity[PREY, 0]
    v = s.position[PREY, 1] + TIME_STEP * ahead * s.velocity[PREY, 1]
    return length(x - min(max(u, -1.0), 1.0), y - min(max(v, -1.0), 1.0))


@kernel
def lookahead_cost(s: State, agent: int, right: float, up: float, p: Params) -> float:
    """Return an agent's cost of a constant push for the next LOOKAHEAD_STEPS steps."""
    x, y, u, v = s.position[agent, 0], s.position[agent, 1], s.velocity[agent, 0], s.velocity[agent, 1]
    push, limit = PUSH[agent] * strength(agent, p) * TIME_STEP, LIMIT[agent] * strength(agent, p)
    cost = 0.0
    for k in range(LOOKAHEAD_STEPS[agent]):
        x, y = x + TIME_STEP * u, y + TIME_STEP * v
        u, v = u * (1 - p.damping) + push * right, v * (1 - p.damping) + push * up
        speed = length(u, v)
        if speed > limit:
            u, v = u / speed * limit, v / speed * limit
        cost += prey_cost(s, x, y, k) if agent == PREY else distance_to_prey(s, x, y, k + 1)
        for j in range(BOULDERS):
            inside = BOULDER_RADIUS + RADIUS[agent] - length(x - s.boulder[j, 0], y - s.boulder[j, 1])
            cost += 10 * max(0.0, inside)
    return cost


@kernel
def best_push(s: State, agent: int, p: Params) -> tuple[float, float]:
    """Return the pushes to the right and up, of which at least one is 0, with the least `lookahead_cost`."""
    best_right, best_up, least = 0.0, 0.0, lookahead_cost(s, agent, 0.0, 0.0, p)
    for k in range(4):
        sign = 1.0 if k & 1 else -1.0
        right, up = sign if k < 2 else 0.0, 0.0 if k < 2 else sign
        cost = lookahead_cost(s, agent, right, up, p)
        if cost < least:
            best_right, best_up, least = right, up, cost
    return best_right, best_up


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    right, up = best_push(s, agent, p)
    return to_discrete_action(right, up)


def draw(s: State, p: Params, canvas: Canvas) -> None:
    drawing.draw_paper(canvas, s)
    agents = drawing.as_points(s.position)
    prey = agents[PREY]
    for a in range(AGENTS):
        drawing.draw_trail(canvas, s, a, GREEN if a == PREY else RED, 1.3 * RADIUS[a])
    for x, y in drawing.as_points(s.boulder):
        drawing.draw_boulder(canvas, x, y, BOULDER_RADIUS)
    caught = [point for point in agents[:PREY] if math.dist(point, prey) < RADIUS[0] + RADIUS[PREY]]
    for x, y in caught:
        drawing.draw_star(canvas, (x + prey[0]) / 2, (y + prey[1]) / 2, 0.2, 0.55, 11, GOLD)
    for point in agents[:PREY]:
        drawing.draw_marble(canvas, *point, RADIUS[0], RED)
        drawing.draw_eyes(canvas, *point, RADIUS[0], prey)
    drawing.draw_marble(canvas, *prey, RADIUS[PREY], GREEN)
    drawing.draw_eyes(canvas, *prey, 1.1 * RADIUS[PREY], min(agents[:PREY], key=lambda point: math.dist(point, prey)))


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    agents=("adversary_0", "adversary_1", "adversary_2", "agent_0"),
    observation=(_mpe.unbounded_box(16),) * 3 + (_mpe.unbounded_box(14),),
    action=Discrete(5),
    horizon=_mpe.HORIZON,
    frames_per_second=10,
)
