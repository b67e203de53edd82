"""The parts of PPO's rollout: evaluate and sample, update the running statistics, record a step, bootstrap.

A template, executed by `build` before `ppo`: see `engine/template_context.py`. The loop over steps is
`ppo.collect_rollouts`, which does what `OnPolicyAlgorithm.collect_rollouts` of Stable-Baselines3 does;
`fragment.sample_fragment` samples with the same functions. They write arrays of the records that they get: the rollout
buffers, the policy's outputs, the actions of the batch of environments, the running statistics; and the network's
memory.

Shapes are those of `ppo_records`. A function is called for rows low to high - 1 of B in step t of a rollout. `net` is
the address of a row of `network.NetworkMemory.tables`. The network evaluates up to TILE rows at a time; row r of its
buffers, float32 [TILE, stride], then belongs to row low + r of B. `rank`, `num_threads` and `barrier` are those of
`ppo`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import AT_FORWARD, AT_WEIGHTS, NUM_ADDRESSES
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
from rl_lab.learners.compiled.templates.calls import forward
from rl_lab.learners.compiled.templates.memory_views import activations, as_f32, as_i64, as_u8, copy
from rl_lab.learners.compiled.templates.observations import (
    NORM_CLIP,
    NORM_EPSILON,
    build_sparse_rows_u8,
    load_observations,
)
from rl_lab.learners.compiled.templates.random_numbers import HALF_WORD, unit_uniform

inline, internal = decorators().inline, decorators().internal
philox, call = primitives().philox, primitives().call
SPARSE = 1  # the argument of a network's forward function for sparse inputs
LOG_SQRT_2_PI = np.float32(0.5 * math.log(2.0 * math.pi))
ZERO = np.float32(0.0)


@internal
def sample_categorical(logits: Any, action_mask: Any, random_bits: Any, action: Any) -> Any:
    """Sample an action from the softmax of logits, float32 [n], over the legal actions; write it to action, int64 [1].

    `action_mask` [n or more] is not 0 for the legal ones, of which there is at least one. `random_bits` is a uint64.
    Returns the action's log probability, float32. The highest logit is subtracted from all of them, so that no
    exponential overflows. Source: inverse transform sampling, Devroye 1986, "Non-uniform random variate generation".
    """
    n = len(logits)
    highest = np.float32(-np.inf)
    for k in range(n):
        if action_mask[k]:
            highest = max(highest, logits[k])
    sum_exp = ZERO
    for k in range(n):
        if action_mask[k]:
            sum_exp += math.exp(logits[k] - highest)
    threshold = unit_uniform(random_bits) * sum_exp
    cumulative, sampled = ZERO, -1
    for k in range(n):
        if action_mask[k]:
            sampled = k
            cumulative += math.exp(logits[k] - highest)
            if cumulative > threshold:
                break
    action[0] = sampled
    return logits[sampled] - highest - np.float32(math.log(sum_exp))


@internal
def sample_gaussian(mean: Any, log_std: Any, key: Any, counter: Any, action: Any) -> Any:
    """Sample action [k] from normal distributions of mean [k] and log_std [k]; return the sum of the log densities.

    All are float32. Each number of the action takes one counter of the random stream.

    Source: Box and Muller 1958, "A note on the generation of random normal deviates".
    """
    log_prob = ZERO
    for j in range(len(action)):
        random_bits = philox(key, counter + np.uint64(j))
        u, v = unit_uniform(random_bits), unit_uniform(random_bits >> HALF_WORD)
        z = np.float32(math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(2.0 * math.pi * v))
        action[j] = mean[j] + math.exp(log_std[j]) * z
        # Of the rounded action, because that is the one of which the update computes the log density.
        z = (action[j] - mean[j]) / math.exp(log_std[j])
        log_prob -= np.float32(0.5) * z * z + log_std[j] + LOG_SQRT_2_PI
    return log_prob


@internal
def evaluate_observations(
    observations: Any, rows: Any, obs_is_uint8: Any, obs_size: Any, obs_rms: Any, sparse: Any, net: Any
) -> None:
    """Run the network over some observations of [B, d] at an address: `rows`, int64 [at most TILE], ascending.

    They are normalised by `obs_rms` if it has columns, and stay in buffer 0. A network with sparse inputs gets lists of
    the numbers in buffer 0 that are not zero. Where the rows are consecutive bytes, the lists are made from these,
    eight bytes at a time: that is faster and gives the same lists.
    """
    count = len(rows)
    load_observations(observations, obs_is_uint8, obs_size, 0, count, rows, obs_rms, activations(net, 0))
    if sparse and obs_is_uint8 and not obs_rms.shape[1] and rows[count - 1] - rows[0] == count - 1:
        build_sparse_rows_u8(observations + rows[0] * obs_size, count, obs_size, net)
        call(as_i64(net, NUM_ADDRESSES)[AT_FORWARD], count, SPARSE, net)
    else:
        forward(count, obs_size, sparse, net)


@inline
def sample_actions(
    t: Any, low: Any, high: Any, outputs: PolicyOutputs, policy: PolicyNetwork, stream: RandomStream, net: Any
) -> None:
    """Sample actions for rows low to high - 1, which the network has just evaluated.

    Actions, their log probabilities and the values are written to step t of the outputs. They are what
    `ActorCriticPolicy.forward` of Stable-Baselines3 returns, except that the random numbers are those of `stream`.
    """
    logits, value = activations(net, policy.logits_buffer), activations(net, policy.value_buffer)
    log_std = as_f32(as_i64(net, NUM_ADDRESSES)[AT_WEIGHTS] + 4 * policy.log_std_offset, policy.action_size)
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
def update_column(values: Any, rms: Any, j: Any) -> None:
    """Update the mean and variance of column j of `rms`, float64 [3, d], by values float64 [B].

    See `ppo_records.RunningStats`. The count, rms[2, 0], is that of all columns: the caller adds B to it afterwards.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances",
    as `RunningMeanStd.update` of Stable-Baselines3.
    """
    count, batch_count, batch_mean = rms[2, 0], float(len(values)), 0.0
    for r in range(len(values)):
        batch_mean += values[r]
    batch_mean /= batch_count
    m_2 = 0.0  # sum of squared differences from the mean, of the batch and then of both
    for r in range(len(values)):
        m_2 += (values[r] - batch_mean) ** 2
    delta, total_count = batch_mean - rms[0, j], count + batch_count
    m_2 += rms[1, j] * count + delta * delta * count * batch_count / total_count
    rms[0, j] += delta * batch_count / total_count
    rms[1, j] = m_2 / total_count


@internal
def update_obs_rms(observations: Any, is_uint8: Any, num_rows: Any, obs_rms: Any) -> None:
    """Add observations [num_rows, d] at an address to their running statistics."""
    d = obs_rms.shape[1]
    values, as_bytes, numbers = (
        np.empty(num_rows),
        as_u8(observations, num_rows * d),
        as_f32(observations, num_rows * d),
    )
    for j in range(d):
        for r in range(num_rows):
            values[r] = float(as_bytes[r * d + j]) if is_uint8 else float(numbers[r * d + j])
        update_column(values, obs_rms, j)
    obs_rms[2, 0] += num_rows


@inline
def update_normalization(
    rank: Any, num_threads: Any, barrier: Any, low: Any, high: Any, envs: EnvArrays, stats: RunningStats
) -> Any:
    """Add the observations and rewards of a step to the running statistics; return False if the barrier is aborted.

    Rows low to high - 1 are this thread's. The statistics are of all rows: thread 0 computes them while the others
    wait. Source: `VecNormalize.step_wait` of Stable-Baselines3, before it normalises.
    """
    obs_rms, ret_rms, returns = stats.obs_rms, stats.ret_rms, stats.returns
    if obs_rms.shape[1] + ret_rms.shape[1] == 0:
        return True
    if ret_rms.shape[1]:
        for row in range(low, high):
            returns[row] = returns[row] * stats.gamma + envs.rewards[row]
    if not barrier_wait(num_threads, barrier):
        return False
    if rank == 0 and obs_rms.shape[1]:
        update_obs_rms(envs.observations, envs.obs_is_uint8, len(returns), obs_rms)
    if rank == 0 and ret_rms.shape[1]:
        update_column(returns, ret_rms, 0)
        ret_rms[2, 0] += len(returns)
    return barrier_wait(num_threads, barrier)


@inline
def record_step(
    t: Any, low: Any, high: Any, envs: EnvArrays, buffers: RolloutBuffers, stats: RunningStats, truncated_rows: Any
) -> Any:
    """Record step t of rows low to high - 1 in the buffers: rewards, episode starts, and episodes that ended.

    Rewards are normalised if `stats.norm_reward`. `last_episode_starts` are recorded as the episode starts of step t,
    and are then set to those of the next step. The discounted return in `stats` is set to 0 where an episode ended.

    Writes the rows whose episode was truncated, and not terminated as well, to `truncated_rows`, int64 [high - low],
    and returns their number.

    Source: `VecNormalize.step_wait` and `OnPolicyAlgorithm.collect_rollouts` of Stable-Baselines3.
    """
    num_agents = len(envs.rewards) // len(envs.dones)
    rewards, episode_starts, ep_info = buffers.rewards, buffers.episode_starts, buffers.ep_info
    last_episode_starts, dones = buffers.last_episode_starts, envs.dones
    n_truncated = 0
    for row in range(low, high):
        env = row // num_agents
        reward = envs.rewards[row]
        if stats.norm_reward:
            normalized = reward / math.sqrt(stats.ret_rms[1, 0] + NORM_EPSILON)
            reward = np.float32(min(max(normalized, -NORM_CLIP), NORM_CLIP))
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

    Column 0 of `value` [TILE, ld] has what the network has just computed for these rows' final observations.

    Source: Pardo et al. 2018, "Time limits in reinforcement learning", as Stable-Baselines3 handles timeouts in
    `OnPolicyAlgorithm.collect_rollouts`.
    """
    for r in range(len(truncated_rows)):
        rewards[t, truncated_rows[r]] += np.float32(gamma) * value[r, 0]
