"""This module has the common physics of the multi-agent particle worlds (MPE): discs that agents push over a plane.

The worlds simple_*.py import it. In a step they set each agent's force from its action, add contact forces, and call
`move`; these kernels write `s.force`, `s.velocity`, `s.position` and `s.trail`.

A disc loses a part of its speed in every step, and discs that touch push each other apart. A State has `position`,
`velocity` and `force`, f8 [A, 2] for A agents, and `trail`, f4 [TRAIL_LENGTH, A, 2]: the positions at the beginning of
step t + 1 are in row t % TRAIL_LENGTH. Positions are double precision, because with stiff contacts single precision
deviates too far from mpe2.

Source: Mordatch and Abbeel 2017 (arXiv 1703.04908); Lowe et al. 2017 (arXiv 1706.02275). Constants are those of the
mpe2 package, with which tests/oracles/test_mpe.py compares these worlds step by step.
"""

import math

import numpy as np

from rl_lab.core.rng import uniform
from rl_lab.core.world import Array, Box, Record, WorldState, bounded, f8, kernel

HORIZON = 25
TRAIL_LENGTH = 8
TIME_STEP = 0.1  # seconds
STIFFNESS = 100.0  # force of a contact by its depth
SOFTNESS = 1e-3  # about the distance before contact at which the force begins
CONTACT_RANGE = 37 * SOFTNESS  # at this distance, the force is below 1e-17 and changes no position
STAY, LEFT, RIGHT, DOWN, UP = range(5)


class MotionParams(Record):
    damping: f8 = bounded(0.25, low=0.05, high=1)  # the part of its speed that a disc loses in a step


def unbounded_box(size: int) -> Box:
    """Return the space of an observation of `size` numbers without bounds."""
    return Box(-np.inf, np.inf, (size,))


@kernel
def set_random_points(s: WorldState, points: Array, edge: float) -> None:
    """Set points [n, 2] of the state s to random places in the square from -edge to edge."""
    for k in range(len(points)):
        points[k, 0], points[k, 1] = uniform(s, -edge, edge), uniform(s, -edge, edge)


@kernel
def set_discrete_force(s: WorldState, agent: int, action: int, strength: float) -> None:
    """Set an agent's force from a Discrete(5) action."""
    s.force[agent, 0] = strength if action == RIGHT else -strength if action == LEFT else 0.0
    s.force[agent, 1] = strength if action == UP else -strength if action == DOWN else 0.0


@kernel
def set_continuous_force(s: WorldState, agent: int, action: Array, strength: float) -> None:
    """Set an agent's force from a Box action, f4 [5] from 0 to 1: the difference of opposite directions counts."""
    s.force[agent, 0] = strength * (action[RIGHT] - action[LEFT])
    s.force[agent, 1] = strength * (action[UP] - action[DOWN])


@kernel
def contact_force_factor(x: float, y: float, contact_distance: float) -> float:
    """Return the factor of (x, y), the vector from one disc to another, that gives the contact force on the other.

    `contact_distance` is the sum of their radii, the distance between their middles at which they touch.
    """
    square = x * x + y * y
    max_distance = contact_distance + CONTACT_RANGE
    if square >= max_distance * max_distance or square == 0.0:
        return 0.0
    distance = math.sqrt(square)
    depth = (contact_distance - distance) / SOFTNESS
    return STIFFNESS / distance * (SOFTNESS * (max(depth, 0.0) + math.log1p(math.exp(-abs(depth)))))


@kernel
def add_contact_force(s: WorldState, agent: int, other: int, contact_distance: float) -> None:
    """Add the contact force between two agents to the forces on both."""
    x, y = s.position[agent, 0] - s.position[other, 0], s.position[agent, 1] - s.position[other, 1]
    push = contact_force_factor(x, y, contact_distance)
    s.force[agent, 0] += push * x
    s.force[agent, 1] += push * y
    s.force[other, 0] -= push * x
    s.force[other, 1] -= push * y


@kernel
def add_obstacle_force(s: WorldState, agent: int, x: float, y: float, contact_distance: float) -> None:
    """Add the contact force of a fixed object at (x, y) to the force on an agent."""
    x, y = s.position[agent, 0] - x, s.position[agent, 1] - y
    push = contact_force_factor(x, y, contact_distance)
    s.force[agent, 0] += push * x
    s.force[agent, 1] += push * y


@kernel
def move(s: WorldState, agent: int, p: MotionParams) -> float:
    """Move an agent, then let the force on it change its velocity; return its speed."""
    for k in range(2):
        s.trail[(s.t - 1) % TRAIL_LENGTH, agent, k] = s.position[agent, k]
        s.position[agent, k] += s.velocity[agent, k] * TIME_STEP
        s.velocity[agent, k] = s.velocity[agent, k] * (1 - p.damping) + s.force[agent, k] * TIME_STEP
    return length(s.velocity[agent, 0], s.velocity[agent, 1])


@kernel
def limit_speed(s: WorldState, agent: int, speed: float, limit: float) -> None:
    """Keep an agent's speed to a limit."""
    if speed > limit:
        s.velocity[agent, 0] = s.velocity[agent, 0] / speed * limit
        s.velocity[agent, 1] = s.velocity[agent, 1] / speed * limit


@kernel
def length(x: float, y: float) -> float:
    """Return the length of (x, y). Compiled and plain math.hypot can differ in the last bit."""
    return math.sqrt(x * x + y * y)


@kernel
def distance(a: Array, i: int, b: Array, j: int) -> float:
    """Return the distance between points a[i] and b[j]."""
    return length(a[i, 0] - b[j, 0], a[i, 1] - b[j, 1])


@kernel
def write_point(out: Array, index: int, points: Array, k: int) -> int:
    """Write points[k] into an observation; return the next index."""
    out[index], out[index + 1] = points[k, 0], points[k, 1]
    return index + 2


@kernel
def write_relative_points(s: WorldState, agent: int, out: Array, index: int, points: Array, skip: int) -> int:
    """Write all points [n, 2] but one, relative to an agent, into an observation; return the next index."""
    for k in range(len(points)):
        if k != skip:
            out[index], out[index + 1] = points[k, 0] - s.position[agent, 0], points[k, 1] - s.position[agent, 1]
            index += 2
    return index


@kernel
def push_to_rest_at(
    s: WorldState, agent: int, x: float, y: float, strength: float, p: MotionParams
) -> tuple[float, float]:
    """Return the pushes right and up, as fractions of `strength`, after which an agent comes to rest at (x, y)."""
    coast = TIME_STEP / p.damping  # without force, a disc goes as far as in this many seconds at its present velocity
    effect = coast * TIME_STEP * strength  # the additional distance of one step's push
    right = (x - s.position[agent, 0] - coast * s.velocity[agent, 0]) / effect
    return right, (y - s.position[agent, 1] - coast * s.velocity[agent, 1]) / effect


@kernel
def to_discrete_action(right: float, up: float) -> int:
    """Return the Discrete(5) action nearest to pushes along both axes."""
    if max(abs(right), abs(up)) < 0.5:
        return STAY
    if abs(right) > abs(up):
        return RIGHT if right > 0.0 else LEFT
    return UP if up > 0.0 else DOWN


@kernel
def write_continuous_action(right: float, up: float, action: Array) -> None:
    """Write pushes along both axes as a Box action, f4 [5]."""
    action[STAY] = 0.0
    action[LEFT], action[RIGHT] = min(max(-right, 0.0), 1.0), min(max(right, 0.0), 1.0)
    action[DOWN], action[UP] = min(max(-up, 0.0), 1.0), min(max(up, 0.0), 1.0)
