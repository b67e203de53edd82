"""CartPole: push a cart left and right to keep the pole on it upright.

observation  f4 (4,)  cart position, cart velocity, pole angle, pole angular velocity
action       0 push left, 1 push right
reward       1 a step
ends         when the pole leans more than 12 degrees or the cart leaves the track

Source: Barto, Sutton and Anderson 1983; Gymnasium's CartPole-v1
"""

import math

import numpy as np

from rl_lab.core import canvas as palette
from rl_lab.core.rng import uniform
from rl_lab.core.trig import cos, sin
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, f4, kernel

ONE = f4(1)
FOUR_THIRDS = f4(4.0 / 3.0)
MAX_ANGLE = f4(12 * math.pi / 180)
MAX_X = f4(2.4)


class State(WorldState):
    x: f4
    velocity: f4
    angle: f4
    spin: f4


class Params(Record):
    gravity: f4 = 9.8
    cart_mass: f4 = 1.0
    pole_mass: f4 = 0.1
    half_length: f4 = 0.5  # of the pole
    force: f4 = 10.0
    time_step: f4 = 0.02  # seconds


@kernel
def reset(s: State, p: Params) -> None:
    s.x = uniform(s, f4(-0.05), f4(0.05))
    s.velocity = uniform(s, f4(-0.05), f4(0.05))
    s.angle = uniform(s, f4(-0.05), f4(0.05))
    s.spin = uniform(s, f4(-0.05), f4(0.05))


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    force = p.force if action == 1 else -p.force
    sine, cosine = sin(s.angle), cos(s.angle)
    per_mass = ONE / (p.cart_mass + p.pole_mass)  # one division instead of three
    pole = p.pole_mass * p.half_length
    push = (force + pole * s.spin * s.spin * sine) * per_mass
    spin_up = (p.gravity * sine - cosine * push) / (
        p.half_length * (FOUR_THIRDS - p.pole_mass * cosine * cosine * per_mass)
    )
    speed_up = push - pole * spin_up * cosine * per_mass
    s.x += p.time_step * s.velocity
    s.velocity += p.time_step * speed_up
    s.angle += p.time_step * s.spin
    s.spin += p.time_step * spin_up
    return ONE, abs(s.x) > MAX_X or abs(s.angle) > MAX_ANGLE


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[0], out[1], out[2], out[3] = s.x, s.velocity, s.angle, s.spin


@kernel
def expert(s: State, p: Params) -> int:
    # Lean the pole against the cart's drift, then bring it upright.
    return 1 if s.angle + 0.3 * s.spin + 0.03 * s.x + 0.06 * s.velocity > 0.0 else 0


def draw(s: State, p: Params, canvas: Canvas) -> None:
    canvas.view(-2.8, -0.75, 2.8, 1.85)
    canvas.clear()
    canvas.polygon([(-9, -0.6), (9, -0.6), (9, -9), (-9, -9)], palette.FAINT)
    end = float(MAX_X)
    for leg in (-end + 0.12, 0, end - 0.12):
        canvas.line([(leg, -0.1), (leg, -0.6)], palette.MUTED, 0.05)
    canvas.rectangle(0, -0.08, 2 * end, 0.08, palette.INK)
    for side in (-end + 0.04, end - 0.04):
        canvas.rectangle(side, -0.08, 0.08, 0.08, palette.RED)

    x, lean, length = float(s.x), float(s.angle), 2 * float(p.half_length)
    has_fallen = abs(x) > MAX_X or abs(lean) > MAX_ANGLE
    color, limit, pivot = palette.RED if has_fallen else palette.ORANGE, float(MAX_ANGLE), (x, 0.27)

    def fan(first: float, last: float, reach: float) -> list[tuple[float, float]]:
        angles = [first + (last - first) * k / 12 for k in range(13)]
        return [(x + reach * math.sin(angle), pivot[1] + reach * math.cos(angle)) for angle in angles]

    canvas.polygon([pivot, *fan(-limit, limit, 1.12 * length)], palette.translucent(palette.FAINT, 0.6))
    canvas.polygon([pivot, *fan(0, lean, 1.12 * length)], palette.translucent(color, 0.25))

    for wheel in (-0.16, 0.16):
        canvas.circle(x + wheel, 0.04, 0.08, palette.FAINT, palette.INK, 0.04)
    canvas.rectangle(x, 0.17, 0.64, 0.2, palette.BLUE, corner=0.05)
    canvas.line([pivot, fan(lean, lean, length)[0]], color, 0.1)
    canvas.circle(*pivot, 0.065, palette.BACKGROUND, palette.INK, 0.03)


BOUND = np.array([2 * MAX_X, np.inf, 2 * MAX_ANGLE, np.inf], np.float32)
world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    draw=draw,
    observation=Box(-BOUND, BOUND),
    action=Discrete(2),
    horizon=500,
    frames_per_second=50,
    reward_threshold=475,
)
