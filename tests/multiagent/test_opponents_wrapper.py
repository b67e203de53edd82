"""These tests check learning with opponents, with idle agents and action masks, and with several policies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.agents import TakesFixedCount, random_agent
from support.commands import run_command
from support.nim import NIM, NimParams
from support.race import RACE

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.cli import main
from rl_lab.core import agent_registry
from rl_lab.core.world import World
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch
from rl_lab.evaluation.evaluate import evaluate
from rl_lab.multiagent.multi_policy import LockstepScheduler
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def wrapped_nim(n: int = 4, heap: int = 7, **options: Any) -> tuple[OpponentsWrapper, TakesFixedCount]:
    opponent = TakesFixedCount()
    return OpponentsWrapper(Batch(World(**NIM), n, NimParams(heap=heap), seed=5), [opponent], **options), opponent


# The learner's view


def test_a_step_lasts_until_the_learner_moves_again() -> None:
    envs, opponent = wrapped_nim(n=32)
    envs.reset()
    for _ in range(40):
        # The learner always finds itself at the move, and sees whose it is.
        assert (envs.observations[:, 0, 1] == 1).all() and envs.acting.all()
        before = envs.observations[:, 0, 0].copy()
        envs.actions[:, 0] = 0
        envs.step()
        unfinished = ~envs.done
        assert (envs.observations[unfinished, 0, 0] == before[unfinished] - 2).all()  # its own and the opponent's
    assert all((observations[:, 1] == 1).all() for observations in opponent.observed), (
        "the opponent sees its own observations"
    )


def test_the_learner_gets_its_reward_whichever_agent_moved_last() -> None:
    envs, _ = wrapped_nim(n=64, heap=2)
    envs.reset()
    lost = np.zeros(64, np.bool_)
    opened = envs.observations[:, 0, 0] == 2  # the learner opens; otherwise the opponent took one already
    envs.actions[:, 0] = 0
    envs.step()
    lost = envs.done & (envs.rewards[:, 0] == -1)
    assert (lost == opened).all() and opened.any() and not opened.all()
    won = envs.done & (envs.rewards[:, 0] == 1)
    assert (won == ~opened).all()
    assert (envs.episode_returns[envs.done, 0] == envs.rewards[envs.done, 0]).all()
    assert (envs.final_observations[:, 0, 0] == 0).all() and envs.terminated.all() and not envs.truncated.any()
    assert (envs.rewards[:, 0] != 0).all()


def test_roles_are_drawn_from_the_seed_alone() -> None:
    def drawn_seats(n: int, first: int, seed: int = 5) -> list[int]:
        envs, _ = wrapped_nim(n=n, seed=seed)
        envs.seed(seed, first)
        envs.reset()
        return list(envs.seats[:, 0])

    all_seats = drawn_seats(200, 0)
    assert drawn_seats(50, 0) + drawn_seats(150, 50) == all_seats != drawn_seats(200, 0, seed=6)
    assert 60 < sum(all_seats) < 140
    fixed, _ = wrapped_nim(n=50, role="second")
    fixed.reset()
    assert (fixed.seats == 1).all()


def test_a_snapshot_goes_on_as_it_would_have() -> None:
    world = World(**NIM)

    def play(envs: OpponentsWrapper, steps: int) -> list[bytes]:
        seen = []
        for _ in range(steps):
            envs.actions[:, 0] = 0
            envs.step()
            seen.append(b"".join(a.tobytes() for a in envs.snapshot().values()))
        return seen

    envs = OpponentsWrapper(Batch(world, 5, seed=1), [random_agent(world)], seed=1)
    envs.reset()
    play(envs, 7)
    saved = envs.snapshot()
    expected = play(envs, 9)
    other = OpponentsWrapper(Batch(world, 5, seed=2), [random_agent(world)], seed=1)
    other.reset()
    other.restore(saved)
    assert play(other, 9) == expected
    with pytest.raises(ValueError, match="seats belong to no role of this world"):
        other.restore({**saved, "wrapper_seats": saved["wrapper_seats"] + 2})
    with pytest.raises(ValueError, match="does not fit"):
        other.restore({**saved, "wrapper_episodes": saved["wrapper_episodes"][:2]})


def test_random_moves_that_open_an_episode_are_no_experience() -> None:
    def opened(n: int, first: int) -> list[int]:
        envs, opponent = wrapped_nim(n=n, heap=20, random_opening_moves=4, seed=3)
        envs.seed(3, first)
        envs.reset()
        assert (envs.observations[:, 0, 1] == 1).all(), "the learner is at the move"
        assert all((observations[:, 1] == 1).all() for observations in opponent.observed)
        return [int(heap) for heap in envs.observations[:, 0, 0]]

    heaps = opened(400, 0)
    assert set(heaps) >= set(range(13, 21)), "0 to 4 moves of either agent, each of 1 to 3"
    assert opened(100, 0) + opened(300, 100) == heaps
    envs, _ = wrapped_nim(n=64, heap=4, random_opening_moves=4, seed=3)  # many end before its first move
    envs.reset()
    over, saved = 0, {}
    for step in range(60):
        if step == 30:
            saved = envs.snapshot()
        envs.actions[:, 0] = 0
        envs.step()
        over += int(envs.done.sum())
        # The rewards of the opening are in no reward of the learner.
        assert (envs.episode_returns[envs.done] == envs.rewards[envs.done]).all()
        assert (envs.rewards[~envs.done] == 0).all() and (envs.observations[:, 0, 1] == 1).all()
    assert envs.pop_loss_draw_win().sum() == over > 0
    other, _ = wrapped_nim(n=64, heap=4, random_opening_moves=4, seed=3)
    other.reset()
    other.restore(saved)
    for _ in range(30):
        other.actions[:, 0] = 0
        other.step()
    assert (other.observations == envs.observations).all() and (other.episodes == envs.episodes).all()
    with pytest.raises(ValueError, match="need a turn-based world"):
        OpponentsWrapper(Batch(world_registry.load("pursuit"), 1), [TakesFixedCount()], random_opening_moves=1)


def test_an_opponent_needs_seats() -> None:
    with pytest.raises(ValueError, match="no agent left for an opponent"):
        OpponentsWrapper(Batch(world_registry.load("catch"), 1), [TakesFixedCount()])
    with pytest.raises(ValueError, match="no role 'third'"):
        wrapped_nim(role="third")
    with pytest.raises(ValueError, match="different numbers of agents"):
        OpponentsWrapper(Batch(World(**RACE), 1), [TakesFixedCount()])


# Rows


def test_rows_say_which_agents_acted_and_are_done() -> None:
    race = Batch(World(**RACE), 2)
    rows = LabVecEnv(race, indicator=True)
    first = rows.reset()
    assert first.shape == (6, 5) and (first[:, 2:] == np.tile(np.eye(3), (2, 1))).all()
    seen = []
    for _ in range(3):
        rows.step_async(np.tile([[1.0], [2.0], [1.5]], (2, 1)).astype(np.float32))
        observations, rewards, dones, infos = rows.step_wait()
        seen.append((rows.is_decision_step[:3].tolist(), rewards[:3].tolist(), dones[:3].tolist()))
    assert seen[1] == ([True, True, True], [-1, -1, -1], [False, True, True])  # the hares arrive
    assert seen[2] == ([True, False, False], [-1, 0, 0], [True, True, True])
    assert infos[0]["episode"]["r"] == -3 and infos[0]["terminal_observation"].tolist() == [3, 3, 1, 0, 0]
    assert infos[1] == infos[2] == {}, "the end of an agent that left before has been reported already"
    assert not infos[0]["TimeLimit.truncated"]


def make_learner(name: str, views: Any, budget: int = 100_000, **values: Any) -> Any:
    module = agent_registry.load(name)
    return module.learner(module.Config(**values), views, budget=budget, seed=0, device="cpu")


SMALL = {
    "ppo": {"n_steps": 8, "batch_size": 48, "n_epochs": 2},
    "dqn": {"buffer_size": 400, "learning_starts": 20, "train_freq": 2},
}


def test_ppo_never_acts_illegally_nor_learns_from_waiting_agents() -> None:
    trained = make_learner("ppo", Batch(World(**NIM), 6, seed=0), budget=2000, **SMALL["ppo"])
    for _ in range(4):
        trained.train_iteration()  # the batch refuses illegal actions
    model, buffer = trained.model, trained.model.rollout_buffer
    model.collect_rollouts(model.env, trained.callback, buffer, 8)
    expected = int(buffer.has_complete_transition.sum())
    assert 0.3 < buffer.has_complete_transition.mean() < 0.7
    assert sum(len(part.observations) for part in buffer.get(10)) in (expected, expected - 1)
    assert all((part.observations[:, 1] == 1).all() for part in buffer.get(10)), "whose move it was not is in"


def test_advantages_are_those_of_each_players_own_turns() -> None:
    """Against GAE written out for one player: its turns in order, and all it was paid until the next of them."""
    trained = make_learner("ppo", Batch(World(**NIM), 8, seed=3), budget=9999, **SMALL["ppo"] | {"batch_size": 128})
    trained.train_iteration()
    model, buffer = trained.model, trained.model.rollout_buffer
    model.collect_rollouts(model.env, trained.callback, buffer, 8)
    gamma, decay, compared = buffer.gamma, buffer.gamma * buffer.gae_lambda, 0
    for row in range(16):
        ends = [t for t in range(1, 8) if buffer.episode_starts[t, row]]
        for first, last in zip([0, *ends], ends, strict=False):  # whole or begun before, but ended in the rollout
            turns = [t for t in range(first, last) if buffer.has_complete_transition[t, row]]
            following = 0.0
            for k in reversed(range(len(turns))):
                until = turns[k + 1] if k + 1 < len(turns) else last
                paid = float(buffer.rewards[turns[k] : until, row].sum())
                after = float(buffer.values[until, row]) if k + 1 < len(turns) else 0.0
                following = paid + gamma * after - float(buffer.values[turns[k], row]) + decay * following
                assert buffer.advantages[turns[k], row] == pytest.approx(following, abs=1e-5)
                compared += 1
    assert compared > 20 and (buffer.rewards == -1).any()


def test_dqn_samples_only_rows_that_acted() -> None:
    trained = make_learner("dqn", Batch(world_registry.load("junction"), 4, seed=0), budget=4000, **SMALL["dqn"])
    for _ in range(3):
        trained.train_iteration()
    buffer = trained.model.replay_buffer
    assert 0.05 < buffer.has_complete_transition.mean() < 0.95
    buffer.rewards[~buffer.has_complete_transition] = 777.0
    assert buffer.sample(2000).rewards.max() < 700


@pytest.mark.parametrize("compiled", [True, False])
def test_dqn_learns_a_turn_based_game_against_itself(compiled: bool) -> None:
    """On the way of perfect play it leaves multiples of four, and it expects to lose where it finds such a heap."""
    settings: dict[str, Any] = {"learning_starts": 200, "train_freq": 2, "gamma": 1.0, "learning_rate": 2e-3}
    settings |= {"net_arch": [32], "gradient_steps": 8, "target_update_interval": 200, "compiled": compiled}
    trained = make_learner("dqn", Batch(World(**NIM), 8, seed=0), budget=20_000, **settings)
    while trained.steps < 20_000:
        trained.train_iteration()
    heaps = [1, 2, 3, 7, 4]
    seen = torch.tensor([[heap, 1.0] for heap in heaps])
    legal = torch.tensor([[take <= heap for take in (1, 2, 3)] for heap in heaps])
    with torch.no_grad():
        q_values = trained.model.q_net(seen).masked_fill(~legal, -torch.inf)
    values_by_heap = q_values.max(dim=1).values.tolist()
    assert (q_values[:4].argmax(dim=1) + 1).tolist() == [1, 2, 3, 3]
    assert values_by_heap[:4] == pytest.approx([1.0] * 4, abs=0.2)
    assert values_by_heap[4] < -0.2


def test_a_view_of_one_seat_knows_which_agents_wait_and_have_left() -> None:
    world = world_registry.load("junction")
    envs = OpponentsWrapper(Batch(world, 32, seed=2), [random_agent(world)], seed=2)
    rows = LabVecEnv(envs)
    rows.reset()
    left = 0
    for _ in range(200):
        game_actions = np.ones(32, np.int64)
        rows.step_async(game_actions)
        _, _, dones, infos = rows.step_wait()
        gone = envs.left_episode[:, 0] & ~envs.done
        left += int(gone.sum())
        assert dones[gone].all() and all("terminal_observation" in infos[i] for i in np.flatnonzero(gone))
    assert left > 0 and not rows.is_decision_step.all()


@pytest.mark.parametrize("name", SMALL)
def test_nim_is_learned_against_an_opponent(name: str) -> None:
    """Heap 7 against an opponent that takes one at a time: a good player wins from both seats."""
    opponent = TakesFixedCount()
    envs = OpponentsWrapper(Batch(World(**NIM), 16, seed=1), [opponent], seed=1)
    settings: dict[str, Any] = (
        {"n_steps": 16, "batch_size": 64, "n_epochs": 8, "learning_rate": 3e-3, "gamma": 1.0}
        if name == "ppo"
        else {"learning_rate": 3e-3, "learning_starts": 200, "train_freq": 1, "target_update_interval": 100}
    )
    budget = 12_000 if name == "ppo" else 5000
    trained = make_learner(name, envs, budget, **settings)
    while trained.steps < budget:
        trained.train_iteration()
    agent, test = trained.agent(), OpponentsWrapper(Batch(World(**NIM), 100, seed=77), [TakesFixedCount()], seed=9)
    test.reset()
    returns = np.full(100, np.nan)
    while np.isnan(returns).any():
        test.actions[:, 0], _ = agent.act(test.observations[:, 0], action_mask=test.action_mask[:, 0])
        test.step()
        fresh = test.done & np.isnan(returns)
        returns[fresh] = test.episode_returns[fresh, 0]
    assert returns.mean() > 0.95


# Policies side by side, through the commands


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


BOTH = "budget: 2400\nworlds: 4\nthreads: 1\nvideo: false\n"
BOTH += "evaluation: {episodes: 8, selections: 2, selection_episodes: 4}\n"
GAMES = {
    "ppo": "world: tic_tac_toe\npolicies: {cross: [x], nought: [o]}\n",
    "dqn": "world: simple_tag\npolicies: {cross: [adversary], nought: [agent]}\n",
}


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_policies_of_their_own_learn_side_by_side_and_resume_exactly(
    agent: str, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "n_steps: 16, batch_size: 32" if agent == "ppo" else "learning_starts: 50, buffer_size: 1200"
    text = f"agent: {{name: {agent}, {own}}}\ncheckpoint: {{steps: 400}}\n"
    (inside / "both.yaml").write_text(BOTH + GAMES[agent] + text)
    run_command("train", "both.yaml", "run_dir=whole")
    run_command("train", "both.yaml", "run_dir=part")
    for later in sorted((inside / "part/checkpoints").iterdir())[1:]:
        for file in later.iterdir():
            file.unlink()
        later.rmdir()
    for path in ("part/evaluations", "part/agent"):
        for file in sorted((inside / path).rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    run_command("resume", "part")
    all_seats, part = (sorted((inside / name / "checkpoints").iterdir())[-1] for name in ("whole", "part"))
    assert all_seats.name == part.name
    tensors = [p for p in all_seats.glob("*.safetensors") if "policy" in p.name or "optimizer" in p.name]
    assert len(tensors) >= 4
    for file in tensors:
        assert file.read_bytes() == (part / file.name).read_bytes(), file.name
    lines = [json.loads(line) for line in (inside / "whole/metrics.jsonl").read_text().splitlines()]
    assert {key.split("/")[0] for key in lines[-1] if "/loss" in key or "/train/loss" in key} >= {"cross", "nought"}


def test_a_view_alone_cannot_step() -> None:
    table = LockstepScheduler(Batch(World(**NIM), 1))
    with pytest.raises(RuntimeError, match="together with the others"):
        table.wait()


@pytest.mark.parametrize(
    "line, message",
    [
        ("world=tic_tac_toe opponent=nobody", "opponent: no agent 'nobody'"),
        ("world=tic_tac_toe opponent=ppo", "would have to be trained first"),
        ("world=tic_tac_toe opponent=random opponent.sed=1", "unknown key 'opponent.sed'; did you mean 'seed'"),
        ("world=tic_tac_toe opponent=random role=z", "tic_tac_toe has no role 'z'"),
        ("world=connect_four role=red", "name the agent of the other seats"),
        ("world=catch opponent=random", "catch has one agent"),
    ],
)
def test_a_wrong_opponent_is_one_line(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "random", *line.split()]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1


# Evaluation


def test_random_players_of_tic_tac_toe_meet_as_they_should() -> None:
    """X wins 737/1260 of random games, O 121/420 (exact): an agent that has each seat in turn gets their difference."""
    world = world_registry.load("tic_tac_toe")
    played = evaluate(random_agent(world, 1), "tic_tac_toe", {}, episodes=4000, opponent=random_agent(world, 2))
    as_x = [e.return_ for e in played.episodes if e.seats == (0,)]
    as_o = [e.return_ for e in played.episodes if e.seats == (1,)]
    assert len(as_x) == len(as_o) == 2000
    expected, error = 737 / 1260 - 121 / 420, np.sqrt(1 / 2000)
    assert abs(np.mean(as_x) - expected) < 5 * error and abs(np.mean(as_o) + expected) < 5 * error
    assert all(sum(e.returns) == 0 and e.actions.shape == (e.length, 2) for e in played.episodes)


def test_an_episode_of_a_game_is_filmed_again(inside: Path) -> None:
    from rl_lab.evaluation.trace import load_trace
    from rl_lab.evaluation.video import film

    world = world_registry.load("tic_tac_toe")
    played = evaluate(random_agent(world), "tic_tac_toe", {}, episodes=2, opponent=random_agent(world, 1))
    path = film(played.episodes[1], "tic_tac_toe", {}, inside / "one.mp4")
    again = load_trace(path.with_suffix(".safetensors"))
    assert again.episode == played.episodes[1] and again.episode.seats == (1,)
    assert film(*again, inside / "two.mp4").read_bytes() == path.read_bytes()


def test_watch_shows_agents_in_a_world(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command("watch", "tic_tac_toe", "--agents", "scripted,random", "--file", "--out", "films")
    assert Path(capsys.readouterr().out.strip()).stat().st_size > 1000
