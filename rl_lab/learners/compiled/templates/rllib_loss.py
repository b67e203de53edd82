"""RLlib's PPO loss: that of `ppo_loss`, plus the KL divergence from the policy that sampled, and a clipped value loss.

A template, executed by `build` after `ppo_loss`: see `engine/template_context.py`. `rllib_ppo.update` calls
`add_rllib_loss_gradient`, which calls the rest. As in `ppo_loss`, the functions of one row return or write the row's
gradient and add its losses to `report`, float64 [RLLIB_REPORTED], whose columns are those of `ppo_records` and
`rllib_records`.

Source: Ray 2.60, `ray.rllib.algorithms.ppo.torch.ppo_torch_learner`
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import (
    AT_BACKWARD,
    AT_FORWARD,
    AT_PARAM_GRADS,
    AT_STOP_FLAG,
    AT_WEIGHTS,
    NUM_ADDRESSES,
    TILE,
)
from rl_lab.learners.compiled.ppo_records import VALUE_LOSS, PolicyNetwork, SurrogateTerms
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.rllib_records import (
    KL,
    SUM_ERRORS,
    SUM_SQUARED_ERRORS,
    SUM_SQUARED_TARGETS,
    SUM_TARGETS,
    UNCLIPPED_VALUE_LOSS,
    RllibSamples,
    RllibSettings,
)
from rl_lab.learners.compiled.templates.barrier import abort_if_interrupted
from rl_lab.learners.compiled.templates.memory_views import activation_grads, activations, as_f32, as_i64
from rl_lab.learners.compiled.templates.observations import load_observations
from rl_lab.learners.compiled.templates.ppo_loss import (
    ONE,
    categorical_loss_grad,
    gaussian_loss_grad,
    select_sparse_rows,
)
from rl_lab.learners.compiled.templates.ppo_rollout import ZERO

internal = decorators().internal
call = primitives().call


@internal
def log_sum_exp(logits: Any, action_mask: Any) -> Any:
    """Return the logarithm of the sum of exponentials of the legal logits [n]."""
    highest, sum_exp = np.float32(-np.inf), ZERO
    for k in range(len(logits)):
        if action_mask[k]:
            highest = max(highest, logits[k])
    for k in range(len(logits)):
        if action_mask[k]:
            sum_exp += math.exp(logits[k] - highest)
    return highest + np.float32(math.log(sum_exp))


@internal
def add_categorical_kl_grad(
    logits: Any, grad: Any, old_logits: Any, action_mask: Any, weight: Any, report: Any
) -> None:
    """Report the KL divergence of one row's policy from the old one; add weight times its gradient to grad [n].

    `action_mask` [n] is not 0 for the legal actions; only these have probabilities.
    """
    normalizer, old_normalizer = log_sum_exp(logits, action_mask), log_sum_exp(old_logits, action_mask)
    kl = ZERO
    for k in range(len(logits)):
        if action_mask[k]:
            log_prob, old_log_prob = logits[k] - normalizer, old_logits[k] - old_normalizer
            old_prob = np.float32(math.exp(old_log_prob))
            kl += old_prob * (old_log_prob - log_prob)
            grad[k] += weight * (np.float32(math.exp(log_prob)) - old_prob)
    report[KL] += kl


@internal
def add_gaussian_kl_grad(
    mean: Any, grad: Any, log_std: Any, log_std_grad: Any, old_inputs: Any, weight: Any, report: Any
) -> None:
    """Report the KL divergence of one row's policy from the old one; add weight times its gradients.

    They are added to grad [k], by the mean, and log_std_grad [k]. `old_inputs` [2 k] has the old means and log_std.
    """
    k, kl = len(log_std), ZERO
    for j in range(k):
        z = (mean[j] - old_inputs[j]) / math.exp(log_std[j])
        var_ratio = np.float32(math.exp(np.float32(2.0) * (old_inputs[k + j] - log_std[j])))
        kl += np.float32(0.5) * (var_ratio + z * z - ONE) + log_std[j] - old_inputs[k + j]
        grad[j] += weight * z / math.exp(log_std[j])
        log_std_grad[j] += weight * (ONE - var_ratio - z * z)
    report[KL] += kl


@internal
def clipped_value_loss_grad(value: Any, target: Any, weight: Any, vf_clip_param: Any, report: Any) -> Any:
    """Report the squared error of one row's value, at most `vf_clip_param`; return the gradient of the value.

    It is weight, 2 vf_loss_coeff / M, times the error, and 0 where the squared error is above `vf_clip_param`.
    """
    error = value - target
    squared_error = error * error
    report[UNCLIPPED_VALUE_LOSS] += squared_error
    report[VALUE_LOSS] += min(squared_error, vf_clip_param)
    # Of a target that is NaN, the gradient is NaN, which stops the training.
    return ZERO if squared_error > vf_clip_param else weight * error


@internal
def add_variance_sums(value: Any, target: Any, report: Any) -> None:
    """Add one row's value and target to the sums in the report from which the explained variance is computed."""
    error = np.float64(target - value)
    report[SUM_TARGETS] += target
    report[SUM_SQUARED_TARGETS] += np.float64(target) * np.float64(target)
    report[SUM_ERRORS] += error
    report[SUM_SQUARED_ERRORS] += error * error


@internal
def add_rllib_loss_gradient(
    barrier: Any,
    indices: Any,
    inv_batch: Any,
    samples: RllibSamples,
    policy: PolicyNetwork,
    settings: RllibSettings,
    net: Any,
    report: Any,
) -> None:
    """Add the loss gradient of rows `indices`, a shard of a minibatch, to the parameter gradient of `net`.

    Losses are added to report; `inv_batch` is 1 / M for the M rows of the minibatch that have a loss. This is
    `PPOTorchLearner.compute_loss_for_module` and the backward pass. It returns early if the user interrupts the work.
    """
    table, rollout, n = as_i64(net, NUM_ADDRESSES), samples.rollout, policy.action_size
    logits, value = activations(net, policy.logits_buffer), activations(net, policy.value_buffer)
    logits_grad, value_grad = activation_grads(net, policy.logits_buffer), activation_grads(net, policy.value_buffer)
    log_std = as_f32(table[AT_WEIGHTS] + 4 * policy.log_std_offset, n)
    log_std_grad = as_f32(table[AT_PARAM_GRADS] + 4 * policy.log_std_offset, n)
    action_masks, not_normalized, sparse = rollout.action_masks, np.zeros((3, 0)), len(rollout.nonzero_starts) > 0
    clip_range, ent_coef = np.float32(settings.ppo.clip_range), np.float32(settings.ppo.ent_coef)
    vf_clip_param, value_weight = np.float32(settings.vf_clip_param), np.float32(2.0 * settings.ppo.vf_coef) * inv_batch
    kl_weight = np.float32(settings.kl_coeff) * inv_batch
    for low in range(0, len(indices), TILE):
        if abort_if_interrupted(barrier, table[AT_STOP_FLAG]):
            return
        high = min(low + TILE, len(indices))
        if sparse:
            select_sparse_rows(indices[low:high], rollout.nonzero_starts, net)
        else:
            source, is_uint8, d = rollout.observations, rollout.obs_is_uint8, rollout.obs_size
            load_observations(source, is_uint8, d, low, high, indices, not_normalized, activations(net, 0))
        call(table[AT_FORWARD], high - low, np.int64(sparse), net)
        for r in range(high - low):
            i = indices[low + r]
            add_variance_sums(value[r, 0], rollout.returns[i], report)
            if not samples.loss_mask[i]:  # the row is there for its value alone
                value_grad[r, 0] = ZERO
                for k in range(n):
                    logits_grad[r, k] = ZERO
                continue
            terms = SurrogateTerms(rollout.old_log_prob[i], rollout.advantages[i], clip_range, ent_coef, inv_batch)
            old_inputs, grad = samples.dist_inputs[i], logits_grad[r, :n]
            if rollout.discrete_actions.shape[1]:
                mask = action_masks[i] if action_masks.shape[1] else policy.all_legal
                categorical_loss_grad(logits[r, :n], grad, mask, rollout.discrete_actions[i, 0], terms, report)
                if settings.use_kl_loss:
                    add_categorical_kl_grad(logits[r, :n], grad, old_inputs, mask, kl_weight, report)
            else:
                gaussian_loss_grad(logits[r], grad, log_std, log_std_grad, rollout.continuous_actions[i], terms, report)
                if settings.use_kl_loss:
                    add_gaussian_kl_grad(logits[r], grad, log_std, log_std_grad, old_inputs, kl_weight, report)
            value_grad[r, 0] = clipped_value_loss_grad(
                value[r, 0], rollout.returns[i], value_weight, vf_clip_param, report
            )
        call(table[AT_BACKWARD], high - low, np.int64(sparse), net)
