"""What RLlib's loss has beyond that of Stable-Baselines3's PPO: the divergence, and the clipped value loss.

A template, executed by `build` after `ppo_loss`: see `engine/template_context.py`. Functions of one row add their
losses to a report, whose columns are those of `network` and `rllib_records`.

Source: Ray 2.60, `ray.rllib.algorithms.ppo.torch.ppo_torch_learner`
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.network import (
    ADDRESSES,
    AT_BACKWARD,
    AT_FORWARD,
    AT_GRADS,
    AT_STOP,
    AT_WEIGHTS,
    TILE,
    VALUE_LOSS,
)
from rl_lab.learners.compiled.ppo_records import PolicyNetwork, SurrogateTerms
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.rllib_records import (
    ERRORS,
    KL,
    SQUARED_ERRORS,
    SQUARED_TARGETS,
    TARGETS,
    UNCLIPPED_VALUE_LOSS,
    RllibSamples,
    RllibSettings,
)
from rl_lab.learners.compiled.templates.barrier import barrier_stopped
from rl_lab.learners.compiled.templates.ppo_loss import (
    ONE,
    categorical_loss_grad,
    gaussian_loss_grad,
    select_sparse_rows,
)
from rl_lab.learners.compiled.templates.ppo_rollout import ZERO
from rl_lab.learners.compiled.templates.tiles import activation_grads, activations, as_f32, as_i64, load_observations

internal = decorators().internal
call = primitives().call


@internal
def log_sum_exp(logits: Any, action_mask: Any) -> Any:
    """Return the logarithm of the sum of exponentials of the legal logits [n]."""
    highest, total = np.float32(-np.inf), ZERO
    for k in range(len(logits)):
        if action_mask[k]:
            highest = max(highest, logits[k])
    for k in range(len(logits)):
        if action_mask[k]:
            total += math.exp(logits[k] - highest)
    return highest + np.float32(math.log(total))


@internal
def add_categorical_kl_grad(
    logits: Any, grad: Any, old_logits: Any, action_mask: Any, weight: Any, report: Any
) -> None:
    """Report the divergence of one row's policy from the old one; add weight times its gradient to grad [n]."""
    normalizer, old_normalizer = log_sum_exp(logits, action_mask), log_sum_exp(old_logits, action_mask)
    divergence = ZERO
    for k in range(len(logits)):
        if action_mask[k]:
            log_prob, old_log_prob = logits[k] - normalizer, old_logits[k] - old_normalizer
            old_prob = np.float32(math.exp(old_log_prob))
            divergence += old_prob * (old_log_prob - log_prob)
            grad[k] += weight * (np.float32(math.exp(log_prob)) - old_prob)
    report[KL] += divergence


@internal
def add_gaussian_kl_grad(
    mean: Any, grad: Any, log_std: Any, log_std_grad: Any, old_inputs: Any, weight: Any, report: Any
) -> None:
    """Report the divergence of one row's policy from the old one; add weight times its gradients.

    They are added to grad [k], by the mean, and log_std_grad [k]. `old_inputs` [2 k] has the old means and log_std.
    """
    k, divergence = len(log_std), ZERO
    for j in range(k):
        z = (mean[j] - old_inputs[j]) / math.exp(log_std[j])
        var_ratio = np.float32(math.exp(np.float32(2.0) * (old_inputs[k + j] - log_std[j])))
        divergence += np.float32(0.5) * (var_ratio + z * z - ONE) + log_std[j] - old_inputs[k + j]
        grad[j] += weight * z / math.exp(log_std[j])
        log_std_grad[j] += weight * (ONE - var_ratio - z * z)
    report[KL] += divergence


@internal
def clipped_value_loss_grad(value: Any, target: Any, weight: Any, limit: Any, report: Any) -> Any:
    """Report the squared error of one row's value, at most `limit`; return the gradient by the value.

    It is weight (2 vf_loss_coeff / M) times the error, and 0 where the squared error is above the limit.
    """
    error = value - target
    squared = error * error
    report[UNCLIPPED_VALUE_LOSS] += squared
    report[VALUE_LOSS] += min(squared, limit)
    return ZERO if squared > limit else weight * error  # a target that is not a number is an error


@internal
def add_variance_sums(value: Any, target: Any, report: Any) -> None:
    """Add one row to the sums from which the explained variance is computed."""
    error = np.float64(target - value)
    report[TARGETS] += target
    report[SQUARED_TARGETS] += np.float64(target) * np.float64(target)
    report[ERRORS] += error
    report[SQUARED_ERRORS] += error * error


@internal
def add_rllib_loss_gradient(
    team: Any,
    indices: Any,
    inv_batch: Any,
    samples: RllibSamples,
    policy: PolicyNetwork,
    settings: RllibSettings,
    net: Any,
    report: Any,
) -> None:
    """Add the loss gradient of rows `indices`, a part of a minibatch, to the gradient of the network at `net`.

    Losses are added to report float64 [RLLIB_REPORTED]; `inv_batch` is 1 / M for the M rows of the minibatch that have
    a loss. This is `PPOTorchLearner.compute_loss_for_module` and the backward pass.
    """
    at, rollout, n = as_i64(net, ADDRESSES), samples.rollout, policy.action_size
    logits, value = activations(net, policy.logits_buffer), activations(net, policy.value_buffer)
    logits_grad, value_grad = activation_grads(net, policy.logits_buffer), activation_grads(net, policy.value_buffer)
    log_std = as_f32(at[AT_WEIGHTS] + 4 * policy.log_std_offset, n)
    log_std_grad = as_f32(at[AT_GRADS] + 4 * policy.log_std_offset, n)
    action_masks, not_normalized, sparse = rollout.action_masks, np.zeros((3, 0)), len(rollout.nonzero_starts) > 0
    clip_range, ent_coef = np.float32(settings.ppo.clip_range), np.float32(settings.ppo.ent_coef)
    limit, value_weight = np.float32(settings.vf_clip_param), np.float32(2.0 * settings.ppo.vf_coef) * inv_batch
    kl_weight = np.float32(settings.kl_coeff) * inv_batch
    for low in range(0, len(indices), TILE):
        if barrier_stopped(team, at[AT_STOP]):
            return
        high = min(low + TILE, len(indices))
        if sparse:
            select_sparse_rows(indices[low:high], rollout.nonzero_starts, net)
        else:
            source, is_uint8, d = rollout.observations, rollout.obs_is_uint8, rollout.obs_size
            load_observations(source, is_uint8, d, low, high, indices, not_normalized, activations(net, 0))
        call(at[AT_FORWARD], high - low, np.int64(sparse), net)
        for r in range(high - low):
            i = indices[low + r]
            add_variance_sums(value[r, 0], rollout.returns[i], report)
            if not samples.loss_mask[i]:
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
            value_grad[r, 0] = clipped_value_loss_grad(value[r, 0], rollout.returns[i], value_weight, limit, report)
        call(at[AT_BACKWARD], high - low, np.int64(sparse), net)
