"""Compiled learners beside the library: its options keep their meaning, and its wrappers their state."""

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


@pytest.mark.parametrize("kind", [CompiledDQN, CompiledMaskedDQN, CompiledPPO, CompiledMaskablePPO])
def test_no_option_of_the_library_is_hidden(kind: Any) -> None:
    library = next(
        each for each in kind.__mro__[1:] if each.__module__.startswith(("stable_baselines3", "sb3_contrib"))
    )
    theirs = set(inspect.signature(library.__init__).parameters) - {"self"}
    for each in kind.__mro__[: kind.__mro__.index(library)]:
        own = vars(each).get("__init__")
        named = set(inspect.signature(own).parameters) if own else set()
        assert not named & theirs, f"{each.__name__} takes {named & theirs} for itself"


def test_n_steps_is_the_librarys_in_files_and_attributes(tmp_path: Path) -> None:
    env = LabVecEnv(make.make("cartpole", 2, seed=0))
    made = CompiledDQN("MlpPolicy", env, n_steps=3, gamma=0.9, **DQN_ARGUMENTS)
    assert made.n_steps == 3 and made.prepare_compiled()
    made.learn(200)
    made.save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="n_steps=3"):  # the library says so of its own files, too
        again = DQN.load(tmp_path / "agent", env=env)
    assert again.n_steps == 3 and isinstance(again.replay_buffer, NStepReplayBuffer)
    assert (again.replay_buffer.n_steps, again.replay_buffer.gamma) == (3, 0.9)


class Picture(gymnasium.Env):  # type: ignore[type-arg]
    """A picture to look at."""

    observation_space, action_space = Box(0, 255, (3, 36, 36), np.uint8), Discrete(2)

    def reset(self, **how: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**how)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, bool(self.np_random.random() < 0.1), False, {}


@pytest.mark.parametrize("case", ["normalised", "pictures"])
def test_n_steps_goes_to_the_library_where_compiled_code_cannot_work(case: str) -> None:
    if case == "normalised":
        env: Any = VecNormalize(LabVecEnv(make.make("cartpole", 2, seed=0)))
    else:
        env = DummyVecEnv([Picture])
    made = CompiledDQN("MlpPolicy" if case == "normalised" else "CnnPolicy", env, n_steps=3, **DQN_ARGUMENTS)
    made.learn(80)
    assert made.backend.startswith("stock, because") and isinstance(made.replay_buffer, NStepReplayBuffer)
    assert made._n_updates > 0


@pytest.mark.parametrize("option", [{"double_q": True}, {"priority_exponent": 0.5}])
def test_what_the_library_does_not_have_is_refused(option: dict[str, Any]) -> None:
    env = VecNormalize(LabVecEnv(make.make("cartpole", 2, seed=0)))
    made = CompiledDQN("MlpPolicy", env, **DQN_ARGUMENTS, **option)
    with pytest.raises(ValueError, match="double_q and priority_exponent need the compiled learner"):
        made.prepare_compiled()


def test_compiled_n_step_targets_are_the_librarys() -> None:
    """Compiled steps sample by themselves; of each place they pick, the library's buffer says the same return."""

    env = LabVecEnv(make.make("cartpole", 4, seed=0))
    made: Any = CompiledDQN("MlpPolicy", env, n_steps=4, gamma=0.9, **DQN_ARGUMENTS)
    made.learn(400)
    buffer = made.replay_buffer
    n_step_return = plain_n_step_return()
    filled = buffer.buffer_size if buffer.full else buffer.pos
    arrays = replay_arrays(buffer)
    row = 2
    rows = np.arange(filled)
    np.random.seed(0)
    drawn = np.random.randint(0, 4, size=rows.shape)
    np.random.seed(0)
    theirs = buffer._get_samples(rows)
    for slot in range(filled):
        row = int(drawn[slot])
        paid, last, discount = n_step_return(slot, row, arrays, 4, 0.9, buffer.pos, filled)
        found = (paid, discount, *buffer.next_observations[last, row].tolist())
        wanted = (theirs.rewards[slot].item(), theirs.discounts[slot].item(), *theirs.next_observations[slot].tolist())
        assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("world", "kind"), [("cartpole", NStepReplayBuffer), ("junction", None)])
@pytest.mark.parametrize("compiled", [False, True])
def test_n_steps_reaches_every_learner(world: str, kind: Any, compiled: bool) -> None:
    dqn = agent_registry.load("dqn")
    config = dqn.Config(n_steps=3, gamma=0.9, learning_starts=50, buffer_size=500, compiled=compiled)
    taught = dqn.learner(config, make.make(world, 4, seed=0), budget=2000, seed=0, device="cpu")
    taught.train_iteration()
    buffer = taught.model.replay_buffer
    assert (buffer.n_steps, buffer.gamma) == (3, 0.9) and (kind is None or isinstance(buffer, kind))
    assert isinstance(taught.model, MaskedDQN) == (kind is None) and taught.model._n_updates > 0
    assert taught.backend == ("compiled" if compiled else "stock, because compiled=false")


@pytest.mark.parametrize(("observations", "rewards"), [(True, False), (False, True), (True, True), (False, False)])
def test_a_normaliser_is_left_as_the_library_leaves_it(observations: bool, rewards: bool) -> None:
    """The same actions through VecNormalize's own steps: statistics, running returns, and what was before scaling."""
    how = {"norm_obs": observations, "norm_reward": rewards, "gamma": 0.95}
    env, same = (VecNormalize(LabVecEnv(make.make("cartpole", 3, seed=0)), **how) for _ in range(2))
    torch.manual_seed(0)
    made: Any = CompiledPPO("MlpPolicy", env, n_steps=40, batch_size=120, device="cpu", n_epochs=1)
    stock: Any = PPO("MlpPolicy", same, n_steps=40, batch_size=120, device="cpu")
    _, callback = made._setup_learn(10**6)
    stock._setup_learn(10**6)
    for _ in range(2):
        made.collect_rollouts(env, callback, made.rollout_buffer, 40)
        assert made.backend == "compiled" and made.env_time_fraction is not None
        for t in range(40):
            seen, paid, _, _ = same.step(made.rollout_buffer.actions[t, :, 0])
            assert paid == pytest.approx(made.rollout_buffer.rewards[t], rel=1e-4)
    for name in ("returns", "old_reward", "old_obs"):
        np.testing.assert_allclose(getattr(env, name), getattr(same, name), rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(env.get_original_reward(), same.get_original_reward())
    np.testing.assert_allclose(env.get_original_obs(), same.get_original_obs(), atol=1e-5)
    np.testing.assert_allclose(made._last_obs, seen, atol=1e-4)
    for name in ("ret_rms", *(["obs_rms"] if observations else [])):
        own, other = getattr(env, name), getattr(same, name)
        assert own.count == pytest.approx(other.count) and own.count > 200
        np.testing.assert_allclose(own.mean, other.mean, rtol=1e-5, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(own.var, other.var, rtol=1e-4, atol=1e-5, err_msg=name)
