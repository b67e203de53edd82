"""Compiled DQN against Stable-Baselines3's, and its own options against their definitions.

The first tests compare `compiled` (CompiledDQN) with `sb3` (DQN), which gets the same minibatches; the others compare a
compiled model with plain Python or autograd.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import polyak_update

from rl_lab.adapters import make
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core import agent_registry, rng
from rl_lab.core.world import Array
from rl_lab.engine.batch import NonFiniteError
from rl_lab.learners.compiled import build
from rl_lab.learners.sb3.dqn import CompiledDQN
from rl_lab.learners.sb3.policies import BoardCnn


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_model(algorithm: Any, world: str = "cartpole", num_envs: int = 4, **arguments: Any) -> Any:
    torch.manual_seed(0)
    np.random.seed(0)
    env = LabVecEnv(make.make(world, num_envs, seed=0))
    defaults = {
        "learning_starts": 64,
        "buffer_size": 600,
        "batch_size": 32,
        "target_update_interval": 40,
        "device": "cpu",
    }
    model = algorithm("MlpPolicy", env, **{**defaults, **arguments})
    model.set_logger(Logger(folder=None, output_formats=[]))
    model._setup_learn(4000)
    return model


def learn_compiled(model: Any, target_timesteps: int) -> None:
    batch = model.compiled_batch()
    assert batch is not None
    model.learn_compiled(batch, target_timesteps)


def next_samples(model: Any, batch_size: int) -> tuple[Array, Array]:
    """Return slots and rows that the next gradient step samples uniformly, computed from its Philox counters."""
    buffer, low_bits = model.replay_buffer, np.uint64(0xFFFFFFFF)

    def integer(n: int, draw: int) -> int:
        bits = int(rng.philox(np.uint64(model.rng_key), np.uint64((model._n_updates << 24) + draw)) & low_bits)
        return bits * n >> 32

    slots = [integer(buffer.size(), 2 * i) for i in range(batch_size)]
    rows = [integer(buffer.n_envs, 2 * i + 1) for i in range(batch_size)]
    return np.array(slots), np.array(rows)


CNN = {"features_extractor_class": BoardCnn, "net_arch": []}


@pytest.mark.parametrize(
    ("world", "arguments"),
    [
        ("cartpole", {}),
        ("cartpole", {"buffer_size": 100}),  # the oldest transitions are overwritten
        ("breakout", {}),
        ("breakout", {"policy_kwargs": CNN}),
        ("acrobot", {"policy_kwargs": {"net_arch": [40, 100], "activation_fn": torch.nn.Tanh}, "tau": 0.1}),
    ],
)
def test_gradient_steps_are_those_of_stable_baselines3(world: str, arguments: Any) -> None:
    compiled, sb3 = (
        make_model(algorithm, world, gradient_steps=0, learning_rate=1e-3, **arguments)
        for algorithm in (CompiledDQN, DQN)
    )
    learn_compiled(compiled, 800)
    with torch.no_grad():
        for p in compiled.q_net_target.parameters():  # so that targets differ from the network's own Q-values
            p += 0.05 * torch.randn_like(p)
    sb3.policy.load_state_dict(compiled.policy.state_dict())
    sb3.replay_buffer = compiled.replay_buffer
    buffer = compiled.replay_buffer
    filled = buffer.size()
    assert filled * 4 == min(800, arguments.get("buffer_size", 600))
    assert compiled.prepare_compiled()
    for update in range(5):
        slots, rows = next_samples(compiled, 32)
        compiled.train(1, 32)
        sb3.replay_buffer = _FixedSamples(buffer, slots, rows)
        sb3.train(1, 32)
        assert slots.min() >= 0 and slots.max() < filled and set(rows) <= set(range(4))
        # Where gradients are tiny, Adam's denominator is, too: rounding errors grow from one update to the next.
        tolerance = 1e-5 if update == 0 else 5e-5
        for (name, compiled_param), (_, sb3_param) in zip(
            compiled.q_net.named_parameters(), sb3.q_net.named_parameters(), strict=True
        ):
            assert (
                float((compiled_param - sb3_param).detach().norm() / sb3_param.detach().norm().clamp(min=1e-2))
                < tolerance
            ), name
    for key in ("train/loss", "train/n_updates"):
        assert compiled.logger.name_to_value[key] == pytest.approx(sb3.logger.name_to_value[key], rel=1e-4)


class _FixedSamples:
    """Stands for a replay buffer: `sample` returns the transitions in these slots and rows."""

    def __init__(self, buffer: Any, slots: Any, rows: Any) -> None:
        self.buffer, self.slots, self.rows = buffer, slots, rows

    def sample(self, size: int, env: Any = None) -> Any:
        slots, rows, buffer = self.slots, self.rows, self.buffer
        data = (
            buffer.observations[slots, rows],
            buffer.actions[slots, rows],
            buffer.next_observations[slots, rows],
            (buffer.dones[slots, rows] * (1 - buffer.timeouts[slots, rows])).reshape(-1, 1),
            buffer.rewards[slots, rows].reshape(-1, 1),
        )
        from stable_baselines3.common.type_aliases import ReplayBufferSamples

        return ReplayBufferSamples(*map(buffer.to_torch, data))


def test_the_replay_buffer_has_the_steps_of_the_environments() -> None:
    """A second batch repeats the actions; observations, rewards, ends and final observations must be the same."""
    model = make_model(CompiledDQN, "cartpole", 3, gradient_steps=1)
    learn_compiled(model, 600)
    buffer = model.replay_buffer
    assert model.num_timesteps == 600 and buffer.pos == 0 and buffer.full
    batch = make.make("cartpole", 3, seed=0)
    batch.reset()
    for slot in range(200):
        assert np.array_equal(buffer.observations[slot], batch.observations[:, 0])
        batch.actions[:, 0] = buffer.actions[slot, :, 0]
        batch.step()
        next_observation = np.where(batch.done[:, None], batch.final_observations[:, 0], batch.observations[:, 0])
        assert np.array_equal(buffer.next_observations[slot], next_observation)
        assert np.array_equal(buffer.rewards[slot], batch.rewards[:, 0])
        assert np.array_equal(buffer.dones[slot] != 0, batch.done)
        assert np.array_equal(buffer.timeouts[slot] != 0, batch.truncated & ~batch.terminated)
    assert len(model.ep_info_buffer) == model._episode_num == int(buffer.dones.sum())


def test_epsilon_decreases_linearly_and_each_row_explores_by_itself() -> None:
    model = make_model(
        CompiledDQN, "cartpole", 40, gradient_steps=1, exploration_fraction=0.5, exploration_final_eps=0.1
    )
    with torch.no_grad():
        for p in model.policy.parameters():  # the greedy action is always 1
            p.zero_()
        list(model.q_net.parameters())[-1][1] = 1.0
    model.learning_rate = model.lr_schedule = lambda _: 0.0
    learn_compiled(model, 3840)
    slots = model.replay_buffer.buffer_size
    assert slots == 15 and model.exploration_rate == pytest.approx(0.1)
    share = 1 - model.replay_buffer.actions.mean()  # of action 0: half of the random actions, among 600
    assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 600)


def target_by_definition(model: Any, slot: int, row: int, *, double: bool, steps: int) -> float:
    """Return the target of one transition by the definition of n-step returns and double Q-learning."""
    buffer, total, discount = model.replay_buffer, 0.0, 1.0
    for _ in range(steps):
        total += discount * float(buffer.rewards[slot, row])
        discount *= model.gamma
        last, slot = slot, (slot + 1) % buffer.buffer_size
        if buffer.dones[last, row] or slot == buffer.pos:
            break
    if buffer.dones[last, row] and not buffer.timeouts[last, row]:
        return total
    next_observation = torch.as_tensor(buffer.next_observations[last, row][None])
    with torch.no_grad():
        values = model.q_net_target(next_observation)[0]
        q_values_for_choice = model.q_net(next_observation)[0] if double else values
    return total + discount * float(values[int(q_values_for_choice.argmax())])


@pytest.mark.parametrize(("double", "steps"), [(True, 1), (False, 3), (True, 5)])
def test_double_q_and_n_step_targets(double: bool, steps: int) -> None:
    """A gradient step is compared with autograd on targets by definition."""
    model = make_model(CompiledDQN, "cartpole", 4, gradient_steps=0, double_q=double, n_steps=steps, learning_rate=1e-3)
    learn_compiled(model, 1000)
    with torch.no_grad():
        for p in model.q_net_target.parameters():
            p += 0.2 * torch.randn_like(p)
    loss = autograd_loss(model, next_samples(model, 32), double=double, steps=steps)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.q_net.parameters(), model.max_grad_norm)
    expected = [p.grad.clone() for p in model.q_net.parameters() if p.grad is not None]
    model.train(1, 32)
    assert model.logger.name_to_value["train/loss"] == pytest.approx(loss.item(), rel=1e-4)
    for p, grad in zip(model.q_net.parameters(), expected, strict=True):
        state = model.policy.optimizer.state[p]
        assert state["step"] == 1
        # The first moment after the first step is a tenth of the gradient.
        np.testing.assert_allclose(state["exp_avg"] / 0.1, grad, rtol=2e-3, atol=2e-5)


def autograd_loss(model: Any, samples: tuple[Array, Array], *, double: bool = False, steps: int = 1) -> torch.Tensor:
    """Return the mean Huber loss of these slots and rows as a torch scalar that has gradients."""
    slots, rows = samples
    targets = [target_by_definition(model, s, r, double=double, steps=steps) for s, r in zip(slots, rows, strict=True)]
    observations = torch.as_tensor(model.replay_buffer.observations[slots, rows])
    actions = torch.as_tensor(model.replay_buffer.actions[slots, rows])
    q_values = model.q_net(observations).gather(1, actions)[:, 0]
    return torch.nn.functional.smooth_l1_loss(q_values, torch.tensor(targets).float())


def test_transitions_are_sampled_in_proportion_to_priority_with_importance_weights() -> None:
    model = make_model(CompiledDQN, "cartpole", 4, batch_size=256, priority_exponent=0.7, importance_exponent=1.0)
    learn_compiled(model, 1000)
    model.learning_rate = model.lr_schedule = lambda _: 0.0
    records = model.training_records(np.asarray(model._last_obs), 256)
    _, tree, _, batch, _, counters = records
    leaves = len(tree.sums) // 2
    for node in range(1, leaves):
        assert tree.sums[node] == tree.sums[2 * node] + tree.sums[2 * node + 1]
    shares = np.random.default_rng(0).random(600) ** 3
    model.restore_priorities({"priorities": np.append(shares, np.zeros(leaves - 600)), "highest": np.ones(1)})
    counts, sums = np.zeros(600), tree.sums.copy()
    for _ in range(200):
        tree.sums[:] = sums
        counters["n_updates"] += 1
        assert build.dqn().train(1, *records)
        np.add.at(counts, batch.slots * 4 + batch.rows, 1)
        probability = shares[batch.indices] / shares.sum()
        weights = 1 / (600 * probability)
        np.testing.assert_allclose(batch.weights, weights / weights.max(), rtol=1e-6)
    expected = shares / shares.sum() * counts.sum()
    # Stratified draws vary less than independent ones: chi-squared of 599 degrees exceeds 720 once in 1,000 times.
    assert ((counts - expected) ** 2 / np.maximum(expected, 1e-9))[expected > 1].sum() < 720
    assert counts[expected < 0.05].sum() < 0.05 * counts.sum()


def test_options_that_need_compiled_code_are_refused_without_it() -> None:
    model = make_model(CompiledDQN, "cartpole", 2, double_q=True, policy_kwargs={"activation_fn": torch.nn.ELU})
    with pytest.raises(ValueError, match="double_q and priority_exponent need the compiled learner: .*ELU"):
        model.prepare_compiled()
    dqn = agent_registry.load("dqn")
    with pytest.raises(ValueError, match="compiled=false"):
        envs = make.make("cartpole", 2)
        dqn.learner(dqn.Config(compiled=False, double_q=True), envs, budget=100, seed=0, device="cpu")


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = make_model(CompiledDQN, "cartpole", 4, gradient_steps=0)
    learn_compiled(model, 200)
    model.replay_buffer.rewards[:, 0] = np.inf
    before = [p.clone() for p in model.policy.parameters()]
    with pytest.raises(NonFiniteError, match="dqn: non-finite gradient of .* at step 208; no parameter was changed"):
        model.train(1, 32)
    assert all(torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_a_target_network_that_sb3_updates_is_used() -> None:
    model = make_model(CompiledDQN, "cartpole", 1, learning_starts=10, target_update_interval=50, train_freq=1)
    model.learn(400)  # SB3's own loop writes to the target network's data, which torch does not count
    with torch.no_grad():
        for p in model.q_net_target.parameters():
            p += 0.2 * torch.randn_like(p)
    model.train(1, 32)  # compiled code has copied this target network
    samples = next_samples(model, 32)
    before = autograd_loss(model, samples).item()
    polyak_update(model.q_net.parameters(), model.q_net_target.parameters(), 1.0)
    expected = autograd_loss(model, samples).item()
    assert expected != pytest.approx(before, rel=1e-2), "the old target would pass, too"
    model.train(1, 32)
    assert model.logger.name_to_value["train/loss"] == pytest.approx(expected, rel=1e-4)


def test_a_vec_normalize_inside_of_another_wrapper_is_noticed() -> None:
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    env = VecMonitor(VecNormalize(LabVecEnv(make.make("cartpole", 2))))
    model = CompiledDQN("MlpPolicy", env, device="cpu", buffer_size=100)
    assert not model.prepare_compiled() and "normalised" in model.backend


@pytest.mark.parametrize(
    ("name", "value"), [("actions", 2), ("actions", -1), ("pos", 10**8), ("pos", -1), ("full", 1), ("priorities", -1.0)]
)
def test_a_crafted_replay_buffer_never_reaches_compiled_code(name: str, value: Any) -> None:
    dqn = agent_registry.load("dqn")
    config = dqn.Config(buffer_size=400, learning_starts=10, priority_exponent=0.5)

    def learner() -> Any:
        return dqn.learner(config, make.make("cartpole", 4, seed=0), budget=10_000, seed=0, device="cpu")

    first, second = learner(), learner()
    first.train_iteration()
    saved = first.save()
    if name in saved.state["replay"]:
        saved.state["replay"][name] = value
    else:
        saved.tensors["replay"][name] = saved.tensors["replay"][name].copy()
        saved.tensors["replay"][name].flat[3] = value
    with pytest.raises(ValueError):
        second.restore(saved)
