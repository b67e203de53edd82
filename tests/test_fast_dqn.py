"""The compiled DQN beside Stable-Baselines3's own, and its options beside their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger

from rl_lab import batch, catalogue
from rl_lab.adapters.sb3 import LabVecEnv
from rl_lab.adapters.sb3_fast_dqn import FastDQN
from rl_lab.adapters.sb3_policy import BoardCnn
from rl_lab.engine import NonFiniteError
from rl_lab.fast import kernels, plan


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def model(kind: Any, world: str = "cartpole", worlds: int = 4, **arguments: Any) -> Any:
    torch.manual_seed(0)
    np.random.seed(0)
    env = LabVecEnv(batch.make(world, worlds, seed=0))
    given = {"learning_starts": 64, "buffer_size": 600, "batch_size": 32, "target_update_interval": 40, "device": "cpu"}
    made = kind("MlpPolicy", env, **{**given, **arguments})
    made.set_logger(Logger(folder=None, output_formats=[]))
    made._setup_learn(4000)
    return made


def advance(made: Any, until: int) -> None:
    engine = made.engine()
    assert engine is not None
    made.advance(engine, until)


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
    fast, stock = (model(kind, world, gradient_steps=0, learning_rate=1e-3, **arguments) for kind in (FastDQN, DQN))
    advance(fast, 800)
    with torch.no_grad():
        for p in fast.q_net_target.parameters():  # targets that differ from the network's own values
            p += 0.05 * torch.randn_like(p)
    stock.policy.load_state_dict(fast.policy.state_dict())
    stock.replay_buffer = fast.replay_buffer
    buffer = fast.replay_buffer
    slots = buffer.buffer_size if buffer.full else buffer.pos
    assert slots * 4 == min(800, arguments.get("buffer_size", 600))
    drawn: list[Any] = []

    def sample(size: int, env: Any = None) -> Any:
        return buffer._get_samples(drawn.pop(0), env=env)

    assert fast.ready()
    for update in range(5):
        fast.train(1, 32)
        picked = fast._picked.copy()
        rows = iter([picked[:, 1]])
        stock.replay_buffer = _Given(buffer, picked[:, 0], rows)
        stock.train(1, 32)
        assert picked[:, 0].min() >= 0 and picked[:, 0].max() < slots and set(picked[:, 1]) <= set(range(4))
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
        slots, rows, buffer = self.slots, next(self.rows), self.buffer
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
    made = model(FastDQN, "cartpole", 3, gradient_steps=1)
    advance(made, 600)
    buffer = made.replay_buffer
    assert made.num_timesteps == 600 and buffer.pos == 0 and buffer.full
    other = batch.make("cartpole", 3, seed=0)
    other.reset()
    for slot in range(200):
        assert np.array_equal(buffer.observations[slot], other.observations[:, 0])
        other.actions[:, 0] = buffer.actions[slot, :, 0]
        other.step()
        after = np.where(other.ended[:, None], other.final_observations[:, 0], other.observations[:, 0])
        assert np.array_equal(buffer.next_observations[slot], after)
        assert np.array_equal(buffer.rewards[slot], other.rewards[:, 0])
        assert np.array_equal(buffer.dones[slot] != 0, other.ended)
        assert np.array_equal(buffer.timeouts[slot] != 0, other.truncated & ~other.terminated)
    assert len(made.ep_info_buffer) == made._episode_num == int(buffer.dones.sum())


def test_exploration_falls_as_it_should_and_rows_explore_one_by_one() -> None:
    made = model(FastDQN, "cartpole", 40, gradient_steps=1, exploration_fraction=0.5, exploration_final_eps=0.1)
    with torch.no_grad():
        for p in made.policy.parameters():  # a network that always says 1, and has nothing to learn from itself
            p.zero_()
        list(made.q_net.parameters())[-1][1] = 1.0
    made.learning_rate = made.lr_schedule = lambda _: 0.0
    advance(made, 3840)
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
    made = model(FastDQN, "cartpole", 4, gradient_steps=0, double_q=double, n_steps=steps, learning_rate=1e-3)
    advance(made, 1000)
    with torch.no_grad():
        for p in made.q_net_target.parameters():
            p += 0.2 * torch.randn_like(p)
    made.ready()
    slopes_before = [p.detach().clone() for p in made.q_net.parameters()]
    own = made.q_net
    made._take_up()
    kernels.dqn().improve(
        1, made._counters, made._settings, made._report, *made._replay(), made.key,
        *made._networks(np.asarray(made._last_obs)),
    )  # fmt: skip
    picked = made._picked
    wanted = torch.tensor([target_of(made, s, r, double=double, steps=steps) for s, r in picked]).float()
    seen = torch.as_tensor(made.replay_buffer.observations[picked[:, 0], picked[:, 1]])
    taken = torch.as_tensor(made.replay_buffer.actions[picked[:, 0], picked[:, 1]])
    loss = torch.nn.functional.smooth_l1_loss(own(seen).gather(1, taken)[:, 0], wanted)
    loss.backward()
    assert made._report[plan.LOSSES] == pytest.approx(float(loss.detach()), rel=1e-4)
    network = made._shared.network
    for k, p in enumerate(own.parameters()):
        low, high = network.bounds[k : k + 2]
        assert p.grad is not None
        np.testing.assert_allclose(network.slopes[0, network.places[low:high]], p.grad.ravel(), rtol=2e-3, atol=2e-5)
        assert torch.equal(p.detach(), slopes_before[k])  # the tensors get it with `write`


def test_priorities_are_sampled_in_proportion_and_corrected() -> None:
    made = model(FastDQN, "cartpole", 4, batch_size=256, priority_exponent=0.7, importance_exponent=1.0)
    advance(made, 1000)
    leaves = len(made._tree) // 2
    for node in range(1, leaves):
        assert made._tree[node] == made._tree[2 * node] + made._tree[2 * node + 1]
    generator = np.random.default_rng(0)
    shares = generator.random(600) ** 3
    made._tree[leaves : leaves + 600] = shares
    for node in range(leaves - 1, 0, -1):
        made._tree[node] = made._tree[2 * node] + made._tree[2 * node + 1]
    made.learning_rate = made.lr_schedule = lambda _: 0.0
    made._take_up()
    counts, tree = np.zeros(600), made._tree.copy()
    for _ in range(200):
        made._tree[:] = tree
        made._counters[plan.UPDATES] += 1
        kernels.dqn().improve(
            1, made._counters, made._settings, made._report, *made._replay(), made.key,
            *made._networks(np.asarray(made._last_obs)),
        )  # fmt: skip
        np.add.at(counts, made._picked[:, 0] * 4 + made._picked[:, 1], 1)
    expected = shares / shares.sum() * counts.sum()
    # Stratified draws vary less than independent ones: chi-squared of 599 degrees is below 720 but once in 1,000.
    assert ((counts - expected) ** 2 / np.maximum(expected, 1e-9))[expected > 1].sum() < 720
    assert counts[expected < 0.05].sum() < 0.05 * counts.sum()


def test_options_of_compiled_code_are_refused_where_it_cannot_work() -> None:
    made = model(FastDQN, "cartpole", 2, double_q=True, policy_kwargs={"activation_fn": torch.nn.ELU})
    with pytest.raises(ValueError, match="double_q, n_steps and priority_exponent need the compiled learner: .*ELU"):
        made.ready()
    dqn = catalogue.load("dqn")
    with pytest.raises(ValueError, match="compiled=false"):
        worlds = batch.make("cartpole", 2)
        dqn.learner(dqn.Config(compiled=False, double_q=True), worlds, budget=100, seed=0, device="cpu")


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    made = model(FastDQN, "cartpole", 4, gradient_steps=0)
    advance(made, 200)
    made.replay_buffer.rewards[:, 0] = np.inf
    before = [p.clone() for p in made.policy.parameters()]
    with pytest.raises(NonFiniteError, match="dqn: non-finite gradient of .* at step 208; no parameter was changed"):
        made.train(1, 32)
    assert all(torch.equal(a, b) for a, b in zip(before, made.policy.parameters(), strict=True))


def test_a_target_that_the_library_moves_is_the_target_that_is_learned_from() -> None:
    made = model(FastDQN, "cartpole", 1, learning_starts=10, target_update_interval=50, train_freq=1)
    made.learn(400)  # through the library's own loop, whose target moves in ways that no tensor counts
    shared = made._target
    flat = np.concatenate([p.detach().numpy().ravel() for p in made.q_net_target.parameters()])
    made._take_up()
    assert np.array_equal(shared.network.weights[shared.network.places], flat)


def test_a_normaliser_anywhere_below_is_seen() -> None:
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    env = VecMonitor(VecNormalize(LabVecEnv(batch.make("cartpole", 2))))
    made = FastDQN("MlpPolicy", env, device="cpu", buffer_size=100)
    assert not made.ready() and "normalised" in made.learner


@pytest.mark.parametrize(
    ("name", "value"), [("actions", 2), ("actions", -1), ("pos", 10**8), ("pos", -1), ("full", 1), ("priorities", -1.0)]
)
def test_a_crafted_replay_buffer_never_reaches_compiled_code(name: str, value: Any) -> None:
    dqn = catalogue.load("dqn")
    config = dqn.Config(buffer_size=400, learning_starts=10, priority_exponent=0.5)

    def learner() -> Any:
        return dqn.learner(config, batch.make("cartpole", 4, seed=0), budget=10_000, seed=0, device="cpu")

    one, other = learner(), learner()
    one.advance()
    saved = one.save()
    if name in saved.state["replay"]:
        saved.state["replay"][name] = value
    else:
        saved.tensors["replay"][name] = saved.tensors["replay"][name].copy()
        saved.tensors["replay"][name].flat[3] = value
    with pytest.raises(ValueError):
        other.restore(saved)
