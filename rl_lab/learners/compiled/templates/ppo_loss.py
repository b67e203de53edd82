"""PPO's loss of a minibatch and its gradient: clipped surrogate, entropy and value loss, differentiated by hand.

A template, executed by `build` before `ppo`: see `engine/template_context.py`. `ppo.train` calls `minibatch_gradient`,
which calls the rest. The functions of one row return or write the row's gradient and add its losses to `report`,
float64 [REPORTED], whose columns are `ppo_records.POLICY_LOSS` and so on. Shapes are those of `ppo_records`;
1 / M is the weight of a row in a minibatch of M rows.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms"
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import (
    AT_BACKWARD,
    AT_FORWARD,
    AT_NONZERO_INDICES,
    AT_NONZERO_STARTS,
    AT_NONZERO_VALUES,
    AT_PARAM_GRADS,
    AT_STOP_FLAG,
    AT_WEIGHTS,
    NUM_ADDRESSES,
    TILE,
)
from rl_lab.learners.compiled.ppo_records import (
    APPROX_KL,
    CLIP_FRACTION,
    ENTROPY_LOSS,
    POLICY_LOSS,
    VALUE_LOSS,
    BatchScale,
    PolicyNetwork,
    PpoSettings,
    RolloutSamples,
    SurrogateTerms,
    ThreadRank,
)
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.adam import reduce_gradients
from rl_lab.learners.compiled.templates.barrier import abort_if_interrupted, barrier_wait
from rl_lab.learners.compiled.templates.calls import transpose_weights
from rl_lab.learners.compiled.templates.memory_views import activation_grads, activations, as_f32, as_i64
from rl_lab.learners.compiled.templates.observations import load_observations
from rl_lab.learners.compiled.templates.ppo_rollout import LOG_SQRT_2_PI, ZERO
from rl_lab.learners.compiled.thread_pool import MIN_SHARD_ROWS

internal = decorators().internal
call, prefetch = primitives().call, primitives().prefetch
ONE = np.float32(1.0)


@internal
def clipped_surrogate(log_ratio: Any, terms: SurrogateTerms, report: Any) -> Any:
    """Report the clipped policy loss of one row; return the gradient of loss / M by the row's log probability.

    `log_ratio` is the log probability of the row's action minus the old one. Where the clipped term is the smaller, the
    gradient is 0. The approximate KL divergence is (ratio - 1) - log(ratio), as in `PPO.train`.
    """
    ratio = np.float32(math.exp(log_ratio))
    policy_loss_1 = ratio * terms.advantage
    policy_loss_2 = min(max(ratio, ONE - terms.clip_range), ONE + terms.clip_range) * terms.advantage
    report[POLICY_LOSS] -= min(policy_loss_1, policy_loss_2)
    report[APPROX_KL] += ratio - ONE - log_ratio
    report[CLIP_FRACTION] += abs(ratio - ONE) > terms.clip_range
    return -terms.inv_batch * terms.advantage * ratio if policy_loss_1 <= policy_loss_2 else ZERO


@internal
def categorical_loss_grad(
    logits: Any, grad: Any, action_mask: Any, action: Any, terms: SurrogateTerms, report: Any
) -> None:
    """Report policy and entropy loss of one row; set grad [n] to the gradient of loss / M by its logits [n].

    Illegal actions, whose `action_mask` [n] is 0, get the gradient 0.
    """
    n = len(logits)
    highest = np.float32(-np.inf)
    for k in range(n):
        if action_mask[k]:
            highest = max(highest, logits[k])
    sum_exp = ZERO
    for k in range(n):  # until the last loop, `grad` has the probabilities
        grad[k] = ZERO
        if action_mask[k]:
            grad[k] = math.exp(logits[k] - highest)
            sum_exp += grad[k]
    log_sum_exp = highest + np.float32(math.log(sum_exp))
    entropy = ZERO
    for k in range(n):
        if action_mask[k]:
            grad[k] /= sum_exp
            entropy -= grad[k] * (logits[k] - log_sum_exp)
    log_ratio = logits[action] - log_sum_exp - terms.old_log_prob
    log_prob_grad = clipped_surrogate(log_ratio, terms, report)
    report[ENTROPY_LOSS] -= entropy
    for k in range(n):
        if action_mask[k]:
            prob = grad[k]
            entropy_grad = terms.ent_coef * terms.inv_batch * prob * (logits[k] - log_sum_exp + entropy)
            grad[k] = entropy_grad - log_prob_grad * prob + (log_prob_grad if k == action else ZERO)


@internal
def gaussian_loss_grad(
    mean: Any, grad: Any, log_std: Any, log_std_grad: Any, action: Any, terms: SurrogateTerms, report: Any
) -> None:
    """Report policy and entropy loss of one row; set grad [k] to the gradient of loss / M by its mean [k].

    The gradient by log_std [k], which all rows share, is added to log_std_grad [k].
    """
    log_prob, entropy = ZERO, ZERO
    for j in range(len(action)):
        z = (action[j] - mean[j]) / math.exp(log_std[j])
        log_prob -= np.float32(0.5) * z * z + log_std[j] + LOG_SQRT_2_PI
        entropy += np.float32(0.5) + LOG_SQRT_2_PI + log_std[j]
    log_prob_grad = clipped_surrogate(log_prob - terms.old_log_prob, terms, report)
    report[ENTROPY_LOSS] -= entropy
    for j in range(len(action)):
        std = math.exp(log_std[j])
        z = (action[j] - mean[j]) / std
        grad[j] = log_prob_grad * z / std
        log_std_grad[j] += log_prob_grad * (z * z - ONE) - terms.ent_coef * terms.inv_batch


@internal
def value_loss_grad(value: Any, target: Any, weight: Any, report: Any) -> Any:
    """Report the squared error of one row's value; return the gradient of the weighted loss by the value.

    It is weight, 2 vf_coef / M, times the error.
    """
    error = value - target
    report[VALUE_LOSS] += np.float64(error) * np.float64(error)
    return weight * error


@internal
def advantage_mean_and_std(advantages: Any, indices: Any) -> Any:
    """Return the mean of advantages[indices] and their standard deviation plus 1e-8, as PPO normalises them."""
    m = len(indices)
    mean, sum_of_squares = 0.0, 0.0
    for i in indices:
        mean += advantages[i]
    mean /= m
    for i in indices:
        sum_of_squares += (advantages[i] - mean) ** 2
    return mean, math.sqrt(sum_of_squares / (m - 1)) + 1e-8


@internal
def select_sparse_rows(indices: Any, nonzero_starts: Any, net: Any) -> None:
    """Set the starts of the network's sparse inputs to the lists of these transitions, at most TILE, and prefetch them.

    `nonzero_starts` and the lists are those of `RolloutSamples`, whose addresses are in the table at `net`. Minibatches
    are in random order, so the processor cannot guess which rows are read next, and it waits for memory without this.
    """
    table = as_i64(net, NUM_ADDRESSES)
    starts = as_i64(table[AT_NONZERO_STARTS], 2 * TILE).reshape(TILE, 2)
    for r in range(len(indices)):
        i = indices[r]
        starts[r, 0], starts[r, 1] = nonzero_starts[i], nonzero_starts[i + 1]
        for address in (table[AT_NONZERO_INDICES], table[AT_NONZERO_VALUES]):
            prefetch(address + 4 * starts[r, 0], 4 * (starts[r, 1] - starts[r, 0]))


@internal
def add_loss_gradient(
    barrier: Any,
    indices: Any,
    scale: BatchScale,
    samples: RolloutSamples,
    policy: PolicyNetwork,
    settings: PpoSettings,
    net: Any,
    report: Any,
) -> None:
    """Add the loss gradient of transitions `indices`, a shard of a minibatch, to the parameter gradient of `net`.

    Losses are added to report. This is the body of the loop in `PPO.train` up to `loss.backward()`. It returns early if
    the user interrupts the work.
    """
    table = as_i64(net, NUM_ADDRESSES)
    inputs = activations(net, 0)
    logits, value = activations(net, policy.logits_buffer), activations(net, policy.value_buffer)
    logits_grad, value_grad = activation_grads(net, policy.logits_buffer), activation_grads(net, policy.value_buffer)
    log_std = as_f32(table[AT_WEIGHTS] + 4 * policy.log_std_offset, policy.action_size)
    log_std_grad = as_f32(table[AT_PARAM_GRADS] + 4 * policy.log_std_offset, policy.action_size)
    old_log_prob, advantages, returns = samples.old_log_prob, samples.advantages, samples.returns
    discrete_actions, continuous_actions = samples.discrete_actions, samples.continuous_actions
    action_masks, nonzero_starts, not_normalized = samples.action_masks, samples.nonzero_starts, np.zeros((3, 0))
    sparse, n = len(nonzero_starts) > 0, policy.action_size
    clip_range, ent_coef = np.float32(settings.clip_range), np.float32(settings.ent_coef)
    value_weight = np.float32(2.0 * settings.vf_coef) * scale.inv_batch
    for low in range(0, len(indices), TILE):
        if abort_if_interrupted(barrier, table[AT_STOP_FLAG]):
            return
        high = min(low + TILE, len(indices))
        if sparse:
            select_sparse_rows(indices[low:high], nonzero_starts, net)
        else:
            load_observations(
                samples.observations, samples.obs_is_uint8, samples.obs_size, low, high, indices, not_normalized, inputs
            )
        call(table[AT_FORWARD], high - low, np.int64(sparse), net)
        for r in range(high - low):
            i = indices[low + r]
            advantage = np.float32((advantages[i] - scale.advantage_mean) / scale.advantage_std)
            terms = SurrogateTerms(old_log_prob[i], advantage, clip_range, ent_coef, scale.inv_batch)
            if discrete_actions.shape[1]:
                mask = action_masks[i] if action_masks.shape[1] else policy.all_legal
                categorical_loss_grad(logits[r, :n], logits_grad[r, :n], mask, discrete_actions[i, 0], terms, report)
            else:
                gaussian_loss_grad(
                    logits[r], logits_grad[r], log_std, log_std_grad, continuous_actions[i], terms, report
                )
            value_grad[r, 0] = value_loss_grad(value[r, 0], returns[i], value_weight, report)
        call(table[AT_BACKWARD], high - low, np.int64(sparse), net)


@internal
def minibatch_gradient(
    worker: ThreadRank,
    indices: Any,
    samples: RolloutSamples,
    policy: PolicyNetwork,
    grads: Any,
    settings: PpoSettings,
    table: Any,
    report: Any,
) -> Any:
    """Compute the loss gradient of a minibatch, transitions `indices`, int64 [M]; each thread does a part of it.

    The minibatch is divided into shards, each with a gradient in grads [NUM_SHARDS, P] and sums of losses in report
    [NUM_SHARDS, REPORTED]. The shards depend on M only, so that the number of threads changes no result. `table` is
    this thread's row of `NetworkMemory.tables`; the address of the parameter gradient in it is set to that of each
    shard in turn.

    Returns the number of shards, and the number G of gradients that remain to be summed: the minibatch's gradient is
    the sum of grads[:G]. Both are 0 if the user interrupts the work.
    """
    m = len(indices)
    mean, std = 0.0, 1.0
    if settings.normalize_advantage and m > 1:
        mean, std = advantage_mean_and_std(samples.advantages, indices)
    scale = BatchScale(mean, std, ONE / np.float32(m))
    net = table.ctypes.data
    transpose_weights(net)
    num_shards = min(len(grads), max(m // MIN_SHARD_ROWS, 1))
    shard_rows = -(-m // num_shards)
    for shard in range(worker.rank, num_shards, worker.num_threads):
        grads[shard] = ZERO
        report[shard] = 0.0
        table[AT_PARAM_GRADS] = grads[shard].ctypes.data
        shard_indices = indices[shard * shard_rows : min((shard + 1) * shard_rows, m)]
        add_loss_gradient(worker.barrier, shard_indices, scale, samples, policy, settings, net, report[shard])
    if abort_if_interrupted(worker.barrier, table[AT_STOP_FLAG]):
        return 0, 0
    num_grads = reduce_gradients(worker.rank, worker.num_threads, grads[:num_shards])
    if not barrier_wait(worker.num_threads, worker.barrier):
        return 0, 0
    return num_shards, num_grads
