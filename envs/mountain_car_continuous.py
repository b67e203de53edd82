"""MountainCarContinuous: the valley of MountainCar with a throttle, where fuel costs.

observation  f4 (2,)  position, velocity
action       f4 (1,)  throttle, -1 full left to 1 full right
reward       -0.1 throttle^2 a step; +100 at the flag
ends         when the car reaches the flag

Source: Moore 1990; Gymnasium's MountainCarContinuous-v0
"""

from rl_lab.envs.mountain_car import HIGHEST, LOWEST, ZERO, State, draw, is_at_goal, next_motion, observe, reset

from rl_lab.core.world import Array, Box, Record, World, f4, kernel

PRIZE = f4(100)
FUEL_PRICE = f4(0.1)
GENTLE = f4(0.3)


class Params(Record):
    push: f4 = 0.0015  # the engine's acceleration at full throttle
    gravity: f4 = 0.0025
    goal: f4 = 0.45


@kernel
def step(s: State, action: Array, p: Params) -> tuple[float, bool]:
    throttle = action[0]
    s.position, s.velocity = next_motion(s.position, s.velocity, throttle * p.push, p)
    over = is_at_goal(s.position, s.velocity, p)
    return (PRIZE if over else ZERO) - FUEL_PRICE * throttle * throttle, over


@kernel
def expert(s: State, p: Params, action: Array) -> None:
    # Fuel costs the throttle's square: pushing along the motion gently, over more swings, is cheaper.
    action[0] = -GENTLE if s.velocity < ZERO else GENTLE


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(LOWEST, HIGHEST),
    action=Box(-1, 1, (1,)),
    horizon=999,
    reward_threshold=90,
)
