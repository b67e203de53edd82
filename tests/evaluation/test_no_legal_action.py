"""Tests of worlds in which an agent has to act and has no legal action.

That is a mistake of the world: every interface raises StuckError, in one line, and no agent or entrant is blamed.
Three worlds are used: STUCK_NIM, a variant of Nim in which the second player has no legal action with 4 left; GateEnv,
a PettingZoo environment with the same mistake; and COUNTDOWN, which is correct, because its masks are empty only after
its episodes have ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pettingzoo
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from support.nim import NIM, Nim, NimParams

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core import agent_registry
from rl_lab.core.agent import Agent
from rl_lab.core.world import Array, Record, World, WorldState, bounded, i4, kernel
from rl_lab.core.world_errors import StuckError
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch
from rl_lab.evaluation.evaluate import evaluate
from rl_lab.games.game_tree import build_game_tree
from rl_lab.tournament import seat_rotation
from rl_lab.tournament.entrants import parse_entrants
from rl_lab.tournament.isolation import IsolationError, play_isolated
from rl_lab.tournament.ledger import read
from rl_lab.tournament.matches import MatchEngine, MatchSetup
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.schedule import Schedule
from rl_lab.tournament.store import create

STUCK_MESSAGE = r"(nim|pettingzoo:labdata/gate_v0): stuck: second has to act at step \d+ and has no legal action"
TRAIN_OVERRIDES = (
    "budget=4096 worlds=4 agent.n_steps=32 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false run_dir=r "
    "evaluation.episodes=3 evaluation.selections=0"
).split()


@kernel
def action_mask(s: Nim, agent: int, p: NimParams, mask: Array) -> None:
    for k in range(3):
        mask[k] = 1 if k + 1 <= s.heap and not (agent == 1 and s.heap == 4) else 0


class CountdownState(WorldState):
    left: i4 = bounded(0, low=0, high=9)


class CountdownParams(Record):
    most: i4 = bounded(9, low=3, high=9)


@kernel
def count_reset(s: CountdownState, p: CountdownParams) -> None:
    s.left = p.most


@kernel
def count_step(s: CountdownState, action: int, p: CountdownParams) -> tuple[float, bool]:
    s.left = max(s.left - i4(1 + action), i4(0))
    return 1.0, s.left == 0


@kernel
def count_observe(s: CountdownState, p: CountdownParams, out: Array) -> None:
    out[0] = s.left


@kernel
def count_legal(s: CountdownState, p: CountdownParams, mask: Array) -> None:
    mask[0] = 1 if s.left >= 1 else 0
    mask[1] = 1 if s.left >= 2 else 0


# Its name is "nim", after the file of its step function.
STUCK_NIM = World(**NIM | {"action_mask": action_mask, "perfect_information": True})
COUNTDOWN = World(
    State=CountdownState,
    Params=CountdownParams,
    reset=count_reset,
    step=count_step,
    observe=count_observe,
    action_mask=count_legal,
    observation=Box(0, 9, (1,)),
    action=Discrete(2),
)


class GateEnv(pettingzoo.ParallelEnv):  # type: ignore[misc]
    """A parallel environment whose second agent has no legal action after three steps."""

    metadata = {"name": "gate"}
    possible_agents = ["first", "second"]

    def __init__(self, render_mode: Any = None) -> None:
        self.render_mode = render_mode

    def observation_space(self, agent: str) -> Any:
        return Box(0, 9, (1,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(2)

    def observe_all(self) -> tuple[Any, Any]:
        masks = {"first": np.ones(2, np.int8), "second": np.full(2, self.t < 3, np.int8)}
        return {a: np.zeros(1, np.float32) for a in self.agents}, {a: {"action_mask": masks[a]} for a in self.agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.t, self.agents = 0, ["first", "second"]
        return self.observe_all()

    def step(self, actions: Any) -> Any:
        self.t += 1
        observations, infos = self.observe_all()
        over = dict.fromkeys(self.agents, False)
        return observations, dict.fromkeys(self.agents, 0.0), over, over, infos


@pytest.fixture(autouse=True)
def register_worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the three worlds under their names, and let every test work in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bots.py").write_text("def first(observation, legal):\n    return int(legal.nonzero()[0][0])\n")
    worlds = {"nim": STUCK_NIM, "count": COUNTDOWN}
    names = world_registry.names()
    monkeypatch.setattr(world_registry, "load", lambda name: worlds[name])
    monkeypatch.setattr(world_registry, "names", lambda: [*names, *worlds])
    pettingzoo.register("parallel", "labdata/gate_v0", GateEnv)
    yield
    del pettingzoo.parallel_registry["labdata/gate-v0"]


class FirstLegalAgent:
    """Takes the first legal action; with none there is an IndexError."""

    name = "first_legal"

    def bind(self, envs: Any) -> None:
        pass

    def act(self, observations: Array, *, action_mask: Array, rows: Any = None, **_: Any) -> tuple[Array, Any]:
        return np.array([np.flatnonzero(row)[0] for row in action_mask]), None


def make_agent(name: str, world: Any, **config: Any) -> Agent:
    module = agent_registry.load(name)
    agent: Agent = module.make(module.Config(**config), world)
    return agent


@pytest.mark.parametrize("plain", [False, True])
def test_batch_step_raises_stuck_error_which_names_the_agent_and_the_step(plain: bool) -> None:
    envs = Batch(STUCK_NIM, 8, plain=plain, autoreset=AutoresetMode.SAME_STEP)
    envs.reset()
    with pytest.raises(StuckError, match=STUCK_MESSAGE):
        for _ in range(200):
            envs.random_actions()
            envs.step()
    stuck = int(np.flatnonzero((envs.states["heap"] == 4) & (envs.states["to_move"] == 1))[0])
    with pytest.raises(StuckError, match=f"at step {envs.states['t'][stuck]} "):
        envs.step()


@pytest.mark.parametrize("name", ["nim", "pettingzoo:labdata/gate_v0"])
@pytest.mark.parametrize("has_opponent", [False, True])
def test_evaluate_raises_before_the_stuck_agent_is_called(name: str, has_opponent: bool) -> None:
    with pytest.raises(StuckError, match=STUCK_MESSAGE):
        opponent = FirstLegalAgent() if has_opponent else None
        evaluate(FirstLegalAgent(), name, {}, episodes=20, opponent=opponent)


@pytest.mark.parametrize("name", ["random", "mcts", "minimax"])
def test_evaluating_untrained_agents_raises_stuck_error(name: str) -> None:
    with pytest.raises(StuckError, match=STUCK_MESSAGE):
        evaluate(make_agent(name, STUCK_NIM), "nim", {}, episodes=40)


def test_building_the_game_tree_raises_stuck_error() -> None:
    with pytest.raises(StuckError, match=STUCK_MESSAGE):
        build_game_tree(STUCK_NIM)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "random", "world=nim", "evaluation.episodes=40"],
        ["evaluate", "random", "world=pettingzoo:labdata/gate_v0", "evaluation.episodes=2"],
        ["train", "nim", *TRAIN_OVERRIDES],
        ["train", "nim", "opponent=random", *TRAIN_OVERRIDES],
        ["train", "pettingzoo:labdata/gate_v0", *TRAIN_OVERRIDES],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_commands_print_the_error_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("rl-lab: ") and "stuck: second has to act at step" in last
    assert "Traceback" not in err and not out


def engine_and_tasks(world: str, *words: str) -> tuple[MatchEngine, list[Any]]:
    info = make.make(world, 1).world
    entrants = tuple(parse_entrants(words, info))
    names = tuple(each.name for each in entrants)
    players_per_match = seat_rotation.players_per_match(info, len(names))
    plan = Schedule(
        "round-robin",
        names,
        players_per_match,
        tuple(seat_rotation.seat_rotations(info, players_per_match)),
        pairs=10,
        rounds=3,
        seed=5,
    )
    return MatchEngine(MatchSetup(world, {}, entrants, 5)), plan.missing({})


@pytest.mark.parametrize("world", ["nim", "pettingzoo:labdata/gate_v0"])
def test_a_tournament_stops_without_a_forfeit(world: str) -> None:
    tournament = create(["random", "other=random:seed=1"], world, {}, path=Path("t"), pairs=20, seed=5)
    with pytest.raises(StuckError, match=STUCK_MESSAGE):
        run_tournament(tournament)
    assert all(match.fault is None for match in read("t/matches.jsonl"))


@pytest.mark.parametrize("world", ["nim", "pettingzoo:labdata/gate_v0"])
def test_an_isolated_match_raises_instead_of_recording_a_fault(world: str) -> None:
    engine, tasks = engine_and_tasks(world, "random", "bots.py:first")
    with pytest.raises(IsolationError, match=STUCK_MESSAGE):
        for task in tasks:
            assert play_isolated(engine, task).fault is None


def test_an_empty_mask_after_the_end_of_an_episode_is_no_error() -> None:
    evaluation = evaluate(make_agent("random", COUNTDOWN), "count", {}, episodes=30, num_envs=4)
    assert len(evaluation.episodes) == 30 and len({episode.length for episode in evaluation.episodes}) > 1
