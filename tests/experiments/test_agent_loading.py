"""Tests of trained agents that are loaded from runs, and of how policies sample their actions.

Agents are loaded as opponents, as average policies and as entrants of tournaments. An average policy draws one of a
league's snapshots for each episode and plays it to the end. An opponent is identified by the hash of its content: a
resumed run refuses another agent in its place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import run_command
from support.leagues import LEAGUE_OF_THREE_KINDS, PPO, SMALL_SCENARIO, league_files, small_ppo_learner

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core import agent_registry, checkpoint
from rl_lab.core.world import Array
from rl_lab.experiments.compose import compose
from rl_lab.experiments.frozen_agent import FrozenAgentRef
from rl_lab.experiments.run_dir import Run
from rl_lab.games import best_response
from rl_lab.games.tabular_policy import average, uniform
from rl_lab.league.average_policy import AveragePolicyAgent
from rl_lab.league.opponents import opponents_of
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper
from rl_lab.tournament.policy_entrant import PolicyAgent

LEAGUE_SCENARIO = "name: first\nworld: tic_tac_toe\nbudget: 1536\n" + SMALL_SCENARIO + PPO + LEAGUE_OF_THREE_KINDS
TRAIN_TIC_TAC_TOE = [
    "tic_tac_toe",
    "worlds=8",
    "budget=512",
    "video=false",
    "evaluation.episodes=4",
    "checkpoint.steps=100",
]
TRAIN_TIC_TAC_TOE += ["agent.n_steps=8", "agent.batch_size=32", "agent.n_epochs=1", "evaluation.selection_episodes=4"]


@pytest.fixture(autouse=True, scope="module")
def use_one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("league")
    (folder / "mine.yaml").write_text(LEAGUE_SCENARIO)
    assert main(["train", str(folder / "mine.yaml"), f"run_dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def league_in_tmp_path(league: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(league, tmp_path / "runs/first")
    return tmp_path


# --- Opponents


@pytest.mark.parametrize(
    "words, average",
    [("opponent={path: first}", False), ("opponent=runs/first/league/main", False), ("opponent=runs/first", True)],
)
def test_a_run_against_a_trained_opponent_resumes_bit_for_bit(
    words: str, average: bool, league_in_tmp_path: Path
) -> None:
    overrides = [words]
    if average:
        overrides.append("opponent.average=true")
    run_command("train", *TRAIN_TIC_TAC_TOE, *overrides, "run_dir=whole")
    opponent = Run(league_in_tmp_path / "whole").scenario().opponent
    assert opponent is not None and len(opponent["sha256"]) == 64 and opponent["average"] == average
    shutil.copytree("whole", "part")
    for later in sorted((league_in_tmp_path / "part/checkpoints").iterdir())[1:]:
        shutil.rmtree(later)
    shutil.rmtree(league_in_tmp_path / "part/agent")
    run_command("resume", "part")
    assert league_files(league_in_tmp_path / "part") == league_files(league_in_tmp_path / "whole")
    run_command("evaluate", "whole", "evaluation.episodes=4")


def test_an_opponent_whose_content_has_changed_is_refused(
    league_in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("train", *TRAIN_TIC_TAC_TOE, "opponent=runs/first", "run_dir=mine")
    before = compose("mine/config.yaml").opponent
    loaded = checkpoint.load(next((league_in_tmp_path / "runs/first/agent").glob("step-*")))
    next(iter(loaded.tensors["policy"].values()))[...] += 1
    checkpoint.save(league_in_tmp_path / "runs/first/agent", loaded.step + 1, loaded.tensors, loaded.state, keep_last=1)
    capsys.readouterr()
    for words in (["resume", "mine"], ["evaluate", "mine"], ["train", "mine/config.yaml"]):
        assert main(words) == 2
        stderr = capsys.readouterr().err
        assert "runs/first is not the agent that it was: SHA-256" in stderr and len(stderr.splitlines()) == 1
    assert main(["evaluate", "mine", "opponent=random"]) == 0, "its opponent in training does not matter now"
    now = compose("mine/config.yaml", ["opponent=runs/first"]).opponent
    assert before and now and before["sha256"] != now["sha256"]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["opponent=runs/nobody"], "opponent: no run runs/nobody"),
        (["opponent={path: runs/first, averag: true}"], "unknown key 'opponent.averag'; did you mean 'average'?"),
        (["opponent={path: runs/first, average: perhaps}"], "average"),
        (["opponent={average: true}"], "expected an agent's name, or a mapping with one"),
        (["opponent=runs"], "runs is not a run"),
        (["opponent={path: runs/mine, average: true}"], "has no average: there is no snapshot of a league in"),
        (["world=connect_four", "opponent=runs/first"], "was trained in tic_tac_toe, not in connect_four"),
        (["opponent=ppo"], "would have to be trained first"),
    ],
)
def test_an_invalid_opponent_is_refused_in_one_line(
    overrides: list[str], message: str, league_in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("runs/first", "runs/mine", ignore=shutil.ignore_patterns("league"))
    assert main(["train", "tic_tac_toe", *overrides, "run_dir=never"]) == 2
    stderr = capsys.readouterr().err
    assert message in stderr and len(stderr.splitlines()) == 1 and not (league_in_tmp_path / "never").exists()


def test_a_checkpoint_of_a_league_stands_for_its_main_agent(
    league_in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (agent_folder,) = (league_in_tmp_path / "runs/first/agent").glob("step-*")
    checkpoint_folder = f"runs/first/checkpoints/{agent_folder.name}"
    assert (
        FrozenAgentRef(checkpoint_folder).with_content_hash().sha256
        == FrozenAgentRef("first").with_content_hash().sha256
    )
    step = int(agent_folder.name[5:])
    results = []
    for name in (checkpoint_folder, f"first@{step}", "first"):
        capsys.readouterr()
        assert main(["evaluate", name, "evaluation.episodes=10", "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1])["mean_return"])
    assert len(set(results)) == 1
    assert main(["export", checkpoint_folder, "whole.zip"]) == 0
    assert main(["exploit", checkpoint_folder]) == 0
    run_command("train", *TRAIN_TIC_TAC_TOE, f"opponent=first@{step}", "run_dir=mine")


# --- Sampling policies


def test_probabilities_are_those_with_which_the_agent_samples() -> None:
    learner, _ = small_ppo_learner("connect_four", 4)
    agent, generator = learner.agent(), np.random.default_rng(0)
    observations = generator.integers(0, 2, (50, *agent.policy.observation_space.shape)).astype(np.uint8)
    action_mask = generator.integers(0, 2, (50, 7)).astype(np.uint8)
    action_mask[:, 3] = 1
    with torch.no_grad():
        observation_tensor = agent.policy.obs_to_tensor(observations)[0]
        expected = agent.policy.get_distribution(
            observation_tensor, action_masks=action_mask != 0
        ).distribution.probs.numpy()
    probabilities = agent.probabilities(observations, action_mask)
    assert probabilities == pytest.approx(expected, abs=1e-6) and (probabilities[action_mask == 0] == 0).all()
    assert (probabilities.argmax(axis=1) == agent.act(observations, action_mask=action_mask)[0]).all()
    module, seats = agent_registry.load("dqn"), OpponentsWrapper(make.make("connect_four", 2), [])
    greedy = module.learner(module.Config(buffer_size=100), seats, budget=100, seed=0, device="cpu").agent()
    assert (
        greedy.probabilities(observations, action_mask)
        == np.eye(7)[greedy.act(observations, action_mask=action_mask)[0]]
    ).all()


def test_sampled_actions_depend_on_row_and_step_alone() -> None:
    learner, _ = small_ppo_learner("tic_tac_toe", 4)
    envs, n = make.make("tic_tac_toe", 4000), 4000
    envs.reset()
    agent = PolicyAgent(learner.agent(), sample=True)
    agent.bind(envs)
    keys, clock = np.arange(2 * n, dtype=np.uint64) * np.uint64(977), np.zeros(n, np.int64)
    agent.set_row_seeds(keys, clock)
    rows, observations, action_mask = np.arange(0, 2 * n, 2), envs.observations[:, 0], envs.action_mask[:, 0]
    actions = agent.act(observations, action_mask=action_mask, rows=rows)[0]
    parts = [
        agent.act(observations[part], action_mask=action_mask[part], rows=rows[part])[0]
        for part in np.split(np.arange(n), [1, 700])
    ]
    assert (np.concatenate(parts) == actions).all()
    probs = learner.agent().probabilities(observations[:1], action_mask[:1])[0]
    assert np.bincount(actions, minlength=9) / n == pytest.approx(probs, abs=5 * np.sqrt(0.25 / n))
    clock += 1
    assert (agent.act(observations, action_mask=action_mask, rows=rows)[0] != actions).any()


# --- Average policies


class ActionPerPolicy:
    """Policy k takes action k where it is legal, and else the last legal action."""

    def probabilities(self, observations: Array, policies: Array, action_mask: Array | None) -> Array:
        assert action_mask is not None
        rows, last = np.arange(len(policies)), 8 - action_mask[:, ::-1].argmax(axis=1)
        return np.eye(9)[np.where(action_mask[rows, policies] != 0, policies, last)]


def test_an_average_policy_plays_one_member_for_a_whole_episode() -> None:
    envs = make.make("tic_tac_toe", 600)
    envs.seed(np.arange(600))
    envs.reset()
    agent: Any = AveragePolicyAgent("average", ActionPerPolicy(), 3)  # type: ignore[arg-type]
    agent.bind(envs)
    rows = np.arange(0, 1200, 2)
    actions = agent.act(envs.observations[:, 0], action_mask=envs.action_mask[:, 0], rows=rows)[0]
    assert np.bincount(actions, minlength=3) / 600 == pytest.approx(np.full(3, 1 / 3), abs=5 * np.sqrt(2 / 9 / 600))
    some = agent.act(envs.observations[5:9, 0], action_mask=envs.action_mask[5:9, 0], rows=rows[5:9])[0]
    assert (some == actions[5:9]).all()
    # After a move of each player, the same policy must play on. No policy has taken these two fields.
    envs.actions[:, 0] = 8
    envs.step()
    envs.actions[:, 1] = 7
    envs.step()
    assert (agent.act(envs.observations[:, 0], action_mask=envs.action_mask[:, 0], rows=rows)[0] == actions).all()
    # With keys of the caller, the policy follows from the row's key alone, and not from the step, which is the clock.
    keys, clock = np.arange(1200, dtype=np.uint64), np.zeros(600, np.int64)
    agent.set_row_seeds(keys, clock)
    first = agent.act(envs.observations[:, 0], action_mask=envs.action_mask[:, 0], rows=rows)[0]
    clock += 5  # the agent reads this array at each call
    assert (agent.act(envs.observations[:, 0], action_mask=envs.action_mask[:, 0], rows=rows)[0] == first).all()
    assert len(set(first)) == 3


def test_the_average_of_a_league_has_all_its_snapshots_and_the_newest_is_the_last(league_in_tmp_path: Path) -> None:
    world = make.make("tic_tac_toe", 1).world
    agent: Any = FrozenAgentRef("runs/first", average=True).agent(world)
    snapshots = list((league_in_tmp_path / "runs/first/league/main").glob("step-*"))
    assert agent.name == "ppo-average" and agent.num_policies == len(snapshots)
    # A member's path without a step names its newest snapshot.
    newest: Any = FrozenAgentRef("runs/first/league/main").sampling_agent(world)
    rng = np.random.default_rng(0)
    observations = rng.integers(0, 2, (5, *world.observation.shape)).astype(world.observation.dtype)
    action_mask = np.ones((5, 9))
    assert newest.policy_functions()[0](observations, action_mask) == pytest.approx(
        agent.policy_functions()[-1](observations, action_mask)
    )


def test_the_average_of_a_league_has_the_return_that_is_computed_exactly(league_in_tmp_path: Path) -> None:
    agent: Any = FrozenAgentRef("runs/first", average=True).agent(make.make("tic_tac_toe", 1).world)
    table = average(agent.policy_functions(), "tic_tac_toe")
    expected = best_response.expected_returns(table, uniform, "tic_tac_toe")[0]
    n = 3000
    random = agent_registry.load("random")
    # The environments of a learner with role "o", in which the average policy is the opponent and has the first move.
    envs = OpponentsWrapper(make.make("tic_tac_toe", n, seed=2), opponents_of(agent), role="o", seed=2)
    envs.reset()
    other, total, done = random.make(random.Config(), envs.world), 0.0, np.zeros(n, np.bool_)
    while not done.all():
        envs.actions[...] = other.act(envs.observations[:, 0], action_mask=envs.action_mask[:, 0])[0][:, None]
        envs.step()
        # The returns are those of role "o", in a zero-sum game: the average policy's are the opposite.
        total -= envs.episode_returns[envs.done & ~done].sum()
        done |= envs.done
    assert total / n == pytest.approx(expected, abs=5 / np.sqrt(n))


def test_an_average_policy_can_enter_a_tournament(league_in_tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tournament", "tic_tac_toe", "runs/first:average=true", "kept=runs/first:sample=true", "random"]
    assert main([*words, "--pairs", "10", "--dir", "meeting", "--json"]) == 0
    lines = [json.loads(line) for line in (league_in_tmp_path / "meeting/matches.jsonl").read_text().splitlines()]
    assert len(lines) == 60 and not any(line["fault"] for line in lines)
    assert {name for line in lines for name in line["entrants"]} == {"first:average=true", "kept", "random"}
    assert main([*words, "--pairs", "10", "--dir", "again", "--workers", "2", "--json"]) == 0
    with_two_workers = [
        json.loads(line) for line in (league_in_tmp_path / "again/matches.jsonl").read_text().splitlines()
    ]
    assert {line["id"]: line["trace"] for line in with_two_workers} == {line["id"]: line["trace"] for line in lines}
