"""Options and wrappers of Stable-Baselines3 keep their meaning with the compiled learners.

The tests look at options that pass through (`n_steps`), at those that only compiled code has, and at the state of
VecNormalize after compiled rollouts.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.compiled import plain_n_step_return

from rl_lab.adapters import make
from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core import agent_registry
from rl_lab.learners.sb3.dqn import CompiledDQN, CompiledMaskedDQN
from rl_lab.learners.sb3.dqn_arguments import replay_arrays
from rl_lab.learners.sb3.masked_dqn import MaskedDQN
from rl_lab.learners.sb3.ppo import CompiledMaskablePPO, CompiledPPO

DQN_ARGUMENTS: dict[str, Any] = {"learning_starts": 50, "buffer_size": 500, "batch_size": 32, "device": "cpu"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("algorithm", [CompiledDQN, CompiledMaskedDQN, CompiledPPO, CompiledMaskablePPO])
def test_no_option_of_sb3_is_redefined(algorithm: Any) -> None:
    sb3_class = next(
        each for each in algorithm.__mro__[1:] if each.__module__.startswith(("stable_baselines3", "sb3_contrib"))
    )
    sb3_options = set(inspect.signature(sb3_class.__init__).parameters) - {"self"}
    for each in algorithm.__mro__[: algorithm.__mro__.index(sb3_class)]:
        init = vars(each).get("__init__")
        options = set(inspect.signature(init).parameters) if init else set()
        assert not options & sb3_options, f"{each.__name__} redefines {options & sb3_options}"


def test_n_steps_is_sb3s_option_in_attributes_and_files(tmp_path: Path) -> None:
    env = LabVecEnv(make.make("cartpole", 2, seed=0))
    model = CompiledDQN("MlpPolicy", env, n_steps=3, gamma=0.9, **DQN_ARGUMENTS)
    assert model.n_steps == 3 and model.prepare_compiled()
    model.learn(200)
    model.save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="n_steps=3"):  # SB3 warns about its own files, too
        reloaded = DQN.load(tmp_path / "agent", env=env)
    assert reloaded.n_steps == 3 and isinstance(reloaded.replay_buffer, NStepReplayBuffer)
    assert (reloaded.replay_buffer.n_steps, reloaded.replay_buffer.gamma) == (3, 0.9)


class RandomImages(gymnasium.Env):  # type: ignore[type-arg]
    """An environment with random images and episodes of about ten steps."""

    observation_space, action_space = Box(0, 255, (3, 36, 36), np.uint8), Discrete(2)

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**settings)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, bool(self.np_random.random() < 0.1), False, {}


@pytest.mark.parametrize("case", ["normalised", "pictures"])
def test_sb3_computes_n_step_returns_where_compiled_code_is_not_supported(case: str) -> None:
    if case == "normalised":
        env: Any = VecNormalize(LabVecEnv(make.make("cartpole", 2, seed=0)))
    else:
        env = DummyVecEnv([RandomImages])
    model = CompiledDQN("MlpPolicy" if case == "normalised" else "CnnPolicy", env, n_steps=3, **DQN_ARGUMENTS)
    model.learn(80)
    assert model.backend.startswith("Stable-Baselines3's own, because") and isinstance(
        model.replay_buffer, NStepReplayBuffer
    )
    assert model._n_updates > 0


@pytest.mark.parametrize("option", [{"double_q": True}, {"priority_exponent": 0.5}])
def test_options_that_sb3_does_not_have_are_refused_without_compiled_code(option: dict[str, Any]) -> None:
    env = VecNormalize(LabVecEnv(make.make("cartpole", 2, seed=0)))
    model = CompiledDQN("MlpPolicy", env, **DQN_ARGUMENTS, **option)
    with pytest.raises(ValueError, match="double_q and priority_exponent need the compiled learner"):
        model.prepare_compiled()


def test_compiled_n_step_returns_are_those_of_sb3() -> None:
    """For every slot, and a random row, the compiled function (as plain Python) and SB3's buffer agree."""

    env = LabVecEnv(make.make("cartpole", 4, seed=0))
    model: Any = CompiledDQN("MlpPolicy", env, n_steps=4, gamma=0.9, **DQN_ARGUMENTS)
    model.learn(400)
    buffer = model.replay_buffer
    n_step_return = plain_n_step_return()
    filled = buffer.buffer_size if buffer.full else buffer.pos
    arrays = replay_arrays(buffer)
    row = 2
    rows = np.arange(filled)
    np.random.seed(0)
    sampled_rows = np.random.randint(0, 4, size=rows.shape)
    np.random.seed(0)
    sb3_samples = buffer._get_samples(rows)
    for slot in range(filled):
        row = int(sampled_rows[slot])
        n_step_reward, last, discount = n_step_return(slot, row, arrays, 4, 0.9, buffer.pos, filled)
        n_step = (n_step_reward, discount, *buffer.next_observations[last, row].tolist())
        expected = (
            sb3_samples.rewards[slot].item(),
            sb3_samples.discounts[slot].item(),
            *sb3_samples.next_observations[slot].tolist(),
        )
        assert n_step == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("world", "buffer_class"), [("cartpole", NStepReplayBuffer), ("junction", None)])
@pytest.mark.parametrize("compiled", [False, True])
def test_n_steps_reaches_every_learner(world: str, buffer_class: Any, compiled: bool) -> None:
    dqn = agent_registry.load("dqn")
    config = dqn.Config(n_steps=3, gamma=0.9, learning_starts=50, buffer_size=500, compiled=compiled)
    learner = dqn.learner(config, make.make(world, 4, seed=0), budget=2000, seed=0, device="cpu")
    learner.train_iteration()
    buffer = learner.model.replay_buffer
    assert (buffer.n_steps, buffer.gamma) == (3, 0.9) and (buffer_class is None or isinstance(buffer, buffer_class))
    assert isinstance(learner.model, MaskedDQN) == (buffer_class is None) and learner.model._n_updates > 0
    assert learner.backend == ("compiled" if compiled else "Stable-Baselines3's own, because compiled=false")


@pytest.mark.parametrize(("observations", "rewards"), [(True, False), (False, True), (True, True), (False, False)])
def test_vec_normalize_has_the_state_that_its_own_steps_leave(observations: bool, rewards: bool) -> None:
    """Actions of compiled rollouts are repeated through VecNormalize's own `step`; then all its state is compared."""
    settings = {"norm_obs": observations, "norm_reward": rewards, "gamma": 0.95}
    env, sb3_env = (VecNormalize(LabVecEnv(make.make("cartpole", 3, seed=0)), **settings) for _ in range(2))
    torch.manual_seed(0)
    model: Any = CompiledPPO("MlpPolicy", env, n_steps=40, batch_size=120, device="cpu", n_epochs=1)
    sb3: Any = PPO("MlpPolicy", sb3_env, n_steps=40, batch_size=120, device="cpu")
    _, callback = model._setup_learn(10**6)
    sb3._setup_learn(10**6)
    for _ in range(2):
        model.collect_rollouts(env, callback, model.rollout_buffer, 40)
        assert model.backend == "compiled" and model.env_time_fraction is not None
        for t in range(40):
            obs, step_rewards, _, _ = sb3_env.step(model.rollout_buffer.actions[t, :, 0])
            assert step_rewards == pytest.approx(model.rollout_buffer.rewards[t], rel=1e-4)
    for name in ("returns", "old_reward", "old_obs"):
        np.testing.assert_allclose(getattr(env, name), getattr(sb3_env, name), rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(env.get_original_reward(), sb3_env.get_original_reward())
    np.testing.assert_allclose(env.get_original_obs(), sb3_env.get_original_obs(), atol=1e-5)
    np.testing.assert_allclose(model._last_obs, obs, atol=1e-4)
    for name in ("ret_rms", *(["obs_rms"] if observations else [])):
        rms, sb3_rms = getattr(env, name), getattr(sb3_env, name)
        assert rms.count == pytest.approx(sb3_rms.count) and rms.count > 200
        np.testing.assert_allclose(rms.mean, sb3_rms.mean, rtol=1e-5, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(rms.var, sb3_rms.var, rtol=1e-4, atol=1e-5, err_msg=name)
