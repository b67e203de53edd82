"""Tests of matches, schedules and faults: results do not depend on the batch, seats rotate, faults forfeit a match."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_lab.core import agent_registry
from rl_lab.core.errors import UsageError
from rl_lab.engine import world_registry
from rl_lab.evaluation.evaluate import TRAINING_SEEDS
from rl_lab.tournament import seat_rotation
from rl_lab.tournament.entrants import Entrant, parse_entrants
from rl_lab.tournament.ledger import Fault, Match, read
from rl_lab.tournament.matches import MatchEngine, MatchSetup
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.schedule import SCHEDULES, Schedule, Task, default_rounds
from rl_lab.tournament.session import ranks
from rl_lab.tournament.store import create

BOTS = """
import os
import time
import numpy as np

def first(observation, action_mask):
    return int(np.flatnonzero(action_mask)[0])

def crash(observation, action_mask):
    raise KeyError("lost\\nmy way")

def illegal(observation, action_mask):
    return 77

def taken(observation, action_mask):
    return int(np.flatnonzero(action_mask == 0)[0]) if (action_mask == 0).any() else 4

def fraction(observation, action_mask):
    return 0.5

def nan(observation, action_mask):
    return float("nan")

def many(observation, action_mask):
    return [0, 1]

def paused(observation, action_mask):
    if observation.sum() == 0:
        time.sleep(0.05)  # as when others have the processor
    return first(observation, action_mask)

def busy(observation, action_mask):
    while True:
        pass

def slow(observation, action_mask):
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass

def leaves(observation, action_mask):
    return os._exit(7) if action_mask.sum() < 8 else first(observation, action_mask)

class Whole:
    def act(self, observations, *, state=None, action_mask=None, rows=None, deterministic=True):
        if (action_mask.sum(axis=1) == 5).any():
            raise ValueError("five are too many")
        return action_mask.argmax(axis=1), None
"""


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bots.py").write_text(BOTS)
    return tmp_path


def entrants(world: str, *words: str) -> tuple[Entrant, ...]:
    return tuple(parse_entrants(words, world_registry.load(world)))


def schedule(world: str, entrant_list: Iterable[Entrant], kind: str = "round-robin", **options: Any) -> Schedule:
    names = tuple(each.name for each in entrant_list)
    players_per_match = seat_rotation.players_per_match(world_registry.load(world), len(names))
    seat_rotations = tuple(seat_rotation.seat_rotations(world_registry.load(world), players_per_match))
    return Schedule(kind, names, players_per_match, seat_rotations, **{"pairs": 3, "rounds": 3, "seed": 5, **options})


def play(world: str, *words: str, num_envs: int | None = None, timeout: float = 0.0, **options: Any) -> list[Match]:
    entrant_list = entrants(world, *words)
    engine = MatchEngine(MatchSetup(world, {}, entrant_list, 5, timeout=timeout))
    tasks = schedule(world, entrant_list, **options).missing({})
    return sorted((result.match for result in engine.play(tasks, num_envs=num_envs)), key=lambda match: match.id)


ENTRANTS_BY_WORLD = {
    "tic_tac_toe": (
        "random",
        "scripted",
        "other=random:seed=1",
        "mcts:simulations=5",
        "minimax:depth=2",
        "bots.py:first",
    ),
    "kuhn_poker": ("random", "scripted", "other=random:seed=1"),
    "connect_four": ("random", "scripted:strength=novice"),
}


@pytest.mark.parametrize("world", ENTRANTS_BY_WORLD)
def test_a_match_is_the_same_in_whatever_batch_it_is_played(world: str) -> None:
    expected = play(world, *ENTRANTS_BY_WORLD[world], pairs=4)
    assert play(world, *ENTRANTS_BY_WORLD[world], pairs=4, num_envs=1) == expected
    assert play(world, *ENTRANTS_BY_WORLD[world], pairs=4, num_envs=5) == expected
    with_fewer_entrants = play(world, *ENTRANTS_BY_WORLD[world][:2], pairs=4)
    assert all(match in expected for match in with_fewer_entrants)  # nor on which other entrants there are
    assert len({match.trace for match in expected}) > 3


def test_a_random_agents_action_depends_on_its_row_seed_and_clock_alone() -> None:
    world = world_registry.load("tic_tac_toe")
    make = agent_registry.load("random")
    keys, clock = np.arange(100, 108, dtype=np.uint64), np.array([0, 3, 1, 0])
    observations, action_mask = np.zeros((8, *world.observation.shape)), np.ones((8, 9), np.uint8)
    agents = [make.make(make.Config(seed=seed), world) for seed in (0, 0, 1)]
    for agent in agents:
        agent.set_row_seeds(keys, clock)
    all_actions = agents[0].act(observations, action_mask=action_mask)[0]
    for row in (6, 2):
        one = agents[1].act(observations[:1], action_mask=action_mask[:1], rows=np.array([row]))[0]
        assert one == all_actions[row]
    clock += 1
    assert (agents[0].act(observations, action_mask=action_mask)[0] != all_actions).any()
    assert (
        agents[2].act(observations, action_mask=action_mask)[0]
        != agents[0].act(observations, action_mask=action_mask)[0]
    ).any()


def test_pairs_share_their_seed_and_swap_seats() -> None:
    entrant_list = entrants("tic_tac_toe", "random", "scripted", "other=random")
    tasks = schedule("tic_tac_toe", entrant_list, pairs=10).missing({})
    assert len(tasks) == len({task.id for task in tasks}) == 3 * 10 * 2
    pairs: dict[Any, list[Task]] = {}
    for task in tasks:
        pairs.setdefault((task.pairing, task.pair), []).append(task)
        assert task.seed not in TRAINING_SEEDS
    for one, other in pairs.values():
        assert one.seed == other.seed and one.entrants == other.entrants[::-1] == one.pairing
    assert len({task.seed for task in tasks}) == len(pairs)
    again = schedule("tic_tac_toe", reversed(entrant_list), pairs=10).missing({})
    assert {(task.id, task.seed) for task in again} == {(task.id, task.seed) for task in tasks}
    other_seed = schedule("tic_tac_toe", entrant_list, pairs=10, seed=6).missing({})
    assert not {task.seed for task in other_seed} & {task.seed for task in tasks}


@pytest.mark.parametrize(
    ("world", "count", "players_per_match", "seat_rotations"),
    [
        ("tic_tac_toe", 4, 2, [(0, 1), (1, 0)]),
        ("arena", 3, 2, [(0, 1, 0, 1), (1, 0, 1, 0)]),
        ("simple_tag", 3, 2, [(0, 0, 0, 1), (1, 1, 1, 0)]),
        ("simple_spread", 4, 3, [(0, 1, 2), (1, 2, 0), (2, 0, 1)]),
        ("simple_spread", 2, 2, [(0, 1, 0), (1, 0, 1)]),
    ],
)
def test_seat_rotations_of_worlds_with_two_to_four_agents(
    world: str, count: int, players_per_match: int, seat_rotations: list[tuple[int, ...]]
) -> None:
    assert seat_rotation.players_per_match(world_registry.load(world), count) == players_per_match
    assert seat_rotation.seat_rotations(world_registry.load(world), players_per_match) == seat_rotations


def test_results_of_a_game_known_move_by_move() -> None:
    one, other = play("tic_tac_toe", "a=bots:first", "b=bots:first", pairs=1)
    assert (one.entrants, other.entrants) == (("a", "b"), ("b", "a"))
    for match in (one, other):  # 0 1 2 3 4 5 6: x has the diagonal
        assert (match.returns, match.ranks, match.steps) == ((1.0, -1.0), (1, 2), 7)
        assert (match.ending, match.fault, match.seats) == ("terminated", None, ("x", "o"))
    assert one.trace == other.trace and one.hashes == other.hashes


@pytest.mark.parametrize(
    ("seats", "returns", "loser", "expected"),
    [
        ("ab", [1, -1], None, (1, 2)),
        ("ab", [0, 0], None, (1, 1)),
        ("abc", [1, 1, 0], None, (1, 1, 3)),
        ("abc", [0, 2, 1], None, (3, 1, 2)),
        ("aab", [1, 4, 3], None, (2, 2, 1)),  # by the mean of a's seats
        ("abc", [9, 1, 0], "a", (3, 1, 2)),
    ],
)
def test_ranks(seats: str, returns: list[float], loser: str | None, expected: tuple[int, ...]) -> None:
    fault = Fault(0, loser, "crash", "why") if loser else None
    assert ranks(seats, np.array(returns, float), fault) == expected


FAULTS = {
    "crash": ("crash", "KeyError: 'lost"),
    "illegal": ("illegal", "action 77 is illegal; legal are ["),
    "taken": ("illegal", "is illegal; legal are"),
    "fraction": ("illegal", "returned float64 [1]: [0.5], not int64 [1]"),
    "nan": ("nonfinite", "returned [nan]"),
    "many": ("illegal", "returned int64 [1, 2]"),
    "slow": ("timeout", "a move took longer than 0.02 s"),
    "busy": ("timeout", "a move took longer than 0.02 s"),
    "Whole": ("crash", "ValueError: five are too many"),
}


@pytest.fixture
def frozen_heap() -> None:
    """Keep objects of other tests out of collections, of which a full one takes longer than a move may here."""
    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("frozen_heap")
def test_an_entrant_that_fails_loses_its_own_matches_only() -> None:
    good = ("random", "scripted", "bots:paused")
    matches = play("tic_tac_toe", *good, *(f"bots:{name}" for name in FAULTS), pairs=2, timeout=0.02)
    assert len(matches) == 12 * 11 // 2 * 2 * 2
    expected = {match.id: match for match in play("tic_tac_toe", *good, pairs=2)}
    assert {match.id: match for match in matches if set(match.pairing) <= set(good)} == expected
    entrants_at_fault: set[str] = set()
    for match in matches:
        if match.fault is None:
            assert match.ending != "forfeit"
            continue
        assert match.ending == "forfeit" and match.entrants[match.fault.seat] == match.fault.entrant
        assert match.ranks[match.fault.seat] == 2 and match.returns[match.fault.seat] == -1 == -sum(match.returns) - 1
        kind, reason = FAULTS[match.fault.entrant.removeprefix("bots:")]
        assert match.fault.kind == kind and reason in match.fault.reason and match.fault.reason.isprintable()
        entrants_at_fault.add(match.fault.entrant)
    assert entrants_at_fault == {f"bots:{name}" for name in FAULTS}


def tournament(name: str, *words: str, world: str = "tic_tac_toe", **options: Any) -> Any:
    return create(words, world, {}, path=Path(name), **{"pairs": 3, "seed": 5, **options})


def test_results_are_the_same_with_one_worker_and_with_three() -> None:
    words = "random", "scripted", "other=random:seed=1"
    one = run_tournament(tournament("one", *words, pairs=40))
    three = run_tournament(tournament("three", *words, pairs=40), workers=3)
    assert one.matches == three.matches == read("three/matches.jsonl")
    assert len(one.matches) == one.total == one.num_played == 240


def test_an_entrant_that_ends_its_process_crashes_where_it_was() -> None:
    outcome = run_tournament(tournament("t", "random", "scripted", "bots:leaves", timeout=5.0))
    assert len(outcome.matches) == outcome.total == 18
    others = [match for match in outcome.matches if "bots:leaves" not in match.pairing]
    assert others == play("tic_tac_toe", "random", "scripted")
    of_leaves = [match for match in outcome.matches if "bots:leaves" in match.pairing]
    for match in of_leaves:
        assert match.fault == Fault(
            match.entrants.index("bots:leaves"), "bots:leaves", "crash", "its process ended: exit status 7"
        )
    # As x it moves once, and ends at its second move; as o at its second, with three discs on the board.
    assert {(m.entrants.index("bots:leaves"), m.steps) for m in of_leaves} == {(0, 2), (1, 3)}
    assert run_tournament(outcome.tournament).num_played == 0


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_go_on_from_any_part_of_their_matches(kind: str) -> None:
    words = [f"r{k}=random:seed={k}" for k in range(5)] + ["scripted"]
    entrant_list = entrants("tic_tac_toe", *words)
    tournament_schedule = schedule("tic_tac_toe", entrant_list, kind, pairs=2, rounds=default_rounds(kind, 6))
    engine, matches = MatchEngine(MatchSetup("tic_tac_toe", {}, entrant_list, 5)), dict[str, Match]()
    while tasks := tournament_schedule.missing(matches):
        matches |= {p.match.id: p.match for p in engine.play(tasks)}
    assert len(matches) == tournament_schedule.total
    games = {name: sum(name in match.pairing for match in matches.values()) for name in tournament_schedule.names}
    if kind == "gauntlet":
        assert games["r0"] == 20 and set(games.values()) == {20, 4}
    elif kind == "round-robin":
        assert set(games.values()) == {20}
    else:
        assert set(games.values()) == {4 * tournament_schedule.rounds}
    if kind == "swiss":
        assert (
            len({match.pairing for match in matches.values()}) == 3 * tournament_schedule.rounds
        )  # no two entrants meet twice
    rng = np.random.default_rng(0)
    half_of_matches = {key: matches[key] for key in rng.permutation(sorted(matches))[: len(matches) // 2]}
    while tasks := tournament_schedule.missing(half_of_matches):
        for task in tasks[:7]:
            half_of_matches[task.id] = matches[task.id]  # nothing else is asked for
    assert half_of_matches.keys() == matches.keys()


def test_a_swiss_round_lets_another_sit_out_each_time() -> None:
    entrant_list = entrants("tic_tac_toe", *(f"r{k}=random:seed={k}" for k in range(5)))
    tournament_schedule = schedule("tic_tac_toe", entrant_list, "swiss", pairs=1, rounds=5)
    engine, matches = MatchEngine(MatchSetup("tic_tac_toe", {}, entrant_list, 5)), dict[str, Match]()
    while tasks := tournament_schedule.missing(matches):
        matches |= {p.match.id: p.match for p in engine.play(tasks)}
    assert {sum(name in match.pairing for match in matches.values()) for name in tournament_schedule.names} == {8}


def test_openings_are_random_and_the_same_in_both_legs() -> None:
    entrant_list = entrants("tic_tac_toe", "a=bots:first", "b=bots:first")
    engine = MatchEngine(MatchSetup("tic_tac_toe", {}, entrant_list, 5, random_opening_moves=2))
    actions: dict[int, list[Any]] = {}
    for result in engine.play(schedule("tic_tac_toe", entrant_list, pairs=8).missing({})):
        actions.setdefault(result.match.pair, []).append(result.actions[:2].tolist())
    assert all(one == other for one, other in actions.values())
    assert len({str(one) for one, _ in actions.values()}) > 4


def test_policies_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from rl_lab.cli import main

    tiny = "budget=128 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false "
    tiny += "evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1 run_dir=runs/p"
    assert main(["train", "connect_four", "world=connect_four", "agent=ppo", *tiny.split()]) == 0
    step = next(Path("runs/p/agent").glob("step-*"))
    words = "p", "again=runs/p", str(step), "p:sample=true", f"at=p@{int(step.name[5:])}", "random"
    entrant_list = entrants("connect_four", *words)
    assert [each.name for each in entrant_list] == [
        "p",
        "again",
        f"p@{int(step.name[5:])}",
        "p:sample=true",
        "at",
        "random",
    ]
    assert len({each.hash for each in entrant_list}) == 3
    with pytest.raises(UsageError, match="was trained in connect_four, not in tic_tac_toe"):
        play("tic_tac_toe", "p", "random")
    with pytest.raises(UsageError, match="no checkpoint at step 12"):
        parse_entrants(["p@12", "random"], world_registry.load("connect_four"))
    words = "p", "p:sample=true", "random"
    expected = play("connect_four", *words, pairs=4)
    assert expected == play("connect_four", *words, pairs=4, num_envs=3)
    assert not any(match.fault for match in expected)
    assert len({match.trace for match in expected if "random" not in match.pairing}) > 4
    pair_of_matches = play("connect_four", "p", "again=runs/p", pairs=1)
    assert pair_of_matches[0].trace == pair_of_matches[1].trace
