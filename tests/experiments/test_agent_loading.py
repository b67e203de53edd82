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
from support.commands import run
from support.leagues import PPO, SMALL, THREE, outcome, ppo_at

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core import agent_registry, checkpoint
from rl_lab.core.world import Array
from rl_lab.experiments.compose import compose
from rl_lab.experiments.frozen_agent import FrozenAgentRef
from rl_lab.experiments.run_dir import Run
from rl_lab.games import best_response
from rl_lab.games.tabular_policy import average
from rl_lab.league.average_policy import AveragePolicyAgent
from rl_lab.league.opponents import opponents_of
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper
from rl_lab.tournament.policy_entrant import PolicyAgent

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
        assert "runs/first is not the agent that it was: SHA-256" in said and len(said.splitlines()) == 1
    assert main(["evaluate", "mine", "opponent=random"]) == 0, "its opponent in training does not matter now"
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
        ("opponent={path: runs/mine, average: true}", "has no average: there is no snapshot of a league in"),
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


def test_a_step_of_a_league_is_its_main_agent(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kept,) = (inside / "runs/first/agent").glob("step-*")
    whole = f"runs/first/checkpoints/{kept.name}"
    assert FrozenAgentRef(whole).with_content_hash().sha256 == FrozenAgentRef("first").with_content_hash().sha256
    step = int(kept.name[5:])
    results = []
    for name in (whole, f"first@{step}", "first"):
        capsys.readouterr()
        assert main(["evaluate", name, "evaluation.episodes=10", "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1])["mean_return"])
    assert len(set(results)) == 1
    assert main(["export", whole, "whole.zip"]) == 0
    assert main(["exploit", whole]) == 0
    run("train", *AGAINST, f"opponent=first@{step}", "run_dir=mine")


# Policies that draw


def test_an_agent_tells_the_probabilities_it_draws_by() -> None:
    learner, _ = ppo_at("connect_four", 4)
    agent, generator = learner.agent(), np.random.default_rng(0)
    seen = generator.integers(0, 2, (50, *agent.policy.observation_space.shape)).astype(np.uint8)
    action_mask = generator.integers(0, 2, (50, 7)).astype(np.uint8)
    action_mask[:, 3] = 1
    with torch.no_grad():
        shown = agent.policy.obs_to_tensor(seen)[0]
        expected = agent.policy.get_distribution(shown, action_masks=action_mask != 0).distribution.probs.numpy()
    told = agent.probabilities(seen, action_mask)
    assert told == pytest.approx(expected, abs=1e-6) and (told[action_mask == 0] == 0).all()
    assert (told.argmax(axis=1) == agent.act(seen, action_mask=action_mask)[0]).all()
    module, seats = agent_registry.load("dqn"), OpponentsWrapper(make.make("connect_four", 2), [])
    greedy = module.learner(module.Config(buffer_size=100), seats, budget=100, seed=0, device="cpu").agent()
    assert (greedy.probabilities(seen, action_mask) == np.eye(7)[greedy.act(seen, action_mask=action_mask)[0]]).all()


def test_a_policy_that_samples_draws_by_row_and_step_alone() -> None:
    learner, _ = ppo_at("tic_tac_toe", 4)
    envs, n = make.make("tic_tac_toe", 4000), 4000
    envs.reset()
    agent = PolicyAgent(learner.agent(), sample=True)
    agent.bind(envs)
    keys, clock = np.arange(2 * n, dtype=np.uint64) * np.uint64(977), np.zeros(n, np.int64)
    agent.set_row_seeds(keys, clock)
    rows, seen, action_mask = np.arange(0, 2 * n, 2), envs.observations[:, 0], envs.action_mask[:, 0]
    whole = agent.act(seen, action_mask=action_mask, rows=rows)[0]
    parts = [
        agent.act(seen[part], action_mask=action_mask[part], rows=rows[part])[0]
        for part in np.split(np.arange(n), [1, 700])
    ]
    assert (np.concatenate(parts) == whole).all()
    probs = learner.agent().probabilities(seen[:1], action_mask[:1])[0]
    assert np.bincount(whole, minlength=9) / n == pytest.approx(probs, abs=5 * np.sqrt(0.25 / n))
    clock += 1
    assert (agent.act(seen, action_mask=action_mask, rows=rows)[0] != whole).any()


# Averages


class Stubborn:
    """Policy k takes action k wherever it may, and else the last that is legal."""

    def probabilities(self, observations: Array, policies: Array, action_mask: Array | None) -> Array:
        assert action_mask is not None
        rows, last = np.arange(len(policies)), 8 - action_mask[:, ::-1].argmax(axis=1)
        return np.eye(9)[np.where(action_mask[rows, policies] != 0, policies, last)]


def test_an_average_is_one_of_its_members_for_a_whole_episode() -> None:
    envs = make.make("tic_tac_toe", 600)
    envs.seed(np.arange(600))
    envs.reset()
    agent: Any = AveragePolicyAgent("average", Stubborn(), 3)  # type: ignore[arg-type]
    agent.bind(envs)
    rows = np.arange(0, 1200, 2)
    drawn = agent.act(envs.observations[:, 0], action_mask=envs.action_mask[:, 0], rows=rows)[0]
    assert np.bincount(drawn, minlength=3) / 600 == pytest.approx(np.full(3, 1 / 3), abs=5 * np.sqrt(2 / 9 / 600))
    some = agent.act(envs.observations[5:9, 0], action_mask=envs.action_mask[5:9, 0], rows=rows[5:9])[0]
    assert (some == drawn[5:9]).all()
    envs.actions[:, 0] = 8
    envs.step()
    envs.actions[:, 1] = 7
    envs.step()
    assert (agent.act(envs.observations[:, 0], action_mask=envs.action_mask[:, 0], rows=rows)[0] == drawn).all()
    keys, clock = np.arange(1200, dtype=np.uint64), np.zeros(600, np.int64)
    agent.set_row_seeds(keys, clock)
    first = agent.act(envs.observations[:, 0], action_mask=envs.action_mask[:, 0], rows=rows)[0]
    clock += 5
    assert (agent.act(envs.observations[:, 0], action_mask=envs.action_mask[:, 0], rows=rows)[0] == first).all()
    assert len(set(first)) == 3


def test_a_leagues_average_plays_as_its_exact_value_says(inside: Path) -> None:
    world = make.make("tic_tac_toe", 1).world
    agent: Any = FrozenAgentRef("runs/first", average=True).agent(world)
    assert agent.name == "ppo-average" and agent.num_policies == len(
        list((inside / "runs/first/league/main").glob("step-*"))
    )
    single: Any = FrozenAgentRef("runs/first/league/main").sampling_agent(world)
    rng = np.random.default_rng(0)
    seen, action_mask = (
        rng.integers(0, 2, (5, *world.observation.shape)).astype(world.observation.dtype),
        np.ones((5, 9)),
    )
    assert single.policy_functions()[0](seen, action_mask) == pytest.approx(
        agent.policy_functions()[-1](seen, action_mask)
    )
    table = average(agent.policy_functions(), "tic_tac_toe")
    expected = best_response.expected_returns(
        table, lambda _, action_mask: action_mask / action_mask.sum(axis=1, keepdims=True), "tic_tac_toe"
    )[0]
    n = 3000
    envs = make.make("tic_tac_toe", n, seed=2)
    random = agent_registry.load("random")
    game = OpponentsWrapper(envs, opponents_of(agent), role="o", seed=2)
    game.reset()
    other, total, done = random.make(random.Config(), game.world), 0.0, np.zeros(n, np.bool_)
    while not done.all():
        game.actions[...] = other.act(game.observations[:, 0], action_mask=game.action_mask[:, 0])[0][:, None]
        game.step()
        total -= game.episode_returns[game.done & ~done].sum()
        done |= game.done
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
