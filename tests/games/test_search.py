"""Tests of minimax and MCTS: exact values, playing strength, determinism, and worlds and settings that are refused.

They use the lab's board games and two worlds of this file: Nim with a known solution, and a maze that is compared with
brute force.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from support import programs
from support.nim import nim_legal, nim_observe, nim_reset, nim_step

from rl_lab.adapters import make as batch
from rl_lab.core import agent_registry
from rl_lab.core.record import PlainArray, PlainRecord
from rl_lab.core.rng import bits, integers
from rl_lab.core.world import Array, Record, World, WorldState, bounded, f4, i4, i8, kernel
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

SEARCHES = ["mcts", "minimax"]
DEPTH_DISCOUNT = 2.0**-20  # see alphabeta.py


def make(name: str, world: Any, **settings: Any) -> Any:
    module = agent_registry.load(name)
    return module.make(module.Config(**settings), world)


def search(name: str, envs: Batch, env_indices: Any = None, **settings: Any) -> Array:
    agent = make(name, envs.world, **settings)
    agent.bind(envs)
    answers: Array = agent.search_envs(np.arange(envs.num_envs) if env_indices is None else np.asarray(env_indices))
    return answers


def new_envs(world: World, n: int = 1, **options: Any) -> Batch:
    # The engine is not compiled for the worlds of this file alone, which saves its time.
    envs = Batch(world, n, autoreset=AutoresetMode.DISABLED, plain=world.name in ("nim", "test_search"), **options)
    envs.reset()
    return envs


def envs_after(world: World, moves: list[int], **options: Any) -> Batch:
    """Return a batch in which these actions have been taken."""
    envs = new_envs(world, **options)
    for action in moves:
        envs.actions[...] = action
        envs.step()
    assert not envs.done.any()
    return envs


def match(world: World, players: list[Any], games: int, seed: int = 0) -> Array:
    """Return the rewards of seat 0, [games], with players[k] on seat k."""
    envs = new_envs(world, games, seed=seed)
    for player in players:
        player.bind(envs)
    flat = envs.actions.reshape(-1)
    while not envs.done.all():
        for seat, player in enumerate(players):
            rows = np.flatnonzero(envs.acting[:, seat]) * 2 + seat
            if len(rows):
                observations, action_mask = (
                    a.reshape(games * 2, *a.shape[2:])[rows] for a in (envs.observations, envs.action_mask)
                )
                flat[rows] = player.act(observations, action_mask=action_mask, rows=rows)[0]
        envs.step()
    return envs.episode_returns[:, 0].copy()


# Nim with 1 to 40 in the heap, of which the multiples of 4 are lost for the player to move.


class LongNim(WorldState):
    heap: i4 = bounded(0, low=0, high=40)
    to_move: i4 = bounded(0, low=0, high=1)


class LongNimParams(Record):
    heap: i4 = bounded(7, low=1, high=40)


@kernel
def long_nim_reset(s: LongNim, p: LongNimParams) -> None:
    bits(s)  # a random number that changes nothing: the search must accept the world
    s.heap = p.heap


# A maze with what searches get wrong: rewards before the end, agents that do not strictly alternate, places without a
# legal action, and places that several paths reach.


class Maze(WorldState):
    place: i8 = bounded(0, low=0, high=96)
    to_move: i4 = bounded(0, low=0, high=1)


class MazeParams(Record):
    start: i8 = bounded(1, low=0, high=96)
    jackpot: f4 = 0.0  # the reward of seat 0 in some places, instead of a small one, where it is not 0


@kernel
def maze_reset(s: Maze, p: MazeParams) -> None:
    s.place = p.start
    s.to_move = i4(p.start & 1)


@kernel
def maze_step(s: Maze, action: int, p: MazeParams, rewards: Array) -> bool:
    s.place = (s.place * 5 + action * 31 + 7) % 97
    rewards[0] = 0.5 * (s.place * 7 % 5 - 2)
    if p.jackpot > f4(0) and (s.place % 13 == 1 or s.place % 13 == 2):
        rewards[0] = p.jackpot
    rewards[1] = -rewards[0]
    s.to_move = i4(s.place // 3 & 1)
    return s.place % 11 == 0


@kernel
def maze_legal(s: Maze, agent: int, p: MazeParams, mask: Array) -> None:
    for k in range(3):
        mask[k] = 1 if s.place % 7 != 3 and (s.place + k + agent) % 4 != 0 else 0


COMMON_ARGUMENTS = dict(
    observe=nim_observe, observation=Box(0, 99, (2,)), agents=("first", "second"), current_player_field="to_move"
)
NIM: dict[str, Any] = dict(
    State=LongNim, Params=LongNimParams, reset=long_nim_reset, step=nim_step, action_mask=nim_legal, zero_sum=True
)
NIM |= COMMON_ARGUMENTS | {"action": Discrete(3), "horizon": 50}
MAZE = NIM | dict(State=Maze, Params=MazeParams, reset=maze_reset, step=maze_step, action_mask=maze_legal, horizon=6)


@kernel
def maze_observe(s: Maze, agent: int, p: MazeParams, out: Array) -> None:
    out[0] = s.place


@cache
def nim() -> World:
    return World(**NIM)


@cache
def maze() -> World:
    return World(**MAZE | {"observe": maze_observe})


# ------------------------------------------------------------------------------------------------- exact values


@pytest.mark.parametrize("name", SEARCHES)
def test_nim_is_played_as_theory_says(name: str) -> None:
    heaps = np.arange(1, 41 if name == "minimax" else 13)
    params = LongNimParams.zeros(len(heaps))
    params["heap"] = heaps
    answers = search(name, new_envs(nim(), len(heaps), params=params))
    is_won = heaps % 4 != 0
    assert (answers["action"][is_won] == heaps[is_won] % 4 - 1).all()
    if name == "minimax":
        assert answers["exact"].all() and np.allclose(
            answers["value"], np.where(is_won, 1, -1), atol=50 * DEPTH_DISCOUNT
        )


# Beside a reward of 1e20, all small values are equal in double precision: alpha - reward and beta - reward are, too.
@pytest.mark.parametrize("jackpot", [0.0, 1e20])
def test_minimax_equals_brute_force_and_takes_any_of_the_best(jackpot: float) -> None:
    world, starts, depths = maze(), np.arange(97), (1, 2, 3, 6)
    params = MazeParams.zeros(97)
    params["start"], params["jackpot"] = starts, jackpot
    envs = new_envs(world, 97, params=params)
    moving = np.array([bool(legal_actions(state)) for state in envs.states])

    def value(state: Any, plies_left: int, ply: int = 1) -> tuple[float, list[int]]:
        """Return seat 0's best return from this state on, searched `plies_left` deep, and the actions for it."""
        value_of_action: dict[int, float] = {}
        for action in legal_actions(state) if plies_left else ():
            s, rewards = state.copy(), np.zeros(2, np.float32)
            s["t"] += 1
            over = world.step(PlainRecord(s[()]), action, PlainRecord(params[0]), PlainArray(rewards))
            value_of_action[action] = float(rewards[0]) * (1 - ply * DEPTH_DISCOUNT)
            if not over and s["t"] < world.horizon:
                value_of_action[action] += value(s, plies_left - 1, ply + 1)[0]
        best = (min if state["to_move"] else max)(value_of_action.values(), default=0.0)
        return best, [action for action, each in value_of_action.items() if each == best]

    for depth in depths:
        agents = [make("minimax", world, depth=depth, seed=seed) for seed in range(24)]
        answers = []
        for agent in agents:
            agent.bind(envs)
            answers.append(agent.search_envs(starts))
        for k in starts[moving]:
            best, actions = value(envs.states[k : k + 1].copy()[0:1].reshape(()), depth)
            sign = -1 if envs.states["to_move"][k] else 1
            assert {sign * answer["value"][k] for answer in answers} == {best}, (depth, k)
            assert {int(answer["action"][k]) for answer in answers} == set(actions), (depth, k)


def legal_actions(state: Any) -> list[int]:
    mask = np.zeros(3, np.uint8)
    maze().action_mask(PlainRecord(state[()]), int(state["to_move"]), None, PlainArray(mask))  # type: ignore[misc]
    return [int(action) for action in np.flatnonzero(mask)]


def test_tic_tac_toe_is_a_draw_from_every_first_move() -> None:
    answers = search("minimax", new_envs(world_registry.load("tic_tac_toe"), 300))
    assert answers["exact"].all() and (answers["value"] == 0).all()
    # Nine equally good moves: that one of 300 draws misses any has a chance of 4e-15.
    assert set(answers["action"]) == set(range(9))


# Of connect four: the moves so far, the actions that win or that alone do not lose, and the depth that minimax needs.
POSITIONS = {
    "four in a row": ([3, 3, 4, 4, 5, 0], {2, 6}, 1),
    "four in a column": ([3, 0, 3, 1, 3, 0], {3}, 1),
    "four in a diagonal": ([0, 1, 1, 2, 2, 3, 2, 3, 3, 6], {3}, 1),
    "block": ([3, 0, 3, 1, 3], {3}, 2),
    "two open ends": ([3, 3, 4, 4], {2, 5}, 3),
    "no two open ends": ([3, 3, 4], {2, 5}, 4),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("moves, correct_actions, depth", POSITIONS.values(), ids=POSITIONS)
def test_connect_four_tactics_are_found(name: str, moves: list[int], correct_actions: set[int], depth: int) -> None:
    envs = envs_after(world_registry.load("connect_four"), moves, n=12)
    answers = search(name, envs, **({"depth": depth, "nodes": 0} if name == "minimax" else {}))
    assert set(answers["action"]) <= correct_actions
    if name == "minimax" and depth % 2:
        assert np.allclose(answers["value"], 1, atol=depth * DEPTH_DISCOUNT)


def test_the_quicker_win_and_the_slower_loss() -> None:
    params = LongNimParams.zeros(2)
    params["heap"] = 2, 8
    answers = search("minimax", new_envs(nim(), 2, params=params))
    assert answers["value"].tolist() == [1 - DEPTH_DISCOUNT, -(1 - 4 * DEPTH_DISCOUNT)]


def test_a_search_that_runs_out_of_nodes_answers_from_the_depth_it_reached() -> None:
    envs = new_envs(world_registry.load("connect_four"))
    for nodes in (1, 100, 10_000):
        answer = search("minimax", envs, nodes=nodes)[0]
        assert 7 <= answer["nodes"] <= max(nodes, 7) and not answer["exact"]
    winning_position = envs_after(world_registry.load("connect_four"), POSITIONS["two open ends"][0])
    assert search("minimax", winning_position, nodes=2000)[0]["action"] in {2, 5}


def test_playouts_tell_minimax_what_it_does_not_see() -> None:
    envs = new_envs(world_registry.load("tic_tac_toe"), 40)
    without_playouts, with_playouts = (search("minimax", envs, depth=1, playouts=each) for each in (0, 400))
    assert len(set(without_playouts["action"])) > 5 and set(with_playouts["action"]) == {
        4
    }  # the centre wins most random games
    assert (with_playouts["value"] > 0.3).all()


# ------------------------------------------------------------------------------------------------- strength


OPPONENTS: list[tuple[str, int, dict[str, Any]]] = [
    ("random", 1000, {}),
    ("mcts", 1000, {"simulations": 100}),
    ("minimax", 100, {}),
]


@pytest.mark.parametrize("opponent, games, settings", OPPONENTS)
def test_minimax_never_loses_tic_tac_toe(opponent: str, games: int, settings: dict[str, Any]) -> None:
    world = world_registry.load("tic_tac_toe")
    best, other = make("minimax", world, seed=1), make(opponent, world, **settings)
    first, second = match(world, [best, other], games), match(world, [other, best], games, seed=1)
    assert first.min() >= 0 and second.max() <= 0
    if opponent == "random":
        assert first.mean() > 0.9 and -second.mean() > 0.7
    if opponent == "minimax":
        assert not first.any() and not second.any()


def test_mcts_beats_random_play_at_connect_four() -> None:
    # It won 4,000 of 4,000. One that wins 99 of 100 games wins 199 of 200 at least with a chance of 40 %, one that
    # wins 96 of 100 with a chance of 0.3 %.
    world = world_registry.load("connect_four")
    searching, random = make("mcts", world), make("random", world)
    assert (match(world, [searching, random], 200) == 1).sum() >= 199
    assert (match(world, [random, searching], 200, seed=1) == -1).sum() >= 199


def test_more_simulations_play_better() -> None:
    world = world_registry.load("connect_four")
    strong, weak = make("mcts", world, simulations=400), make("mcts", world, simulations=40)
    assert match(world, [strong, weak], 40).mean() > 0.5 and match(world, [weak, strong], 40).mean() < -0.5


# ------------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("name", SEARCHES)
def test_batches_threads_and_order_change_nothing(name: str) -> None:
    world, settings = (
        world_registry.load("connect_four"),
        {"mcts": {"simulations": 100}, "minimax": {"nodes": 2000}}[name],
    )
    moves = [3, 3, 2]
    expected = search(name, envs_after(world, moves, n=9, seed=5, threads=1), **settings)
    assert len(np.unique(expected["value" if name == "mcts" else "action"])) > 1
    threaded = envs_after(world, moves, n=9, seed=5, threads=3)
    assert (search(name, threaded, **settings) == expected).all()
    parts = [envs_after(world, moves, n=n, seed=5, first=first, threads=1) for n, first in ((4, 0), (5, 4))]
    assert (np.concatenate([search(name, part, **settings) for part in parts]) == expected).all()
    agent = make(name, world, **settings)
    agent.bind(threaded)
    for env_indices in ([8, 1, 3], [3], [1, 8, 3]):
        assert (agent.search_envs(np.array(env_indices)) == expected[env_indices]).all()
    assert (search(name, threaded, **settings, seed=1) != expected).any()


@pytest.mark.parametrize("name", SEARCHES)
def test_rows_that_are_asked_for_are_answered(name: str) -> None:
    envs = envs_after(world_registry.load("tic_tac_toe"), [4], n=3)
    agent = make(name, envs.world)
    with pytest.raises(ValueError, match=f"agent {name} must be bound to its environments \\(`bind`\\) before it acts"):
        agent.act(envs.observations[:, 0])
    agent.bind(envs)
    states = envs.states.tobytes()
    actions, state = agent.act(envs.observations.reshape(6, 3, 3, 2))
    assert state is None and actions.dtype == np.int64 and actions.shape == (6,)
    assert (actions[::2] == 0).all() and np.isin(actions[1::2], [0, 2, 6, 8]).all()  # a corner, or x would win
    two_actions, _ = agent.act(np.zeros((2, 3, 3, 2)), rows=np.array([5, 1]))
    assert two_actions.tolist() == actions[[5, 1]].tolist() and envs.states.tobytes() == states


def test_where_not_deterministic_mcts_plays_as_it_visited() -> None:
    envs = new_envs(world_registry.load("tic_tac_toe"), 400)
    agent = make("mcts", envs.world, simulations=300)
    agent.bind(envs)
    greedy, sampled = (agent.search_envs(np.arange(400), deterministic=each)["action"] for each in (True, False))
    assert (greedy == 4).mean() > (sampled == 4).mean() + 0.2 and len(set(sampled)) == 9


def test_masks_that_only_counts_make_and_no_masks_at_all() -> None:
    arguments = NIM | {"action_mask": None, "step": step_without_mask, "horizon": 6}
    uneven, even = (World(**arguments | {"action": a}) for a in ((Discrete(1), Discrete(2)), Discrete(2)))
    assert set(search("minimax", new_envs(uneven, 4))["action"]) == {0}
    assert set(search("mcts", new_envs(even, 4))["action"]) == {1}


@kernel
def step_without_mask(s: LongNim, action: int, p: LongNimParams, rewards: Array) -> bool:
    rewards[s.to_move] = 1.0 * action
    rewards[1 - s.to_move] = -1.0 * action
    s.to_move = 1 - s.to_move
    return False


# ------------------------------------------------------------------------------------------------- refusals


@kernel
def random_step(s: LongNim, action: int, p: LongNimParams, rewards: Array) -> bool:
    s.heap -= i4(min(s.heap, integers(s, 3)))
    return s.heap == 0


UNSEARCHABLE_WORLDS = {
    "one agent": (lambda: world_registry.load("catch"), "is for two agents that take turns: catch is no such world"),
    "no turns": (
        lambda: World(**NIM | {"current_player_field": "", "action_mask": None}),
        "is for two agents that take turns",
    ),
    "not zero-sum": (lambda: replace(nim(), zero_sum=False), "is for zero-sum worlds, and .* does not promise"),
    "dice": (lambda: World(**NIM | {"step": random_step}), "its step draws random numbers"),
    "cards": (lambda: World(**NIM | {"reset": nim_reset}), "what reset draws may be hidden"),
    "hidden": (lambda: World(perfect_information=False, **NIM), "it has hidden information"),
    "foreign": (lambda: batch.make("gym:CartPole-v1", 1).world, "plays only the lab's own worlds, not gym:CartPole-v1"),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("world, message", UNSEARCHABLE_WORLDS.values(), ids=UNSEARCHABLE_WORLDS)
def test_worlds_it_cannot_search_are_refused_in_one_line(name: str, world: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^agent {name} .*{message}") as error:
        make(name, world())
    assert "\n" not in str(error.value)


def test_what_is_drawn_in_the_open_is_no_obstacle() -> None:
    assert make("minimax", World(perfect_information=True, **NIM | {"reset": nim_reset})).envs is None


INVALID_SETTINGS = [
    ("mcts", "simulations", 0),
    ("mcts", "simulations", 2**23),
    ("mcts", "exploration", -1.0),
    ("mcts", "exploration", np.inf),
]
INVALID_SETTINGS += [
    ("mcts", "longest", -1),
    ("minimax", "depth", -1),
    ("minimax", "nodes", -1),
    ("minimax", "seed", -1),
]


@pytest.mark.parametrize("name, key, value", INVALID_SETTINGS)
def test_settings_out_of_range_are_named(name: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{key}={value}")):
        make(name, nim(), **{key: value})


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    program = """
import numpy as np
from rl_lab.core import agent_registry as catalogue
from rl_lab.games.search import agents as search
from rl_lab.engine import world_registry as worlds
from rl_lab.engine.batch import Batch
envs = Batch(worlds.load("tic_tac_toe"), 2, threads=2)
envs.reset()
for name, template in (("mcts", "mcts"), ("minimax", "alphabeta")):
    module = catalogue.load(name)
    agent = module.make(module.Config(), envs.world)
    agent.bind(envs)
    agent.search_envs(np.arange(2))
    stats = search.compile_search(envs.world, template).search.stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
    for name in SEARCHES:
        search(name, new_envs(world_registry.load("tic_tac_toe"), 2))
    process = programs.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["1", "0", "1", "0"], process.stderr
