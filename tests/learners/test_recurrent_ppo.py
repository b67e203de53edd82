"""Recurrent policies of PPO: states in rollouts and updates, in evaluation and matches, and in checkpoints.

Networks are not trained here: their last layers are scaled up, so that actions and values depend much on the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from support.race import RACE
from support.runs import check_evaluates_and_resumes

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core import agent_registry
from rl_lab.core.world import Array, World
from rl_lab.engine.batch import Batch
from rl_lab.evaluation.collection import CollectionPlan, Policy, collect
from rl_lab.evaluation.evaluate import evaluate
from rl_lab.evaluation.video import LiveView
from rl_lab.learners.sb3.recurrent_agent import RecurrentAgent
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper
from rl_lab.tournament.call_record import CallRecord
from rl_lab.tournament.entrant_calls import EntrantRunner
from rl_lab.tournament.functions import ObjectAgent
from rl_lab.tournament.policy_entrant import PolicyAgent

PPO = agent_registry.load("ppo")
SMALL = {"policy": "gru", "recurrent_size": 8, "net_arch": [8], "n_steps": 12, "sequence_length": 4, "batch_size": 12}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def envs_of(world: str, num_envs: int = 3, **params: Any) -> Any:
    if world == "race":  # agents leave one after the other
        same_spaces = {"observation": Box(0, 9, (2,)), "action": Box(0, 2, (1,))}
        return Batch(World(**{**RACE, **same_spaces}), num_envs, seed=0, plain=True)
    return make.make(world, num_envs, params, seed=0)


def learner_of(envs: Any, **values: Any) -> Any:
    learner = PPO.learner(PPO.Config(**{**SMALL, **values}), envs, budget=10**6, seed=0, device="cpu")
    with torch.no_grad():
        learner.model.policy.action_net.weight.mul_(100)
        learner.model.policy.gru.weight_hh.mul_(2)
        torch.nn.init.uniform_(learner.model.policy.gru.bias_ih, -0.2, 0.2)
    return learner


def agent_of(world: str, **params: Any) -> RecurrentAgent:
    agent: RecurrentAgent = learner_of(envs_of(world, **params)).agent()
    return agent


def collect_rollout(learner: Any) -> Any:
    model = learner.model
    model.collect_rollouts(model.env, learner.callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


# --- Rollouts and updates

WORLDS = {"t_maze": {"length": 2}, "cartpole": {}, "tic_tac_toe": {}, "pendulum": {}, "race": {}}


@pytest.mark.parametrize("burn_in", [0, 3, 20])
@pytest.mark.parametrize("world", WORLDS)
def test_an_update_computes_what_the_rollout_computed(world: str, burn_in: int) -> None:
    learner = learner_of(envs_of(world, **WORLDS[world]), burn_in=burn_in)
    model, learned, began_with_state = learner.model, 0, False
    for _ in range(4):  # with the same parameters, so that transitions that were pending have them, too
        buffer = collect_rollout(learner)
        for batch in buffer.sequences(12, 4, burn_in):
            log_probs, values, _ = model.evaluate_sequences(batch)
            torch.testing.assert_close(log_probs, batch.old_log_probs, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(values, batch.old_values, rtol=1e-4, atol=1e-4)
            learned += len(values)
            began_with_state |= bool((batch.states != 0).any())
    assert began_with_state and learned >= 4 * 12


def test_the_first_minibatch_has_a_ratio_of_1_and_later_ones_have_not() -> None:
    learner = learner_of(envs_of("t_maze", length=2), n_epochs=1, batch_size=36, burn_in=2)
    metrics = learner.train_iteration()
    assert metrics["train/clip_fraction"] == 0 and abs(metrics["train/approx_kl"]) < 1e-6
    learner = learner_of(envs_of("t_maze", length=2), n_epochs=8, learning_rate=0.05)
    assert learner.train_iteration()["train/clip_fraction"] > 0
    assert learner.backend.startswith("torch, because")


def gradients(model: Any, loss: torch.Tensor) -> list[Array]:
    parameters = list(model.policy.parameters())
    return [g.numpy() for g in torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)]


def step_by_step(model: Any, buffer: Any) -> torch.Tensor:
    """Return the values [T, B] of a rollout that began with episodes, computed one step after the other."""
    states, values = torch.zeros(buffer.n_envs, model.policy.recurrent_size), []
    for observations, starts in zip(buffer.observations, buffer.episode_starts, strict=True):
        states = torch.from_numpy(1 - starts)[:, None] * states
        states = model.policy.next_states(torch.from_numpy(observations), states)
        values.append(model.policy.values(states))
    return torch.stack(values)


def test_gradients_flow_through_whole_sequences_and_end_where_episodes_do() -> None:
    learner = learner_of(envs_of("t_maze", length=2), sequence_length=12)
    model, buffer = learner.model, collect_rollout(learner)
    assert buffer.episode_starts[1:].any()
    (batch,) = buffer.sequences(36, 12, 0)
    expected = gradients(model, step_by_step(model, buffer).square().sum())
    for one, other in zip(gradients(model, model.evaluate_sequences(batch)[1].square().sum()), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_burn_in_brings_the_state_up_to_date_without_a_gradient() -> None:
    learner = learner_of(envs_of("cartpole"), burn_in=12)
    model, buffer = learner.model, collect_rollout(learner)
    with_burn_in, without = (list(_in_order(buffer, burn_in)) for burn_in in (12, 0))
    for one, other in zip(with_burn_in, without, strict=True):
        model.burn_in = 12
        after_burn_in = gradients(model, model.evaluate_sequences(one)[1].sum())
        model.burn_in = 0
        for a, b in zip(after_burn_in, gradients(model, model.evaluate_sequences(other)[1].sum()), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(1.5)
        expected = step_by_step(model, buffer)
        model.burn_in = 12
        new = torch.cat([model.evaluate_sequences(batch)[1] for batch in with_burn_in])
        model.burn_in = 0
        stale = torch.cat([model.evaluate_sequences(batch)[1] for batch in without])
    expected = torch.cat([expected[first : first + 4].flatten() for first in (0, 4, 8)])
    torch.testing.assert_close(new, expected, rtol=1e-4, atol=1e-4)
    assert (stale - expected).abs().max() > 0.1


def _in_order(buffer: Any, burn_in: int) -> Iterator[Any]:
    """Yield three minibatches, each of the sequences of all rows that begin in the same step."""
    permutation, np.random.permutation = np.random.permutation, lambda array: array
    try:
        yield from buffer.sequences(4 * buffer.n_envs, 4, burn_in)
    finally:
        np.random.permutation = permutation


def test_a_truncated_episode_is_bootstrapped_with_its_state() -> None:
    envs = envs_of("pendulum", 2)  # whose episodes are truncated after 200 steps
    learner = learner_of(envs, n_steps=200, batch_size=400, sequence_length=200, gamma=0.5)
    policy, buffer = learner.model.policy, collect_rollout(learner)
    assert envs.truncated.all()
    final_observations = torch.from_numpy(envs.final_observations[:, 0])
    with torch.no_grad():
        states = policy.next_states(torch.from_numpy(buffer.observations[-1]), torch.from_numpy(buffer.states[-1]))
        values, without_state = (
            policy.values(policy.next_states(final_observations, each)).numpy() for each in (states, 0 * states)
        )
    np.testing.assert_allclose(buffer.rewards[-1], envs.rewards[:, 0] + 0.5 * values, rtol=1e-5)
    assert np.abs(values - without_state).max() > 0.01


# --- Playing


class Forgetless(RecurrentAgent):
    """A recurrent agent that does not forget the episodes before."""

    def begin(self, state: Any, episode_starts: Array) -> Any:
        return state


def episodes_of(agent: Any, world: str, **options: Any) -> list[bytes]:
    result = evaluate(agent, world, {}, episodes=6, **options)
    return [episode.actions.tobytes() for episode in result.episodes]


def test_an_episode_does_not_depend_on_the_batch_and_on_the_episodes_before() -> None:
    agent = agent_of("cartpole")
    expected = episodes_of(agent, "cartpole", num_envs=6)
    assert len(set(expected)) > 1
    assert [episodes_of(agent, "cartpole", num_envs=n) for n in (1, 4)] == [expected] * 2
    agent.__class__ = Forgetless
    assert episodes_of(agent, "cartpole", num_envs=1) != expected


def games_of(agent: Any, opponent: Any, num_envs: int) -> list[bytes]:
    result = evaluate(agent, "tic_tac_toe", {}, episodes=6, opponent=opponent, num_envs=num_envs)
    moves = [(np.arange(episode.length), np.arange(episode.length) % 2) for episode in result.episodes]
    return [episode.actions[move].tobytes() for episode, move in zip(result.episodes, moves, strict=True)]


def test_players_of_games_keep_states_of_their_own_seats() -> None:
    agent, opponent = (agent_of("tic_tac_toe") for _ in range(2))
    with torch.no_grad():
        opponent.policy.action_net.weight.mul_(-1)
    expected = games_of(agent, opponent, num_envs=6)
    assert len(set(expected)) == 2  # only the player that moves first differs
    assert games_of(agent, opponent, num_envs=1) == expected
    assert games_of(opponent, agent, num_envs=2)[1] == expected[0]
    agent.__class__ = Forgetless
    assert games_of(agent, opponent, num_envs=1) != expected


def test_rows_that_do_not_act_keep_their_state() -> None:
    envs, agent = envs_of("tic_tac_toe"), agent_of("tic_tac_toe")
    envs.reset()
    agent.bind(envs)
    observations, masks = (a.reshape(6, *a.shape[2:]) for a in (envs.observations, envs.action_mask))
    state, rows = np.ones((6, 8), np.float32), np.array([0, 4])
    _, after = agent.act(observations[rows], state=state, action_mask=masks[rows] | 1, rows=rows)
    assert (after[[1, 2, 3, 5]] == 1).all() and (after[rows] != 1).any(axis=1).all() and (state == 1).all()
    assert not agent.begin(after, np.arange(6) < 3)[:3].any()


def test_collected_data_are_the_episodes_of_an_evaluation() -> None:
    agent = agent_of("cartpole")
    plan = CollectionPlan("cartpole", {}, seed=1, episodes=6)
    (data,) = collect(plan, [Policy(agent, deterministic=True)])
    for seed, (first, last) in zip(data.seeds.tolist(), pairwise(data.offsets.tolist()), strict=True):
        alone = evaluate(agent, "cartpole", {}, episodes=1, first_seed=seed).episodes[0]
        assert np.array_equal(data.actions[first:last], alone.actions)


def test_a_live_view_plays_the_episodes_of_an_evaluation() -> None:
    agent = agent_of("cartpole")
    lengths = [episode.length for episode in evaluate(agent, "cartpole", {}, episodes=3, first_seed=7).episodes]
    view, seen = LiveView(agent, "cartpole", {}, 1, seed=7), []
    for _ in range(400):
        view.step()
        if view.envs.done[0] and (not seen or view.episodes_shown == len(seen)):
            seen.append(int(view.envs.episode_lengths[0]))
        if len(seen) == 3:
            break
    view.close()
    assert seen == lengths


def test_an_entrant_begins_each_match_without_a_state() -> None:
    envs, agent = envs_of("tic_tac_toe", 2), agent_of("tic_tac_toe")
    envs.reset()
    keys, clock = np.arange(1, 5, dtype=np.uint64), np.zeros(2, np.int64)
    entrant = PolicyAgent(agent, sample=False)
    states: list[Array] = []
    act = entrant.act
    entrant.act = lambda *args, **more: _recorded(states, act(*args, **more))  # type: ignore[method-assign]
    runner = EntrantRunner(entrant, envs, keys, clock, 0.0, CallRecord())
    rows = np.array([0, 2])  # those that begin
    assert not runner.request_actions(rows)
    assert not runner.request_actions(rows)
    assert not np.allclose(states[0], states[1])
    keys[:2] += np.uint64(10)  # another match in the first environment
    assert not runner.request_actions(rows)
    np.testing.assert_allclose(states[2][0], states[0][0], rtol=1e-6)
    assert not np.allclose(states[2][2], states[1][2]) and not states[2][[1, 3]].any()


class Counter:
    """A user's agent that draws a random number in each call, and changes its state in place."""

    def begin(self, state: Any, episode_starts: Array) -> Any:
        state[episode_starts] = 0
        return state

    def act(self, observations: Array, *, state: Any, action_mask: Array, rows: Array, deterministic: bool) -> Any:
        np.random.random()
        state = np.zeros(4, np.int64) if state is None else state
        state[rows] += 1
        return action_mask.argmax(axis=1), state


def test_a_call_that_is_repeated_finds_the_state_as_it_was() -> None:
    """The agent is called for all rows, and once more row by row because it uses a global random generator."""
    envs = envs_of("tic_tac_toe", 2)
    envs.reset()
    states: list[Array] = []
    counter: Any = Counter()
    act = counter.act
    counter.act = lambda *args, **more: _recorded(states, act(*args, **more))
    keys, clock = np.arange(1, 5, dtype=np.uint64), np.zeros(2, np.int64)
    runner = EntrantRunner(ObjectAgent("counter", counter), envs, keys, clock, 0.0, CallRecord())
    assert not runner.request_actions(np.array([0, 2]))
    assert states[-1].tolist() == [1, 0, 1, 0]


def _recorded(states: list[Array], result: Any) -> Any:
    states.append(result[1])
    return result


# --- Checkpoints


@pytest.mark.parametrize("world", ["t_maze", "tic_tac_toe", "race"])
def test_a_restored_learner_continues_with_the_same_bits(world: str) -> None:
    options = {"n_steps": 10, "sequence_length": 5, "batch_size": 15, "burn_in": 2, "n_epochs": 2}
    options["normalize_rewards"] = True
    envs = envs_of(world)
    learner = learner_of(envs, **options)
    for _ in range(3):
        learner.train_iteration()
    saved, snapshot = learner.save(), {name: array.copy() for name, array in envs.snapshot().items()}
    assert saved.tensors["last"]["recurrent_states"].any()
    metrics = [learner.train_iteration() for _ in range(2)]
    other_envs = envs_of(world)
    other = learner_of(other_envs, **options)
    other_envs.restore(snapshot)
    other.restore(saved)
    assert [other.train_iteration() for _ in range(2)] == metrics
    for (member, arrays), others in zip(learner.save().tensors.items(), other.save().tensors.values(), strict=True):
        for name, array in arrays.items():
            assert np.array_equal(array, others[name]), f"{member}: {name}"


@pytest.mark.parametrize("change", [lambda a: a[:, :3], lambda a: a * np.nan, lambda a: a.astype(np.float64)])
def test_a_checkpoint_with_other_states_is_refused(change: Callable[[Array], Array]) -> None:
    learner = learner_of(envs_of("cartpole"))
    learner.train_iteration()
    saved = learner.save()
    learner.restore(saved)
    saved.tensors["last"]["recurrent_states"] = change(saved.tensors["last"]["recurrent_states"])
    with pytest.raises(ValueError, match="recurrent_states"):
        learner.restore(saved)


def test_a_saved_agent_plays_the_same_episodes() -> None:
    learner = learner_of(envs_of("cartpole"), normalize_observations=True)
    learner.train_iteration()
    config = PPO.Config(**SMALL, normalize_observations=True)
    loaded = PPO.load(config, learner.vec_env.envs.world, learner.save_agent(), device="cpu")
    assert episodes_of(loaded, "cartpole") == episodes_of(learner.agent(), "cartpole")


def test_a_snapshot_of_environments_has_the_states_of_an_opponent() -> None:
    agent = agent_of("tic_tac_toe")

    def wrapped() -> OpponentsWrapper:
        return OpponentsWrapper(envs_of("tic_tac_toe"), [agent], deterministic=True)

    def play(envs: OpponentsWrapper, steps: int) -> list[bytes]:
        observations = []
        for _ in range(steps):
            envs.actions[:, 0] = envs.action_mask[:, 0].argmax(axis=1)
            envs.step()
            observations.append(envs.observations.tobytes())
        return observations

    envs = wrapped()
    envs.reset()
    play(envs, 5)
    snapshot = {name: np.array(array) for name, array in envs.snapshot().items()}
    expected = play(envs, 20)
    restored = wrapped()
    restored.restore(snapshot)
    assert play(restored, 20) == expected
    state = next(name for name in snapshot if name.endswith("state.0"))
    assert snapshot[state].any()
    with pytest.raises(ValueError, match="state of opponent ppo"):
        wrapped().restore({**snapshot, state: snapshot[state][:, :3]})


def test_a_run_is_trained_evaluated_and_resumed_but_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = "t_maze budget=256 worlds=2 agent.n_epochs=1 agent.batch_size=64 agent.recurrent_size=8 video=false"
    words += " evaluation.episodes=4 evaluation.selections=1 evaluation.selection_episodes=2 checkpoint.steps=128"
    assert main(["train", *words.split(), f"run_dir={run}"]) == 0
    assert "learner: torch, because its policy is recurrent" in capsys.readouterr().err
    check_evaluates_and_resumes(run, capsys)
    assert main(["export", str(run), str(tmp_path / "agent.zip")]) == 2
    assert "recurrent policy, which Stable-Baselines3 lacks" in capsys.readouterr().err


def test_an_opponent_whose_state_cannot_be_checked_is_refused_at_once() -> None:
    """And not when the training is resumed."""

    class Stranger:
        name = "stranger"

        def bind(self, envs: Any) -> None: ...

        def begin(self, state: Any, episode_starts: Array) -> Any:
            return state

        def act(self, observations: Array, *, action_mask: Array, **_: Any) -> Any:
            return action_mask.argmax(axis=1), 1

    stranger: Any = Stranger()
    envs = OpponentsWrapper(envs_of("tic_tac_toe"), [stranger])
    with pytest.raises(ValueError, match="opponent stranger returns a state, and has no initial_state"):
        envs.reset()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("simple_spread agent.policy=gru policies={a:[agent_0],b:[agent_1,agent_2]}", "goes with one policy"),
        ("connect_four_league agent.policy=gru", "goes with one policy"),
        ("t_maze agent.batch_size=16", "batch_size=16: expected a multiple of sequence_length=32"),
        ("t_maze agent.n_steps=32 agent.batch_size=32 agent.burn_in=4", "burn_in=4: no steps precede a sequence"),
        ("t_maze agent.use_sde=true", "use_sde is not supported"),
        ("gym:Blackjack-v1 agent.policy=gru", "policy=gru: "),
        ("cartpole agent=dqn agent.policy=gru", "expected one of mlp, cnn"),
    ],
)
def test_what_a_recurrent_policy_does_not_support_is_refused_in_one_line(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words.split(), f"run_dir={tmp_path / 'run'}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
