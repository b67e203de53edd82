"""The compiled DQN beside Stable-Baselines3's own, and its options beside their definitions."""

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


def model(kind: Any, world: str = "cartpole", num_envs: int = 4, **arguments: Any) -> Any:
    torch.manual_seed(0)
    np.random.seed(0)
    env = LabVecEnv(make.make(world, num_envs, seed=0))
    given = {"learning_starts": 64, "buffer_size": 600, "batch_size": 32, "target_update_interval": 40, "device": "cpu"}
    made = kind("MlpPolicy", env, **{**given, **arguments})
    made.set_logger(Logger(folder=None, output_formats=[]))
    made._setup_learn(4000)
    return made


def learn_compiled(made: Any, until: int) -> None:
    batch = made.compiled_batch()
    assert batch is not None
    made.learn_compiled(batch, until)


def sampled(made: Any, batch_size: int) -> tuple[Array, Array]:
    """Slots and rows that the next gradient step samples uniformly, by the documented numbers of its draws."""
    buffer, low_bits = made.replay_buffer, np.uint64(0xFFFFFFFF)

    def integer(n: int, draw: int) -> int:
        bits = int(rng.philox(np.uint64(made.rng_key), np.uint64((made._n_updates << 24) + draw)) & low_bits)
        return bits * n >> 32

    slots = [integer(buffer.size(), 2 * i) for i in range(batch_size)]
    rows = [integer(buffer.n_envs, 2 * i + 1) for i in range(batch_size)]
    return np.array(slots), np.array(rows)


CNN = {"features_extractor_class": BoardCnn, "net_arch": []}


@pytest.mark.parametrize(
    ("world", "arguments"),
    [
        ("cartpole", {}),
        ("cartpole", {"buffer_size": 100}),  # the ring has gone round
        ("breakout", {}),
        ("breakout", {"policy_kwargs": CNN}),
        ("acrobot", {"policy_kwargs": {"net_arch": [40, 100], "activation_fn": torch.nn.Tanh}, "tau": 0.1}),
    ],
)
def test_gradient_steps_are_those_of_stable_baselines3(world: str, arguments: Any) -> None:
    fast, stock = (model(kind, world, gradient_steps=0, learning_rate=1e-3, **arguments) for kind in (CompiledDQN, DQN))
    learn_compiled(fast, 800)
    with torch.no_grad():
        for p in fast.q_net_target.parameters():  # targets that differ from the network's own values
            p += 0.05 * torch.randn_like(p)
    stock.policy.load_state_dict(fast.policy.state_dict())
    stock.replay_buffer = fast.replay_buffer
    buffer = fast.replay_buffer
    filled = buffer.size()
    assert filled * 4 == min(800, arguments.get("buffer_size", 600))
    assert fast.prepare_compiled()
    for update in range(5):
        slots, rows = sampled(fast, 32)
        fast.train(1, 32)
        stock.replay_buffer = _Given(buffer, slots, rows)
        stock.train(1, 32)
        assert slots.min() >= 0 and slots.max() < filled and set(rows) <= set(range(4))
        # Adam's denominator is next to nothing where gradients are: what one update rounds, the next one magnifies.
        near = 1e-5 if update == 0 else 5e-5
        for (name, own), (_, other) in zip(fast.q_net.named_parameters(), stock.q_net.named_parameters(), strict=True):
            assert float((own - other).detach().norm() / other.detach().norm().clamp(min=1e-2)) < near, name
    for key in ("train/loss", "train/n_updates"):
        assert fast.logger.name_to_value[key] == pytest.approx(stock.logger.name_to_value[key], rel=1e-4)


class _Given:
    """A replay buffer that returns the transitions it is told to."""

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


def test_what_is_kept_is_what_happened() -> None:
    """Transitions follow each other, ends and truncations are marked, and the last observation is the true one."""
    made = model(CompiledDQN, "cartpole", 3, gradient_steps=1)
    learn_compiled(made, 600)
    buffer = made.replay_buffer
    assert made.num_timesteps == 600 and buffer.pos == 0 and buffer.full
    other = make.make("cartpole", 3, seed=0)
    other.reset()
    for slot in range(200):
        assert np.array_equal(buffer.observations[slot], other.observations[:, 0])
        other.actions[:, 0] = buffer.actions[slot, :, 0]
        other.step()
        after = np.where(other.done[:, None], other.final_observations[:, 0], other.observations[:, 0])
        assert np.array_equal(buffer.next_observations[slot], after)
        assert np.array_equal(buffer.rewards[slot], other.rewards[:, 0])
        assert np.array_equal(buffer.dones[slot] != 0, other.done)
        assert np.array_equal(buffer.timeouts[slot] != 0, other.truncated & ~other.terminated)
    assert len(made.ep_info_buffer) == made._episode_num == int(buffer.dones.sum())


def test_exploration_falls_as_it_should_and_rows_explore_one_by_one() -> None:
    made = model(CompiledDQN, "cartpole", 40, gradient_steps=1, exploration_fraction=0.5, exploration_final_eps=0.1)
    with torch.no_grad():
        for p in made.policy.parameters():  # a network that always says 1, and has nothing to learn from itself
            p.zero_()
        list(made.q_net.parameters())[-1][1] = 1.0
    made.learning_rate = made.lr_schedule = lambda _: 0.0
    learn_compiled(made, 3840)
    slots = made.replay_buffer.buffer_size
    assert slots == 15 and made.exploration_rate == pytest.approx(0.1)
    share = 1 - made.replay_buffer.actions.mean()  # of zeros: half of the random ones; 600 coins
    assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 600)


def target_of(made: Any, slot: int, row: int, *, double: bool, steps: int) -> float:
    """The target by its definition."""
    buffer, total, discount = made.replay_buffer, 0.0, 1.0
    for _ in range(steps):
        total += discount * float(buffer.rewards[slot, row])
        discount *= made.gamma
        last, slot = slot, (slot + 1) % buffer.buffer_size
        if buffer.dones[last, row] or slot == buffer.pos:
            break
    if buffer.dones[last, row] and not buffer.timeouts[last, row]:
        return total
    after = torch.as_tensor(buffer.next_observations[last, row][None])
    with torch.no_grad():
        values = made.q_net_target(after)[0]
        chooser = made.q_net(after)[0] if double else values
    return total + discount * float(values[int(chooser.argmax())])


@pytest.mark.parametrize(("double", "steps"), [(True, 1), (False, 3), (True, 5)])
def test_double_q_and_n_step_targets(double: bool, steps: int) -> None:
    """One gradient step with a plain network is checked against autograd on targets worked out by hand."""
    made = model(CompiledDQN, "cartpole", 4, gradient_steps=0, double_q=double, n_steps=steps, learning_rate=1e-3)
    learn_compiled(made, 1000)
    with torch.no_grad():
        for p in made.q_net_target.parameters():
            p += 0.2 * torch.randn_like(p)
    loss = loss_of(made, sampled(made, 32), double=double, steps=steps)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(made.q_net.parameters(), made.max_grad_norm)
    wanted = [p.grad.clone() for p in made.q_net.parameters() if p.grad is not None]
    made.train(1, 32)
    assert made.logger.name_to_value["train/loss"] == pytest.approx(loss.item(), rel=1e-4)
    for p, grad in zip(made.q_net.parameters(), wanted, strict=True):
        state = made.policy.optimizer.state[p]
        assert state["step"] == 1
        # The first moment after the first step is a tenth of the gradient.
        np.testing.assert_allclose(state["exp_avg"] / 0.1, grad, rtol=2e-3, atol=2e-5)


def loss_of(made: Any, places: tuple[Array, Array], *, double: bool = False, steps: int = 1) -> torch.Tensor:
    """The mean Huber loss of these transitions by autograd."""
    slots, rows = places
    targets = [target_of(made, s, r, double=double, steps=steps) for s, r in zip(slots, rows, strict=True)]
    observations = torch.as_tensor(made.replay_buffer.observations[slots, rows])
    actions = torch.as_tensor(made.replay_buffer.actions[slots, rows])
    q_values = made.q_net(observations).gather(1, actions)[:, 0]
    return torch.nn.functional.smooth_l1_loss(q_values, torch.tensor(targets).float())


def test_priorities_are_sampled_in_proportion_and_corrected() -> None:
    made = model(CompiledDQN, "cartpole", 4, batch_size=256, priority_exponent=0.7, importance_exponent=1.0)
    learn_compiled(made, 1000)
    made.learning_rate = made.lr_schedule = lambda _: 0.0
    records = made.training_records(np.asarray(made._last_obs), 256)
    _, tree, _, batch, _, counters = records
    leaves = len(tree.sums) // 2
    for node in range(1, leaves):
        assert tree.sums[node] == tree.sums[2 * node] + tree.sums[2 * node + 1]
    shares = np.random.default_rng(0).random(600) ** 3
    made.restore_priorities({"priorities": np.append(shares, np.zeros(leaves - 600)), "highest": np.ones(1)})
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
    # Stratified draws vary less than independent ones: chi-squared of 599 degrees is below 720 but once in 1,000.
    assert ((counts - expected) ** 2 / np.maximum(expected, 1e-9))[expected > 1].sum() < 720
    assert counts[expected < 0.05].sum() < 0.05 * counts.sum()


def test_options_of_compiled_code_are_refused_where_it_cannot_work() -> None:
    made = model(CompiledDQN, "cartpole", 2, double_q=True, policy_kwargs={"activation_fn": torch.nn.ELU})
    with pytest.raises(ValueError, match="double_q and priority_exponent need the compiled learner: .*ELU"):
        made.prepare_compiled()
    dqn = agent_registry.load("dqn")
    with pytest.raises(ValueError, match="compiled=false"):
        envs = make.make("cartpole", 2)
        dqn.learner(dqn.Config(compiled=False, double_q=True), envs, budget=100, seed=0, device="cpu")


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    made = model(CompiledDQN, "cartpole", 4, gradient_steps=0)
    learn_compiled(made, 200)
    made.replay_buffer.rewards[:, 0] = np.inf
    before = [p.clone() for p in made.policy.parameters()]
    with pytest.raises(NonFiniteError, match="dqn: non-finite gradient of .* at step 208; no parameter was changed"):
        made.train(1, 32)
    assert all(torch.equal(a, b) for a, b in zip(before, made.policy.parameters(), strict=True))


def test_a_target_that_the_library_moves_is_the_target_that_is_learned_from() -> None:
    made = model(CompiledDQN, "cartpole", 1, learning_starts=10, target_update_interval=50, train_freq=1)
    made.learn(400)  # through the library's own loop, whose target moves in ways that no tensor counts
    with torch.no_grad():
        for p in made.q_net_target.parameters():
            p += 0.2 * torch.randn_like(p)
    made.train(1, 32)  # compiled code has this target now
    places = sampled(made, 32)
    before = loss_of(made, places).item()
    polyak_update(made.q_net.parameters(), made.q_net_target.parameters(), 1.0)
    wanted = loss_of(made, places).item()
    assert wanted != pytest.approx(before, rel=1e-2), "the old target would pass, too"
    made.train(1, 32)
    assert made.logger.name_to_value["train/loss"] == pytest.approx(wanted, rel=1e-4)


def test_a_normaliser_anywhere_below_is_seen() -> None:
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    env = VecMonitor(VecNormalize(LabVecEnv(make.make("cartpole", 2))))
    made = CompiledDQN("MlpPolicy", env, device="cpu", buffer_size=100)
    assert not made.prepare_compiled() and "normalised" in made.backend


@pytest.mark.parametrize(
    ("name", "value"), [("actions", 2), ("actions", -1), ("pos", 10**8), ("pos", -1), ("full", 1), ("priorities", -1.0)]
)
def test_a_crafted_replay_buffer_never_reaches_compiled_code(name: str, value: Any) -> None:
    dqn = agent_registry.load("dqn")
    config = dqn.Config(buffer_size=400, learning_starts=10, priority_exponent=0.5)

    def learner() -> Any:
        return dqn.learner(config, make.make("cartpole", 4, seed=0), budget=10_000, seed=0, device="cpu")

    one, other = learner(), learner()
    one.train_iteration()
    saved = one.save()
    if name in saved.state["replay"]:
        saved.state["replay"][name] = value
    else:
        saved.tensors["replay"][name] = saved.tensors["replay"][name].copy()
        saved.tensors["replay"][name].flat[3] = value
    with pytest.raises(ValueError):
        other.restore(saved)
