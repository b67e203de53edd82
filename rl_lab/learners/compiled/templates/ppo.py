"""PPO in compiled code: rollouts without Python, advantages, and updates from forward pass to Adam.

A template, executed by `build` after all that it imports: see `engine/template_context.py`. `learners/sb3/ppo.py` calls
the functions that are `jit`. They compute what Stable-Baselines3's PPO does, in the same order; tests compare the two:

    collect_rollouts               OnPolicyAlgorithm.collect_rollouts, with the parts of `ppo_rollout.py`
    compute_returns_and_advantage  RolloutBuffer.compute_returns_and_advantage
    train                          PPO.train, with the losses of `ppo_loss.py` and the optimizer of `adam.py`

They write the rollout buffers, the batch of environments, the running statistics, and the network's parameters with
Adam's moments: arrays of the records that they get, whose shapes `ppo_records` says. Several threads call
`collect_rollouts` or `train` at the same time: `rank` is the number of the calling thread, from 0 to num_threads - 1,
and `barrier` is the address of the counters by which they wait for each other, see `barrier.py`.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms"
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import AT_NONZERO_INDICES, AT_NONZERO_VALUES, AT_STOP_FLAG, TILE
from rl_lab.learners.compiled.ppo_records import (
    APPROX_KL,
    CLIP_FRACTION,
    ENTROPY_LOSS,
    EPOCHS,
    FAILED_MINIBATCH,
    GRADIENT_STEPS,
    LOSS,
    POLICY_LOSS,
    REPORTED,
    VALUE_LOSS,
    AdamState,
    EnvArrays,
    PolicyNetwork,
    PolicyOutputs,
    PpoSettings,
    RandomStream,
    RolloutBuffers,
    RolloutSamples,
    RunningStats,
    ThreadRank,
    UpdateReport,
)
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.adam import adam_step
from rl_lab.learners.compiled.templates.barrier import abort_if_interrupted, barrier_abort
from rl_lab.learners.compiled.templates.calls import forward, step_envs, transpose_weights
from rl_lab.learners.compiled.templates.memory_views import activations, as_f32, copy
from rl_lab.learners.compiled.templates.observations import list_nonzero, list_nonzero_u8, store_observations
from rl_lab.learners.compiled.templates.ppo_loss import ONE, minibatch_gradient
from rl_lab.learners.compiled.templates.ppo_rollout import (
    bootstrap_truncated,
    evaluate_observations,
    record_step,
    sample_actions,
    send_actions,
    store_action_masks,
    update_normalization,
)

internal, jit = decorators().internal, decorators().jit
cycles, without_refcounts = primitives().cycles, primitives().without_refcounts


@jit
def collect_rollouts(
    rank: Any,
    num_threads: Any,
    barrier: Any,
    envs: EnvArrays,
    buffers: RolloutBuffers,
    policy: PolicyNetwork,
    stats: RunningStats,
    stream: RandomStream,
) -> Any:
    """Collect a rollout of T steps into the buffers.

    Thread `rank` acts in environments partition[rank] to partition[rank + 1] - 1, whose rows are low_row to
    high_row - 1; the threads exchange data only for running statistics. Returns 0, or the negative outcome of a step
    that failed. If the user interrupts the work, it returns 0 and the buffers are incomplete.
    """
    start_cycle, env_cycles = cycles(), 0
    envs, buffers, policy, stats = without_refcounts((envs, buffers, policy, stats))
    n_steps, rows = buffers.rewards.shape
    num_agents = rows // len(envs.dones)
    first_env, end_env = envs.partition[rank], envs.partition[rank + 1]
    low_row, high_row = first_env * num_agents, end_env * num_agents
    all_rows, truncated_rows = np.arange(rows), np.zeros(high_row - low_row, np.int64)
    net, stop_flag = policy.tables[rank].ctypes.data, policy.tables[rank, AT_STOP_FLAG]
    outputs, obs_rms = buffers.outputs, stats.obs_rms
    is_uint8, d, sparse = envs.obs_is_uint8, envs.obs_size, policy.sparse
    inputs, value = activations(net, 0), activations(net, policy.value_buffer)
    step_bytes = rows * d * (1 if buffers.obs_is_uint8 else 4)  # of one step's observations in the buffer
    transpose_weights(net)
    for t in range(n_steps):
        # 1. Sample an action for each row.
        for low in range(low_row, high_row, TILE):
            if abort_if_interrupted(barrier, stop_flag):
                return 0
            high = min(low + TILE, high_row)
            evaluate_observations(envs.observations, all_rows[low:high], is_uint8, d, obs_rms, sparse, net)
            store_observations(buffers.observations + t * step_bytes, buffers.obs_is_uint8, d, low, high, inputs)
            store_action_masks(t, low, high, envs, outputs)
            sample_actions(t, low, high, outputs, policy, stream, net)
            send_actions(t, low, high, envs, outputs)
        # 2. Step the environments.
        step_cycle = cycles()
        outcome = step_envs(first_env, end_env, envs.native_handle)
        env_cycles += cycles() - step_cycle
        if outcome < 0:
            barrier_abort(barrier)
            return outcome
        # 3. Record the step; add the value of the last observation to the rewards of truncated episodes.
        if not update_normalization(rank, num_threads, barrier, low_row, high_row, envs, stats):
            return 0
        n_truncated = record_step(t, low_row, high_row, envs, buffers, stats, truncated_rows)
        for low in range(0, n_truncated, TILE):
            truncated = truncated_rows[low : min(low + TILE, n_truncated)]
            evaluate_observations(envs.final_observations, truncated, is_uint8, d, obs_rms, sparse, net)
            bootstrap_truncated(t, truncated, buffers.rewards, buffers.gamma, value)
    # 4. The values of the observations after the last step, for the advantages.
    for low in range(low_row, high_row, TILE):
        if abort_if_interrupted(barrier, stop_flag):
            return 0
        high = min(low + TILE, high_row)
        evaluate_observations(envs.observations, all_rows[low:high], is_uint8, d, obs_rms, sparse, net)
        for row in range(low, high):
            buffers.last_values[row] = value[row - low, 0]
    if rank == 0:
        buffers.cycles[0], buffers.cycles[1] = env_cycles, cycles() - start_cycle
    return 0


@jit
def act(observations: Any, outputs: PolicyOutputs, policy: PolicyNetwork, stream: RandomStream) -> None:
    """Sample actions for observations float32 [B, d] of environments that Python steps; write them to outputs of T = 1.

    Row b uses the same random numbers as in `collect_rollouts`.
    """
    rows, d = observations.shape
    net = policy.tables.ctypes.data
    inputs = activations(net, 0)
    transpose_weights(net)
    for low in range(0, rows, TILE):
        high = min(low + TILE, rows)
        for r in range(high - low):
            copy(inputs[r, :d], observations[low + r])
        forward(high - low, d, policy.sparse, net)
        sample_actions(0, low, high, outputs, policy, stream, net)


@jit
def compute_returns_and_advantage(buffers: RolloutBuffers, gamma: Any, gae_lambda: Any) -> None:
    """Write generalised advantage estimates and the returns, their sums with the values, to the buffers.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation"
    """
    rewards, values, episode_starts = buffers.rewards, buffers.outputs.values, buffers.episode_starts
    last_values, dones = buffers.last_values, buffers.last_episode_starts
    advantages, returns = buffers.advantages, buffers.returns
    discount, decay = np.float32(gamma), np.float32(gamma * gae_lambda)
    last_gae_lam = np.zeros(len(last_values), np.float32)
    for t in range(len(rewards) - 1, -1, -1):
        for row in range(len(last_values)):
            is_last = t == len(rewards) - 1
            next_non_terminal = ONE - (np.float32(dones[row]) if is_last else episode_starts[t + 1, row])
            next_value = last_values[row] if is_last else values[t + 1, row]
            delta = rewards[t, row] + discount * next_value * next_non_terminal - values[t, row]
            last_gae_lam[row] = delta + decay * next_non_terminal * last_gae_lam[row]
            advantages[t, row] = last_gae_lam[row]
            returns[t, row] = last_gae_lam[row] + values[t, row]


@jit
def build_all_sparse_rows(
    observations: Any, is_uint8: Any, rows: Any, d: Any, starts: Any, indices: Any, values: Any
) -> None:
    """Write the lists of numbers that are not zero in observations [R, d] at an address to the last three arguments.

    They are `nonzero_starts`, `nonzero_indices` and `nonzero_values` of `ppo_records.RolloutSamples`; starts[0] is 0.
    The arrays of indices and values are longer than the list by one entry, which is written to as well.
    """
    for r in range(rows):
        if is_uint8:
            starts[r + 1] = list_nonzero_u8(observations + r * d, d, starts[r], indices, values)
        else:
            starts[r + 1] = list_nonzero(as_f32(observations + 4 * r * d, d), starts[r], indices, values)


@jit
def train(
    rank: Any,
    num_threads: Any,
    barrier: Any,
    samples: RolloutSamples,
    policy: PolicyNetwork,
    optimizer: AdamState,
    settings: PpoSettings,
    report: UpdateReport,
) -> Any:
    """Train for some epochs over minibatches of the samples; write losses and counts to report.totals.

    All threads process the same minibatch at the same time and decide alike, because they exchange their sums. Training
    stops early where the approximate KL divergence exceeds 1.5 * target_kl, or where a gradient is not finite: column
    FAILED_MINIBATCH is then the number, from 1, of that minibatch. If the user interrupts the work, the report is not
    changed.
    """
    samples, policy, optimizer, report = without_refcounts((samples, policy, optimizer, report))
    # A copy, because training replaces addresses in it: those of the sparse observations, which are the whole rollout's
    # instead of a tile's, and that of the parameter gradient, which is a shard's.
    table = policy.tables[rank].copy()
    table[AT_NONZERO_INDICES] = samples.nonzero_indices.ctypes.data
    table[AT_NONZERO_VALUES] = samples.nonzero_values.ctypes.data
    worker, grads, batch_size = ThreadRank(rank, num_threads, barrier), optimizer.grads, settings.batch_size
    totals, losses, minibatches = np.zeros(REPORTED), np.zeros(REPORTED), 0
    for epoch in range(len(samples.indices)):
        approx_kl, minibatches_in_epoch = 0.0, 0  # the divergence is reported for the last epoch alone
        for begin in range(0, samples.end, batch_size):
            indices = samples.indices[epoch, begin : begin + batch_size]
            num_shards, num_grads = minibatch_gradient(
                worker, indices, samples, policy, grads, settings, table, report.shards
            )
            if num_shards == 0:  # the user interrupts the work
                return
            minibatches += 1
            # The minibatch's means: policy, value and entropy loss, clip fraction, approximate KL divergence.
            for k in range(APPROX_KL + 1):
                losses[k] = 0.0
                for shard in range(num_shards):
                    losses[k] += report.shards[shard, k]
                losses[k] /= len(indices)
                totals[k] += losses[k]
            approx_kl, minibatches_in_epoch = approx_kl + losses[APPROX_KL], minibatches_in_epoch + 1
            totals[LOSS] = losses[POLICY_LOSS] + settings.ent_coef * losses[ENTROPY_LOSS]
            totals[LOSS] += settings.vf_coef * losses[VALUE_LOSS]
            totals[APPROX_KL], totals[EPOCHS] = approx_kl / minibatches_in_epoch, epoch + 1
            if losses[APPROX_KL] > 1.5 * settings.target_kl:
                return report_means(rank, totals, minibatches, report.totals)
            weights, exp_avg, exp_avg_sq = optimizer.weights, optimizer.exp_avg, optimizer.exp_avg_sq
            last_step, norms = optimizer.step + totals[GRADIENT_STEPS], optimizer.squared_norms
            adam_state = AdamState(weights, grads[:num_grads], exp_avg, exp_avg_sq, last_step, norms)
            if not adam_step(worker, adam_state, settings.adam):
                totals[FAILED_MINIBATCH] = minibatches
                return report_means(rank, totals, minibatches, report.totals)
            totals[GRADIENT_STEPS] += 1
    report_means(rank, totals, minibatches, report.totals)


@internal
def report_means(rank: Any, totals: Any, minibatches: Any, report: Any) -> None:
    """Write totals to the report, sums over minibatches as means; both are float64 [REPORTED]."""
    if rank == 0:
        copy(report, totals)
        for k in range(CLIP_FRACTION + 1):  # policy, value and entropy loss, clip fraction
            report[k] /= minibatches
