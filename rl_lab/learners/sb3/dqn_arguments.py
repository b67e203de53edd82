"""Makes the arguments of compiled DQN, see `compiled.dqn_records`, of Stable-Baselines3's buffers and a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer as LibraryReplayBuffer

from rl_lab.engine.batch import Batch
from rl_lab.learners.compiled.dqn_records import DqnEnvArrays, DqnSettings, ReplayBuffer


def env_arrays(batch: Batch, n_envs: int, num_episodes: int) -> DqnEnvArrays:
    """Return the arrays of a batch with `n_envs` rows, and room for returns and lengths of `num_episodes` episodes."""
    masks = batch.action_mask.reshape(n_envs, -1)
    return DqnEnvArrays(
        native_handle=batch.native_handle(),
        observations=batch.observations.ctypes.data,
        final_observations=batch.final_observations.ctypes.data,
        actions=batch.actions.reshape(n_envs, 1),
        action_masks=masks if batch.world.has_action_mask else masks[:, :0],
        rewards=batch.rewards.reshape(n_envs),
        terminated=batch.terminated,
        truncated=batch.truncated,
        dones=batch.done,
        episode_returns=batch.episode_returns.reshape(n_envs),
        episode_lengths=batch.episode_lengths,
        row_indices=np.arange(n_envs),
        ep_info_buffer=np.zeros((num_episodes, 2)),
    )


def replay_arrays(buffer: LibraryReplayBuffer) -> ReplayBuffer:
    """Return the arrays of a replay buffer of the library's, or of an `ActingReplay`, as compiled code reads them."""
    buffer_size, n_envs = buffer.rewards.shape
    everything_legal = np.zeros((buffer_size, n_envs, 0), np.uint8)
    return ReplayBuffer(
        observations=buffer.observations.ctypes.data,
        next_observations=buffer.next_observations.ctypes.data,
        obs_is_uint8=bool(buffer.observations.dtype == np.uint8),
        obs_size=buffer.observations[0, 0].size,
        actions=buffer.actions,
        rewards=buffer.rewards,
        dones=buffer.dones,
        timeouts=buffer.timeouts,
        acted=getattr(buffer, "acted", np.zeros((buffer_size, 0), np.bool_)),
        next_action_masks=getattr(buffer, "next_action_masks", everything_legal),
    )


def dqn_settings(model: Any) -> DqnSettings:
    """Return the hyperparameters of a DQN with the lab's own options, see `FastDQN`."""
    buffer = model.replay_buffer
    return DqnSettings(
        gamma=float(getattr(buffer, "gamma", model.gamma)),  # as in the library, whose n-step buffer has its own
        n_steps=int(getattr(buffer, "n_steps", 1)),
        double_q=bool(model.double_q),
        priority_exponent=float(model.priority_exponent),
        importance_exponent=float(model.importance_exponent),
        learning_starts=int(model.learning_starts),
        train_freq=int(model.train_freq.frequency),
        gradient_steps=int(model.gradient_steps),
        target_update_interval=int(model.target_update_interval),
        tau=float(model.tau),
        exploration_initial_eps=float(model.exploration_initial_eps),
        exploration_final_eps=float(model.exploration_final_eps),
        exploration_fraction=max(float(model.exploration_fraction), 1e-12),
        total_timesteps=1,  # `_setup_learn` says it later, and a checkpoint brings another key
        rng_key=model.key,
    )
