"""These tests check batches of several agents: turns, action masks, agents that leave, different spaces.

Shapes: N worlds, A agents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from support.nim import NIM, NimParams, nim_legal, nim_step
from support.race import RACE, RUNNERS, RaceParams

from rl_lab.adapters.pettingzoo import env, parallel_env
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.world import Array, World, WorldError, WorldState, bounded, i4, kernel, u1
from rl_lab.engine.batch import Batch


class EvictionState(WorldState):
    to_move: i4 = bounded(0, low=0, high=RUNNERS - 1)
    is_in_game: u1[RUNNERS]


@kernel
def eviction_reset(s: EvictionState, p: RaceParams) -> None:
    for a in range(RUNNERS):
        s.is_in_game[a] = 1


@kernel
def eviction_step(s: EvictionState, action: int, p: RaceParams, rewards: Array) -> bool:
    """Action 1 throws the next agent out, 2 the mover itself, 3 both; then the next one that is there moves."""
    mover, after = s.to_move, (s.to_move + 1) % RUNNERS
    for a in range(RUNNERS):
        if s.is_in_game[a]:
            rewards[a] = 1.0
    if action == 1 or action == 3:
        s.is_in_game[after] = 0
    if action >= 2:
        s.is_in_game[mover] = 0
    for k in range(RUNNERS):
        a = (mover + 1 + k) % RUNNERS
        if s.is_in_game[a]:
            s.to_move = a
            return False
    return False


@kernel
def eviction_observe(s: EvictionState, agent: int, p: RaceParams, out: Array) -> None:
    out[0] = s.t


EVICTION = dict(
    State=EvictionState,
    Params=RaceParams,
    reset=eviction_reset,
    step=eviction_step,
    observe=eviction_observe,
    observation=Box(0, 9, (1,)),
    action=Discrete(4),
    agents=("a", "b", "c"),
    current_player_field="to_move",
    alive_field="is_in_game",
    horizon=9,
)
# What the mover does in each step, and which agent leaves in it.
REMOVALS = [
    ([0, 0, 1, 0, 0, 1, 2], [[], [], ["a"], [], [], ["c"], ["b"]]),
    ([3, 1], [["a", "b"], []]),
    ([2, 3], [["a"], ["b", "c"]]),
]

MODES = list(AutoresetMode)


def outputs(batch: Batch) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in batch.snapshot().items()} | {
        "final": batch.final_observations.tobytes() if batch.autoreset == AutoresetMode.SAME_STEP else b""
    }


def write_random_actions(batch: Batch, generator: np.random.Generator) -> None:
    if batch.world.has_action_mask:
        scores = np.where(batch.action_mask > 0, generator.random(batch.action_mask.shape), -1.0)
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
            write_random_actions(batch, np.random.default_rng(k))
            batch.step()
            if mode == AutoresetMode.DISABLED and k % 15 == 14:
                batch.reset(batch.done.copy())
        first, *others = map(outputs, batches)
        assert all(other == first for other in others), k


def test_the_current_player_alone_acts_and_all_get_rewards() -> None:
    batch = Batch(World(**NIM), 1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    mover = int(batch.states["to_move"][0])
    assert batch.acting[0].tolist() == [mover == 0, mover == 1]
    for k, heap in enumerate((4, 1, 0)):
        batch.actions[0, mover], batch.actions[0, 1 - mover] = (
            2 if heap else 0,
            99,
        )  # the other's is not used
        batch.step()
        assert batch.states["heap"][0] == heap and batch.done[0] == (heap == 0), k
        if heap:
            mover = 1 - mover
            assert batch.acting[0].tolist() == [mover == 0, mover == 1]
            assert batch.action_mask[0, mover].tolist() == [int(a < heap) for a in range(3)]
            assert batch.action_mask[0, 1 - mover].tolist() == [0, 0, 0] and batch.rewards[0].tolist() == [0, 0]
    assert batch.rewards[0, mover] == 1 and batch.rewards[0, 1 - mover] == -1
    assert batch.episode_returns[0, mover] == 1 and not batch.acting.any()


def test_the_expert_wins_from_a_winning_heap() -> None:
    batch = Batch(World(**NIM), 64, seed=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    began, generator = batch.states["to_move"].copy(), np.random.default_rng(0)
    while not batch.done.all():
        expert = batch.scripted_actions().copy()
        write_random_actions(batch, generator)
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
        assert (
            batch.illegal_actions[0, mover] and not batch.illegal_actions[0, 1 - mover] and batch.states["heap"][0] == 2
        )
        assert batch.terminated[0] == (illegal == "forfeit")
        assert batch.rewards[0, mover] == (-1 if illegal == "forfeit" else 0)
        assert batch.rewards[0, 1 - mover] == (1 if illegal == "forfeit" else 0)
        assert batch.acting[0, mover] == (illegal == "noop")
    batch.actions[0, mover] = 0
    batch.step()
    assert not batch.illegal_actions.any() and batch.states["heap"][0] == 1


def test_agents_that_left_neither_act_nor_get_rewards_and_the_last_one_ends_the_episode() -> None:
    batch = Batch(World(**RACE), 1, autoreset=AutoresetMode.SAME_STEP)
    batch.reset()
    seen = []
    for _ in range(3):
        batch.actions[0, :, 0] = [1.0, 2.0, 1.5]
        batch.step()
        seen.append((batch.acting[0].tolist(), batch.left_episode[0].tolist(), batch.rewards[0].tolist()))
    assert seen[0] == ([True, True, True], [False, False, False], [-1, -1, -1])
    assert seen[1] == ([True, False, False], [False, True, True], [-1, -1, -1])
    assert seen[2] == ([True, True, True], [True, False, False], [-1, 0, 0])  # the next episode's agents
    assert batch.terminated[0] and batch.episode_returns[0].tolist() == [-3, -2, -2]
    assert batch.final_observations[0, 0].tolist() == [3, 3] and batch.final_observations[0, 1].tolist() == [4, 0]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(("actions", "leavers"), REMOVALS)
def test_an_agent_that_another_one_removes_has_left(actions: list[int], leavers: list[list[str]], plain: bool) -> None:
    world = World(**EVICTION)
    batch = Batch(world, 2, plain=plain, autoreset=AutoresetMode.DISABLED)
    rows = LabVecEnv(Batch(world, 1, plain=plain, autoreset=AutoresetMode.SAME_STEP))
    aec, parallel = env(world), parallel_env(world)
    for each in (batch, rows, aec, parallel):
        each.reset()
    there = list(world.agents)
    for action, left in zip(actions, leavers, strict=True):
        batch.actions[...] = action
        batch.step()
        ends = [agent in left for agent in world.agents]
        assert batch.left_episode.tolist() == [ends, ends] and (batch.agent_terminated | ~batch.left_episode).all()
        _, _, dones, infos = rows.step(np.full(3, action))
        # Where the episode has ended, all rows are done.
        assert dones.tolist() == ([True] * 3 if batch.terminated[0] else ends)
        assert [agent for agent, info in zip(world.agents, infos, strict=True) if "episode" in info] == left
        assert not any(info.get("TimeLimit.truncated", False) for info in infos)
        aec.step(action)
        flags = {agent: agent in left for agent in there}
        assert aec.terminations == flags and parallel.step(dict.fromkeys(there, action))[2] == flags
        while aec.agents and aec.terminations[aec.agent_selection]:
            aec.step(None)
        there = [agent for agent in there if agent not in left]
        assert aec.agents == parallel.agents == there


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
    declared = NIM | {"action": (Discrete(2), Discrete(3)), "action_mask": None}
    batch = Batch(World(**declared), 1)
    batch.reset()
    mover = int(batch.states["to_move"][0])
    assert batch.action_mask[0, mover].tolist() == [1, 1, mover]


MISTAKES = [
    ({"current_player_field": "whose"}, "current_player_field='whose' must name an integer field"),
    ({"alive_field": "heap"}, "alive_field='heap' must name a field u1\\[2\\]"),
    ({"agents": ("one", "one")}, "agents must have distinct names"),
    ({"action": (Discrete(3),)}, "action has 1 spaces for 2 agents"),
    ({"observation": (Box(0, 1, (2, 2)), Box(0, 1, (3, 3)))}, "only vectors can differ"),
    ({"action": Box(0, 1, (2,)), "expert": None}, "need Discrete actions"),
    ({"agents": ("one",), "step": nim_legal, "observe": nim_step}, "takes 3 parameters"),
    ({"action_mask": nim_step.__get__}, "decorated with @kernel"),
]


@pytest.mark.parametrize("mistake, message", MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_named(mistake: dict[str, Any], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        World(**NIM | mistake)


def test_a_batch_too_large_for_the_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="worlds=16777215: .* would need [0-9]+ GiB of"):
        Batch(World(**NIM | {"observation": Box(0, 1, (100_000,))}), 2**24 - 1)
