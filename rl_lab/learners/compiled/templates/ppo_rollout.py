"""The steps of PPO's rollout: sampling actions, recording a step of the worlds, bootstrapping truncated episodes.

A template, executed by `build` before `ppo`: see `engine/template_context.py`. The loop over steps is `ppo.collect`,
which does what `OnPolicyAlgorithm.collect_rollouts` of Stable-Baselines3 does. Shapes are those of `ppo_records`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import ADDRESSES, AT_FORWARD, AT_WEIGHTS
from rl_lab.learners.compiled.ppo_records import (
    EnvArrays,
    PolicyNetwork,
    PolicyOutputs,
    RandomStream,
    RolloutBuffers,
    RunningStats,
)
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.barrier import barrier_wait
from rl_lab.learners.compiled.templates.tiles import (
    activations,
    as_f32,
    as_i64,
    as_u8,
    build_sparse_rows_u8,
    copy,
    forward,
    load_observations,
    unit_uniform,
)

inline, internal = decorators().inline, decorators().internal
philox, call = primitives().philox, primitives().call
HALF = np.uint64(32)
LOG_SQRT_2_PI = np.float32(0.5 * math.log(2.0 * math.pi))
ZERO = np.float32(0.0)


@internal
def sample_categorical(logits: Any, action_mask: Any, random_bits: Any, action: Any) -> Any:
    """Sample action [1] from the softmax of logits [n] over the legal actions; return its log probability.

    `random_bits` is a uint64. The highest logit is subtracted from all of them, so that no exponential overflows.
    """
    n = len(logits)
    highest = np.float32(-np.inf)
    for k in range(n):
        if action_mask[k]:
            highest = max(highest, logits[k])
    total = ZERO
    for k in range(n):
        if action_mask[k]:
            total += math.exp(logits[k] - highest)
    threshold = unit_uniform(random_bits) * total
    cumulative, sampled = ZERO, -1
    for k in range(n):
        if action_mask[k]:
            sampled = k
            cumulative += math.exp(logits[k] - highest)
            if cumulative > threshold:
                break
    action[0] = sampled
    return logits[sampled] - highest - np.float32(math.log(total))


@internal
def sample_gaussian(mean: Any, log_std: Any, key: Any, counter: Any, action: Any) -> Any:
    """Sample action [k] from independent normal distributions; return the log density, summed over k.

    Each number of the action takes one counter of the random stream. Source: Box and Muller 1958
    """
    log_prob = ZERO
    for j in range(len(action)):
        random_bits = philox(key, counter + np.uint64(j))
        u, v = unit_uniform(random_bits), unit_uniform(random_bits >> HALF)
        z = np.float32(math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(2.0 * math.pi * v))
        action[j] = mean[j] + math.exp(log_std[j]) * z
        z = (action[j] - mean[j]) / math.exp(log_std[j])
        log_prob -= np.float32(0.5) * z * z + log_std[j] + LOG_SQRT_2_PI
    return log_prob


@internal
def evaluate_observations(
    observations: Any, rows: Any, obs_is_uint8: Any, obs_size: Any, obs_rms: Any, sparse: Any, net: Any
) -> None:
    """Run the network over some observations of [B, d] at an address: `rows`, int64 [at most TILE], in this order.

    They are normalised by `obs_rms` if it has columns, and stay in buffer 0. Of adjacent uint8 rows, the numbers that
    are not zero are listed from the bytes, eight at a time; buffer 0 would give the same list.
    """
    count = len(rows)
    load_observations(observations, obs_is_uint8, obs_size, 0, count, rows, obs_rms, activations(net, 0))
    if sparse and obs_is_uint8 and not obs_rms.shape[1] and rows[count - 1] - rows[0] == count - 1:
        build_sparse_rows_u8(observations + rows[0] * obs_size, count, obs_size, net)
        call(as_i64(net, ADDRESSES)[AT_FORWARD], count, 1, net)
    else:
        forward(count, obs_size, sparse, net)


@inline
def sample_actions(
    t: Any, low: Any, high: Any, outputs: PolicyOutputs, policy: PolicyNetwork, stream: RandomStream, net: Any
) -> None:
    """Sample the actions of rows low to high - 1, which the network has just evaluated; record step t of the outputs.

    This is what `ActorCriticPolicy.forward` returns: actions, values and log probabilities.
    """
    logits, value = activations(net, policy.logits_buffer), activations(net, policy.value_buffer)
    log_std = as_f32(as_i64(net, ADDRESSES)[AT_WEIGHTS] + 4 * policy.log_std_offset, policy.action_size)
    values, log_probs, action_masks = outputs.values, outputs.log_probs, outputs.action_masks
    discrete_actions, continuous_actions = outputs.discrete_actions, outputs.continuous_actions
    for r in range(high - low):
        row = low + r
        values[t, row] = value[r, 0]
        counter = stream.counter + (np.uint64(t * values.shape[1] + row) << stream.bits)
        if discrete_actions.shape[2]:
            mask = action_masks[t, row] if action_masks.shape[2] else policy.all_legal
            random_bits = philox(stream.key, counter)
            log_probs[t, row] = sample_categorical(
                logits[r, : policy.action_size], mask, random_bits, discrete_actions[t, row]
            )
        else:
            log_probs[t, row] = sample_gaussian(logits[r], log_std, stream.key, counter, continuous_actions[t, row])


@inline
def store_action_masks(t: Any, low: Any, high: Any, envs: EnvArrays, outputs: PolicyOutputs) -> None:
    """Record the action masks of rows low to high - 1 in step t of the outputs, where the worlds have masks."""
    if envs.action_masks.shape[1]:
        for row in range(low, high):
            copy(outputs.action_masks[t, row], envs.action_masks[row])


@inline
def send_actions(t: Any, low: Any, high: Any, envs: EnvArrays, outputs: PolicyOutputs) -> None:
    """Copy the actions of rows low to high - 1 in step t to the worlds; continuous ones are clipped to their bounds."""
    continuous_actions, action_low, action_high = envs.continuous_actions, envs.action_low, envs.action_high
    for row in range(low, high):
        copy(envs.discrete_actions[row], outputs.discrete_actions[t, row])
        for j in range(continuous_actions.shape[1]):
            action = outputs.continuous_actions[t, row, j]
            continuous_actions[row, j] = min(max(action, action_low[j]), action_high[j])


@internal
def update_running_stats(column: Any, rms: Any, j: Any) -> None:
    """Add numbers float64 [B] to the mean and variance of column j, float64 [3, d]: see `ppo_records.RunningStats`.

    The count, of all columns, stays. Source: Chan et al. 1979, as Stable-Baselines3's `RunningMeanStd.update`
    """
    count, batch_count, batch_mean = rms[2, 0], float(len(column)), 0.0
    for r in range(len(column)):
        batch_mean += column[r]
    batch_mean /= batch_count
    squares = 0.0  # sum of squared differences from the mean, of the batch and then of both
    for r in range(len(column)):
        squares += (column[r] - batch_mean) ** 2
    delta, total = batch_mean - rms[0, j], count + batch_count
    squares += rms[1, j] * count + delta * delta * count * batch_count / total
    rms[0, j] += delta * batch_count / total
    rms[1, j] = squares / total


@internal
def update_obs_rms(observations: Any, is_uint8: Any, rows: Any, obs_rms: Any) -> None:
    """Add observations [B, d] at an address to their running statistics."""
    d = obs_rms.shape[1]
    column, as_bytes, numbers = np.empty(rows), as_u8(observations, rows * d), as_f32(observations, rows * d)
    for j in range(d):
        for r in range(rows):
            column[r] = float(as_bytes[r * d + j]) if is_uint8 else float(numbers[r * d + j])
        update_running_stats(column, obs_rms, j)
    obs_rms[2, 0] += rows


@inline
def update_normalization(
    rank: Any, ranks: Any, team: Any, low: Any, high: Any, envs: EnvArrays, stats: RunningStats
) -> Any:
    """Add the observations and rewards of a step to the running statistics; return False if the threads are stopped.

    Rows low to high - 1 are this thread's. The statistics are of all rows: one thread computes them while the others
    wait. This is what `VecNormalize.step_wait` does before it normalises.
    """
    obs_rms, ret_rms, returns = stats.obs_rms, stats.ret_rms, stats.returns
    if obs_rms.shape[1] + ret_rms.shape[1] == 0:
        return True
    if ret_rms.shape[1]:
        for row in range(low, high):
            returns[row] = returns[row] * stats.gamma + envs.rewards[row]
    if not barrier_wait(ranks, team):
        return False
    if rank == 0 and obs_rms.shape[1]:
        update_obs_rms(envs.observations, envs.obs_is_uint8, len(returns), obs_rms)
    if rank == 0 and ret_rms.shape[1]:
        update_running_stats(returns, ret_rms, 0)
        ret_rms[2, 0] += len(returns)
    return barrier_wait(ranks, team)


@inline
def record_step(
    t: Any, low: Any, high: Any, envs: EnvArrays, buffers: RolloutBuffers, stats: RunningStats, truncated_rows: Any
) -> Any:
    """Record step t of rows low to high - 1: rewards, starts of episodes, and episodes that ended.

    Returns how many of `truncated_rows`, int64 [high - low], are now rows whose episode was truncated.
    """
    agents = len(envs.rewards) // len(envs.dones)
    rewards, episode_starts, ep_info = buffers.rewards, buffers.episode_starts, buffers.ep_info
    last_episode_starts, dones = buffers.last_episode_starts, envs.dones
    n_truncated = 0
    for row in range(low, high):
        env = row // agents
        reward = envs.rewards[row]
        if stats.norm_reward:
            normalized = reward / math.sqrt(stats.ret_rms[1, 0] + 1e-8)
            reward = np.float32(min(max(normalized, -10.0), 10.0))
        rewards[t, row] = reward
        episode_starts[t, row] = last_episode_starts[row]
        last_episode_starts[row] = dones[env]
        ep_info[t, row, 1] = 0.0
        if dones[env]:
            stats.returns[row] = 0.0
            ep_info[t, row, 0], ep_info[t, row, 1] = envs.episode_returns[row], envs.episode_lengths[env]
            if envs.truncated[env] and not envs.terminated[env]:
                truncated_rows[n_truncated] = row
                n_truncated += 1
    return n_truncated


@internal
def bootstrap_truncated(t: Any, truncated_rows: Any, rewards: Any, gamma: Any, value: Any) -> None:
    """Add the discounted value of its last observation to the reward of each truncated episode, in step t.

    `value` [TILE, ld] has the values that the network has just computed for these rows' final observations.
    """
    for r in range(len(truncated_rows)):
        rewards[t, truncated_rows[r]] += np.float32(gamma) * value[r, 0]
