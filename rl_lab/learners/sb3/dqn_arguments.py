"""Makes the arguments of compiled DQN, see `compiled.dqn_records`, from Stable-Baselines3's buffers and a batch.

The records share memory with the buffers and the batch, so that compiled code writes to these. Nothing is written here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer as Sb3ReplayBuffer

from rl_lab.core.world import Array
from rl_lab.engine.batch import Batch
from rl_lab.learners.compiled.dqn_records import DqnEnvArrays, DqnSettings, QNetworks, ReplayBuffer
from rl_lab.learners.compiled.network import NetworkMemory
from rl_lab.learners.compiled.thread_pool import NUM_SHARDS


def env_arrays(batch: Batch, n_envs: int, num_episodes: int) -> DqnEnvArrays:
    """Return the arrays of a batch with `n_envs` rows, and an `ep_info_buffer` for the last `num_episodes` episodes."""
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


def replay_arrays(buffer: Sb3ReplayBuffer) -> ReplayBuffer:
    """Return the arrays of SB3's replay buffer, or of a `CompleteTransitionReplayBuffer`, for compiled code."""
    buffer_size, n_envs = buffer.rewards.shape
    all_legal = np.zeros((buffer_size, n_envs, 0), np.uint8)
    return ReplayBuffer(
        observations=buffer.observations.ctypes.data,
        next_observations=buffer.next_observations.ctypes.data,
        obs_is_uint8=bool(buffer.observations.dtype == np.uint8),
        obs_size=buffer.observations[0, 0].size,
        actions=buffer.actions,
        rewards=buffer.rewards,
        dones=buffer.dones,
        timeouts=buffer.timeouts,
        has_complete_transition=getattr(buffer, "has_complete_transition", np.zeros((buffer_size, 0), np.bool_)),
        next_action_masks=getattr(buffer, "next_action_masks", all_legal),
    )


def q_networks(
    q_net: NetworkMemory,
    q_net_target: NetworkMemory,
    moments: list[Array],
    adam_settings: Array,
    output: int,
    num_actions: int,
    *,
    sparse: bool,
) -> QNetworks:
    """Return the record of both networks.

    Args:
        q_net: the online network.
        q_net_target: the target network.
        moments: Adam's moments of the online network, float32 [P] each.
        adam_settings: see `adam_records.LEARNING_RATE`.
        output: index of the buffer with the Q-values in both networks.
        num_actions: how many actions there are.
        sparse: whether observations enter the networks as lists of their numbers that are not zero.
    """
    exp_avg, exp_avg_sq = moments
    return QNetworks(
        q_net=q_net.tables.ctypes.data,
        q_net_target=q_net_target.tables.ctypes.data,
        weights=q_net.weights,
        target_weights=q_net_target.weights,
        grads=q_net.grads,
        exp_avg=exp_avg,
        exp_avg_sq=exp_avg_sq,
        adam_settings=adam_settings,
        squared_norms=np.zeros(NUM_SHARDS),
        output=output,
        sparse=sparse,
        all_legal=np.ones(num_actions, np.uint8),
        obs_rms=np.zeros((3, 0)),
    )


def dqn_settings(model: Any) -> DqnSettings:
    """Return the hyperparameters of a DQN with the lab's own options, see `CompiledDQN`."""
    buffer = model.replay_buffer
    return DqnSettings(
        gamma=float(getattr(buffer, "gamma", model.gamma)),  # as in SB3, whose n-step buffer has its own
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
        total_timesteps=1,  # replaced in `training_records`, where it is known, with the key of a checkpoint
        rng_key=model.rng_key,
    )
