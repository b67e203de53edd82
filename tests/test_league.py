"""A league: who is frozen stays as it was, who meets whom is the published choice, and it all resumes bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_seated import Takes, random_agent, run
from test_seats import NIM, NimParams

from rl_lab import batch, catalogue, checkpoint, worlds
from rl_lab.agent import Saved
from rl_lab.assembly import make_learner
from rl_lab.cli import main
from rl_lab.engine import Batch
from rl_lab.league.actors import Actors, layers_of
from rl_lab.league.config import LeagueConfig
from rl_lab.league.league import League
from rl_lab.league.pool import Pool, content_hash
from rl_lab.league.roster import Roster
from rl_lab.league.selection import WinTable, few, pfsp
from rl_lab.league.whom import Numbers, ready, whom_to_play
from rl_lab.rivals import Rivals
from rl_lab.run import Run
from rl_lab.scenario import compose
from rl_lab.seated import Seated
from rl_lab.trained import load_agent
from rl_lab.world import Array, World

LEAGUE = "league: {freeze_every: 128, timeout: 200, active: 2, opening: 2, reset: 0.5, anchors: [random]"
THREE = LEAGUE + ", members: {main: 1, main_exploiter: 1, league_exploiter: 1}}\n"
SMALL = "worlds: 8\nvideo: false\nthreads: 1\nevaluation: {episodes: 4, selections: 2, selection_episodes: 4}\n"
PPO = "agent: {name: ppo, n_steps: 8, batch_size: 32, n_epochs: 2}\n"
DQN = "agent: {name: dqn, learning_starts: 50, buffer_size: 800, train_freq: 8}\n"


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
    learner.settle(folder)
    return learner


# The pool


def test_what_is_frozen_never_changes_while_its_learner_trains(tmp_path: Path) -> None:
    league = league_of(tmp_path, "world: tic_tac_toe\nbudget: 100_000\n" + SMALL + PPO + THREE)
    while not league.pool.members:
        league.advance()
    member = league.pool.members[0]
    files = {p: p.read_bytes() for p in (tmp_path / member.path).iterdir()}
    written = {p: p.stat().st_mtime_ns for p in files}
    played = np.array([league.actors._weights[0][league._first_member - 1]])  # type: ignore[union-attr]
    before = league.players[0].learner.save_agent()
    for _ in range(6):
        league.advance()
    assert content_hash(league.players[0].learner.save_agent().tensors) != content_hash(before.tensors), "it learns"
    assert content_hash(member.saved.tensors) == member.sha256
    assert content_hash(checkpoint.load(tmp_path / member.path).tensors) == member.sha256
    assert {p: p.read_bytes() for p in files} == files and {p: p.stat().st_mtime_ns for p in files} == written
    assert (league.actors._weights[0][league._first_member - 1] == played).all()  # type: ignore[union-attr]
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
    member = pool.freeze("main", 7, Saved({"policy": {"w": np.ones(4, np.float32)}}, {}))
    again = Pool()
    again.run = tmp_path
    again.recall(pool.listed(), ["main"])
    assert (again.members[0].saved.tensors["policy"]["w"] == 1).all()
    if forged:  # with a manifest that fits
        shutil.rmtree(tmp_path / member.path)
        tensors = {"policy": {"w": np.full(4, 2, np.float32)}}
        checkpoint.save((tmp_path / member.path).parent, 7, tensors, {"sha256": member.sha256})
    else:
        file = tmp_path / member.path / "policy.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="not those that were frozen" if forged else "does not match its manifest"):
        again.recall(pool.listed(), ["main"])
    with pytest.raises(ValueError, match="list of the pool's members is none"):
        again.recall([["../main", 7, member.sha256]], ["main"])


# Whom to play


def test_both_published_weightings() -> None:
    rates = np.array([0.0, 0.5, 0.9, 1.0])
    hard = np.array([1, 0.25, 0.01, 0])
    assert pfsp(rates, "pfsp_hard") == pytest.approx(hard / hard.sum())
    assert pfsp(rates, "pfsp_hard", power=1) == pytest.approx(np.array([1, 0.5, 0.1, 0]) / 1.6)
    assert pfsp(rates, "pfsp_var") == pytest.approx(np.array([0, 0.25, 0.09, 0]) / 0.34)
    assert pfsp(np.ones(4), "pfsp_hard") == pytest.approx(np.full(4, 0.25)), "nobody is left to beat: all alike"


def test_few_opponents_stand_for_all() -> None:
    chances = np.array([0.3, 0.2, 0.1, 0.1, 0.0])
    drawn = np.array([few(chances, 2, np.random.default_rng(k)) for k in range(4000)])
    assert ((drawn > 0).sum(axis=1) <= 2).all() and drawn.sum(axis=1) == pytest.approx(np.full(4000, 0.7))
    assert drawn.mean(axis=0) == pytest.approx(chances, abs=5 * 0.35 / np.sqrt(4000))
    assert few(chances, 4, np.random.default_rng(0)) is chances


def test_chances_to_win_begin_at_a_half_and_old_games_fade() -> None:
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


NUMBERS = Numbers(9, mains=[0], pool=range(3, 9), frozen_mains=[4, 6], frozen_main_exploiters=[5])
ALL = LeagueConfig(active=100, members={"main": 1, "main_exploiter": 1, "league_exploiter": 1})


def whom(role: str, rates: list[float], **settings: Any) -> Array:
    config = LeagueConfig(**{**vars(ALL), **settings})
    return whom_to_play(role, np.array(rates), NUMBERS, config, np.random.default_rng(0))


def test_a_main_agent_plays_itself_the_pool_and_whom_it_no_longer_beats() -> None:
    won = [0.5, 0.5, 0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    alike = whom("main", won)
    assert alike[0] == pytest.approx(0.35 + 0.15), "nobody is forgotten: that share is self-play"
    assert alike[3:] == pytest.approx(np.full(6, 0.5 / 6)) and (alike[1:3] == 0).all()
    lost = whom("main", won[:5] + [0.2] + won[6:])
    hard = np.array([0.04, 0.04, 0.64, 0.04, 0.04, 0.04]) / 0.84
    expected = 0.5 * hard + 0.15 * np.array([0, 0, 1, 0, 0, 0])
    assert lost[0] == pytest.approx(0.35) and lost[3:] == pytest.approx(expected)
    latest = whom("main", won, selection="latest", self_play=0.0, forgotten=0.0)
    assert latest[6] == 1.0
    some = whom("main", won, active=3)
    assert some[0] == pytest.approx(0.5) and 0 < (some[3:] > 0).sum() <= 2 and some.sum() == pytest.approx(1)


def test_exploiters_play_the_main_agent_or_all_there_have_been() -> None:
    well = whom("main_exploiter", [0.3] + [0.5] * 8)
    assert well[0] == 1.0
    badly = whom("main_exploiter", [0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.5, 0.5])
    var = 0.5 * np.array([0.25, 0.09]) / 0.34
    assert badly[0] == pytest.approx(0.5) and badly[[4, 6]] == pytest.approx(var)
    league = whom("league_exploiter", [0.5] * 9)
    assert league[3:] == pytest.approx(np.full(6, 1 / 6)) and (league[:3] == 0).all()
    alone = Numbers(1, mains=[0], pool=[], frozen_mains=[], frozen_main_exploiters=[])
    for role in ("main", "main_exploiter", "league_exploiter"):
        assert whom_to_play(role, np.array([0.5]), alone, ALL, np.random.default_rng(0)) == pytest.approx([1.0])


def test_who_joins_the_pool_and_when() -> None:
    config = LeagueConfig(freeze_every=100)
    rates = np.full(9, 0.75)
    assert not ready("main", 99, rates, NUMBERS, config) and ready("main", 100, rates, NUMBERS, config)
    for role, needed in (("main_exploiter", 0), ("league_exploiter", 7)):
        assert ready(role, 1, rates, NUMBERS, config)
        short = rates.copy()
        short[needed] = 0.7
        assert not ready(role, 199, short, NUMBERS, config) and ready(role, 200, short, NUMBERS, config)


def test_an_exploiter_begins_anew_and_the_main_agent_never(tmp_path: Path) -> None:
    league = league_of(tmp_path, "world: kuhn_poker\nbudget: 100_000\n" + SMALL + PPO + THREE)
    fresh = {player.name: player.learner for player in league.players}
    for _ in range(12):
        before = league.steps
        league.advance()
        assert league.steps == before + 3 * 64
    generations = {player.name: player.generation for player in league.players}
    assert generations["main"] == 0 and league.players[0].learner is fresh["main"]
    assert generations["main_exploiter"] == sum(m.name == "main_exploiter" for m in league.pool.members) > 1
    assert 0 < generations["league_exploiter"] < 12


# Who sits where


def counted(world: World, chances: list[float], n: int, first: int) -> tuple[list[int], list[int]]:
    rivals = Rivals([Takes() for _ in chances])
    rivals.chances = np.array(chances)
    game = Seated(Batch(world, n, NimParams(heap=7)), rivals)
    game.seed(5, first)
    game.reset()
    met = [game.rival.copy()]
    for _ in range(12):
        game.actions[:, 0] = 0
        game.step()
        met.append(game.rival.copy())
    return np.stack(met, axis=1).tolist(), game.results().sum(axis=(1, 2)).tolist()


def test_rivals_are_drawn_by_their_chances_whatever_the_batch_is() -> None:
    world, chances = World(**NIM), [0.5, 0.0, 0.2, 0.3]
    whole, played = counted(world, chances, 300, 0)
    assert counted(world, chances, 80, 0)[0] + counted(world, chances, 220, 80)[0] == whole
    assert played[1] == 0 and sum(played) > 900
    for share, count in zip(chances, played, strict=True):
        assert abs(count - share * sum(played)) <= 5 * np.sqrt(sum(played) * share * (1 - share))


def test_results_say_who_won_against_whom_from_which_seat() -> None:
    rivals = Rivals([Takes(), Takes()])
    game = Seated(Batch(World(**NIM), 40, NimParams(heap=3), seed=1), rivals, seed=1)
    game.reset()
    ends = np.zeros((2, 2, 3), int)
    for _ in range(6):
        rival, seat = game.rival.copy(), game.seats[:, 0].copy()
        game.actions[:, 0] = 0
        game.step()
        over = np.flatnonzero(game.ended)
        np.add.at(ends, (rival[over], seat[over], 1 + np.sign(game.rewards[over, 0]).astype(int)), 1)
    results = game.results()
    assert (results == ends).all() and (results.sum(axis=(0, 1)) > 10).tolist() == [True, False, True]
    assert (game.results() == 0).all(), "each is told once"


def test_a_list_of_rivals_can_grow_between_two_steps() -> None:
    roster = Roster([Takes(), Takes()])
    roster.chances = np.array([0.5, 0.5])
    game = Seated(Batch(World(**NIM), 16, NimParams(heap=7), seed=1), roster, seed=1)
    game.reset()
    roster.add(late := Takes())
    game.step()
    assert set(game.rival) == {0, 1} and not late.asked
    roster.chances = np.array([0.0, 0.0, 1.0])
    for _ in range(12):
        game.actions[:, 0] = 0
        game.step()
    assert set(game.rival) == {2} and late.asked and len(game.results()) == 3


# Actors


def ppo_at(world: str, n: int, **settings: Any) -> Any:
    module, whole = catalogue.load("ppo"), batch.make(world, n, seed=3)
    config = module.Config(n_steps=8, batch_size=n * 8, n_epochs=1, net_arch=[24, 16], **settings)
    rival = random_agent(whole.world)
    return module.learner(config, Seated(whole, [rival]), budget=1000, seed=4, device="cpu"), config


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "silu"])
def test_actors_decide_as_the_policies_they_are_made_of(activation: str) -> None:
    learners = [ppo_at("connect_four", 4, activation=activation) for _ in range(3)]
    view = Seated(batch.make("connect_four", 50, seed=1), [])
    actors, agents = Actors(activation), []
    for number, (learner, config) in enumerate(learners):
        for _ in range(number):
            learner.advance()
        actors.put(number, layers_of(learner.save_agent().tensors, config, view.world))  # type: ignore[arg-type]
        agents.append(learner.agent())
    generator = np.random.default_rng(0)
    seen = generator.integers(0, 2, (50, *view.world.observation.shape)).astype(np.uint8)
    legal = generator.integers(0, 2, (50, 7)).astype(np.uint8)
    legal[:, 3] = 1
    who = generator.integers(0, 3, 50)
    chances = actors.probabilities(seen, who, legal)
    assert (chances[legal == 0] == 0).all() and chances.sum(axis=1) == pytest.approx(np.ones(50))
    for number, agent in enumerate(agents):
        own = np.flatnonzero(who == number)
        with torch.no_grad():
            shown = agent.policy.obs_to_tensor(seen[own])[0]
            expected = agent.policy.get_distribution(shown, action_masks=legal[own] != 0).distribution.probs.numpy()
        assert chances[own] == pytest.approx(expected, abs=1e-5)


def test_only_a_plain_chain_of_layers_becomes_an_actor() -> None:
    learner, config = ppo_at("tic_tac_toe", 4)
    tensors, seat = learner.save_agent().tensors, Seated(batch.make("tic_tac_toe", 1), []).world
    assert layers_of(tensors, config, seat) is not None
    assert layers_of(tensors, catalogue.load("ppo").Config(normalize_observations=True), seat) is None
    assert layers_of(tensors, config, Seated(batch.make("connect_four", 1), []).world) is None
    assert layers_of({"policy": {}}, config, seat) is None
    with pytest.raises(ValueError, match="one architecture"):
        actors = Actors("tanh")
        actors.put(0, [(np.zeros((2, 3), np.float32), np.zeros(3, np.float32))])
        actors.put(1, [(np.zeros((2, 4), np.float32), np.zeros(4, np.float32))])


def test_what_actors_draw_does_not_depend_on_the_batch() -> None:
    learner, config = ppo_at("tic_tac_toe", 4)

    def moves(n: int, first: int) -> list[list[int]]:
        roster = Roster([None])
        roster.actors, roster.chances = Actors(config.activation), np.ones(1)
        game = Seated(batch.make("tic_tac_toe", n), roster)
        roster.actors.put(0, layers_of(learner.save_agent().tensors, config, game.world))  # type: ignore[arg-type]
        game.seed(9, first)
        game.reset()
        seen = []
        for _ in range(10):
            game.actions[:, 0] = game.legal[:, 0].argmax(axis=1)
            game.step()
            seen.append(game.observations.reshape(n, -1).copy())
        return np.concatenate(seen, axis=1).tolist()

    whole = moves(30, 0)
    assert moves(11, 0) + moves(19, 11) == whole and len({tuple(row) for row in whole}) > 15


# The whole run


def outcome(folder: Path) -> dict[str, Any]:
    files = [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".jsonl") or "league" in p.parts[:-2]]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.is_file()}


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
        ("league.active=0", "league.active=0: expected 1 to 1024"),
        ("league.opening=-1", "league.opening=-1: expected 0 to 1000"),
        ("league.self_play=0.95", "shares of the games"),
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
    composed = compose("connect_four_league", ["league.selection=pfsp_var", "league.members.main=2", "league.active=3"])
    assert composed.league is not None and list(composed.league.learners())[:2] == ["main", "main_2"]
    assert (composed.league.selection, composed.league.active) == ("pfsp_var", 3)
    (tmp_path / "again.yaml").write_text(json.dumps(composed.as_config()))
    assert compose(str(tmp_path / "again.yaml")) == composed
    assert compose("connect_four", ["league={}"]).league == LeagueConfig()
    assert worlds.load(composed.world).zero_sum
