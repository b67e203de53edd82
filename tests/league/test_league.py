"""Leagues: snapshots do not change, matchmaking follows the paper, a resumed league ends with the same bits.

The tests train leagues of a few iterations in a temporary folder; `support.leagues` has their scenarios.
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
from support.agents import TakesFixedCount
from support.commands import run_command
from support.leagues import DQN, LEAGUE, LEAGUE_OF_THREE_KINDS, PPO, SMALL_SCENARIO, league_files, small_ppo_learner
from support.nim import NIM, NimParams

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core import agent_registry, checkpoint
from rl_lab.core.agent import StateDict
from rl_lab.core.content_hash import content_hash
from rl_lab.core.world import Array, World
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch
from rl_lab.experiments.agent_loading import load_agent
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.experiments.run_dir import Run
from rl_lab.league.batched_policies import BatchedPolicies, layers_of
from rl_lab.league.config import LeagueConfig
from rl_lab.league.league import League
from rl_lab.league.matchmaking import PlayersByKind, is_snapshot_due, matchmaking_probs
from rl_lab.league.opponents import LeagueOpponents
from rl_lab.league.pfsp import WinTable, pfsp, sample_support
from rl_lab.league.snapshots import SnapshotPool
from rl_lab.multiagent.opponent_mixture import OpponentMixture
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_league(folder: Path, text: str) -> League:
    (folder / "small.yaml").write_text(text)
    learner, _ = make_learner(compose(str(folder / "small.yaml")))
    assert isinstance(learner, League)
    learner.set_run_dir(folder)
    return learner


# The pool


def logits_of_first_snapshot(league: League) -> Array:
    """Return the logits, float32 [20, actions], of the first snapshot of the pool for some observations."""
    assert league.batched_policies is not None
    shape = league.learners[0].envs.world.observation.shape
    observations = np.random.default_rng(0).random((20, *shape)).astype(np.float32)
    first_snapshot = np.full(20, len(league.learners))  # the evaluated policies are the learners', then the snapshots'
    return league.batched_policies.logits(observations, first_snapshot)


def test_a_snapshot_does_not_change_while_its_learner_trains(tmp_path: Path) -> None:
    league = make_league(
        tmp_path, "world: tic_tac_toe\nbudget: 100_000\n" + SMALL_SCENARIO + PPO + LEAGUE_OF_THREE_KINDS
    )
    while not league.pool.snapshots:
        league.train_iteration()
    snapshot = league.pool.snapshots[0]
    files = {p: p.read_bytes() for p in (tmp_path / snapshot.path).iterdir()}
    modified = {p: p.stat().st_mtime_ns for p in files}
    logits_before = logits_of_first_snapshot(league)
    first_params = league.learners[0].learner.save_agent()
    for _ in range(6):
        league.train_iteration()
    assert content_hash(league.learners[0].learner.save_agent().tensors) != content_hash(first_params.tensors), (
        "it learns"
    )
    assert content_hash(snapshot.state_dict.tensors) == snapshot.sha256
    assert content_hash(checkpoint.load(tmp_path / snapshot.path).tensors) == snapshot.sha256
    assert {p: p.read_bytes() for p in files} == files and {p: p.stat().st_mtime_ns for p in files} == modified
    assert logits_of_first_snapshot(league).tobytes() == logits_before.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        next(iter(snapshot.state_dict.tensors["policy"].values()))[...] = 0
    names = [(snapshot.name, snapshot.step) for snapshot in league.pool.snapshots]
    assert len(set(names)) == len(names) and {name for name, _ in names} == set(league.config.learners())


def test_a_content_hash_differs_for_other_values_names_shapes_or_types() -> None:
    base = {"policy": {"a": np.arange(6, dtype=np.float32), "b": np.zeros(2)}}
    others = [
        {"policy": {"a": np.arange(6, dtype=np.float32) + 1e-6, "b": np.zeros(2)}},
        {"policy": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2)}},
        {"policy": {"a": np.arange(6, dtype=np.float64), "b": np.zeros(2)}},
        {"policy": {"c": np.arange(6, dtype=np.float32), "b": np.zeros(2)}},
        {"value": base["policy"]},
    ]
    assert len({content_hash(tensors) for tensors in [base, *others]}) == 6
    same_in_other_order = {"policy": {"b": np.zeros(2), "a": np.arange(12, dtype=">f4")[::2] / 2}}
    assert content_hash(same_in_other_order) == content_hash(base)


@pytest.mark.parametrize("has_manifest", [False, True])
def test_a_snapshot_with_edited_parameters_is_refused(has_manifest: bool, tmp_path: Path) -> None:
    pool = SnapshotPool()
    pool.run_dir = tmp_path
    snapshot = pool.freeze("main", 7, StateDict({"policy": {"w": np.ones(4, np.float32)}}, {}))
    reloaded = SnapshotPool()
    reloaded.run_dir = tmp_path
    reloaded.reload_snapshots(pool.entries(), ["main"])
    assert (reloaded.snapshots[0].state_dict.tensors["policy"]["w"] == 1).all()
    if has_manifest:  # the manifest of the edited files is right, too
        shutil.rmtree(tmp_path / snapshot.path)
        tensors = {"policy": {"w": np.full(4, 2, np.float32)}}
        checkpoint.save((tmp_path / snapshot.path).parent, 7, tensors, {"sha256": snapshot.sha256})
    else:
        file = tmp_path / snapshot.path / "policy.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(
        ValueError, match="not those of the snapshot" if has_manifest else "does not match its manifest"
    ):
        reloaded.reload_snapshots(pool.entries(), ["main"])
    with pytest.raises(ValueError, match="list of snapshots is malformed"):
        reloaded.reload_snapshots([["../main", 7, snapshot.sha256]], ["main"])


# Matchmaking


def test_pfsp_weightings_are_those_of_the_paper() -> None:
    rates = np.array([0.0, 0.5, 0.9, 1.0])
    hard = np.array([1, 0.25, 0.01, 0])
    assert pfsp(rates, "pfsp_hard") == pytest.approx(hard / hard.sum())
    assert pfsp(rates, "pfsp_hard", power=1) == pytest.approx(np.array([1, 0.5, 0.1, 0]) / 1.6)
    assert pfsp(rates, "pfsp_var") == pytest.approx(np.array([0, 0.25, 0.09, 0]) / 0.34)
    assert pfsp(np.ones(4), "pfsp_hard") == pytest.approx(np.full(4, 0.25)), "all opponents are beaten: uniform"


def test_sampled_supports_have_the_right_mean() -> None:
    probs = np.array([0.3, 0.2, 0.1, 0.1, 0.0])
    samples = np.array([sample_support(probs, 2, np.random.default_rng(k)) for k in range(4000)])
    assert ((samples > 0).sum(axis=1) <= 2).all() and samples.sum(axis=1) == pytest.approx(np.full(4000, 0.7))
    assert samples.mean(axis=0) == pytest.approx(probs, abs=5 * 0.35 / np.sqrt(4000))
    assert sample_support(probs, 4, np.random.default_rng(0)) is probs


def test_win_rates_begin_at_one_half_and_old_games_fade() -> None:
    table = WinTable(2)
    table.grow(3)
    assert (table.win_rates(0) == 0.5).all()
    table.add(0, np.array([[0, 0, 1], [1, 0, 0], [0, 2, 0]]))
    assert table.win_rates(0) == pytest.approx([2 / 3, 1 / 3, 1 / 2]), "the mean of Beta(1 + won, 1 + lost)"
    table.add(0, np.array([[0, 0, 0], [0, 0, 500], [0, 0, 0]]))
    assert table.win_rates(0) == pytest.approx([2 / 3, (1 + 500) / (2 + 500 + 0.99**500), 1 / 2])
    table.grow(5)
    assert (table.win_rates(1) == 0.5).all() and len(table.win_rates(0)) == 5
    table.clear(0)
    assert (table.win_rates(0) == 0.5).all()


PLAYERS = PlayersByKind(9, mains=[0], pool=range(3, 9), main_snapshots=[4, 6], main_exploiter_snapshots=[5])
CONFIG = LeagueConfig(max_opponents=100, members={"main": 1, "main_exploiter": 1, "league_exploiter": 1})


def opponent_probs(kind: str, rates: list[float], **settings: Any) -> Array:
    config = LeagueConfig(**{**vars(CONFIG), **settings})
    return matchmaking_probs(kind, np.array(rates), PLAYERS, config, np.random.default_rng(0))


def test_a_main_agent_plays_itself_the_pool_and_snapshots_that_it_loses_to() -> None:
    win_rates = [0.5, 0.5, 0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    uniform = opponent_probs("main", win_rates)
    assert uniform[0] == pytest.approx(0.35 + 0.15), "it loses to no earlier snapshot: that share is self-play"
    assert uniform[3:] == pytest.approx(np.full(6, 0.5 / 6)) and (uniform[1:3] == 0).all()
    losing = opponent_probs("main", win_rates[:5] + [0.2] + win_rates[6:])
    hard = np.array([0.04, 0.04, 0.64, 0.04, 0.04, 0.04]) / 0.84
    expected = 0.5 * hard + 0.15 * np.array([0, 0, 1, 0, 0, 0])
    assert losing[0] == pytest.approx(0.35) and losing[3:] == pytest.approx(expected)
    latest = opponent_probs("main", win_rates, selection="latest", self_play=0.0, lost_to_share=0.0)
    assert latest[6] == 1.0
    limited = opponent_probs("main", win_rates, max_opponents=3)
    assert limited[0] == pytest.approx(0.5) and 0 < (limited[3:] > 0).sum() <= 2 and limited.sum() == pytest.approx(1)


def test_exploiters_play_the_main_agents_or_the_whole_pool() -> None:
    winning = opponent_probs("main_exploiter", [0.3] + [0.5] * 8)
    assert winning[0] == 1.0
    losing = opponent_probs("main_exploiter", [0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.5, 0.5])
    pfsp_var = 0.5 * np.array([0.25, 0.09]) / 0.34
    assert losing[0] == pytest.approx(0.5) and losing[[4, 6]] == pytest.approx(pfsp_var)
    league_exploiter = opponent_probs("league_exploiter", [0.5] * 9)
    assert league_exploiter[3:] == pytest.approx(np.full(6, 1 / 6)) and (league_exploiter[:3] == 0).all()
    only_one = PlayersByKind(1, mains=[0], pool=[], main_snapshots=[], main_exploiter_snapshots=[])
    for kind in ("main", "main_exploiter", "league_exploiter"):
        assert matchmaking_probs(kind, np.array([0.5]), only_one, CONFIG, np.random.default_rng(0)) == pytest.approx(
            [1.0]
        )


def test_snapshots_are_taken_on_success_or_after_a_time() -> None:
    config = LeagueConfig(freeze_every=100)
    rates = np.full(9, 0.75)
    assert not is_snapshot_due("main", 99, rates, PLAYERS, config) and is_snapshot_due(
        "main", 100, rates, PLAYERS, config
    )
    for kind, target in (("main_exploiter", 0), ("league_exploiter", 7)):
        assert is_snapshot_due(kind, 1, rates, PLAYERS, config)
        too_low = rates.copy()
        too_low[target] = 0.7
        assert not is_snapshot_due(kind, 199, too_low, PLAYERS, config) and is_snapshot_due(
            kind, 200, too_low, PLAYERS, config
        )


def test_exploiters_restart_and_the_main_agent_does_not(tmp_path: Path) -> None:
    league = make_league(
        tmp_path, "world: kuhn_poker\nbudget: 100_000\n" + SMALL_SCENARIO + PPO + LEAGUE_OF_THREE_KINDS
    )
    first_learners = {player.name: player.learner for player in league.learners}
    for _ in range(12):
        before = league.steps
        league.train_iteration()
        assert league.steps == before + 3 * 64
    generations = {player.name: player.generation for player in league.learners}
    assert generations["main"] == 0 and league.learners[0].learner is first_learners["main"]
    assert (
        generations["main_exploiter"]
        == sum(snapshot.name == "main_exploiter" for snapshot in league.pool.snapshots)
        > 1
    )
    assert 0 < generations["league_exploiter"] < 12


# Opponents of an OpponentsWrapper


def play_mixture(world: World, probs: list[float], n: int, first: int) -> tuple[list[int], list[int]]:
    """Return the opponents of n worlds, numbered from `first`, at each step, and the episodes against each opponent."""
    opponents = OpponentMixture([TakesFixedCount() for _ in probs])
    opponents.probs = np.array(probs)
    envs = OpponentsWrapper(Batch(world, n, NimParams(heap=7)), opponents)
    envs.seed(5, first)
    envs.reset()
    opponent_index = [envs.opponent_index.copy()]
    for _ in range(12):
        envs.actions[:, 0] = 0
        envs.step()
        opponent_index.append(envs.opponent_index.copy())
    return np.stack(opponent_index, axis=1).tolist(), envs.pop_loss_draw_win().sum(axis=(1, 2)).tolist()


def test_opponents_are_sampled_by_their_probabilities_in_every_split_of_the_worlds() -> None:
    world, probs = World(**NIM), [0.5, 0.0, 0.2, 0.3]
    expected, episodes = play_mixture(world, probs, 300, 0)
    assert play_mixture(world, probs, 80, 0)[0] + play_mixture(world, probs, 220, 80)[0] == expected
    assert episodes[1] == 0 and sum(episodes) > 900
    for share, count in zip(probs, episodes, strict=True):
        assert abs(count - share * sum(episodes)) <= 5 * np.sqrt(sum(episodes) * share * (1 - share))


def test_results_are_counted_by_opponent_and_role() -> None:
    opponents = OpponentMixture([TakesFixedCount(), TakesFixedCount()])
    envs = OpponentsWrapper(Batch(World(**NIM), 40, NimParams(heap=3), seed=1), opponents, seed=1)
    envs.reset()
    expected = np.zeros((2, 2, 3), int)
    for _ in range(6):
        opponent, seat = envs.opponent_index.copy(), envs.seats[:, 0].copy()
        envs.actions[:, 0] = 0
        envs.step()
        ended = np.flatnonzero(envs.done)
        np.add.at(expected, (opponent[ended], seat[ended], 1 + np.sign(envs.rewards[ended, 0]).astype(int)), 1)
    results = envs.pop_loss_draw_win()
    assert (results == expected).all() and (results.sum(axis=(0, 1)) > 10).tolist() == [True, False, True]
    assert (envs.pop_loss_draw_win() == 0).all(), "each result is returned once"


def test_opponents_can_be_added_between_two_steps() -> None:
    opponents = LeagueOpponents([TakesFixedCount(), TakesFixedCount()])
    opponents.probs = np.array([0.5, 0.5])
    envs = OpponentsWrapper(Batch(World(**NIM), 16, NimParams(heap=7), seed=1), opponents, seed=1)
    envs.reset()
    opponents.add(new_opponent := TakesFixedCount())
    envs.step()
    assert set(envs.opponent_index) == {0, 1} and not new_opponent.observed
    opponents.probs = np.array([0.0, 0.0, 1.0])
    for _ in range(12):
        envs.actions[:, 0] = 0
        envs.step()
    assert set(envs.opponent_index) == {2} and new_opponent.observed and len(envs.pop_loss_draw_win()) == 3


# Batched policies


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "silu"])
def test_batched_policies_have_the_probabilities_of_the_single_policies(activation: str) -> None:
    learners = [small_ppo_learner("connect_four", 4, activation=activation) for _ in range(3)]
    envs = OpponentsWrapper(make.make("connect_four", 50, seed=1), [])
    batched, agents = BatchedPolicies(activation), []
    for index, (learner, config) in enumerate(learners):
        for _ in range(index):
            learner.train_iteration()
        batched.set_policy(index, layers_of(learner.save_agent().tensors, config, envs.world))  # type: ignore[arg-type]
        agents.append(learner.agent())
    generator = np.random.default_rng(0)
    observations = generator.integers(0, 2, (50, *envs.world.observation.shape)).astype(np.uint8)
    action_mask = generator.integers(0, 2, (50, 7)).astype(np.uint8)
    action_mask[:, 3] = 1
    policies = generator.integers(0, 3, 50)
    probs = batched.probabilities(observations, policies, action_mask)
    assert (probs[action_mask == 0] == 0).all() and probs.sum(axis=1) == pytest.approx(np.ones(50))
    for index, agent in enumerate(agents):
        rows = np.flatnonzero(policies == index)
        with torch.no_grad():
            obs_tensor = agent.policy.obs_to_tensor(observations[rows])[0]
            expected = agent.policy.get_distribution(
                obs_tensor, action_masks=action_mask[rows] != 0
            ).distribution.probs.numpy()
        assert probs[rows] == pytest.approx(expected, abs=1e-5)


def test_only_mlps_over_raw_observations_are_batched() -> None:
    learner, config = small_ppo_learner("tic_tac_toe", 4)
    tensors, spec = learner.save_agent().tensors, OpponentsWrapper(make.make("tic_tac_toe", 1), []).world
    assert layers_of(tensors, config, spec) is not None
    assert layers_of(tensors, agent_registry.load("ppo").Config(normalize_observations=True), spec) is None
    assert layers_of(tensors, config, OpponentsWrapper(make.make("connect_four", 1), []).world) is None
    assert layers_of({"policy": {}}, config, spec) is None
    with pytest.raises(ValueError, match="one architecture"):
        batched = BatchedPolicies("tanh")
        batched.set_policy(0, [(np.zeros((2, 3), np.float32), np.zeros(3, np.float32))])
        batched.set_policy(1, [(np.zeros((2, 4), np.float32), np.zeros(4, np.float32))])


def test_sampled_actions_do_not_depend_on_the_batch() -> None:
    learner, config = small_ppo_learner("tic_tac_toe", 4)

    def play(n: int, first: int) -> list[list[int]]:
        opponents = LeagueOpponents([None])
        opponents.batched_policies, opponents.probs = BatchedPolicies(config.activation), np.ones(1)
        envs = OpponentsWrapper(make.make("tic_tac_toe", n), opponents)
        opponents.batched_policies.set_policy(0, layers_of(learner.save_agent().tensors, config, envs.world))  # type: ignore[arg-type]
        envs.seed(9, first)
        envs.reset()
        observations = []
        for _ in range(10):
            envs.actions[:, 0] = envs.action_mask[:, 0].argmax(axis=1)
            envs.step()
            observations.append(envs.observations.reshape(n, -1).copy())
        return np.concatenate(observations, axis=1).tolist()

    expected = play(30, 0)
    assert play(11, 0) + play(19, 11) == expected and len({tuple(row) for row in expected}) > 15


# Runs


@pytest.mark.parametrize(
    "text", ["world: tic_tac_toe\n" + PPO + LEAGUE_OF_THREE_KINDS, "world: kuhn_poker\n" + DQN + LEAGUE + "}\n"]
)
def test_a_league_resumes_bit_for_bit_and_its_snapshots_can_be_evaluated(text: str, cwd: Path) -> None:
    budget = 2304 if "ppo" in text else 4096
    (cwd / "mine.yaml").write_text(
        f"budget: {budget}\ncheckpoint: {{steps: 700, keep_last: 9}}\n" + SMALL_SCENARIO + text
    )
    run_command("train", "mine.yaml", "run_dir=whole")
    shutil.copytree("whole", "part")
    for later in sorted((cwd / "part/checkpoints").iterdir())[1:]:
        shutil.rmtree(later)
    snapshots = json.loads((next((cwd / "part/checkpoints").iterdir()) / "state.json").read_text())["learner"][
        "members"
    ]
    for path in (cwd / "part/league").glob("*/step-*"):  # of a later time, which the resumed run writes again
        if [path.parent.name, int(path.name[5:])] not in [entry[:2] for entry in snapshots]:
            shutil.rmtree(path)
    shutil.rmtree(cwd / "part/agent")
    run_command("resume", "part")
    whole, part = league_files(cwd / "whole"), league_files(cwd / "part")
    assert part == whole and len([name for name in whole if name.startswith("league/")]) >= 4
    # Snapshots are agents like any other.
    scenario, folders = Run(cwd / "whole").scenario(), sorted((cwd / "whole/league").glob("*/step-*"))
    agent, step = load_agent(folders[-1], scenario)
    assert step == int(folders[-1].name[5:]) and agent.name == scenario.agent
    run_command("evaluate", str(folders[0].relative_to(cwd)), "opponent=random")
    lines = [json.loads(line) for line in (cwd / "whole/metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[-1]["main/win_rate/pool"] < 1 and lines[-1]["league/members"] == len(folders)


@pytest.mark.parametrize(
    "words, message",
    [
        ("league.selektion=uniform", "unknown key 'league.selektion'; did you mean 'selection'?"),
        ("league.selection=unifrom", "league.selection='unifrom'; did you mean 'uniform'?"),
        ("league.members.mein=1", "unknown key 'league.members.mein'; did you mean 'main'?"),
        ("league.members={main_exploiter:1}", "there is no main agent"),
        ("league.members.main=99", "8 at most in all"),
        ("league.anchors=[randon]", "league.anchors: no agent 'randon'; did you mean 'random'?"),
        ("league.anchors=[{name:minimax,dept:2}]", "unknown key 'league.anchors.dept'; did you mean 'depth'?"),
        ("league.anchors=[ppo]", "would have to be trained first"),
        ("league.freeze_every=often", "freeze_every"),
        ("league.max_opponents=0", "league.max_opponents=0: expected 1 to 1024"),
        ("league.forgotten=0.1", "unknown key 'league.forgotten'; did you mean 'lost_to_share'?"),
        ("league.beat=0.6", "unknown key 'league.beat'; did you mean 'freeze_win_rate'?"),
        ("league.reset=0.5", "unknown key 'league.reset'; did you mean 'reset_prob'?"),
        ("league.active=3", "unknown key 'league.active'; did you mean 'max_opponents'?"),
        ("league.opening=2", "unknown key 'league.opening'; did you mean 'random_opening_moves'?"),
        ("league.random_opening_moves=-1", "league.random_opening_moves=-1: expected 0 to 1000"),
        ("league.self_play=0.95", "league.self_play and league.lost_to_share must not exceed 1"),
        ("league=3", "league is 3"),
        ("policies={a:[red],b:[yellow]}", "goes with neither policies nor role"),
        ("world=cartpole", "cartpole has one agent"),
        ("world=simple_spread", "not zero-sum"),
    ],
)
def test_a_mistake_in_league_settings_is_one_line_of_error(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "connect_four_league", words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_league_is_overridden_by_keys_and_survives_a_written_config(tmp_path: Path) -> None:
    composed = compose(
        "connect_four_league", ["league.selection=pfsp_var", "league.members.main=2", "league.max_opponents=3"]
    )
    assert composed.league is not None and list(composed.league.learners())[:2] == ["main", "main_2"]
    assert (composed.league.selection, composed.league.max_opponents) == ("pfsp_var", 3)
    (tmp_path / "again.yaml").write_text(json.dumps(composed.as_config()))
    assert compose(str(tmp_path / "again.yaml")) == composed
    assert compose("connect_four", ["league={}"]).league == LeagueConfig()
    assert world_registry.load(composed.world).zero_sum
