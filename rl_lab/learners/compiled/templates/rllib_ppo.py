"""RLlib's PPO update in compiled code: values, discounted sums, and minibatches from forward pass to Adam.

A template, executed by `build`: see `engine/template_context.py`. Several threads call `update` at the same time, as in
`templates/ppo.py`. Shapes are those of `rllib_records`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import (
    AT_GRADS,
    AT_NONZERO_INDICES,
    AT_NONZERO_VALUES,
    AT_STOP,
    FAILED,
    SHARD,
    STEPS,
    TILE,
)
from rl_lab.learners.compiled.ppo_records import AdamState, PolicyNetwork, UpdateReport, Worker
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.rllib_records import TARGETS, RllibSamples, RllibSettings
from rl_lab.learners.compiled.templates.adam import adam_step, reduce_gradients
from rl_lab.learners.compiled.templates.barrier import barrier_stopped, barrier_wait
from rl_lab.learners.compiled.templates.ppo_loss import ONE
from rl_lab.learners.compiled.templates.ppo_rollout import ZERO, evaluate_observations
from rl_lab.learners.compiled.templates.rllib_loss import add_rllib_loss_gradient
from rl_lab.learners.compiled.templates.tiles import activations, copy, transpose_weights

internal, jit, uncounted = decorators().internal, decorators().jit, primitives().uncounted


@jit
def evaluate(
    rank: Any, ranks: Any, team: Any, observations: Any, obs_is_uint8: Any, obs_size: Any, policy: Any, values: Any
) -> None:
    """Write the values of observations [R, d] at an address to values, float32 [R].

    If the user interrupts the work, the values are incomplete.
    """
    net, rows, no_statistics = policy.tables[rank].ctypes.data, np.arange(len(values)), np.zeros((3, 0))
    value = activations(net, policy.value_buffer)
    transpose_weights(net)
    for low in range(rank * TILE, len(values), ranks * TILE):
        if barrier_stopped(team, policy.tables[rank, AT_STOP]):
            return
        high = min(low + TILE, len(values))
        evaluate_observations(observations, rows[low:high], obs_is_uint8, obs_size, no_statistics, policy.sparse, net)
        for row in range(low, high):
            values[row] = value[row - low, 0]


@jit
def update(
    rank: Any,
    ranks: Any,
    team: Any,
    samples: RllibSamples,
    policy: PolicyNetwork,
    optimizer: AdamState,
    settings: RllibSettings,
    report: UpdateReport,
) -> None:
    """Train on all minibatches; write the losses of the last one and the number of steps to report.totals.

    All threads process the same minibatch at the same time. Training stops where a gradient is not finite: FAILED is
    then the number, from 1, of that minibatch. If the user interrupts the work, the report is not changed.
    """
    samples, policy, optimizer, report = uncounted((samples, policy, optimizer, report))
    # A copy, because this update replaces addresses in it: those of the listed observations and of a shard's gradient.
    table = policy.tables[rank].copy()
    table[AT_NONZERO_INDICES] = samples.rollout.nonzero_indices.ctypes.data
    table[AT_NONZERO_VALUES] = samples.rollout.nonzero_values.ctypes.data
    worker, grads, batch_size = Worker(rank, ranks, team), optimizer.grads, settings.ppo.batch_size
    losses, steps = np.zeros(len(report.totals)), 0
    for begin in range(0, samples.rollout.end, batch_size):
        indices = samples.rollout.indices[0, begin : begin + batch_size]
        num_rows, num_shards, num_partial_grads = rllib_minibatch_gradient(
            worker, indices, samples, policy, grads, settings, table, report.shards
        )
        if num_shards == 0:
            return
        weights, exp_avg, exp_avg_sq = optimizer.weights, optimizer.exp_avg, optimizer.exp_avg_sq
        adam_state = AdamState(
            weights, grads[:num_partial_grads], exp_avg, exp_avg_sq, optimizer.step + steps, optimizer.squared_norms
        )
        if begin + batch_size >= samples.rollout.end:
            for k in range(len(losses)):
                losses[k] = 0.0
                for shard in range(num_shards):
                    losses[k] += report.shards[shard, k]
                if k < TARGETS:
                    losses[k] /= num_rows
        if not adam_step(worker, adam_state, settings.ppo.adam):
            losses[FAILED] = steps + 1
            break
        steps += 1
    losses[STEPS] = steps
    if rank == 0:
        copy(report.totals, losses)


@internal
def rllib_minibatch_gradient(
    worker: Worker,
    indices: Any,
    samples: RllibSamples,
    policy: PolicyNetwork,
    grads: Any,
    settings: RllibSettings,
    table: Any,
    report: Any,
) -> Any:
    """Compute the loss gradient of a minibatch, rows `indices`, int64 [M], in shards as `ppo.minibatch_gradient` does.

    Returns the number of rows with a loss, at least 1, the number of shards and the number of remaining gradients. The
    last two are 0 if the user interrupts the work.
    """
    num_rows = 0
    for i in indices:
        num_rows += samples.loss_mask[i]
    num_rows = max(num_rows, 1)
    net = table.ctypes.data  # the address of this thread's network
    transpose_weights(net)
    num_shards = min(len(grads), max(len(indices) // SHARD, 1))
    size = -(-len(indices) // num_shards)
    for shard in range(worker.rank, num_shards, worker.ranks):
        grads[shard] = ZERO
        report[shard] = 0.0
        table[AT_GRADS] = grads[shard].ctypes.data
        own = indices[shard * size : min((shard + 1) * size, len(indices))]
        inv_batch = ONE / np.float32(num_rows)
        add_rllib_loss_gradient(worker.team, own, inv_batch, samples, policy, settings, net, report[shard])
    if barrier_stopped(worker.team, table[AT_STOP]):
        return num_rows, 0, 0
    num_partial_grads = reduce_gradients(worker.rank, worker.ranks, grads[:num_shards])
    if not barrier_wait(worker.ranks, worker.team):
        return num_rows, 0, 0
    return num_rows, num_shards, num_partial_grads
