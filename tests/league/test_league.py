"""A league: snapshots stay as they were, matchmaking is as published, and all of it resumes bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.agents import Takes
from support.commands import run
from support.leagues import DQN, LEAGUE, PPO, SMALL, THREE, outcome, ppo_at
from support.nim import NIM, NimParams

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core import agent_registry, checkpoint
from rl_lab.core.agent import StateDict
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
from rl_lab.league.matchmaking import WinTable, pfsp, sample_support
from rl_lab.league.meetings import PlayersByKind, matchmaking_probs, should_freeze
from rl_lab.league.opponents import LeagueOpponents
from rl_lab.league.snapshots import Pool, content_hash
from rl_lab.multiagent.opponent_mixture import OpponentMixture
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def league_of(folder: Path, text: str) -> League:
    (folder / "small.yaml").write_text(text)
    learner, _ = make_learner(compose(str(folder / "small.yaml")))
    assert isinstance(learner, League)
    learner.set_run_dir(folder)
    return learner


# The pool


def first_snapshot_plays(league: League) -> Array:
    """Return the logits, float32 [20, actions], of the first snapshot of the pool for some observations."""
    assert league.actors is not None
    shape = league.learners[0].envs.world.observation.shape
    observations = np.random.default_rng(0).random((20, *shape)).astype(np.float32)
    first_snapshot = np.full(20, len(league.learners))  # the evaluated policies are the learners', then the snapshots'
    return league.actors.logits(observations, first_snapshot)


def test_what_is_frozen_never_changes_while_its_learner_trains(tmp_path: Path) -> None:
    league = league_of(tmp_path, "world: tic_tac_toe\nbudget: 100_000\n" + SMALL + PPO + THREE)
    while not league.pool.members:
        league.train_iteration()
    member = league.pool.members[0]
    files = {p: p.read_bytes() for p in (tmp_path / member.path).iterdir()}
    written = {p: p.stat().st_mtime_ns for p in files}
    played = first_snapshot_plays(league)
    before = league.learners[0].learner.save_agent()
    for _ in range(6):
        league.train_iteration()
    assert content_hash(league.learners[0].learner.save_agent().tensors) != content_hash(before.tensors), "it learns"
    assert content_hash(member.saved.tensors) == member.sha256
    assert content_hash(checkpoint.load(tmp_path / member.path).tensors) == member.sha256
    assert {p: p.read_bytes() for p in files} == files and {p: p.stat().st_mtime_ns for p in files} == written
    assert first_snapshot_plays(league).tobytes() == played.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        next(iter(member.saved.tensors["policy"].values()))[...] = 0
    names = [(m.name, m.step) for m in league.pool.members]
    assert len(set(names)) == len(names) and {name for name, _ in names} == set(league.config.learners())


def test_a_content_hash_tells_values_names_shapes_and_types_apart() -> None:
    base = {"policy": {"a": np.arange(6, dtype=np.float32), "b": np.zeros(2)}}
    others = [
        {"policy": {"a": np.arange(6, dtype=np.float32) + 1e-6, "b": np.zeros(2)}},
        {"policy": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2)}},
        {"policy": {"a": np.arange(6, dtype=np.float64), "b": np.zeros(2)}},
        {"policy": {"c": np.arange(6, dtype=np.float32), "b": np.zeros(2)}},
        {"value": base["policy"]},
    ]
    assert len({content_hash(tensors) for tensors in [base, *others]}) == 6
    turned = {"policy": {"b": np.zeros(2), "a": np.arange(12, dtype=">f4")[::2] / 2}}
    assert content_hash(turned) == content_hash(base)


@pytest.mark.parametrize("forged", [False, True])
def test_a_member_that_was_tampered_with_is_refused(forged: bool, tmp_path: Path) -> None:
    pool = Pool()
    pool.run = tmp_path
    member = pool.freeze("main", 7, StateDict({"policy": {"w": np.ones(4, np.float32)}}, {}))
    again = Pool()
    again.run = tmp_path
    again.reload_snapshots(pool.entries(), ["main"])
    assert (again.members[0].saved.tensors["policy"]["w"] == 1).all()
    if forged:  # with a manifest that fits
        shutil.rmtree(tmp_path / member.path)
        tensors = {"policy": {"w": np.full(4, 2, np.float32)}}
        checkpoint.save((tmp_path / member.path).parent, 7, tensors, {"sha256": member.sha256})
    else:
        file = tmp_path / member.path / "policy.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="not those of the snapshot" if forged else "does not match its manifest"):
        again.reload_snapshots(pool.entries(), ["main"])
    with pytest.raises(ValueError, match="list of snapshots is malformed"):
        again.reload_snapshots([["../main", 7, member.sha256]], ["main"])


# Matchmaking


def test_both_published_weightings() -> None:
    rates = np.array([0.0, 0.5, 0.9, 1.0])
    hard = np.array([1, 0.25, 0.01, 0])
    assert pfsp(rates, "pfsp_hard") == pytest.approx(hard / hard.sum())
    assert pfsp(rates, "pfsp_hard", power=1) == pytest.approx(np.array([1, 0.5, 0.1, 0]) / 1.6)
    assert pfsp(rates, "pfsp_var") == pytest.approx(np.array([0, 0.25, 0.09, 0]) / 0.34)
    assert pfsp(np.ones(4), "pfsp_hard") == pytest.approx(np.full(4, 0.25)), "no opponent is left to beat: all alike"


def test_few_opponents_stand_for_all() -> None:
    probs = np.array([0.3, 0.2, 0.1, 0.1, 0.0])
    drawn = np.array([sample_support(probs, 2, np.random.default_rng(k)) for k in range(4000)])
    assert ((drawn > 0).sum(axis=1) <= 2).all() and drawn.sum(axis=1) == pytest.approx(np.full(4000, 0.7))
    assert drawn.mean(axis=0) == pytest.approx(probs, abs=5 * 0.35 / np.sqrt(4000))
    assert sample_support(probs, 4, np.random.default_rng(0)) is probs


def test_win_rates_begin_at_a_half_and_old_games_fade() -> None:
    table = WinTable(2)
    table.grow(3)
    assert (table.win_rates(0) == 0.5).all()
    table.add(0, np.array([[0, 0, 1], [1, 0, 0], [0, 2, 0]]))
    assert table.win_rates(0) == pytest.approx([2 / 3, 1 / 3, 1 / 2]), "the mean of Beta(1 + won, 1 + lost)"
    table.add(0, np.array([[0, 0, 0], [0, 0, 500], [0, 0, 0]]))
    assert table.win_rates(0) == pytest.approx([2 / 3, (1 + 500) / (2 + 500 + 0.99**500), 1 / 2])
    table.grow(5)
    assert (table.win_rates(1) == 0.5).all() and len(table.win_rates(0)) == 5
    table.forget(0)
    assert (table.win_rates(0) == 0.5).all()


NUMBERS = PlayersByKind(9, mains=[0], pool=range(3, 9), frozen_mains=[4, 6], frozen_main_exploiters=[5])
ALL = LeagueConfig(max_opponents=100, members={"main": 1, "main_exploiter": 1, "league_exploiter": 1})


def opponent_probs(role: str, rates: list[float], **settings: Any) -> Array:
    config = LeagueConfig(**{**vars(ALL), **settings})
    return matchmaking_probs(role, np.array(rates), NUMBERS, config, np.random.default_rng(0))


def test_a_main_agent_plays_itself_the_pool_and_those_it_no_longer_beats() -> None:
    won = [0.5, 0.5, 0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    alike = opponent_probs("main", won)
    assert alike[0] == pytest.approx(0.35 + 0.15), "it loses to no earlier snapshot: that share is self-play"
    assert alike[3:] == pytest.approx(np.full(6, 0.5 / 6)) and (alike[1:3] == 0).all()
    lost = opponent_probs("main", won[:5] + [0.2] + won[6:])
    hard = np.array([0.04, 0.04, 0.64, 0.04, 0.04, 0.04]) / 0.84
    expected = 0.5 * hard + 0.15 * np.array([0, 0, 1, 0, 0, 0])
    assert lost[0] == pytest.approx(0.35) and lost[3:] == pytest.approx(expected)
    latest = opponent_probs("main", won, selection="latest", self_play=0.0, lost_to_share=0.0)
    assert latest[6] == 1.0
    some = opponent_probs("main", won, max_opponents=3)
    assert some[0] == pytest.approx(0.5) and 0 < (some[3:] > 0).sum() <= 2 and some.sum() == pytest.approx(1)


def test_exploiters_play_the_main_agent_or_all_there_have_been() -> None:
    well = opponent_probs("main_exploiter", [0.3] + [0.5] * 8)
    assert well[0] == 1.0
    badly = opponent_probs("main_exploiter", [0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.5, 0.5])
    var = 0.5 * np.array([0.25, 0.09]) / 0.34
    assert badly[0] == pytest.approx(0.5) and badly[[4, 6]] == pytest.approx(var)
    league = opponent_probs("league_exploiter", [0.5] * 9)
    assert league[3:] == pytest.approx(np.full(6, 1 / 6)) and (league[:3] == 0).all()
    alone = PlayersByKind(1, mains=[0], pool=[], frozen_mains=[], frozen_main_exploiters=[])
    for role in ("main", "main_exploiter", "league_exploiter"):
        assert matchmaking_probs(role, np.array([0.5]), alone, ALL, np.random.default_rng(0)) == pytest.approx([1.0])


def test_when_a_learner_is_frozen() -> None:
    config = LeagueConfig(freeze_every=100)
    rates = np.full(9, 0.75)
    assert not should_freeze("main", 99, rates, NUMBERS, config) and should_freeze("main", 100, rates, NUMBERS, config)
    for role, needed in (("main_exploiter", 0), ("league_exploiter", 7)):
        assert should_freeze(role, 1, rates, NUMBERS, config)
        short = rates.copy()
        short[needed] = 0.7
        assert not should_freeze(role, 199, short, NUMBERS, config) and should_freeze(role, 200, short, NUMBERS, config)


def test_an_exploiter_begins_anew_and_the_main_agent_never(tmp_path: Path) -> None:
    league = league_of(tmp_path, "world: kuhn_poker\nbudget: 100_000\n" + SMALL + PPO + THREE)
    fresh = {each.name: each.learner for each in league.learners}
    for _ in range(12):
        before = league.steps
        league.train_iteration()
        assert league.steps == before + 3 * 64
    generations = {each.name: each.generation for each in league.learners}
    assert generations["main"] == 0 and league.learners[0].learner is fresh["main"]
    assert generations["main_exploiter"] == sum(m.name == "main_exploiter" for m in league.pool.members) > 1
    assert 0 < generations["league_exploiter"] < 12


# Seats


def counted(world: World, probs: list[float], n: int, first: int) -> tuple[list[int], list[int]]:
    opponents = OpponentMixture([Takes() for _ in probs])
    opponents.probs = np.array(probs)
    game = OpponentsWrapper(Batch(world, n, NimParams(heap=7)), opponents)
    game.seed(5, first)
    game.reset()
    met = [game.opponent_index.copy()]
    for _ in range(12):
        game.actions[:, 0] = 0
        game.step()
        met.append(game.opponent_index.copy())
    return np.stack(met, axis=1).tolist(), game.pop_loss_draw_win().sum(axis=(1, 2)).tolist()


def test_opponents_are_drawn_by_their_probabilities_whatever_the_batch_is() -> None:
    world, probs = World(**NIM), [0.5, 0.0, 0.2, 0.3]
    whole, played = counted(world, probs, 300, 0)
    assert counted(world, probs, 80, 0)[0] + counted(world, probs, 220, 80)[0] == whole
    assert played[1] == 0 and sum(played) > 900
    for share, count in zip(probs, played, strict=True):
        assert abs(count - share * sum(played)) <= 5 * np.sqrt(sum(played) * share * (1 - share))


def test_results_are_counted_by_opponent_and_role() -> None:
    opponents = OpponentMixture([Takes(), Takes()])
    game = OpponentsWrapper(Batch(World(**NIM), 40, NimParams(heap=3), seed=1), opponents, seed=1)
    game.reset()
    ends = np.zeros((2, 2, 3), int)
    for _ in range(6):
        opponent, seat = game.opponent_index.copy(), game.seats[:, 0].copy()
        game.actions[:, 0] = 0
        game.step()
        over = np.flatnonzero(game.done)
        np.add.at(ends, (opponent[over], seat[over], 1 + np.sign(game.rewards[over, 0]).astype(int)), 1)
    results = game.pop_loss_draw_win()
    assert (results == ends).all() and (results.sum(axis=(0, 1)) > 10).tolist() == [True, False, True]
    assert (game.pop_loss_draw_win() == 0).all(), "each is told once"


def test_a_list_of_opponents_can_grow_between_two_steps() -> None:
    roster = LeagueOpponents([Takes(), Takes()])
    roster.probs = np.array([0.5, 0.5])
    game = OpponentsWrapper(Batch(World(**NIM), 16, NimParams(heap=7), seed=1), roster, seed=1)
    game.reset()
    roster.add(late := Takes())
    game.step()
    assert set(game.opponent_index) == {0, 1} and not late.asked
    roster.probs = np.array([0.0, 0.0, 1.0])
    for _ in range(12):
        game.actions[:, 0] = 0
        game.step()
    assert set(game.opponent_index) == {2} and late.asked and len(game.pop_loss_draw_win()) == 3


# Actors


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "silu"])
def test_actors_decide_as_the_policies_they_are_made_of(activation: str) -> None:
    learners = [ppo_at("connect_four", 4, activation=activation) for _ in range(3)]
    view = OpponentsWrapper(make.make("connect_four", 50, seed=1), [])
    actors, agents = BatchedPolicies(activation), []
    for number, (learner, config) in enumerate(learners):
        for _ in range(number):
            learner.train_iteration()
        actors.put(number, layers_of(learner.save_agent().tensors, config, view.world))  # type: ignore[arg-type]
        agents.append(learner.agent())
    generator = np.random.default_rng(0)
    seen = generator.integers(0, 2, (50, *view.world.observation.shape)).astype(np.uint8)
    action_mask = generator.integers(0, 2, (50, 7)).astype(np.uint8)
    action_mask[:, 3] = 1
    policies = generator.integers(0, 3, 50)
    probs = actors.probabilities(seen, policies, action_mask)
    assert (probs[action_mask == 0] == 0).all() and probs.sum(axis=1) == pytest.approx(np.ones(50))
    for number, agent in enumerate(agents):
        own = np.flatnonzero(policies == number)
        with torch.no_grad():
            shown = agent.policy.obs_to_tensor(seen[own])[0]
            expected = agent.policy.get_distribution(
                shown, action_masks=action_mask[own] != 0
            ).distribution.probs.numpy()
        assert probs[own] == pytest.approx(expected, abs=1e-5)


def test_only_a_plain_chain_of_layers_becomes_an_actor() -> None:
    learner, config = ppo_at("tic_tac_toe", 4)
    tensors, seat = learner.save_agent().tensors, OpponentsWrapper(make.make("tic_tac_toe", 1), []).world
    assert layers_of(tensors, config, seat) is not None
    assert layers_of(tensors, agent_registry.load("ppo").Config(normalize_observations=True), seat) is None
    assert layers_of(tensors, config, OpponentsWrapper(make.make("connect_four", 1), []).world) is None
    assert layers_of({"policy": {}}, config, seat) is None
    with pytest.raises(ValueError, match="one architecture"):
        actors = BatchedPolicies("tanh")
        actors.put(0, [(np.zeros((2, 3), np.float32), np.zeros(3, np.float32))])
        actors.put(1, [(np.zeros((2, 4), np.float32), np.zeros(4, np.float32))])


def test_what_actors_draw_does_not_depend_on_the_batch() -> None:
    learner, config = ppo_at("tic_tac_toe", 4)

    def moves(n: int, first: int) -> list[list[int]]:
        roster = LeagueOpponents([None])
        roster.actors, roster.probs = BatchedPolicies(config.activation), np.ones(1)
        game = OpponentsWrapper(make.make("tic_tac_toe", n), roster)
        roster.actors.put(0, layers_of(learner.save_agent().tensors, config, game.world))  # type: ignore[arg-type]
        game.seed(9, first)
        game.reset()
        seen = []
        for _ in range(10):
            game.actions[:, 0] = game.action_mask[:, 0].argmax(axis=1)
            game.step()
            seen.append(game.observations.reshape(n, -1).copy())
        return np.concatenate(seen, axis=1).tolist()

    whole = moves(30, 0)
    assert moves(11, 0) + moves(19, 11) == whole and len({tuple(row) for row in whole}) > 15


# The whole run


@pytest.mark.parametrize("text", ["world: tic_tac_toe\n" + PPO + THREE, "world: kuhn_poker\n" + DQN + LEAGUE + "}\n"])
def test_a_league_resumes_bit_for_bit_and_its_members_can_be_met(text: str, inside: Path) -> None:
    budget = 2304 if "ppo" in text else 4096
    (inside / "mine.yaml").write_text(f"budget: {budget}\ncheckpoint: {{steps: 700, keep_last: 9}}\n" + SMALL + text)
    run("train", "mine.yaml", "run_dir=whole")
    shutil.copytree("whole", "part")
    for later in sorted((inside / "part/checkpoints").iterdir())[1:]:
        shutil.rmtree(later)
    kept = json.loads((next((inside / "part/checkpoints").iterdir()) / "state.json").read_text())["learner"]["members"]
    for path in (inside / "part/league").glob("*/step-*"):  # of a later time, which is to come again
        if [path.parent.name, int(path.name[5:])] not in [entry[:2] for entry in kept]:
            shutil.rmtree(path)
    shutil.rmtree(inside / "part/agent")
    run("resume", "part")
    whole, part = outcome(inside / "whole"), outcome(inside / "part")
    assert part == whole and len([name for name in whole if name.startswith("league/")]) >= 4
    # Members are agents like any other.
    scenario, places = Run(inside / "whole").scenario(), sorted((inside / "whole/league").glob("*/step-*"))
    agent, step = load_agent(places[-1], scenario)
    assert step == int(places[-1].name[5:]) and agent.name == scenario.agent
    run("evaluate", str(places[0].relative_to(inside)), "opponent=random")
    lines = [json.loads(line) for line in (inside / "whole/metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[-1]["main/win_rate/pool"] < 1 and lines[-1]["league/members"] == len(places)


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
def test_a_wrong_league_is_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "connect_four_league", words]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1


def test_a_leagues_overrides_and_its_config_written_out(tmp_path: Path) -> None:
    composed = compose(
        "connect_four_league", ["league.selection=pfsp_var", "league.members.main=2", "league.max_opponents=3"]
    )
    assert composed.league is not None and list(composed.league.learners())[:2] == ["main", "main_2"]
    assert (composed.league.selection, composed.league.max_opponents) == ("pfsp_var", 3)
    (tmp_path / "again.yaml").write_text(json.dumps(composed.as_config()))
    assert compose(str(tmp_path / "again.yaml")) == composed
    assert compose("connect_four", ["league={}"]).league == LeagueConfig()
    assert world_registry.load(composed.world).zero_sum
