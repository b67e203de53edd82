"""RLlib's PPO in compiled code: the values of a train batch, and its minibatches from forward pass to Adam.

A template, executed by `build` after `rllib_loss`: see `engine/template_context.py`.
`learners/rllib/compiled_update.py` calls `evaluate` and then `update`. `evaluate` writes the values; `update` writes
the network's parameters, Adam's moments and the report. It differs from `ppo.train` in RLlib's loss, in the order of
minibatches, which the caller gives as one list, and in the report, which is of the last minibatch alone. Several
threads call either at the same time, with the arguments `rank`, `num_threads` and `barrier` of `ppo`. Shapes are those
of `rllib_records`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import AT_NONZERO_INDICES, AT_NONZERO_VALUES, AT_PARAM_GRADS, AT_STOP_FLAG, TILE
from rl_lab.learners.compiled.ppo_records import (
    FAILED_MINIBATCH,
    GRADIENT_STEPS,
    AdamState,
    PolicyNetwork,
    ThreadRank,
    UpdateReport,
)
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.rllib_records import SUM_TARGETS, RllibSamples, RllibSettings
from rl_lab.learners.compiled.templates.adam import adam_step, reduce_gradients
from rl_lab.learners.compiled.templates.barrier import abort_if_interrupted, barrier_wait
from rl_lab.learners.compiled.templates.calls import transpose_weights
from rl_lab.learners.compiled.templates.memory_views import activations, copy
from rl_lab.learners.compiled.templates.ppo_loss import ONE
from rl_lab.learners.compiled.templates.ppo_rollout import ZERO, evaluate_observations
from rl_lab.learners.compiled.templates.rllib_loss import add_rllib_loss_gradient
from rl_lab.learners.compiled.thread_pool import MIN_SHARD_ROWS

internal, jit, without_refcounts = decorators().internal, decorators().jit, primitives().without_refcounts


@jit
def evaluate(
    rank: Any,
    num_threads: Any,
    barrier: Any,
    observations: Any,
    obs_is_uint8: Any,
    obs_size: Any,
    policy: Any,
    values: Any,
) -> None:
    """Write the values of observations [R, d] at an address to values, float32 [R]; a thread does every n-th tile.

    If the user interrupts the work, the values are incomplete.
    """
    net, rows, no_obs_rms = policy.tables[rank].ctypes.data, np.arange(len(values)), np.zeros((3, 0))
    value = activations(net, policy.value_buffer)
    transpose_weights(net)
    for low in range(rank * TILE, len(values), num_threads * TILE):
        if abort_if_interrupted(barrier, policy.tables[rank, AT_STOP_FLAG]):
            return
        high = min(low + TILE, len(values))
        evaluate_observations(observations, rows[low:high], obs_is_uint8, obs_size, no_obs_rms, policy.sparse, net)
        for row in range(low, high):
            values[row] = value[row - low, 0]


@jit
def update(
    rank: Any,
    num_threads: Any,
    barrier: Any,
    samples: RllibSamples,
    policy: PolicyNetwork,
    optimizer: AdamState,
    settings: RllibSettings,
    report: UpdateReport,
) -> None:
    """Train on all minibatches; write the losses of the last one and the number of steps to report.totals.

    All threads process the same minibatch at the same time. Training stops where a gradient is not finite: column
    FAILED_MINIBATCH is then the number, from 1, of that minibatch. If the user interrupts the work, the report is not
    changed.
    """
    samples, policy, optimizer, report = without_refcounts((samples, policy, optimizer, report))
    # A copy, because training replaces addresses in it: those of the sparse observations, which are the whole batch's
    # instead of a tile's, and that of the parameter gradient, which is a shard's.
    table = policy.tables[rank].copy()
    table[AT_NONZERO_INDICES] = samples.rollout.nonzero_indices.ctypes.data
    table[AT_NONZERO_VALUES] = samples.rollout.nonzero_values.ctypes.data
    worker, grads, batch_size = ThreadRank(rank, num_threads, barrier), optimizer.grads, settings.ppo.batch_size
    losses, steps = np.zeros(len(report.totals)), 0
    for begin in range(0, samples.rollout.end, batch_size):
        indices = samples.rollout.indices[0, begin : begin + batch_size]
        num_rows, num_shards, num_grads = rllib_minibatch_gradient(
            worker, indices, samples, policy, grads, settings, table, report.shards
        )
        if num_shards == 0:  # the user interrupts the work
            return
        weights, exp_avg, exp_avg_sq = optimizer.weights, optimizer.exp_avg, optimizer.exp_avg_sq
        adam_state = AdamState(
            weights, grads[:num_grads], exp_avg, exp_avg_sq, optimizer.step + steps, optimizer.squared_norms
        )
        if begin + batch_size >= samples.rollout.end:
            for k in range(len(losses)):
                losses[k] = 0.0
                for shard in range(num_shards):
                    losses[k] += report.shards[shard, k]
                if k < SUM_TARGETS:  # the columns before are means, those from it on stay sums
                    losses[k] /= num_rows
        if not adam_step(worker, adam_state, settings.ppo.adam):
            losses[FAILED_MINIBATCH] = steps + 1
            break
        steps += 1
    losses[GRADIENT_STEPS] = steps
    if rank == 0:
        copy(report.totals, losses)


@internal
def rllib_minibatch_gradient(
    worker: ThreadRank,
    indices: Any,
    samples: RllibSamples,
    policy: PolicyNetwork,
    grads: Any,
    settings: RllibSettings,
    table: Any,
    report: Any,
) -> Any:
    """Compute the loss gradient of a minibatch, rows `indices`, int64 [M], as `ppo_loss.minibatch_gradient` does.

    Returns the number of rows with a loss, at least 1, the number of shards, and the number of gradients that remain to
    be summed. The last two are 0 if the user interrupts the work.
    """
    num_rows = 0
    for i in indices:
        num_rows += samples.loss_mask[i]
    num_rows = max(num_rows, 1)
    net = table.ctypes.data
    transpose_weights(net)
    num_shards = min(len(grads), max(len(indices) // MIN_SHARD_ROWS, 1))
    shard_rows = -(-len(indices) // num_shards)
    for shard in range(worker.rank, num_shards, worker.num_threads):
        grads[shard] = ZERO
        report[shard] = 0.0
        table[AT_PARAM_GRADS] = grads[shard].ctypes.data
        shard_indices = indices[shard * shard_rows : min((shard + 1) * shard_rows, len(indices))]
        inv_batch = ONE / np.float32(num_rows)
        add_rllib_loss_gradient(worker.barrier, shard_indices, inv_batch, samples, policy, settings, net, report[shard])
    if abort_if_interrupted(worker.barrier, table[AT_STOP_FLAG]):
        return num_rows, 0, 0
    num_grads = reduce_gradients(worker.rank, worker.num_threads, grads[:num_shards])
    if not barrier_wait(worker.num_threads, worker.barrier):
        return num_rows, 0, 0
    return num_rows, num_shards, num_grads
