"""The definition of a small world for tests: Nim for two agents in turns, with illegal actions and an expert.

An agent takes 1 to 3 objects from a heap; who takes the last one wins. NIM has the arguments of `World`, so that tests
can change some of them.
"""

from __future__ import annotations

from gymnasium.spaces import Box, Discrete

from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Record, WorldState, bounded, i4, kernel


class Nim(WorldState):
    heap: i4 = bounded(0, low=0, high=20)
    to_move: i4 = bounded(0, low=0, high=1)


class NimParams(Record):
    heap: i4 = bounded(7, low=1, high=20)


@kernel
def nim_reset(s: Nim, p: NimParams) -> None:
    s.heap = p.heap
    s.to_move = integers(s, 2)


@kernel
def nim_step(s: Nim, action: int, p: NimParams, rewards: Array) -> bool:
    s.heap -= i4(action + 1)
    if s.heap == 0:
        rewards[s.to_move] = 1.0
        rewards[1 - s.to_move] = -1.0
    s.to_move = 1 - s.to_move
    return s.heap == 0


@kernel
def nim_observe(s: Nim, agent: int, p: NimParams, out: Array) -> None:
    out[0] = s.heap
    out[1] = 1.0 if s.to_move == agent else 0.0


@kernel
def nim_legal(s: Nim, agent: int, p: NimParams, mask: Array) -> None:
    for k in range(3):
        mask[k] = 1 if k + 1 <= s.heap else 0


@kernel
def nim_expert(s: Nim, agent: int, p: NimParams) -> int:
    return (s.heap % 4 - 1) if s.heap % 4 else 0


NIM = dict(
    State=Nim,
    Params=NimParams,
    reset=nim_reset,
    step=nim_step,
    observe=nim_observe,
    action_mask=nim_legal,
    expert=nim_expert,
    observation=Box(0, 20, (2,)),
    action=Discrete(3),
    agents=("first", "second"),
    current_player_field="to_move",
    zero_sum=True,
    horizon=30,
)
