"""The compiled PPO beside Stable-Baselines3's own: the same rollouts, the same updates, the same agents."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from rl_lab.adapters import make
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core import agent_registry
from rl_lab.engine.batch import NonFiniteError
from rl_lab.learners.compiled import build
from rl_lab.learners.sb3.policies import BoardCnn
from rl_lab.learners.sb3.ppo import CompiledMaskablePPO, CompiledPPO


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def model(kind: Any, world: str, num_envs: int, *, normalize: str = "", **arguments: Any) -> Any:
    torch.manual_seed(0)
    np.random.seed(0)
    env: Any = LabVecEnv(make.make(world, num_envs, seed=0))
    if normalize:
        env = VecNormalize(env, norm_obs="o" in normalize, norm_reward="r" in normalize, gamma=arguments["gamma"])
    made = kind("MlpPolicy", env, device="cpu", **arguments)
    made.set_logger(Logger(folder=None, output_formats=[]))
    made._setup_learn(10**9)
    return made


def collect(made: Any, callback: BaseCallback | None = None) -> None:
    callback = callback or ConvertCallback(None)
    callback.init_callback(made)
    made.collect_rollouts(made.env, callback, made.rollout_buffer, made.n_steps)


ARRAYS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")


def in_steps_of(fast: Any, stock: Any) -> None:
    """Let stock PPO roll out with the actions that the compiled one took."""
    taken, steps = fast.rollout_buffer.actions.copy(), iter(range(fast.n_steps))
    masks = getattr(fast.rollout_buffer, "action_masks", None)

    def forward(observations: torch.Tensor, **masked: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        t = next(steps)
        actions = torch.as_tensor(taken[t])
        actions = actions.flatten() if isinstance(stock.action_space, Discrete) else actions
        more = {} if masks is None else {"action_masks": torch.as_tensor(masks[t])}
        values, log_probs, _ = stock.policy.evaluate_actions(observations, actions, **more)
        return actions, values, log_probs

    stock.policy.forward = forward
    collect(stock)


def apart(own: torch.Tensor, other: torch.Tensor) -> float:
    return float((own - other).detach().norm() / other.detach().norm().clamp(min=1e-2))


CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "cartpole": ("cartpole", 5, {"n_steps": 600, "batch_size": 600}),  # beyond the horizon of a good many
    "late": ("pendulum", 3, {"n_steps": 250, "batch_size": 150}),  # ends by truncation alone
    "scaled": ("pendulum", 8, {"n_steps": 210, "batch_size": 120, "normalize": "or", "gamma": 0.9}),
    "rewards": ("cartpole", 4, {"n_steps": 128, "batch_size": 128, "normalize": "r", "gamma": 0.98}),
    "board": ("catch", 6, {"n_steps": 64, "batch_size": 96}),
    "sparse": ("breakout", 4, {"n_steps": 96, "batch_size": 96, "policy_kwargs": {"activation_fn": torch.nn.ReLU}}),
    "cnn": (
        "breakout",
        4,
        {
            "n_steps": 64,
            "batch_size": 64,
            "policy_kwargs": {"features_extractor_class": BoardCnn, "net_arch": [], "activation_fn": torch.nn.ReLU},
        },
    ),
    "narrow": (  # a board of 10 x 5
        "catch",
        4,
        {
            "n_steps": 48,
            "batch_size": 64,
            "policy_kwargs": {"features_extractor_class": BoardCnn, "net_arch": [], "activation_fn": torch.nn.ReLU},
        },
    ),
    "wide": ("acrobot", 3, {"n_steps": 50, "batch_size": 75, "policy_kwargs": {"net_arch": [100, 70, 20]}}),
    "apart": (
        "catch",
        3,
        {"n_steps": 50, "batch_size": 75, "policy_kwargs": {"net_arch": {"pi": [30], "vf": [50, 9]}}},
    ),
    "several": ("simple_spread", 3, {"n_steps": 60, "batch_size": 90}),
}


@pytest.mark.parametrize("d", [1, 7, 8, 13, 16, 50])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_not_zero_is_found(d: int, dtype: type) -> None:
    rng = np.random.default_rng(d)
    rows = rng.choice(np.array([0, 0, 1, 255], dtype), (9, d))
    count = np.count_nonzero(rows)
    starts, places, values = np.zeros(10, np.int64), np.zeros(count + 2, np.int32), np.zeros(count + 2, np.float32)
    places[-1] = values[-1] = 99
    build.ppo().build_all_sparse_rows(rows.ctypes.data, dtype is np.uint8, 9, d, starts, places, values)
    where = np.nonzero(rows)
    assert np.array_equal(starts, np.concatenate([[0], np.cumsum(np.count_nonzero(rows, axis=1))]))
    assert np.array_equal(places[:count], where[1]) and places[-1] == values[-1] == 99
    assert np.array_equal(values[:count], rows[where])


@pytest.mark.parametrize("case", CASES)
def test_rollouts_and_updates_are_those_of_stable_baselines3(case: str) -> None:
    world, num_envs, given = CASES[case]
    arguments = {"n_epochs": 2, "ent_coef": 0.01, **given}
    fast, stock = (model(kind, world, num_envs, **arguments) for kind in (CompiledPPO, PPO))
    stock.policy.load_state_dict(fast.policy.state_dict())
    for update in range(2):
        collect(fast)
        in_steps_of(fast, stock)
        assert fast.backend == "compiled" and fast.env_time_fraction is not None
        for name in ARRAYS:
            a, b = (getattr(m.rollout_buffer, name) for m in (fast, stock))
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=name)
            if name in ("observations", "actions", "episode_starts"):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(fast._last_obs, stock._last_obs, atol=1e-5)
        assert np.array_equal(fast._last_episode_starts, stock._last_episode_starts)
        assert [(e["l"], pytest.approx(e["r"], abs=1e-4)) for e in fast.ep_info_buffer] == [
            (e["l"], e["r"]) for e in stock.ep_info_buffer
        ]
        for name in ARRAYS:  # what the update gets is the same to the last bit
            setattr(stock.rollout_buffer, name, getattr(fast.rollout_buffer, name).copy())
        for m in (fast, stock):
            np.random.seed(update)
            m.train()
        for (name, own), (_, other) in zip(
            fast.policy.named_parameters(), stock.policy.named_parameters(), strict=True
        ):
            assert apart(own, other) < 1e-5 * (1 + 4 * update), name
        for key, value in stock.logger.name_to_value.items():
            assert fast.logger.name_to_value[key] == pytest.approx(value, rel=2e-3, abs=2e-5), key
        stock.policy.load_state_dict(fast.policy.state_dict())
        stock.policy.optimizer.load_state_dict(deepcopy(fast.policy.optimizer.state_dict()))
        stock.policy.__dict__.pop("forward")


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize(
    ("case", "size"),
    [("wide", 240), ("scaled", 240), ("cnn", 240), ("several", 240), ("scaled", 109), ("sparse", 97), ("late", 50)],
)
def test_threads_change_no_bit(case: str, size: int) -> None:
    """A minibatch of 240 rows has four shards, which one to four threads take; of 109, three; of 50, one; 1 is left."""
    world, num_envs, given = CASES[case]
    arguments = {**given, "n_steps": 1200 // num_envs, "batch_size": size, "n_epochs": 2}
    reached = []
    for threads in (1, 2, 3, 4):
        made = model(CompiledPPO, world, num_envs, **arguments)
        made.threads = threads
        for update in range(2):
            collect(made)
            np.random.seed(update)
            made.train()
        buffer = made.rollout_buffer
        reached.append([*(getattr(buffer, name).tobytes() for name in ARRAYS), *map(_bytes, made.policy.parameters())])
    assert all(one == reached[0] for one in reached)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def test_illegal_actions_are_never_drawn_and_never_learned_from() -> None:
    ppo = agent_registry.load("ppo")
    from rl_lab.agents import random as random_agent

    from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

    def learner(compiled: bool) -> Any:
        envs = make.make("tic_tac_toe", 8, seed=0)
        seated = OpponentsWrapper(envs, [random_agent.make(random_agent.Config(), envs.world)], seed=0)
        config = ppo.Config(n_steps=32, batch_size=64, n_epochs=2, ent_coef=0.01, compiled=compiled)
        return ppo.learner(config, seated, budget=10**6, seed=0, device="cpu")

    fast, stock = learner(True).model, learner(False).model
    assert type(fast) is CompiledMaskablePPO and type(stock) is MaskablePPO
    assert type(fast.policy) is MaskableActorCriticPolicy
    stock.policy.load_state_dict(fast.policy.state_dict())
    collect(fast)
    chosen = np.take_along_axis(fast.rollout_buffer.action_masks, fast.rollout_buffer.actions.astype(np.int64), 2)
    assert (chosen == 1).all() and (fast.rollout_buffer.action_masks == 0).any()
    in_steps_of(fast, stock)
    for name in (*ARRAYS, "action_masks"):
        a, b = (getattr(m.rollout_buffer, name) for m in (fast, stock))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
        setattr(stock.rollout_buffer, name, a.copy())
    for m in (fast, stock):
        np.random.seed(1)
        m.train()
    for (name, own), (_, other) in zip(fast.policy.named_parameters(), stock.policy.named_parameters(), strict=True):
        assert apart(own, other) < 1e-5, name


def test_an_update_stops_at_the_divergence_that_is_its_limit() -> None:
    arguments = {"n_steps": 64, "batch_size": 64, "n_epochs": 20, "learning_rate": 0.01, "target_kl": 0.01}
    fast, stock = (model(kind, "cartpole", 4, **arguments) for kind in (CompiledPPO, PPO))
    stock.policy.load_state_dict(fast.policy.state_dict())
    collect(fast)
    for name in ARRAYS:
        setattr(stock.rollout_buffer, name, getattr(fast.rollout_buffer, name).copy())
    stock.rollout_buffer.full = True
    for m in (fast, stock):
        np.random.seed(1)
        m.train()
    assert 0 < fast._n_updates == stock._n_updates < 20
    for own, other in zip(fast.policy.parameters(), stock.policy.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-4)  # a hundredth of one step of Adam


@pytest.mark.parametrize("world", ["catch", "pendulum"])
def test_gradients_are_finite_differences(world: str) -> None:
    """Of the loss as it is written down, in float64; half of the rows are beyond the clipping range."""
    size = 40
    arguments = {"n_steps": size // 2, "batch_size": size, "n_epochs": 1, "ent_coef": 0.3, "learning_rate": 0.0}
    made = model(CompiledPPO, world, 2, policy_kwargs={"net_arch": {"pi": [6, 5], "vf": [7]}}, **arguments)
    collect(made)
    buffer, generator = made.rollout_buffer, np.random.default_rng(0)
    buffer.log_probs += generator.normal(0, 0.3, buffer.log_probs.shape).astype(np.float32)
    made.train()
    shared = made.mirror
    grads = shared.network.grads[0, shared.network.param_index]

    policy = made.policy.double()
    observations = torch.as_tensor(buffer.observations.reshape(size, *buffer.obs_shape)).double()
    actions = torch.as_tensor(buffer.actions.reshape(size, -1))
    actions = actions.flatten() if isinstance(made.action_space, Discrete) else actions.double()
    old, gains, returns = (
        torch.as_tensor(getattr(buffer, name).reshape(-1)).double() for name in ("log_probs", "advantages", "returns")
    )
    gains = (gains - gains.mean()) / (gains.std() + 1e-8)

    def loss() -> float:
        features = observations.flatten(1)
        latent = policy.mlp_extractor.forward_actor(features)
        values = policy.value_net(policy.mlp_extractor.forward_critic(features)).flatten()
        drawn = policy._get_action_dist_from_latent(latent)
        ratio = torch.exp(drawn.log_prob(actions) - old)
        clipped = torch.min(ratio * gains, ratio.clamp(0.8, 1.2) * gains)
        return float(-clipped.mean() + 0.5 * ((values - returns) ** 2).mean() - 0.3 * drawn.entropy().mean())

    with torch.no_grad():
        place = 0
        for tensor in shared.tensors:
            flat = tensor.view(-1)
            for k in range(len(flat)):
                kept = float(flat[k])
                flat[k] = kept + 1e-6
                above = loss()
                flat[k] = kept - 1e-6
                below = loss()
                flat[k] = kept
                assert (above - below) / 2e-6 == pytest.approx(grads[place], rel=1e-3, abs=1e-5)
                place += 1


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    made = model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32)
    collect(made)
    made.rollout_buffer.returns[3, 1] = np.nan
    before = [p.clone() for p in made.policy.parameters()]
    with pytest.raises(NonFiniteError, match=r"gradient of \S+ in update 1 at step 32; no parameter was changed"):
        made.train()
    assert all(torch.equal(a, b) for a, b in zip(before, made.policy.parameters(), strict=True))
    collect(made)
    made.train()  # and goes on, given sound numbers


class EveryStep(BaseCallback):
    seen = 0

    def _on_step(self) -> bool:
        self.seen += 1
        return "infos" in self.locals and "rewards" in self.locals


def test_a_callback_sees_every_step() -> None:
    made, callback = model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32), EveryStep()
    collect(made, callback)
    assert callback.seen == 16 and made.backend == "compiled"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"policy_kwargs": {"activation_fn": torch.nn.ELU}}, "activation is ELU"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, "optimizer is SGD"),
        ({"policy_kwargs": {"net_arch": [2000]}}, "2000 units"),
        ({"clip_range_vf": 0.2}, "clips its value function"),
    ],
)
def test_what_compiled_code_does_not_know_is_left_to_the_library_and_said(arguments: Any, reason: str) -> None:
    made = model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32, **arguments)
    collect(made)
    made.train()
    assert made.backend.startswith("stock, because ") and reason in made.backend


def test_agents_go_to_the_library_and_back(tmp_path: Any) -> None:
    fast = model(CompiledPPO, "cartpole", 4, n_steps=64, batch_size=64)
    collect(fast)
    fast.train()
    fast.save(tmp_path / "agent.zip")
    stock = PPO.load(tmp_path / "agent.zip", env=fast.env)
    seen = fast.env.reset()
    assert np.array_equal(stock.predict(seen, deterministic=True)[0], fast.predict(seen, deterministic=True)[0])
    stock.set_logger(Logger(folder=None, output_formats=[]))
    stock.learn(256)
    stock.save(tmp_path / "agent.zip")
    again = CompiledPPO.load(tmp_path / "agent.zip", env=fast.env)
    again.learn(256)
    assert again.backend == "compiled" and again.num_timesteps == 512 - 256
    steps = {int(state["step"]) for state in again.policy.optimizer.state.values()}
    assert steps == {3 * 40}  # moments went along


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("last", [1, 2])
def test_the_rest_of_a_rollout_is_a_minibatch_however_small(last: int) -> None:
    size = 32 - last
    fast, stock = (model(kind, "cartpole", 4, n_steps=8, batch_size=size, n_epochs=2) for kind in (CompiledPPO, PPO))
    stock.policy.load_state_dict(fast.policy.state_dict())
    collect(fast)
    for name in ARRAYS:
        setattr(stock.rollout_buffer, name, getattr(fast.rollout_buffer, name).copy())
    stock.rollout_buffer.full = True
    for m in (fast, stock):
        np.random.seed(1)
        m.train()
    for own, other in zip(fast.policy.parameters(), stock.policy.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_two_learners_and_two_trainings_draw_numbers_of_their_own() -> None:
    torch.manual_seed(0)
    first, second = (
        CompiledPPO("MlpPolicy", LabVecEnv(make.make("pendulum", 2)), n_steps=8, batch_size=16) for _ in "ab"
    )
    second.policy.load_state_dict(first.policy.state_dict())
    actions = []
    for made, steps in ((first, 16), (second, 16), (first, 16)):
        made.learning_rate = made.lr_schedule = lambda _: 0.0
        made.learn(steps)
        actions.append(made.rollout_buffer.actions.copy())
    assert not np.allclose(actions[0], actions[1], atol=0.1) and not np.allclose(actions[0], actions[2], atol=0.1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.policy.action_net.weight.requires_grad_(False), "frozen"),
        (lambda m: setattr(m, "rollout_buffer", type("Own", (type(m.rollout_buffer),), {})(
            m.n_steps, m.observation_space, m.action_space, n_envs=m.n_envs)), "rollout buffer is a Own"),
    ],
)  # fmt: skip
def test_what_a_subclass_changed_is_not_overridden(change: Any, reason: str) -> None:
    made = model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32)
    change(made)
    collect(made)
    assert reason in made.backend


def test_a_users_vecenv_is_stepped_by_its_own_method() -> None:
    class Tenfold(LabVecEnv):
        def step_wait(self) -> Any:
            observations, rewards, dones, infos = super().step_wait()
            return observations, rewards * 10, dones, infos

    torch.manual_seed(0)
    made = CompiledPPO("MlpPolicy", Tenfold(make.make("cartpole", 2)), n_steps=8, batch_size=16, device="cpu")
    made.learn(16)
    assert made.backend == "compiled" and (made.rollout_buffer.rewards == 10).all()


def test_a_normaliser_has_a_discount_of_its_own() -> None:
    torch.manual_seed(0)
    env = VecNormalize(LabVecEnv(make.make("cartpole", 3, seed=0)), norm_obs=False, gamma=0.99)
    made: Any = CompiledPPO("MlpPolicy", env, n_steps=32, batch_size=96, gamma=0.5, device="cpu")
    made.learn(96)
    other = LabVecEnv(make.make("cartpole", 3, seed=0))
    same = VecNormalize(other, norm_obs=False, gamma=0.99)
    same.reset()
    for actions in made.rollout_buffer.actions.reshape(3, 32).T if made.rollout_buffer.generator_ready else (
        made.rollout_buffer.actions[:, :, 0]
    ):  # fmt: skip
        same.step(actions)
    assert env.ret_rms.var == pytest.approx(same.ret_rms.var, rel=1e-6)


def test_what_a_user_writes_to_a_parameter_is_used() -> None:
    made = model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32)
    collect(made)
    made.train()
    made.policy.value_net.bias.data.fill_(1000.0)  # changes no version
    collect(made)
    assert made.backend == "compiled" and made.rollout_buffer.values.mean() == pytest.approx(1000.0, abs=10)
