"""Makes the arguments of compiled PPO, see `compiled.ppo_records`, from Stable-Baselines3's buffers and a batch.

The records share memory with the buffers and the batch, so that compiled code writes to these. Nothing is written here,
but `minibatch_indices` advances numpy's global generator, as SB3 does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.core.world import Array
from rl_lab.engine.batch import Batch
from rl_lab.learners.compiled.ppo_records import (
    AdamSettings,
    EnvArrays,
    PolicyOutputs,
    PpoSettings,
    RolloutBuffers,
    RolloutSamples,
)


def env_arrays(batch: Batch, action_bounds: Array, threads: int) -> EnvArrays:
    """Return the arrays of a batch that up to `threads` threads step together.

    `action_bounds` has the lowest and highest continuous actions, float32 [2, k], or is [2, 0].
    """
    rows = batch.num_envs * batch.rewards.shape[1]
    observations = batch.observations.reshape(rows, -1)
    action_masks = batch.action_mask.reshape(rows, -1)
    discrete_actions, continuous_actions = _discrete_and_continuous(batch.actions.reshape(rows, -1))
    action_low, action_high = action_bounds
    return EnvArrays(
        native_handle=batch.native_handle(),
        partition=batch.partition(threads),
        observations=observations.ctypes.data,
        final_observations=batch.final_observations.ctypes.data,
        obs_is_uint8=observations.dtype == np.uint8,
        obs_size=observations.shape[1],
        discrete_actions=discrete_actions,
        continuous_actions=continuous_actions,
        action_low=action_low,
        action_high=action_high,
        action_masks=action_masks if batch.world.has_action_mask else action_masks[:, :0],
        rewards=batch.rewards.reshape(rows),
        terminated=batch.terminated,
        truncated=batch.truncated,
        dones=batch.done,
        episode_returns=batch.episode_returns.reshape(rows),
        episode_lengths=batch.episode_lengths,
    )


def policy_outputs(actions: Array, action_masks: Array | None, values: Array, log_probs: Array) -> PolicyOutputs:
    """Return arrays [T, B, ...] as outputs of the policy; no masks mean that every action is always legal."""
    if action_masks is None:
        action_masks = np.zeros((*values.shape, 0), np.float32)
    return PolicyOutputs(*_discrete_and_continuous(actions), action_masks, values, log_probs)


def rollout_buffers(buffer: Any, episode_starts: Array, gamma: float) -> RolloutBuffers:
    """Return the arrays of a RolloutBuffer that compiled code fills, and new ones for further results.

    `episode_starts`, bool [B], says whether the environments' present observations are the first of their episodes.
    """
    rows = len(episode_starts)
    action_masks = getattr(buffer, "action_masks", None)
    return RolloutBuffers(
        observations=buffer.observations.ctypes.data,
        obs_is_uint8=buffer.observations.dtype == np.uint8,
        outputs=policy_outputs(buffer.actions, action_masks, buffer.values, buffer.log_probs),
        rewards=buffer.rewards,
        episode_starts=buffer.episode_starts,
        advantages=buffer.advantages,
        returns=buffer.returns,
        last_values=np.zeros(rows, np.float32),
        last_episode_starts=episode_starts.copy(),
        ep_info=np.zeros((buffer.buffer_size, rows, 2)),
        cycles=np.zeros(2, np.int64),
        gamma=gamma,
    )


def rollout_samples(buffer: Any, indices: Array, end: int, nonzero: tuple[Array, Array, Array]) -> RolloutSamples:
    """Return a filled RolloutBuffer as R transitions.

    `indices` and `end` are those of `minibatch_indices`; `nonzero` are those of `sparse_observations.nonzero_lists`.
    """
    rows = buffer.values.size
    observations = buffer.observations.reshape(rows, -1)
    action_masks = getattr(buffer, "action_masks", None)
    nonzero_starts, nonzero_indices, nonzero_values = nonzero
    discrete_actions, continuous_actions = _discrete_and_continuous(buffer.actions.reshape(rows, -1))
    return RolloutSamples(
        observations=observations.ctypes.data,
        obs_is_uint8=observations.dtype == np.uint8,
        obs_size=observations.shape[1],
        nonzero_starts=nonzero_starts,
        nonzero_indices=nonzero_indices,
        nonzero_values=nonzero_values,
        discrete_actions=discrete_actions,
        continuous_actions=continuous_actions,
        action_masks=np.zeros((1, 0), np.float32) if action_masks is None else action_masks.reshape(rows, -1),
        old_log_prob=buffer.log_probs.reshape(rows),
        advantages=buffer.advantages.reshape(rows),
        returns=buffer.returns.reshape(rows),
        indices=indices,
        end=end,
    )


def minibatch_indices(model: Any) -> tuple[Array, int]:
    """Return the order of transitions in each epoch, int64 [epochs, up to R], and the position where minibatches end.

    The order is sampled from numpy's global generator as SB3 does, so that the same seed gives the same minibatches.
    """
    n_steps, rows = model.n_steps, model.rollout_buffer.n_envs
    is_complete = getattr(model.rollout_buffer, "has_complete_transition", None)
    transitions = np.arange(n_steps * rows) if is_complete is None else np.flatnonzero(is_complete.swapaxes(0, 1))
    order = np.stack([np.random.permutation(transitions) for _ in range(model.n_epochs)])
    order = order % n_steps * rows + order // n_steps  # SB3 numbers transitions by row, then step; the buffer by step
    # Where rows may wait, a last minibatch of one transition is left out: see `masked_rollout_buffers`.
    return order, len(transitions) if is_complete is None else max(len(transitions) - 1, 1)


def ppo_settings(model: Any, clip_range: float, betas: tuple[float, float], eps: float) -> PpoSettings:
    """Return the hyperparameters of a PPO as they are now, and those of its Adam."""
    return PpoSettings(
        batch_size=int(model.batch_size),
        clip_range=clip_range,
        ent_coef=float(model.ent_coef),
        vf_coef=float(model.vf_coef),
        target_kl=np.inf if model.target_kl is None else float(model.target_kl),
        normalize_advantage=bool(model.normalize_advantage),
        adam=AdamSettings(
            learning_rate=float(model.policy.optimizer.param_groups[0]["lr"]),
            max_grad_norm=float(model.max_grad_norm),
            beta_1=float(betas[0]),
            beta_2=float(betas[1]),
            eps=float(eps),
        ),
    )


def _discrete_and_continuous(actions: Array) -> tuple[Array, Array]:
    """Return actions as discrete, int64 [..., 1], and continuous, float32 [..., k]: one of them has no columns."""
    if actions.dtype.kind == "i":
        return actions, np.zeros((*actions.shape[:-1], 0), np.float32)
    return np.zeros((*actions.shape[:-1], 0), np.int64), actions
