"""Compiled PPO against Stable-Baselines3's: the same rollouts, updates, files and callbacks.

Most tests make two models with the same parameters, `compiled` (CompiledPPO) and `sb3` (PPO), let the compiled one act,
and compare buffers or parameters. Files are written to temporary folders only.
"""

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


def make_model(algorithm: Any, world: str, num_envs: int, *, normalize: str = "", **arguments: Any) -> Any:
    torch.manual_seed(0)
    np.random.seed(0)
    env: Any = LabVecEnv(make.make(world, num_envs, seed=0))
    if normalize:
        env = VecNormalize(env, norm_obs="o" in normalize, norm_reward="r" in normalize, gamma=arguments["gamma"])
    model = algorithm("MlpPolicy", env, device="cpu", **arguments)
    model.set_logger(Logger(folder=None, output_formats=[]))
    model._setup_learn(10**9)
    return model


def collect(model: Any, callback: BaseCallback | None = None) -> None:
    callback = callback or ConvertCallback(None)
    callback.init_callback(model)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


ARRAYS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")


def collect_with_actions_of(compiled: Any, sb3: Any) -> None:
    """Let SB3's PPO collect a rollout with the actions of the compiled one's last rollout."""
    compiled_actions, steps = compiled.rollout_buffer.actions.copy(), iter(range(compiled.n_steps))
    masks = getattr(compiled.rollout_buffer, "action_masks", None)

    def forward(observations: torch.Tensor, **masked: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        t = next(steps)
        actions = torch.as_tensor(compiled_actions[t])
        actions = actions.flatten() if isinstance(sb3.action_space, Discrete) else actions
        more = {} if masks is None else {"action_masks": torch.as_tensor(masks[t])}
        values, log_probs, _ = sb3.policy.evaluate_actions(observations, actions, **more)
        return actions, values, log_probs

    sb3.policy.forward = forward
    collect(sb3)


def relative_distance(compiled_param: torch.Tensor, sb3_param: torch.Tensor) -> float:
    """Return the norm of the difference, as a fraction of the norm of `other`."""
    return float((compiled_param - sb3_param).detach().norm() / sb3_param.detach().norm().clamp(min=1e-2))


CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "cartpole": ("cartpole", 5, {"n_steps": 600, "batch_size": 600}),  # longer than most episodes
    "truncated": ("pendulum", 3, {"n_steps": 250, "batch_size": 150}),  # episodes end by truncation only
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
    "separate": (
        "catch",
        3,
        {"n_steps": 50, "batch_size": 75, "policy_kwargs": {"net_arch": {"pi": [30], "vf": [50, 9]}}},
    ),
    "several": ("simple_spread", 3, {"n_steps": 60, "batch_size": 90}),
}


@pytest.mark.parametrize("d", [1, 7, 8, 13, 16, 50])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_sparse_rows_list_the_numbers_that_are_not_zero(d: int, dtype: type) -> None:
    rng = np.random.default_rng(d)
    rows = rng.choice(np.array([0, 0, 1, 255], dtype), (9, d))
    count = np.count_nonzero(rows)
    starts, columns, values = np.zeros(10, np.int64), np.zeros(count + 2, np.int32), np.zeros(count + 2, np.float32)
    columns[-1] = values[-1] = 99
    build.ppo().build_all_sparse_rows(rows.ctypes.data, dtype is np.uint8, 9, d, starts, columns, values)
    nonzero = np.nonzero(rows)
    assert np.array_equal(starts, np.concatenate([[0], np.cumsum(np.count_nonzero(rows, axis=1))]))
    assert np.array_equal(columns[:count], nonzero[1]) and columns[-1] == values[-1] == 99
    assert np.array_equal(values[:count], rows[nonzero])


@pytest.mark.parametrize("case", CASES)
def test_rollouts_and_updates_are_those_of_stable_baselines3(case: str) -> None:
    world, num_envs, case_arguments = CASES[case]
    arguments = {"n_epochs": 2, "ent_coef": 0.01, **case_arguments}
    compiled, sb3 = (make_model(algorithm, world, num_envs, **arguments) for algorithm in (CompiledPPO, PPO))
    sb3.policy.load_state_dict(compiled.policy.state_dict())
    for update in range(2):
        collect(compiled)
        collect_with_actions_of(compiled, sb3)
        assert compiled.backend == "compiled" and compiled.env_time_fraction is not None
        for name in ARRAYS:
            a, b = (getattr(m.rollout_buffer, name) for m in (compiled, sb3))
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=name)
            if name in ("observations", "actions", "episode_starts"):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(compiled._last_obs, sb3._last_obs, atol=1e-5)
        assert np.array_equal(compiled._last_episode_starts, sb3._last_episode_starts)
        assert [(e["l"], pytest.approx(e["r"], abs=1e-4)) for e in compiled.ep_info_buffer] == [
            (e["l"], e["r"]) for e in sb3.ep_info_buffer
        ]
        for name in ARRAYS:  # both updates get the same bits
            setattr(sb3.rollout_buffer, name, getattr(compiled.rollout_buffer, name).copy())
        for m in (compiled, sb3):
            np.random.seed(update)
            m.train()
        for (name, compiled_param), (_, sb3_param) in zip(
            compiled.policy.named_parameters(), sb3.policy.named_parameters(), strict=True
        ):
            assert relative_distance(compiled_param, sb3_param) < 1e-5 * (1 + 4 * update), name
        for key, value in sb3.logger.name_to_value.items():
            assert compiled.logger.name_to_value[key] == pytest.approx(value, rel=2e-3, abs=2e-5), key
        sb3.policy.load_state_dict(compiled.policy.state_dict())
        sb3.policy.optimizer.load_state_dict(deepcopy(compiled.policy.optimizer.state_dict()))
        sb3.policy.__dict__.pop("forward")


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize(
    ("case", "size"),
    [
        ("wide", 240),
        ("scaled", 240),
        ("cnn", 240),
        ("several", 240),
        ("scaled", 109),
        ("sparse", 97),
        ("truncated", 50),
    ],
)
def test_threads_change_no_bit(case: str, size: int) -> None:
    """A minibatch of 240 rows has four shards, of 109 three, of 50 one; the last minibatch may have a single row."""
    world, num_envs, case_arguments = CASES[case]
    arguments = {**case_arguments, "n_steps": 1200 // num_envs, "batch_size": size, "n_epochs": 2}
    results = []
    for threads in (1, 2, 3, 4):
        model = make_model(CompiledPPO, world, num_envs, **arguments)
        model.threads = threads
        for update in range(2):
            collect(model)
            np.random.seed(update)
            model.train()
        buffer = model.rollout_buffer
        results.append([*(getattr(buffer, name).tobytes() for name in ARRAYS), *map(_bytes, model.policy.parameters())])
    assert all(result == results[0] for result in results)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def test_illegal_actions_are_never_sampled_and_change_no_update() -> None:
    ppo = agent_registry.load("ppo")
    from rl_lab.agents import random as random_agent

    from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

    def learner(compiled: bool) -> Any:
        envs = make.make("tic_tac_toe", 8, seed=0)
        wrapped = OpponentsWrapper(envs, [random_agent.make(random_agent.Config(), envs.world)], seed=0)
        config = ppo.Config(n_steps=32, batch_size=64, n_epochs=2, ent_coef=0.01, compiled=compiled)
        return ppo.learner(config, wrapped, budget=10**6, seed=0, device="cpu")

    compiled, sb3 = learner(True).model, learner(False).model
    assert type(compiled) is CompiledMaskablePPO and type(sb3) is MaskablePPO
    assert type(compiled.policy) is MaskableActorCriticPolicy
    sb3.policy.load_state_dict(compiled.policy.state_dict())
    collect(compiled)
    is_legal = np.take_along_axis(
        compiled.rollout_buffer.action_masks, compiled.rollout_buffer.actions.astype(np.int64), 2
    )
    assert (is_legal == 1).all() and (compiled.rollout_buffer.action_masks == 0).any()
    collect_with_actions_of(compiled, sb3)
    for name in (*ARRAYS, "action_masks"):
        a, b = (getattr(m.rollout_buffer, name) for m in (compiled, sb3))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
        setattr(sb3.rollout_buffer, name, a.copy())
    for m in (compiled, sb3):
        np.random.seed(1)
        m.train()
    for (name, compiled_param), (_, sb3_param) in zip(
        compiled.policy.named_parameters(), sb3.policy.named_parameters(), strict=True
    ):
        assert relative_distance(compiled_param, sb3_param) < 1e-5, name


def test_an_update_stops_at_target_kl() -> None:
    arguments = {"n_steps": 64, "batch_size": 64, "n_epochs": 20, "learning_rate": 0.01, "target_kl": 0.01}
    compiled, sb3 = (make_model(algorithm, "cartpole", 4, **arguments) for algorithm in (CompiledPPO, PPO))
    sb3.policy.load_state_dict(compiled.policy.state_dict())
    collect(compiled)
    for name in ARRAYS:
        setattr(sb3.rollout_buffer, name, getattr(compiled.rollout_buffer, name).copy())
    sb3.rollout_buffer.full = True
    for m in (compiled, sb3):
        np.random.seed(1)
        m.train()
    assert 0 < compiled._n_updates == sb3._n_updates < 20
    for compiled_param, sb3_param in zip(compiled.policy.parameters(), sb3.policy.parameters(), strict=True):
        torch.testing.assert_close(compiled_param, sb3_param, rtol=0, atol=1e-4)  # a hundredth of one step of Adam


@pytest.mark.parametrize("world", ["catch", "pendulum"])
def test_gradients_are_finite_differences_of_the_loss(world: str) -> None:
    """The loss is written down here in float64; half of the rows are outside of the clipping range."""
    size = 40
    arguments = {"n_steps": size // 2, "batch_size": size, "n_epochs": 1, "ent_coef": 0.3, "learning_rate": 0.0}
    model = make_model(CompiledPPO, world, 2, policy_kwargs={"net_arch": {"pi": [6, 5], "vf": [7]}}, **arguments)
    collect(model)
    buffer, generator = model.rollout_buffer, np.random.default_rng(0)
    buffer.log_probs += generator.normal(0, 0.3, buffer.log_probs.shape).astype(np.float32)
    model.train()
    mirror = model.mirror
    grads = mirror.network.grads[0, mirror.network.param_index]

    policy = model.policy.double()
    observations = torch.as_tensor(buffer.observations.reshape(size, *buffer.obs_shape)).double()
    actions = torch.as_tensor(buffer.actions.reshape(size, -1))
    actions = actions.flatten() if isinstance(model.action_space, Discrete) else actions.double()
    old_log_probs, advantages, returns = (
        torch.as_tensor(getattr(buffer, name).reshape(-1)).double() for name in ("log_probs", "advantages", "returns")
    )
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)

    def loss() -> float:
        features = observations.flatten(1)
        latent = policy.mlp_extractor.forward_actor(features)
        values = policy.value_net(policy.mlp_extractor.forward_critic(features)).flatten()
        distribution = policy._get_action_dist_from_latent(latent)
        ratio = torch.exp(distribution.log_prob(actions) - old_log_probs)
        clipped = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        return float(-clipped.mean() + 0.5 * ((values - returns) ** 2).mean() - 0.3 * distribution.entropy().mean())

    with torch.no_grad():
        index = 0
        for tensor in mirror.tensors:
            flat = tensor.view(-1)
            for k in range(len(flat)):
                value = float(flat[k])
                flat[k] = value + 1e-6
                above = loss()
                flat[k] = value - 1e-6
                below = loss()
                flat[k] = value
                assert (above - below) / 2e-6 == pytest.approx(grads[index], rel=1e-3, abs=1e-5)
                index += 1


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = make_model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32)
    collect(model)
    model.rollout_buffer.returns[3, 1] = np.nan
    before = [p.clone() for p in model.policy.parameters()]
    with pytest.raises(NonFiniteError, match=r"gradient of \S+ in update 1 at step 32; no parameter was changed"):
        model.train()
    assert all(torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    collect(model)
    model.train()  # the next update, with finite numbers, succeeds


class CountingCallback(BaseCallback):
    num_calls = 0

    def _on_step(self) -> bool:
        self.num_calls += 1
        return "infos" in self.locals and "rewards" in self.locals


def test_a_callback_is_called_in_every_step() -> None:
    model, callback = make_model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32), CountingCallback()
    collect(model, callback)
    assert callback.num_calls == 16 and model.backend == "compiled"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"policy_kwargs": {"activation_fn": torch.nn.ELU}}, "activation is ELU"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, "optimizer is SGD"),
        ({"policy_kwargs": {"net_arch": [2000]}}, "2000 units"),
        ({"clip_range_vf": 0.2}, "clips its value function"),
    ],
)
def test_sb3_trains_what_compiled_code_does_not_support_and_backend_says_why(arguments: Any, reason: str) -> None:
    model = make_model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32, **arguments)
    collect(model)
    model.train()
    assert model.backend.startswith("Stable-Baselines3's own, because ") and reason in model.backend


def test_sb3_loads_a_saved_model_and_compiled_code_loads_it_again(tmp_path: Any) -> None:
    compiled = make_model(CompiledPPO, "cartpole", 4, n_steps=64, batch_size=64)
    collect(compiled)
    compiled.train()
    compiled.save(tmp_path / "agent.zip")
    sb3 = PPO.load(tmp_path / "agent.zip", env=compiled.env)
    observations = compiled.env.reset()
    assert np.array_equal(
        sb3.predict(observations, deterministic=True)[0], compiled.predict(observations, deterministic=True)[0]
    )
    sb3.set_logger(Logger(folder=None, output_formats=[]))
    sb3.learn(256)
    sb3.save(tmp_path / "agent.zip")
    reloaded = CompiledPPO.load(tmp_path / "agent.zip", env=compiled.env)
    reloaded.learn(256)
    assert reloaded.backend == "compiled" and reloaded.num_timesteps == 512 - 256
    steps = {int(state["step"]) for state in reloaded.policy.optimizer.state.values()}
    assert steps == {3 * 40}  # Adam's moments are in the file


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("last", [1, 2])
def test_the_last_minibatch_of_a_rollout_may_have_one_or_two_rows(last: int) -> None:
    size = 32 - last
    compiled, sb3 = (
        make_model(algorithm, "cartpole", 4, n_steps=8, batch_size=size, n_epochs=2) for algorithm in (CompiledPPO, PPO)
    )
    sb3.policy.load_state_dict(compiled.policy.state_dict())
    collect(compiled)
    for name in ARRAYS:
        setattr(sb3.rollout_buffer, name, getattr(compiled.rollout_buffer, name).copy())
    sb3.rollout_buffer.full = True
    for m in (compiled, sb3):
        np.random.seed(1)
        m.train()
    for compiled_param, sb3_param in zip(compiled.policy.parameters(), sb3.policy.parameters(), strict=True):
        torch.testing.assert_close(compiled_param, sb3_param, rtol=1e-4, atol=1e-5)


def test_two_models_and_two_calls_of_learn_have_different_random_numbers() -> None:
    torch.manual_seed(0)
    first, second = (
        CompiledPPO("MlpPolicy", LabVecEnv(make.make("pendulum", 2)), n_steps=8, batch_size=16) for _ in "ab"
    )
    second.policy.load_state_dict(first.policy.state_dict())
    actions = []
    for model, steps in ((first, 16), (second, 16), (first, 16)):
        model.learning_rate = model.lr_schedule = lambda _: 0.0
        model.learn(steps)
        actions.append(model.rollout_buffer.actions.copy())
    assert not np.allclose(actions[0], actions[1], atol=0.1) and not np.allclose(actions[0], actions[2], atol=0.1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.policy.action_net.weight.requires_grad_(False), "frozen"),
        (lambda m: setattr(m, "rollout_buffer", type("Own", (type(m.rollout_buffer),), {})(
            m.n_steps, m.observation_space, m.action_space, n_envs=m.n_envs)), "rollout buffer is a Own"),
    ],
)  # fmt: skip
def test_changed_models_are_left_to_sb3(change: Any, reason: str) -> None:
    model = make_model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32)
    change(model)
    collect(model)
    assert reason in model.backend


def test_a_vec_env_with_its_own_step_wait_is_stepped_by_it() -> None:
    class Tenfold(LabVecEnv):
        def step_wait(self) -> Any:
            observations, rewards, dones, infos = super().step_wait()
            return observations, rewards * 10, dones, infos

    torch.manual_seed(0)
    model = CompiledPPO("MlpPolicy", Tenfold(make.make("cartpole", 2)), n_steps=8, batch_size=16, device="cpu")
    model.learn(16)
    assert model.backend == "compiled" and (model.rollout_buffer.rewards == 10).all()


def test_vec_normalize_uses_its_own_gamma() -> None:
    torch.manual_seed(0)
    env = VecNormalize(LabVecEnv(make.make("cartpole", 3, seed=0)), norm_obs=False, gamma=0.99)
    model: Any = CompiledPPO("MlpPolicy", env, n_steps=32, batch_size=96, gamma=0.5, device="cpu")
    model.learn(96)
    lab_env = LabVecEnv(make.make("cartpole", 3, seed=0))
    expected = VecNormalize(lab_env, norm_obs=False, gamma=0.99)
    expected.reset()
    for actions in model.rollout_buffer.actions.reshape(3, 32).T if model.rollout_buffer.generator_ready else (
        model.rollout_buffer.actions[:, :, 0]
    ):  # fmt: skip
        expected.step(actions)
    assert env.ret_rms.var == pytest.approx(expected.ret_rms.var, rel=1e-6)


def test_parameters_that_a_user_writes_are_used() -> None:
    model = make_model(CompiledPPO, "cartpole", 2, n_steps=16, batch_size=32)
    collect(model)
    model.train()
    model.policy.value_net.bias.data.fill_(1000.0)  # torch does not count this write
    collect(model)
    assert model.backend == "compiled" and model.rollout_buffer.values.mean() == pytest.approx(1000.0, abs=10)
