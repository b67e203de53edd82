"""The source text of a small world without mistakes, and some of its lines, which tests replace by faulty ones."""

WALK = '''"""Walk: reach the end of a corridor."""

import math
import random

import numpy as np

from rl_lab.core.rng import integers, uniform
from rl_lab.core.world import Array, Box, Discrete, Record, World, WorldState, bounded, f4, i4, kernel, u1

TABLE = [1, 2, 3]
NAMES = {0: 1}
BEST = np.zeros(3)


class Config:
    SIZE = 3


CONFIG = Config()


class State(WorldState):
    x: i4 = bounded(0, low=0, high=9)
    speed: f4
    seen: u1[10]


class Params(Record):
    wind: f4 = bounded(0.1, low=0, high=1)
    length: i4 = bounded(9, low=1, high=9)


def clipped(x: int) -> int:
    return min(max(x, 0), 9)


@kernel
def reset(s: State, p: Params) -> None:
    s.x = integers(s, 3)


@kernel
def step(s: State, action: int, p: Params) -> tuple[float, bool]:
    s.x = min(max(s.x + action - 1, 0), 9)
    s.seen[s.x] = 1
    return 1.0 if s.x == p.length else 0.0, s.x == p.length


@kernel
def observe(s: State, p: Params, out: Array) -> None:
    out[0] = s.x / 9
    out[1] = s.speed


@kernel
def expert(s: State, p: Params) -> int:
    return 2


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    expert=expert,
    observation=Box(0, 1, (2,)),
    action=Discrete(3),
    horizon=30,
)
'''
RETURN_OF_STEP = "    return 1.0 if s.x == p.length else 0.0, s.x == p.length\n"
MOVE_IN_STEP = "    s.x = min(max(s.x + action - 1, 0), 9)\n"
LINE_OF_OBSERVE = "    out[0] = s.x / 9\n"
LINE_OF_RESET = "    s.x = integers(s, 3)\n"
DEF_OF_STEP = "def step(s: State, action: int, p: Params) -> tuple[float, bool]:\n"
