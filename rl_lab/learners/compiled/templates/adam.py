"""The optimizer of both algorithms: clip the gradient's norm, then update all parameters by Adam.

A template, executed by `build`: see `engine/template_context.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.adam_records import AdamStep
from rl_lab.learners.compiled.matrix_intrinsics import PAD
from rl_lab.learners.compiled.network import BETA_1, BETA_2, EPSILON, LEARNING_RATE, MAX_GRAD_NORM, SHARDS
from rl_lab.learners.compiled.ppo_records import AdamState, Worker
from rl_lab.learners.compiled.templates.barrier import barrier_wait

fastmath, internal = decorators().fastmath, decorators().internal


@fastmath
def squares(values: Any) -> Any:
    """Return the sum of squares, float64."""
    total = 0.0
    for j in range(len(values)):
        total += np.float64(values[j]) * np.float64(values[j])
    return total


@fastmath
def adam(weights: Any, grads: Any, exp_avg: Any, exp_avg_sq: Any, step: AdamStep) -> None:
    """Update the moments by the clipped gradient, and the weights by the moments; arrays are float32 [n]."""
    clip_coef, beta_1, beta_2, step_size, bias_correction_2_sqrt, eps = step
    one_minus_beta_1, one_minus_beta_2 = np.float32(1.0) - beta_1, np.float32(1.0) - beta_2
    for j in range(len(weights)):
        grad = grads[j] * clip_coef
        exp_avg[j] += (grad - exp_avg[j]) * one_minus_beta_1
        exp_avg_sq[j] = exp_avg_sq[j] * beta_2 + grad * grad * one_minus_beta_2
        denom = np.float32(math.sqrt(exp_avg_sq[j])) / bias_correction_2_sqrt + eps
        weights[j] -= step_size * exp_avg[j] / denom


@fastmath
def add(total: Any, more: Any) -> None:
    """Add more [n] to total [n]."""
    for j in range(len(total)):
        total[j] += more[j]


@internal
def reduce_gradients(rank: Any, ranks: Any, grads: Any) -> Any:
    """Add up a thread's own parts of the gradient [parts, n]; return the number of remaining parts of all threads.

    For any number of threads, four parts are summed as (0 + 2) + (1 + 3). With two threads, each pair belongs to one
    thread, so that the fewest numbers move from one core to another.
    """
    if ranks > 2:
        return len(grads)
    for part in range(rank + 2, len(grads), ranks):
        add(grads[part - 2], grads[part])
    return min(len(grads), 2)


@internal
def adam_step(worker: Worker, adam_state: AdamState, settings: Any) -> Any:
    """Clip the gradient's norm and take one step of Adam; return False, and change nothing, if it is not finite.

    The gradient is the sum of adam_state.grads [parts, P], as `reduce_gradients` leaves them, and is in the first of
    them afterwards. Each thread updates its share of the parameters, and writes the sum of squares of their
    gradient to adam_state.squared_norms.

    Source: Kingma and Ba 2015; the names are those of `torch.optim.adam`
    """
    weights, grads, exp_avg, exp_avg_sq, last_step, squared_norms = adam_state
    pads = -(-len(weights) // PAD)
    for shard in range(worker.rank, SHARDS, worker.ranks):
        low, high = shard * pads // SHARDS * PAD, min((shard + 1) * pads // SHARDS * PAD, len(weights))
        for part in range(2, len(grads)):
            add(grads[part - 2, low:high], grads[part, low:high])
        if len(grads) > 1:
            add(grads[0, low:high], grads[1, low:high])
        squared_norms[shard] = squares(grads[0, low:high])
    if not barrier_wait(worker.ranks, worker.team):
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
    for shard in range(worker.rank, SHARDS, worker.ranks):
        low, high = shard * pads // SHARDS * PAD, min((shard + 1) * pads // SHARDS * PAD, len(weights))
        adam(weights[low:high], grads[0, low:high], exp_avg[low:high], exp_avg_sq[low:high], step)
    return barrier_wait(worker.ranks, worker.team)
