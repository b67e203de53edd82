"""The optimizer of PPO and DQN: clip the gradient's norm, then update all parameters by Adam.

A template, executed by `build` after `barrier`: see `engine/template_context.py`. It computes what
`torch.nn.utils.clip_grad_norm_` and `torch.optim.Adam.step` do, on the arrays of a `ppo_records.AdamState`, which it
changes in place. Several threads call it together. The work is cut in two ways:

    grads [parts, P]   rows: each thread has computed the gradients of some parts of the minibatch, and they are summed
    P parameters       columns: in `adam_step`, a thread updates NUM_SHARDS / num_threads ranges of parameters
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.adam_records import BETA_1, BETA_2, EPSILON, LEARNING_RATE, MAX_GRAD_NORM, AdamStep
from rl_lab.learners.compiled.matrix_intrinsics import PAD
from rl_lab.learners.compiled.ppo_records import AdamState, ThreadRank
from rl_lab.learners.compiled.templates.barrier import barrier_wait
from rl_lab.learners.compiled.thread_pool import NUM_SHARDS

fastmath, internal = decorators().fastmath, decorators().internal


@fastmath
def sum_of_squares(values: Any) -> Any:
    """Return the sum of squares of values [n], float64."""
    total = 0.0
    for j in range(len(values)):
        total += np.float64(values[j]) * np.float64(values[j])
    return total


@fastmath
def adam_update(weights: Any, grads: Any, exp_avg: Any, exp_avg_sq: Any, step: AdamStep) -> None:
    """Update both moments by the clipped gradient, and the weights by the moments; arrays are float32 [n].

    Source: Kingma and Ba 2015, "Adam: a method for stochastic optimization"; names and operations are those of
    `torch.optim.adam`.
    """
    clip_coef, beta_1, beta_2, step_size, bias_correction_2_sqrt, eps = step
    one_minus_beta_1, one_minus_beta_2 = np.float32(1.0) - beta_1, np.float32(1.0) - beta_2
    for j in range(len(weights)):
        grad = grads[j] * clip_coef
        exp_avg[j] += (grad - exp_avg[j]) * one_minus_beta_1
        exp_avg_sq[j] = exp_avg_sq[j] * beta_2 + grad * grad * one_minus_beta_2
        denom = np.float32(math.sqrt(exp_avg_sq[j])) / bias_correction_2_sqrt + eps
        weights[j] -= step_size * exp_avg[j] / denom


@fastmath
def add_in_place(total: Any, addend: Any) -> None:
    """Add addend [n] to total [n]."""
    for j in range(len(total)):
        total[j] += addend[j]


@internal
def reduce_gradients(rank: Any, num_threads: Any, grads: Any) -> Any:
    """Add up the gradients that this thread has computed; return how many remain to be summed, from grads[0] on.

    Row i of grads [parts, P] was computed by thread i % num_threads. With one or two threads, the sums are left in the
    first two rows, before `adam_step` adds these; with more threads, `adam_step` adds all rows. In any case four parts
    are summed as (0 + 2) + (1 + 3), so that the number of threads changes no result. With two threads, each pair
    belongs to one thread, so that the fewest numbers move from one core to another.
    """
    if num_threads > 2:
        return len(grads)
    for part in range(rank + 2, len(grads), num_threads):
        add_in_place(grads[part - 2], grads[part])
    return min(len(grads), 2)


@internal
def adam_step(worker: ThreadRank, adam_state: AdamState, settings: Any) -> Any:
    """Clip the gradient's norm and take one step of Adam; return False, and only sum the gradient, if it is not finite.

    The gradient is the sum of adam_state.grads [parts, P], as `reduce_gradients` leaves them, and is in the first of
    them afterwards. `settings` has Adam's settings by position, see `adam_records.LEARNING_RATE`. All threads call it;
    it returns False, too, if the barrier is aborted.
    """
    weights, grads, exp_avg, exp_avg_sq, last_step, squared_norms = adam_state
    num_pads = -(-len(weights) // PAD)  # ranges of parameters begin at multiples of PAD
    for shard in range(worker.rank, NUM_SHARDS, worker.num_threads):
        low = shard * num_pads // NUM_SHARDS * PAD
        high = min((shard + 1) * num_pads // NUM_SHARDS * PAD, len(weights))
        for part in range(2, len(grads)):
            add_in_place(grads[part - 2, low:high], grads[part, low:high])
        if len(grads) > 1:
            add_in_place(grads[0, low:high], grads[1, low:high])
        squared_norms[shard] = sum_of_squares(grads[0, low:high])
    if not barrier_wait(worker.num_threads, worker.barrier):
        return False
    total_norm = math.sqrt(squared_norms.sum())
    if not math.isfinite(total_norm):
        return False
    clip_coef = min(settings[MAX_GRAD_NORM] / (total_norm + 1e-6), 1.0)
    t, beta_1, beta_2 = last_step + 1, settings[BETA_1], settings[BETA_2]
    step = AdamStep(
        np.float32(clip_coef),
        np.float32(beta_1),
        np.float32(beta_2),
        np.float32(settings[LEARNING_RATE] / (1.0 - beta_1**t)),
        np.float32(math.sqrt(1.0 - beta_2**t)),
        np.float32(settings[EPSILON]),
    )
    for shard in range(worker.rank, NUM_SHARDS, worker.num_threads):
        low = shard * num_pads // NUM_SHARDS * PAD
        high = min((shard + 1) * num_pads // NUM_SHARDS * PAD, len(weights))
        adam_update(weights[low:high], grads[0, low:high], exp_avg[low:high], exp_avg_sq[low:high], step)
    return barrier_wait(worker.num_threads, worker.barrier)
