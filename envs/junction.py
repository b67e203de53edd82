"""Junction: cars meet at a crossing without lights or signs, and must avoid each other without waiting for long.

observation  f4 (61,)  own speed, metres to the crossing and to the end, turn (left, ahead, right); then of the five
                       nearest cars within 36 m: 1 for a car, metres ahead and to the left, cosine and sine of its
                       heading relative to one's own, its speed, whether it blinks left, right, whether its way has
                       yet to meet one's own, its metres to the crossing, whether its number is the lower one
action       0 brake, 1 keep the speed, 2 accelerate
reward       own: 1 for the whole way, in proportion to metres, +1 arrived, -6 crashed, -0.01 a step; an agent's reward
             is `share` times the mean over the present cars, plus 1 - `share` times its own
ends         for a car when it arrives or touches another; for all when the last one left
"""

from rl_lab.envs._junction import (
    ACCELERATION,
    APPROACH_LENGTH,
    CARS,
    DECELERATION,
    EXIT_LENGTH,
    LEFT,
    ONE,
    RIGHT,
    SIGHT,
    TIME_STEP,
    TWO,
    ZERO,
    State,
    cars_touch,
    crossing_length,
    draw,
    expert,
    in_car_frame,
    novice,
    paths_conflict,
    pose,
)

from rl_lab.core.rng import integers, uniform
from rl_lab.core.world import Array, Box, Discrete, Record, World, bounded, f4, i4, kernel

NUM_OBSERVED_CARS, OWN_SIZE, CAR_SIZE = 5, 6, 11
ARRIVAL_REWARD, CRASH_REWARD, STEP_COST = f4(1), f4(-6), f4(-0.01)


class Params(Record):
    fewest: i4 = bounded(4, low=1, high=CARS)  # cars in an episode
    most: i4 = bounded(CARS, low=1, high=CARS)
    limit: f4 = bounded(10, low=2, high=20)  # the highest speed, m/s
    share: f4 = bounded(0.5, low=0, high=1)  # the weight of the mean reward in an agent's reward


@kernel
def reset(s: State, p: Params) -> None:
    num_cars = min(p.fewest, p.most) + integers(s, max(p.most - p.fewest, 0) + 1)
    for a in range(CARS):
        s.is_present[a] = 1 if a < num_cars else 0
        s.road[a], s.turn[a] = a % 4, integers(s, 3)
        s.progress[a] = uniform(s, ZERO, f4(4)) + (f4(13) if a < 4 else ZERO)  # the first four ahead of the others
        s.speed[a] = p.limit * uniform(s, f4(0.4), f4(0.8))
        other = a - integers(s, a % 4 + 1)
        s.road[a], s.road[other] = s.road[other], s.road[a]
    for a in range(CARS):
        s.x[a], s.y[a], s.ahead_x[a], s.ahead_y[a] = pose(s.road[a], s.turn[a], s.progress[a])


@kernel
def step(s: State, actions: Array, p: Params, rewards: Array) -> bool:
    num_cars, total = 0, ZERO
    for a in range(CARS):
        if s.is_present[a]:
            s.last_action[a] = actions[a]
            change = -DECELERATION if s.last_action[a] == 0 else ACCELERATION if s.last_action[a] == 2 else ZERO
            s.speed[a] = min(max(s.speed[a] + TIME_STEP * change, ZERO), p.limit)
            s.progress[a] += TIME_STEP * s.speed[a]
            s.x[a], s.y[a], s.ahead_x[a], s.ahead_y[a] = pose(s.road[a], s.turn[a], s.progress[a])
    for a in range(CARS):
        for b in range(a):
            if s.is_present[a] and s.is_present[b] and cars_touch(s, a, b):
                s.crash_step[a] = s.crash_step[b] = s.t
    for a in range(CARS):
        if s.is_present[a]:
            total_length = APPROACH_LENGTH + crossing_length(s.turn[a]) + EXIT_LENGTH
            own = TIME_STEP * s.speed[a] / total_length + STEP_COST
            own += CRASH_REWARD if s.crash_step[a] else ARRIVAL_REWARD if s.progress[a] >= total_length else ZERO
            rewards[a] = own
            total += own
            num_cars += 1
    for a in range(CARS):
        if s.is_present[a]:
            rewards[a] += p.share * (total / f4(max(num_cars, 1)) - rewards[a])
            if s.crash_step[a]:
                s.is_present[a] = 0
                s.log.crashed += 1.0
            elif s.progress[a] >= APPROACH_LENGTH + crossing_length(s.turn[a]) + EXIT_LENGTH:
                s.is_present[a] = 0
                s.log.arrived += 1.0
    return False


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    if not s.is_present[agent]:
        return
    out[0] = s.speed[agent] / p.limit
    out[1] = (APPROACH_LENGTH - s.progress[agent]) / SIGHT
    out[2] = (APPROACH_LENGTH + crossing_length(s.turn[agent]) + EXIT_LENGTH - s.progress[agent]) / (
        APPROACH_LENGTH + TWO * SIGHT
    )
    out[3 + s.turn[agent]] = ONE
    listed_cars = 1 << agent
    for k in range(NUM_OBSERVED_CARS):
        nearest, b = SIGHT * SIGHT, -1
        for other in range(CARS):
            if s.is_present[other] and not (listed_cars >> other) & 1:
                dx, dy = s.x[other] - s.x[agent], s.y[other] - s.y[agent]
                if dx * dx + dy * dy < nearest:
                    nearest, b = dx * dx + dy * dy, other
        if b < 0:
            break
        listed_cars |= 1 << b
        ahead, left, cosine, sine = in_car_frame(s, agent, b)
        index = OWN_SIZE + k * CAR_SIZE
        out[index], out[index + 1], out[index + 2], out[index + 3], out[index + 4] = (
            ONE,
            ahead / SIGHT,
            left / SIGHT,
            cosine,
            sine,
        )
        out[index + 5] = s.speed[b] / p.limit
        out[index + 6], out[index + 7] = ONE if s.turn[b] == LEFT else ZERO, ONE if s.turn[b] == RIGHT else ZERO
        out[index + 8], out[index + 9] = (
            ONE if paths_conflict(s, agent, b) else ZERO,
            (APPROACH_LENGTH - s.progress[b]) / SIGHT,
        )
        out[index + 10] = ONE if b < agent else ZERO
    for k in range(OWN_SIZE + NUM_OBSERVED_CARS * CAR_SIZE):
        out[k] = min(max(out[k], -ONE), ONE)  # rounding reaches over the edge


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    novice=novice,
    draw=draw,
    observation=Box(-1, 1, (OWN_SIZE + NUM_OBSERVED_CARS * CAR_SIZE,)),
    action=Discrete(3),
    agents=tuple(f"car_{a}" for a in range(CARS)),
    alive_field="is_present",
    horizon=200,
    frames_per_second=10,
    reward_threshold=0.9,  # with six of eight cars present, if no car crashes and none waits for long
)
