"""Worlds of several agents: turns, legal actions, those who leave, spaces of their own. Shapes: N worlds, A agents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from rl_lab.engine import Batch
from rl_lab.rng import integers
from rl_lab.world import Array, Record, World, WorldError, WorldState, bounded, f4, i4, kernel, u1

# Nim: take 1 to 3 from a heap; who takes the last one wins.


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
    legal=nim_legal,
    expert=nim_expert,
    observation=Box(0, 20, (2,)),
    action=Discrete(3),
    agents=("first", "second"),
    turns="to_move",
    zero_sum=True,
    horizon=30,
)

# Race: a tortoise and two hares run to the end of a lane; who arrives leaves, and the tortoise carries a number more.

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
    present="running",
    horizon=20,
)

MODES = list(AutoresetMode)


def outputs(batch: Batch) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in batch.snapshot().items()} | {
        "final": batch.final_observations.tobytes() if batch.autoreset == AutoresetMode.SAME_STEP else b""
    }


def some_actions(batch: Batch, generator: np.random.Generator) -> None:
    if batch.world.masked:
        scores = np.where(batch.legal > 0, generator.random(batch.legal.shape), -1.0)
        batch.actions[...] = scores.argmax(axis=2)
    else:
        batch.actions[...] = generator.random(batch.actions.shape, np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("declared", [NIM, RACE], ids=["nim", "race"])
def test_plain_compiled_and_threaded_agree_bit_for_bit(declared: dict[str, Any], mode: AutoresetMode) -> None:
    world = World(**declared)
    how: list[dict[str, Any]] = [{"plain": True}, {"threads": 1}, {"threads": 2}]
    batches = [Batch(world, 5, seed=3, autoreset=mode, **each) for each in how]
    for batch in batches:
        batch.reset()
    for k in range(60):
        for batch in batches:
            some_actions(batch, np.random.default_rng(k))
            batch.step()
            if mode == AutoresetMode.DISABLED and k % 15 == 14:
                batch.reset(batch.ended.copy())
        first, *others = map(outputs, batches)
        assert all(other == first for other in others), k


def test_the_mover_alone_acts_and_everybody_is_paid() -> None:
    batch = Batch(World(**NIM), 1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    mover = int(batch.states["to_move"][0])
    assert batch.active[0].tolist() == [mover == 0, mover == 1]
    for k, heap in enumerate((4, 1, 0)):
        batch.actions[0, mover], batch.actions[0, 1 - mover] = 2 if heap else 0, 99  # nobody looks at the other's
        batch.step()
        assert batch.states["heap"][0] == heap and batch.ended[0] == (heap == 0), k
        if heap:
            mover = 1 - mover
            assert batch.active[0].tolist() == [mover == 0, mover == 1]
            assert batch.legal[0, mover].tolist() == [int(a < heap) for a in range(3)]
            assert batch.legal[0, 1 - mover].tolist() == [0, 0, 0] and batch.rewards[0].tolist() == [0, 0]
    assert batch.rewards[0, mover] == 1 and batch.rewards[0, 1 - mover] == -1
    assert batch.episode_returns[0, mover] == 1 and not batch.active.any()


def test_the_expert_wins_from_a_winning_heap() -> None:
    batch = Batch(World(**NIM), 64, seed=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    began, generator = batch.states["to_move"].copy(), np.random.default_rng(0)
    while not batch.ended.all():
        expert = batch.scripted_actions().copy()
        some_actions(batch, generator)
        batch.actions[np.arange(64), began] = expert[np.arange(64), began]
        batch.step()
    assert (batch.episode_returns[np.arange(64), began] == 1).all()  # 7 is not a multiple of 4


@pytest.mark.parametrize("plain", [True, False])
def test_an_illegal_action_is_refused_before_anything_moves(plain: bool) -> None:
    batch = Batch(World(**NIM), 2, NimParams(heap=2), plain=plain, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    before = batch.snapshot()
    batch.actions[...] = 0
    mover = int(batch.states["to_move"][1])
    batch.actions[1, mover] = 2
    name = ("first", "second")[mover]
    with pytest.raises(ValueError, match=rf"action 2 of {name} in world 1 at step 0 is illegal; legal are \[0, 1\]"):
        batch.step()
    assert all((array == before[name]).all() for name, array in batch.snapshot().items())
    batch.actions[1, mover] = 3
    with pytest.raises(ValueError, match=rf"action 3 of {name} in world 1 at step 0 is outside Discrete\(3\)"):
        batch.step()


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("wrong", [2, 3, -1])
def test_an_illegal_action_can_be_a_loss_or_nothing(plain: bool, wrong: int) -> None:
    for illegal in ("forfeit", "noop"):
        batch = Batch(
            World(**NIM), 1, NimParams(heap=2), plain=plain, autoreset=AutoresetMode.DISABLED, illegal=illegal
        )
        batch.reset()
        mover = int(batch.states["to_move"][0])
        batch.actions[0, mover] = wrong
        batch.step()
        assert batch.fouls[0, mover] and not batch.fouls[0, 1 - mover] and batch.states["heap"][0] == 2
        assert batch.terminated[0] == (illegal == "forfeit")
        assert batch.rewards[0, mover] == (-1 if illegal == "forfeit" else 0)
        assert batch.rewards[0, 1 - mover] == (1 if illegal == "forfeit" else 0)
        assert batch.active[0, mover] == (illegal == "noop")
    batch.actions[0, mover] = 0
    batch.step()
    assert not batch.fouls.any() and batch.states["heap"][0] == 1


def test_who_leaves_neither_acts_nor_is_paid_and_the_last_one_ends_the_episode() -> None:
    batch = Batch(World(**RACE), 1, autoreset=AutoresetMode.SAME_STEP)
    batch.reset()
    seen = []
    for _ in range(3):
        batch.actions[0, :, 0] = [1.0, 2.0, 1.5]
        batch.step()
        seen.append((batch.active[0].tolist(), batch.departed[0].tolist(), batch.rewards[0].tolist()))
    assert seen[0] == ([True, True, True], [False, False, False], [-1, -1, -1])
    assert seen[1] == ([True, False, False], [False, True, True], [-1, -1, -1])
    assert seen[2] == ([True, True, True], [True, False, False], [-1, 0, 0])  # the next episode's agents
    assert batch.terminated[0] and batch.episode_returns[0].tolist() == [-3, -2, -2]
    assert batch.final_observations[0, 0].tolist() == [3, 3] and batch.final_observations[0, 1].tolist() == [4, 0]


def test_agents_have_spaces_of_their_own_in_rows_of_one_length() -> None:
    world = World(**RACE)
    assert world.observation.shape == (2,) and world.action == Box(0, 2, (1,))
    assert world.observation_spaces[1] == Box(0, 9, (1,)) and world.roles == {"tortoise": (0,), "hare": (1, 2)}
    batch = Batch(world, 1)
    batch.reset()
    batch.actions[0, :, 0] = [1.5, 0, 0]
    with pytest.raises(ValueError, match=r"action \[1.5\] of tortoise in world 0 at step 0 is outside Box\(0.0, 1.0"):
        batch.step()


def test_different_numbers_of_actions_are_a_mask() -> None:
    declared = NIM | {"action": (Discrete(2), Discrete(3)), "legal": None}
    batch = Batch(World(**declared), 1)
    batch.reset()
    mover = int(batch.states["to_move"][0])
    assert batch.legal[0, mover].tolist() == [1, 1, mover]


MISTAKES = [
    ({"turns": "whose"}, "turns='whose' must name an integer field"),
    ({"present": "heap"}, "present='heap' must name a field u1\\[2\\]"),
    ({"agents": ("one", "one")}, "agents need names of their own"),
    ({"action": (Discrete(3),)}, "action has 1 spaces for 2 agents"),
    ({"observation": (Box(0, 1, (2, 2)), Box(0, 1, (3, 3)))}, "only vectors can differ"),
    ({"action": Box(0, 1, (2,)), "expert": None}, "need Discrete actions"),
    ({"agents": ("one",), "step": nim_legal, "observe": nim_step}, "takes 3 parameters"),
    ({"legal": nim_step.__get__}, "decorated with @kernel"),
]


@pytest.mark.parametrize("mistake, message", MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_named(mistake: dict[str, Any], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        World(**NIM | mistake)


def test_a_batch_too_large_for_the_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="worlds=16777215: .* would need [0-9]+ GiB of"):
        Batch(World(**NIM | {"observation": Box(0, 1, (100_000,))}), 2**24 - 1)
