"""DQN of RLlib's: its update beside RLlib's own, its replay buffer, illegal actions, and what it goes on from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

pytest.importorskip("ray.rllib", reason="needs the extra rllib")

from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from stable_baselines3.dqn import MlpPolicy

from rl_lab.adapters.make import make
from rl_lab.core import agent_registry
from rl_lab.evaluation.evaluate import evaluate
from rl_lab.experiments.build import make_learner
from rl_lab.experiments.compose import compose
from rl_lab.learners.rllib.dqn_algorithm import dqn_config
from rl_lab.learners.rllib.epsilon_greedy import EpsilonGreedy
from rl_lab.learners.rllib.fragment import Fragment
from rl_lab.learners.rllib.q_module import LabQNetwork
from rl_lab.learners.rllib.replay import PrioritizedReplayBuffer

SIZE, ACTIONS, GAMMA = 3, 4, 0.9
SPACES = Box(-np.inf, np.inf, (SIZE,), np.float32), Discrete(ACTIONS)
SMALL: dict[str, Any] = {
    "num_steps_sampled_before_learning_starts": 64,
    "min_sample_timesteps_per_iteration": 128,
    "target_network_update_freq": 100,
    "capacity": 150,
    "n_step": 3,
    "epsilon": [[0, 1.0], [400, 0.1]],
    "net_arch": [16],
    "lr": 1e-2,
}


def policy() -> MlpPolicy:
    return MlpPolicy(*SPACES, lambda _: 0.0, net_arch=[16], activation_fn=torch.nn.ReLU)


def settings(**changed: Any) -> Any:
    return agent_registry.load("rllib_dqn").Config(**changed)


# ------------------------------------------------------------------------------------------------- the update


def transitions(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "obs": rng.normal(size=(count, SIZE)).astype(np.float32),
        "new_obs": rng.normal(size=(count, SIZE)).astype(np.float32),
        "actions": rng.integers(ACTIONS, size=count),
        "rewards": rng.normal(size=count).astype(np.float32) * 3,
        "terminateds": rng.random(count) < 0.3,
        "truncateds": np.zeros(count, np.bool_),
        "weights": rng.random(count).astype(np.float32),
        "n_step": rng.integers(1, 4, size=count).astype(np.float32),
    }


def episodes(columns: dict[str, np.ndarray]) -> list[SingleAgentEpisode]:
    """Return the transitions as RLlib's replay buffer does: an episode each."""
    return [
        SingleAgentEpisode(
            observations=[columns["obs"][i], columns["new_obs"][i]],
            actions=[columns["actions"][i]],
            rewards=[float(columns["rewards"][i])],
            terminated=bool(columns["terminateds"][i]),
            extra_model_outputs={name: [float(columns[name][i])] for name in ("weights", "n_step")},
            len_lookback_buffer=0,
            observation_space=SPACES[0],
            action_space=SPACES[1],
        )
        for i in range(len(columns["rewards"]))
    ]


def stock_learner(config: Any) -> Any:
    model = {"fcnet_hiddens": [16], "fcnet_activation": "relu", "head_fcnet_hiddens": []}
    stock = DQNConfig().environment(observation_space=SPACES[0], action_space=SPACES[1])
    names = "lr gamma grad_clip tau target_network_update_freq double_q td_error_loss_fn".split()
    stock.training(**{name: getattr(config, name) for name in names}, dueling=False, num_atoms=1)
    stock.rl_module(model_config={**stock.model_config, **model})
    learner = stock.build_learner(env=None, spaces={"default_policy": SPACES})
    return learner


@pytest.mark.parametrize("loss", ["huber", "mse"])
@pytest.mark.parametrize("double_q", [True, False])
def test_an_update_equals_rllibs(double_q: bool, loss: str) -> None:
    """For the same weights and transitions: errors, loss and, after three updates, both networks."""
    config = settings(double_q=double_q, td_error_loss_fn=loss, gamma=GAMMA, lr=1e-2, target_network_update_freq=20)
    ours = dqn_config(config, SPACES, policy, fragment_length=1, num_envs=1, seed=0, gpu=False).build_learner(
        env=None, spaces={"default_policy": SPACES}
    )
    stock = stock_learner(config)
    net = ours.module["default_policy"].unwrapped().policy
    rllib = stock.module["default_policy"].unwrapped()
    pairs = [(net.q_net, rllib.encoder, rllib.af), (net.q_net_target, rllib._target_encoder, rllib._target_af)]
    for lab, encoder, head in pairs:
        for mine, theirs in zip(lab.parameters(), [*encoder.parameters(), *head.parameters()], strict=True):
            theirs.data.copy_(mine.data)
    columns = transitions(32)
    for steps in (10, 20, 30):
        got = ours.update_from(columns, steps)["default_policy"]
        timesteps = {"num_env_steps_sampled_lifetime": steps}
        expected = stock.update(training_data=TrainingData(episodes=episodes(columns)), timesteps=timesteps)
        for name in ("td_error", "qf_loss", "td_error_mean"):
            a, b = (np.asarray(each[name].peek(), np.float64) for each in (got, expected["default_policy"]))
            assert np.allclose(a, b, rtol=1e-5, atol=1e-6), name
    for lab, encoder, head in pairs:
        for mine, theirs in zip(lab.parameters(), [*encoder.parameters(), *head.parameters()], strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    changed = [
        not torch.equal(a, b) for a, b in zip(net.q_net.parameters(), net.q_net_target.parameters(), strict=True)
    ]
    assert any(changed)  # the target network is that of 20 steps


def test_illegal_actions_are_never_chosen() -> None:
    """Neither in acting, at random or greedily, nor in the target's maximum."""
    torch.manual_seed(0)
    module = LabQNetwork(
        observation_space=SPACES[0], action_space=SPACES[1], model_config={"build": policy, "double_q": True}
    )
    module.make_target_networks()
    for net in (module.policy.q_net, module.policy.q_net_target):
        net.q_net[-1].bias.data[0] = 1e6
    rng = np.random.default_rng(1)
    observations = rng.normal(size=(500, SIZE)).astype(np.float32)
    legal = rng.random((500, ACTIONS)) < 0.4
    legal[:, 0], legal[:, 3] = False, True
    for epsilon in (0.0, 1.0):
        actions, _, _ = EpsilonGreedy(module, [[0, epsilon], [1, epsilon]], 500)(observations, legal.astype(np.uint8))
        assert legal[np.arange(500), actions].all() and len(set(actions)) > 1
    batch = {"obs": observations, "new_obs": observations, "next_action_mask": legal}
    outputs = module.forward_train({name: torch.from_numpy(each) for name, each in batch.items()})
    for name in ("qf_next_preds", "qf_target_next_preds"):
        assert legal[np.arange(500), outputs[name].argmax(dim=1)].all()


# ------------------------------------------------------------------------------------------------- the replay buffer


def fragment(rng: np.random.Generator, first: int, steps: int, rows: int) -> Fragment:
    """Return a fragment whose observations number the steps: row + 100 * step, and + 0.5 for the last of an episode."""
    ends = rng.random((steps + 1, rows)) < 0.3
    terminated, truncated = ends[:-1], rng.random((steps, rows)) < 0.1
    numbers = np.arange(rows) + 100.0 * (first + np.arange(steps + 1))[:, None]
    step, row = np.nonzero(terminated | truncated)
    return Fragment(
        observations=numbers[:-1, :, None].astype(np.float32),
        last_observations=numbers[-1, :, None].astype(np.float32),
        final_observations=(numbers[step + 1, row] + 0.5)[:, None].astype(np.float32),
        actions=rng.integers(ACTIONS, size=(steps, rows)),
        action_logp=np.zeros((steps, rows), np.float32),
        action_dist_inputs=np.zeros((steps, rows, ACTIONS), np.float32),
        rewards=rng.normal(size=(steps, rows)).astype(np.float32),
        terminated=terminated,
        truncated=truncated & ~terminated,
    )


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_n_step_returns_across_fragments(steps: int, n_step: int) -> None:
    """A return ends with its episode or with what is known, never in another row; truncation bootstraps."""
    rng, rows, capacity = np.random.default_rng(0), 5, 60
    replay = PrioritizedReplayBuffer(capacity, Box(-1, 1, (1,)), 0, parts=1, rows=rows, alpha=0.0, beta=0.4)
    fragments = [fragment(rng, first, steps, rows) for first in range(0, 21, steps)]
    for each in fragments:
        replay.add(0, each)
    arrays = {name: np.concatenate([getattr(each, name) for each in fragments]) for name in ("rewards", "actions")}
    terminated = np.concatenate([each.terminated for each in fragments])
    over = terminated | np.concatenate([each.truncated for each in fragments])
    columns, slots = replay.sample(3000, n_step, GAMMA)
    seen = set()
    for i in range(len(slots)):
        first, row = divmod(int(columns["obs"][i, 0]), 100)
        seen.add((first, row))
        window = range(first, min(first + n_step, len(over)))
        stop = next((t for t in window if over[t, row]), window[-1])
        expected = sum(GAMMA ** (t - first) * arrays["rewards"][t, row] for t in range(first, stop + 1))
        assert columns["rewards"][i] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert columns["n_step"][i] == stop + 1 - first and columns["actions"][i] == arrays["actions"][first, row]
        assert columns["new_obs"][i, 0] == row + 100 * (stop + 1) + 0.5 * over[stop, row]
        assert columns["terminateds"][i] == terminated[stop, row]
        assert columns["truncateds"][i] == (over[stop, row] and not terminated[stop, row])
    assert len(seen) == capacity and (columns["weights"] == 1).all()


def test_priorities_decide_what_is_sampled() -> None:
    replay = PrioritizedReplayBuffer(20, Box(-1, 1, (1,)), 0, parts=1, rows=2, alpha=0.5, beta=0.4)
    replay.add(0, fragment(np.random.default_rng(0), 0, 10, 2))
    errors = np.arange(20) + 1.0
    replay.set_priorities(np.arange(20), errors)
    np.random.seed(0)
    columns, slots = replay.sample(40_000, 1, GAMMA)
    expected = errors**0.5 / (errors**0.5).sum()
    counts = np.bincount(slots, minlength=20)
    assert np.abs(counts / 40_000 - expected).max() < 0.005  # five standard deviations
    assert np.allclose(columns["weights"], ((expected / expected.min()) ** -0.4)[slots], rtol=1e-5)


def test_a_game_of_turns_rewards_the_last_move() -> None:
    """The reward of a tic-tac-toe player comes with the reply of the other one; all of a game's rewards are kept."""
    scenario = compose("tic_tac_toe", ["agent=rllib_dqn", "worlds=4", *words(SMALL)])
    learner, _ = make_learner(scenario)
    played: Any = learner
    try:
        played.train_iteration()
        replay, full = played._replay, len(played._replay)
        ended = replay.columns["ended"][:full]
        assert full > 100 and set(replay.columns["rewards"][:full][ended]) <= {-1.0, 0.0, 1.0}
        assert np.abs(replay.columns["rewards"][:full][ended]).sum() > 0
        assert not replay.columns["rewards"][:full][~ended].any()
    finally:
        played.close()


def words(changed: dict[str, Any]) -> list[str]:
    return [f"agent.{name}={value}".replace(" ", "") for name, value in changed.items()]


# ------------------------------------------------------------------------------------------------- the learner


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two runners"])
def learner(request: pytest.FixtureRequest) -> Iterator[Any]:
    more = [f"agent.env_runners={request.param}", "agent.cpus_per_runner=0.5"]
    made, _ = make_learner(compose("cartpole", ["agent=rllib_dqn", "worlds=4", *words(SMALL), *more]))
    played: Any = made
    for _ in range(2):  # the buffer is full
        played.train_iteration()
    yield played
    played.close()


def test_what_was_saved_is_restored(learner: Any) -> None:
    """Two iterations from the same state, of learner and environments, end alike; the target network is updated."""
    saved, worlds = copy.deepcopy(learner.save()), copy.deepcopy(learner.envs.snapshot())
    results = []
    for _ in range(2):
        learner.envs.restore(worlds)
        learner.restore(saved)
        assert np.isfinite(list(learner.train_iteration().values())).all()
        results.append(copy.deepcopy(learner.save()))
    first, second = results
    assert first.state == second.state and first.state["last_target_update"] > saved.state["last_target_update"]
    for name, arrays in first.tensors.items():
        assert all(np.array_equal(array, second.tensors[name][key]) for key, array in arrays.items()), name
    before, after = (each.tensors["policy"] for each in (saved, first))
    assert all(not np.array_equal(array, after[name]) for name, array in before.items())


EDITS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("state", "algorithm"), "rllib_ppo", "the state of 'rllib_ppo'"),
    (("state", "last_target_update"), -1, "last_target_update is"),
    (("state", "replay_total"), 3, "replay: obs is"),
    (("state", "largest_priority"), 0.5, "largest_priority is"),
    (("tensors", "replay"), ..., "replay is missing"),
    (("tensors", "replay", "rewards"), np.full(150, np.nan, np.float32), "replay: rewards has numbers"),
    (("tensors", "replay", "following"), np.full(150, 10**6), "replay: following is"),
    (("tensors", "replay", "priorities"), np.zeros(150), "priorities are not positive"),
    (("tensors", "policy", "q_net.q_net.0.bias"), np.zeros(3, np.float32), "q_net.q_net.0.bias"),
]


@pytest.mark.parametrize(("path", "value", "said"), EDITS)
def test_an_edited_state_is_refused(path: tuple[Any, ...], value: Any, said: str, learner: Any) -> None:
    saved = copy.deepcopy(learner.save())
    node: Any = {"state": saved.state, "tensors": saved.tensors}
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    with pytest.raises(ValueError) as caught:
        learner.restore(saved)
    assert said in str(caught.value)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"learners": 1}, "cartpole", "learners=1 need env_runners=1 or more, which sample for them"),
    ({"td_error_loss_fn": "l1"}, "cartpole", "td_error_loss_fn=l1: expected huber or mse"),
    ({"epsilon": [[0, 1.0]]}, "cartpole", "epsilon="),
    ({"epsilon": [[5, 1.0], [9, 0.1]]}, "cartpole", "epsilon="),
    ({"epsilon": [[0, 1.0], [9, 1.1]]}, "cartpole", "epsilon="),
    ({"epsilon": [[0, "x"], [9, 0.1]]}, "cartpole", "epsilon="),
    ({"tau": 2.0}, "cartpole", "tau=2.0"),
    ({}, "pendulum", "rllib_dqn"),
]


@pytest.mark.parametrize(("changed", "world", "said"), BAD)
def test_wrong_settings_are_one_line(changed: dict[str, Any], world: str, said: str) -> None:
    factory: Any = agent_registry.load("rllib_dqn")
    with pytest.raises(ValueError) as caught:
        factory.learner(settings(**changed), make(world, 1), budget=100, seed=0, device="cpu")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_it_learns_cartpole() -> None:
    """Random play balances the pole for 22 steps."""
    factory, threads = agent_registry.load("rllib_dqn"), torch.get_num_threads()
    schedule = [[0, 1.0], [4000, 0.05]]
    config = settings(training_intensity=16.0, lr=1e-3, epsilon=schedule, target_network_update_freq=200)
    made: Any = factory.learner(config, make("cartpole", 8), budget=8_000, seed=0, device="cpu")
    measured = []
    torch.set_num_threads(1)
    try:
        while made.steps < 8_000:
            made.train_iteration()
            measured.append(evaluate(made.agent(), "cartpole", {}, episodes=20).summary["mean_return"])
    finally:
        torch.set_num_threads(threads)
        made.close()
    assert np.median(measured[-3:]) > 80
