"""Trained agents as opponents and averaged: loaded from where they are kept, and held to what they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_league import PPO, SMALL, THREE, outcome, ppo_at
from test_seated import run

from rl_lab import batch, catalogue, checkpoint
from rl_lab.cli import main
from rl_lab.league.averaged import AveragedAgent
from rl_lab.rating import exact
from rl_lab.rating.policies import average
from rl_lab.run import Run
from rl_lab.scenario import compose
from rl_lab.seated import Seated
from rl_lab.tournament.policies import PolicyAgent
from rl_lab.trained import Frozen, rivals_of
from rl_lab.world import Array

LEAGUE = "name: first\nworld: tic_tac_toe\nbudget: 1536\n" + SMALL + PPO + THREE
AGAINST = ["tic_tac_toe", "worlds=8", "budget=512", "video=false", "evaluation.episodes=4", "checkpoint.steps=100"]
AGAINST += ["agent.n_steps=8", "agent.batch_size=32", "agent.n_epochs=1", "evaluation.selection_episodes=4"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("league")
    (folder / "mine.yaml").write_text(LEAGUE)
    assert main(["train", str(folder / "mine.yaml"), f"run_dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def inside(league: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(league, tmp_path / "runs/first")
    return tmp_path


# Opponents


@pytest.mark.parametrize(
    "words, average",
    [("opponent={path: first}", False), ("opponent=runs/first/league/main", False), ("opponent=runs/first", True)],
)
def test_a_run_can_be_the_opponent_and_resumes_bit_for_bit(words: str, average: bool, inside: Path) -> None:
    run("train", *AGAINST, words, *["opponent.average=true"] * average, "run_dir=whole")
    kept = Run(inside / "whole").scenario().opponent
    assert kept is not None and len(kept["sha256"]) == 64 and kept["average"] == average
    shutil.copytree("whole", "part")
    for later in sorted((inside / "part/checkpoints").iterdir())[1:]:
        shutil.rmtree(later)
    shutil.rmtree(inside / "part/agent")
    run("resume", "part")
    assert outcome(inside / "part") == outcome(inside / "whole")
    run("evaluate", "whole", "evaluation.episodes=4")


def test_another_agent_in_the_opponents_place_is_refused(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", *AGAINST, "opponent=runs/first", "run_dir=mine")
    before = compose("mine/config.yaml").opponent
    found = checkpoint.load(next((inside / "runs/first/agent").glob("step-*")))
    next(iter(found.tensors["policy"].values()))[...] += 1
    checkpoint.save(inside / "runs/first/agent", found.step + 1, found.tensors, found.state, keep_last=1)
    capsys.readouterr()
    for words in (["resume", "mine"], ["evaluate", "mine"], ["train", "mine/config.yaml"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "runs/first is not who it was: SHA-256" in said and len(said.splitlines()) == 1
    assert main(["evaluate", "mine", "opponent=random"]) == 0, "whom it met then is of no matter now"
    now = compose("mine/config.yaml", ["opponent=runs/first"]).opponent
    assert before and now and before["sha256"] != now["sha256"]


@pytest.mark.parametrize(
    "words, message",
    [
        ("opponent=runs/nobody", "opponent: no run runs/nobody"),
        ("opponent={path: runs/first, averag: true}", "unknown key 'opponent.averag'; did you mean 'average'?"),
        ("opponent={path: runs/first, average: perhaps}", "average"),
        ("opponent={average: true}", "expected an agent's name, or a mapping with one"),
        ("opponent=runs", "runs is not a run"),
        ("opponent={path: runs/mine, average: true}", "has no average: no league has frozen anything in"),
        ("world=connect_four opponent=runs/first", "was trained in tic_tac_toe, not in connect_four"),
        ("opponent=ppo", "would have to be trained first"),
    ],
)
def test_a_wrong_opponent_is_one_line(
    words: str, message: str, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("runs/first", "runs/mine", ignore=shutil.ignore_patterns("league"))
    given = [word if "world" in word else words[words.index("opponent") :] for word in words.split(" opponent")[:2]]
    assert main(["train", "tic_tac_toe", *given, "run_dir=never"]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and not (inside / "never").exists()


# Policies that draw


def test_an_agent_tells_the_probabilities_it_draws_by() -> None:
    learner, _ = ppo_at("connect_four", 4)
    agent, generator = learner.agent(), np.random.default_rng(0)
    seen = generator.integers(0, 2, (50, *agent.policy.observation_space.shape)).astype(np.uint8)
    legal = generator.integers(0, 2, (50, 7)).astype(np.uint8)
    legal[:, 3] = 1
    with torch.no_grad():
        shown = agent.policy.obs_to_tensor(seen)[0]
        expected = agent.policy.get_distribution(shown, action_masks=legal != 0).distribution.probs.numpy()
    told = agent.probabilities(seen, legal)
    assert told == pytest.approx(expected, abs=1e-6) and (told[legal == 0] == 0).all()
    assert (told.argmax(axis=1) == agent.act(seen, legal=legal)[0]).all()
    module, seats = catalogue.load("dqn"), Seated(batch.make("connect_four", 2), [])
    greedy = module.learner(module.Config(buffer_size=100), seats, budget=100, seed=0, device="cpu").agent()
    assert (greedy.probabilities(seen, legal) == np.eye(7)[greedy.act(seen, legal=legal)[0]]).all()


def test_a_policy_that_samples_draws_by_row_and_step_alone() -> None:
    learner, _ = ppo_at("tic_tac_toe", 4)
    worlds, n = batch.make("tic_tac_toe", 4000), 4000
    worlds.reset()
    agent = PolicyAgent(learner.agent(), sample=True)
    agent.attend(worlds)
    keys, clock = np.arange(2 * n, dtype=np.uint64) * np.uint64(977), np.zeros(n, np.int64)
    agent.follow(keys, clock)
    rows, seen, legal = np.arange(0, 2 * n, 2), worlds.observations[:, 0], worlds.legal[:, 0]
    whole = agent.act(seen, legal=legal, rows=rows)[0]
    parts = [agent.act(seen[part], legal=legal[part], rows=rows[part])[0] for part in np.split(np.arange(n), [1, 700])]
    assert (np.concatenate(parts) == whole).all()
    chances = learner.agent().probabilities(seen[:1], legal[:1])[0]
    assert np.bincount(whole, minlength=9) / n == pytest.approx(chances, abs=5 * np.sqrt(0.25 / n))
    clock += 1
    assert (agent.act(seen, legal=legal, rows=rows)[0] != whole).any()


# Averages


class Stubborn:
    """Policy k takes action k wherever it may, and else the last that is legal."""

    def probabilities(self, observations: Array, who: Array, legal: Array | None) -> Array:
        assert legal is not None
        rows, last = np.arange(len(who)), 8 - legal[:, ::-1].argmax(axis=1)
        return np.eye(9)[np.where(legal[rows, who] != 0, who, last)]


def test_an_average_is_one_of_its_members_for_a_whole_episode() -> None:
    worlds = batch.make("tic_tac_toe", 600)
    worlds.seed(np.arange(600))
    worlds.reset()
    agent: Any = AveragedAgent("average", Stubborn(), 3)  # type: ignore[arg-type]
    agent.attend(worlds)
    rows = np.arange(0, 1200, 2)
    drawn = agent.act(worlds.observations[:, 0], legal=worlds.legal[:, 0], rows=rows)[0]
    assert np.bincount(drawn, minlength=3) / 600 == pytest.approx(np.full(3, 1 / 3), abs=5 * np.sqrt(2 / 9 / 600))
    some = agent.act(worlds.observations[5:9, 0], legal=worlds.legal[5:9, 0], rows=rows[5:9])[0]
    assert (some == drawn[5:9]).all()
    worlds.actions[:, 0] = 8
    worlds.step()
    worlds.actions[:, 1] = 7
    worlds.step()
    assert (agent.act(worlds.observations[:, 0], legal=worlds.legal[:, 0], rows=rows)[0] == drawn).all()
    keys, clock = np.arange(1200, dtype=np.uint64), np.zeros(600, np.int64)
    agent.follow(keys, clock)
    first = agent.act(worlds.observations[:, 0], legal=worlds.legal[:, 0], rows=rows)[0]
    clock += 5
    assert (agent.act(worlds.observations[:, 0], legal=worlds.legal[:, 0], rows=rows)[0] == first).all()
    assert len(set(first)) == 3


def test_a_leagues_average_plays_as_its_exact_value_says(inside: Path) -> None:
    world = batch.make("tic_tac_toe", 1).world
    agent: Any = Frozen("runs/first", average=True).agent(world)
    assert agent.name == "ppo-average" and agent.count == len(list((inside / "runs/first/league/main").glob("step-*")))
    single: Any = Frozen("runs/first/league/main").drawing(world)
    rng = np.random.default_rng(0)
    seen, legal = rng.integers(0, 2, (5, *world.observation.shape)).astype(world.observation.dtype), np.ones((5, 9))
    assert single.policies()[0](seen, legal) == pytest.approx(agent.policies()[-1](seen, legal))
    table = average(agent.policies(), "tic_tac_toe")
    expected = exact.values(table, lambda _, legal: legal / legal.sum(axis=1, keepdims=True), "tic_tac_toe")[0]
    n = 3000
    worlds = batch.make("tic_tac_toe", n, seed=2)
    random = catalogue.load("random")
    game = Seated(worlds, rivals_of(agent), role="o", seed=2)
    game.reset()
    other, total, done = random.make(random.Config(), game.world), 0.0, np.zeros(n, np.bool_)
    while not done.all():
        game.actions[...] = other.act(game.observations[:, 0], legal=game.legal[:, 0])[0][:, None]
        game.step()
        total -= game.episode_returns[game.ended & ~done].sum()
        done |= game.ended
    assert total / n == pytest.approx(expected, abs=5 / np.sqrt(n))


def test_an_average_enters_a_tournament(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tournament", "tic_tac_toe", "runs/first:average=true", "kept=runs/first:sample=true", "random"]
    assert main([*words, "--pairs", "10", "--dir", "meeting", "--json"]) == 0
    lines = [json.loads(line) for line in (inside / "meeting/matches.jsonl").read_text().splitlines()]
    assert len(lines) == 60 and not any(line["fault"] for line in lines)
    assert {name for line in lines for name in line["entrants"]} == {"first:average=true", "kept", "random"}
    assert main([*words, "--pairs", "10", "--dir", "again", "--workers", "2", "--json"]) == 0
    again = [json.loads(line) for line in (inside / "again/matches.jsonl").read_text().splitlines()]
    assert {line["id"]: line["trace"] for line in again} == {line["id"]: line["trace"] for line in lines}
