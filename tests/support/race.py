"""The definition of a small world for tests: three agents that leave one after the other and have different spaces.

A tortoise and two hares race. An agent that has arrived leaves the episode. The tortoise observes one number more, and
its steps are at most half as long.
"""

from __future__ import annotations

from gymnasium.spaces import Box

from rl_lab.core.world import Array, Record, WorldState, bounded, f4, kernel, u1

RUNNERS = 3


class Race(WorldState):
    x: f4[RUNNERS]
    running: u1[RUNNERS]


class RaceParams(Record):
    length: f4 = bounded(3, low=1, high=9)


@kernel
def race_reset(s: Race, p: RaceParams) -> None:
    for a in range(RUNNERS):
        s.running[a] = 1


@kernel
def race_step(s: Race, actions: Array, p: RaceParams, rewards: Array) -> bool:
    for a in range(RUNNERS):
        if s.running[a]:
            s.x[a] += actions[a, 0]
            rewards[a] = -1.0
            if s.x[a] >= p.length:
                s.running[a] = 0
    return False


@kernel
def race_observe(s: Race, agent: int, p: RaceParams, out: Array) -> None:
    out[0] = s.x[agent]
    if agent == 0:
        out[1] = p.length


RACE = dict(
    State=Race,
    Params=RaceParams,
    reset=race_reset,
    step=race_step,
    observe=race_observe,
    observation=(Box(0, 9, (2,)), Box(0, 9, (1,)), Box(0, 9, (1,))),
    action=(Box(0, 1, (1,)), Box(0, 2, (1,)), Box(0, 2, (1,))),
    agents=("tortoise", "hare_0", "hare_1"),
    alive_field="running",
    horizon=20,
)
