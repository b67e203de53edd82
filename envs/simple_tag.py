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
from rl_lab.envs import _mpe_look as look
from rl_lab.envs._mpe import (
    SECONDS,
    add_contact,
    as_action,
    bounce,
    distance,
    length,
    limit_speed,
    move,
    put,
    put_relative,
    scatter,
    steer,
)

from rl_lab.core.canvas import GOLD, GREEN, RED
from rl_lab.core.world import Array, Canvas, Discrete, World, WorldState, bounded, f4, f8, kernel

AGENTS, PREY, BOULDERS = 4, 3, 2  # the prey comes after the predators
RADIUS, BOULDER = (0.075, 0.075, 0.075, 0.05), 0.2
PUSH, LIMIT = (3.0, 3.0, 3.0, 4.0), (1.0, 1.0, 1.0, 1.3)
LOOK = (6, 6, 6, 8)  # steps that an expert looks ahead


class State(WorldState):
    position: f8[AGENTS, 2]
    velocity: f8[AGENTS, 2]
    force: f8[AGENTS, 2]
    boulder: f8[BOULDERS, 2]
    trail: f4[_mpe.TRAIL, AGENTS, 2]


class Params(_mpe.Motion):
    prey_speed: f8 = bounded(1.0, low=0.1, high=2)  # how strong and fast the prey is; mpe2's curriculum: 0.5, 0.75, 1


@kernel
def reset(s: State, p: Params) -> None:
    scatter(s, s.position, 1.0)
    scatter(s, s.boulder, 0.9)


@kernel
def strength(agent: int, p: Params) -> float:
    """Return the factor of an agent's push and of its greatest speed."""
    return p.prey_speed if agent == PREY else 1.0


@kernel
def outside(x: float) -> float:
    """Return the prey's penalty for being at x, which rises softly near the edge of the arena."""
    x = abs(x)
    return 0.0 if x < 0.9 else (x - 0.9) * 10 if x < 1.0 else min(math.exp(2 * x - 2), 10.0)


@kernel
def play(s: State, p: Params, rewards: Array) -> bool:
    """Add the contact forces to the agents' own, move the agents and write the rewards; return False, for no end."""
    for a in range(AGENTS):
        for b in range(a + 1, AGENTS):
            add_contact(s, a, b, RADIUS[a] + RADIUS[b])
        for k in range(BOULDERS):
            bounce(s, a, s.boulder[k, 0], s.boulder[k, 1], RADIUS[a] + BOULDER)
    caught = 0.0
    for a in range(AGENTS):
        limit_speed(s, a, move(s, a, p), LIMIT[a] * strength(a, p))
    for a in range(PREY):
        if distance(s.position, a, s.position, PREY) < RADIUS[a] + RADIUS[PREY]:
            caught += 10.0
    for a in range(PREY):
        rewards[a] = caught
    rewards[PREY] = -caught - outside(s.position[PREY, 0]) - outside(s.position[PREY, 1])
    return False


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    for a in range(AGENTS):
        steer(s, a, actions[a], PUSH[a] * strength(a, p))
    return play(s, p, rewards)


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    at = put(out, 0, s.velocity, agent)
    at = put(out, at, s.position, agent)
    at = put_relative(s, agent, out, at, s.boulder, -1)
    at = put_relative(s, agent, out, at, s.position, agent)
    if agent != PREY:
        put(out, at, s.velocity, PREY)


@kernel
def prey_cost(s: State, x: float, y: float, ahead: int) -> float:
    """Return the prey's cost of being at (x, y) `ahead` steps from now."""
    cost = outside(x) + outside(y)
    for a in range(PREY):
        reach = 0.475 + 0.06 * ahead  # of a predator, which will have come nearer
        cost += 3 * max(0.0, reach - length(x - s.position[a, 0], y - s.position[a, 1]))
    return cost


@kernel
def distance_to_prey(s: State, x: float, y: float, ahead: int) -> float:
    """Return the distance from (x, y) to the prey `ahead` steps from now, if it keeps its course up to the edge."""
    u = s.position[PREY, 0] + SECONDS * ahead * s.velocity[PREY, 0]
    v = s.position[PREY, 1] + SECONDS * ahead * s.velocity[PREY, 1]
    return length(x - min(max(u, -1.0), 1.0), y - min(max(v, -1.0), 1.0))


@kernel
def lookahead_cost(s: State, agent: int, right: float, up: float, p: Params) -> float:
    """Return an agent's cost of a constant push for the next LOOK steps."""
    x, y, u, v = s.position[agent, 0], s.position[agent, 1], s.velocity[agent, 0], s.velocity[agent, 1]
    push, limit = PUSH[agent] * strength(agent, p) * SECONDS, LIMIT[agent] * strength(agent, p)
    cost = 0.0
    for k in range(LOOK[agent]):
        x, y = x + SECONDS * u, y + SECONDS * v
        u, v = u * (1 - p.damping) + push * right, v * (1 - p.damping) + push * up
        speed = length(u, v)
        if speed > limit:
            u, v = u / speed * limit, v / speed * limit
        cost += prey_cost(s, x, y, k) if agent == PREY else distance_to_prey(s, x, y, k + 1)
        for j in range(BOULDERS):
            inside = BOULDER + RADIUS[agent] - length(x - s.boulder[j, 0], y - s.boulder[j, 1])
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
    return as_action(right, up)


def draw(s: State, p: Params, canvas: Canvas) -> None:
    look.sheet(canvas, s)
    agents = look.places(s.position)
    prey = agents[PREY]
    for a in range(AGENTS):
        look.wake(canvas, s, a, GREEN if a == PREY else RED, 1.3 * RADIUS[a])
    for x, y in look.places(s.boulder):
        look.boulder(canvas, x, y, BOULDER)
    caught = [at for at in agents[:PREY] if math.dist(at, prey) < RADIUS[0] + RADIUS[PREY]]
    for x, y in caught:
        look.star(canvas, (x + prey[0]) / 2, (y + prey[1]) / 2, 0.2, 0.55, 11, GOLD)
    for at in agents[:PREY]:
        look.marble(canvas, *at, RADIUS[0], RED)
        look.eyes(canvas, *at, RADIUS[0], prey)
    look.marble(canvas, *prey, RADIUS[PREY], GREEN)
    look.eyes(canvas, *prey, 1.1 * RADIUS[PREY], min(agents[:PREY], key=lambda at: math.dist(at, prey)))


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    agents=("adversary_0", "adversary_1", "adversary_2", "agent_0"),
    observation=(_mpe.numbers(16),) * 3 + (_mpe.numbers(14),),
    action=Discrete(5),
    horizon=_mpe.HORIZON,
    frames_per_second=10,
)
