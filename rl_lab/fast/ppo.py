"""PPO in compiled code: rollouts without Python, advantages, and updates from forward pass to Adam.

Not imported as it stands: see `kernels.py`. What it computes is what Stable-Baselines3's PPO does, in the same order;
tests hold the two side by side. Shapes: T steps, B rows (of N worlds), M rows of a minibatch, n actions or k numbers of
an action, d numbers of an observation. Actions are `choices`, int64, or `numbers`, float32; the others have no columns.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms"; the gradients are worked out by hand.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.fast.plan import (
    APPROX_KL,
    CLIP,
    CLIPPED,
    ENTROPY,
    ENTROPY_LOSS,
    EPOCHS,
    FAILED,
    KL,
    LOSS,
    NORMALIZE,
    POLICY_LOSS,
    STEPS,
    TAKEN,
    TILE,
    VALUE,
    VALUE_LOSS,
)

if TYPE_CHECKING:
    from rl_lab.compiler import jit, outlined
    from rl_lab.rng import philox

    from .network import backward, forward, turn
    from .parameters import descend
    from .rows import find, floats, keep, list_nonzero, octets, show, tile_of

    call: Any
    cycles: Any
LOW_BITS, SHORT, HALF = np.uint64(0xFFFFFFFF), np.uint64(8), np.uint64(32)
UNIT = np.float32(2.0**-24)
LOG_TAU = np.float32(0.5 * math.log(2.0 * math.pi))
ONE, ZERO = np.float32(1.0), np.float32(0.0)


@jit
def find_all(seen: Any, octet: Any, rows: Any, d: Any, starts: Any, places: Any, values: Any) -> None:
    """Note what is not zero in [R, d] at an address: row r has places and values [starts[r]:starts[r + 1]]."""
    for r in range(rows):
        if octet:
            starts[r + 1] = list_nonzero(octets(seen + r * d, d), starts[r], places, values)
        else:
            starts[r + 1] = list_nonzero(floats(seen + 4 * r * d, d), starts[r], places, values)


@outlined
def choose_discrete(logits: Any, legal: Any, drawn: Any, taken: Any) -> Any:
    """Draw from the softmax of logits [n] over what is legal; return the log probability of what was drawn."""
    n = len(logits)
    highest = np.float32(-np.inf)
    for k in range(n):
        if legal[k]:
            highest = max(highest, logits[k])
    total = ZERO
    for k in range(n):
        if legal[k]:
            total += math.exp(logits[k] - highest)
    limit = np.float32((drawn & LOW_BITS) >> SHORT) * UNIT * total
    so_far, choice = ZERO, -1
    for k in range(n):
        if legal[k]:
            choice = k
            so_far += math.exp(logits[k] - highest)
            if so_far > limit:
                break
    taken[0] = choice
    return logits[choice] - highest - np.float32(math.log(total))


@outlined
def choose_continuous(mean: Any, log_std: Any, key: Any, counter: Any, taken: Any) -> Any:
    """Draw from the normal distribution; return the log density, summed over the numbers of an action."""
    log_prob = ZERO
    for j in range(len(taken)):
        drawn = philox(key, counter + np.uint64(j))
        u = np.float32((drawn & LOW_BITS) >> SHORT) * UNIT
        v = np.float32(drawn >> (HALF + SHORT)) * UNIT
        z = np.float32(math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(2.0 * math.pi * v))
        taken[j] = mean[j] + math.exp(log_std[j]) * z
        z = (taken[j] - mean[j]) / math.exp(log_std[j])
        log_prob -= np.float32(0.5) * z * z + log_std[j] + LOG_TAU
    return log_prob


@outlined
def choose(
    logits: Any, legal: Any, weights: Any, outputs: Any, count: Any, key: Any, counter: Any, choice: Any, numbers: Any
) -> Any:
    """Draw an action of either kind; return its log probability. `count` is n or k."""
    if len(choice):
        return choose_discrete(logits[:count], legal, philox(key, counter), choice)
    return choose_continuous(logits, weights[outputs[2] : outputs[2] + count], key, counter, numbers)


@outlined
def note(rows: Any, statistics: Any) -> None:
    """Take rows [R, d] up into running statistics: float64 [3, d] of mean, variance and, in [2, 0], how many.

    Source: Chan et al. 1979, as Stable-Baselines3's RunningMeanStd.
    """
    count, more = statistics[2, 0], float(len(rows))
    for j in range(rows.shape[1]):
        mean = 0.0
        for r in range(len(rows)):
            mean += rows[r, j]
        mean /= more
        spread = 0.0
        for r in range(len(rows)):
            spread += (rows[r, j] - mean) ** 2
        delta, total = mean - statistics[0, j], count + more
        spread += statistics[1, j] * count + delta * delta * count * more / total
        statistics[0, j] += delta * more / total
        statistics[1, j] = spread / total
    statistics[2, 0] = count + more


@jit
def collect(
    step: Any,  # address of the world's step, and of its batch
    batch: Any,
    seen: Any,  # addresses of the batch's observations and final ones, and of the rollout's [T, B, d]
    final: Any,
    kept: Any,
    octet: Any,  # whether the batch's are bytes, and the rollout's
    kept_octet: Any,
    d: Any,
    choices: Any,  # the batch's arrays, one row an agent
    numbers: Any,
    legal: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
    ended: Any,
    returns: Any,
    lengths: Any,
    chosen: Any,  # the rollout's, [T, B, ...]
    numbered: Any,
    masks: Any,
    earned: Any,
    begun: Any,
    worth: Any,
    log_probs: Any,
    finished: Any,  # float64 [T, B, 2]: return and length of episodes that ended
    starts: Any,  # bool [B]: whose episode begins with what is seen now
    last: Any,  # float32 [B]: what is seen at the end is worth
    count: Any,  # n or k, and the bounds of continuous actions, float32 [2, k]
    bounds: Any,
    statistics: Any,  # of observations, float64 [3, d], and of discounted returns, [3, 1]; or [3, 0]
    paid: Any,
    running: Any,  # float64 [B], discounted returns so far
    gamma: Any,
    fading: Any,  # the discount of `running`
    key: Any,
    counter: Any,
    bits: Any,  # of the counter that count the numbers of one row
    layers: Any,
    buffers: Any,
    weights: Any,
    turned: Any,
    work: Any,
    outputs: Any,  # which buffers hold logits and values, and where log_std lies
    sparse: Any,
    spent: Any,  # int64 [2]: cycles in the worlds' steps, and in all
) -> Any:
    """Act and step for T steps; return 0, or the outcome of the step that failed."""
    start = cycles()
    horizon, rows = earned.shape
    everyone, late = np.arange(rows), np.zeros(rows, np.int64)
    cells = TILE * d if sparse else 0
    at, places, values = np.zeros((TILE, 2), np.int64), np.zeros(cells + 1, np.int32), np.zeros(cells + 1, np.float32)
    inputs, logits = tile_of(work, buffers, 0), tile_of(work, buffers, outputs[0])
    value = tile_of(work, buffers, outputs[1])
    free = np.ones(logits.shape[1], masks.dtype)
    bytes_each = 1 if kept_octet else 4
    turn(layers, weights, turned)
    for t in range(horizon + 1):
        for low in range(0, rows, TILE):
            high = min(low + TILE, rows)
            show(seen, octet, d, low, high, everyone, statistics, inputs)
            if t < horizon:
                keep(kept + t * rows * d * bytes_each, kept_octet, d, low, high, inputs)
            if sparse:
                find(inputs[: high - low, :d], at, places, values)
            forward(high - low, layers, buffers, weights, turned, work, sparse, at, places, values)
            for r in range(high - low):
                row = low + r
                if t == horizon:
                    last[row] = value[r, 0]
                    continue
                worth[t, row] = value[r, 0]
                own = free
                if legal.shape[1]:
                    masks[t, row] = legal[row]
                    own = masks[t, row]
                place = counter + (np.uint64(t * rows + row) << bits)
                log_probs[t, row] = choose(
                    logits[r], own, weights, outputs, count, key, place, chosen[t, row], numbered[t, row]
                )
                choices[row] = chosen[t, row]
                for j in range(numbers.shape[1]):
                    numbers[row, j] = min(max(numbered[t, row, j], bounds[0, j]), bounds[1, j])
        if t == horizon:
            break
        entered = cycles()
        outcome = call(step, 0, len(ended), batch)
        spent[0] += cycles() - entered
        if outcome < 0:
            return outcome
        if statistics.shape[1]:
            if octet:
                note(octets(seen, rows * d).reshape(rows, d), statistics)
            else:
                note(floats(seen, rows * d).reshape(rows, d), statistics)
        per = rows // len(ended)
        if paid.shape[1]:
            for row in range(rows):
                running[row] = running[row] * fading + rewards[row]
            note(running.reshape(rows, 1), paid)
        waiting = 0
        for row in range(rows):
            world = row // per
            reward = rewards[row]
            if paid.shape[1]:
                scaled = reward / math.sqrt(paid[1, 0] + 1e-8)
                reward = np.float32(min(max(scaled, -10.0), 10.0))
            earned[t, row] = reward
            begun[t, row] = starts[row]
            starts[row] = ended[world]
            finished[t, row, 1] = 0.0
            if ended[world]:
                running[row] = 0.0
                finished[t, row, 0], finished[t, row, 1] = returns[row], lengths[world]
                if truncated[world] and not terminated[world]:
                    late[waiting] = row
                    waiting += 1
        for low in range(0, waiting, TILE):
            high = min(low + TILE, waiting)
            show(final, octet, d, low, high, late, statistics, inputs)
            if sparse:
                find(inputs[: high - low, :d], at, places, values)
            forward(high - low, layers, buffers, weights, turned, work, sparse, at, places, values)
            for r in range(high - low):
                earned[t, late[low + r]] += np.float32(gamma) * value[r, 0]
    spent[1] = cycles() - start
    return 0


@jit
def act(
    seen: Any,  # float32 [B, d]
    legal: Any,
    choices: Any,
    numbers: Any,
    worth: Any,
    log_probs: Any,
    count: Any,
    key: Any,
    counter: Any,
    bits: Any,
    layers: Any,
    buffers: Any,
    weights: Any,
    turned: Any,
    work: Any,
    outputs: Any,
    sparse: Any,
) -> None:
    """Act once for rows whose world steps elsewhere: actions, values and log probabilities, as `collect` does."""
    rows, d = seen.shape
    cells = TILE * d if sparse else 0
    at, places, values = np.zeros((TILE, 2), np.int64), np.zeros(cells + 1, np.int32), np.zeros(cells + 1, np.float32)
    inputs, logits = tile_of(work, buffers, 0), tile_of(work, buffers, outputs[0])
    value = tile_of(work, buffers, outputs[1])
    free = np.ones(logits.shape[1], legal.dtype)
    turn(layers, weights, turned)
    for low in range(0, rows, TILE):
        high = min(low + TILE, rows)
        inputs[: high - low, :d] = seen[low:high]
        if sparse:
            find(inputs[: high - low, :d], at, places, values)
        forward(high - low, layers, buffers, weights, turned, work, sparse, at, places, values)
        for r in range(high - low):
            row = low + r
            worth[row] = value[r, 0]
            own = legal[row] if legal.shape[1] else free
            place = counter + (np.uint64(row) << bits)
            log_probs[row] = choose(logits[r], own, weights, outputs, count, key, place, choices[row], numbers[row])


@jit
def advantages(
    earned: Any, worth: Any, begun: Any, last: Any, over: Any, gamma: Any, decay: Any, gains: Any, returns: Any
) -> None:
    """GAE: gains and returns, float32 [T, B], from rewards, values and who begins; `last`, `over` [B] end the rollout.

    Source: Schulman et al. 2016
    """
    discount, both = np.float32(gamma), np.float32(gamma * decay)
    gained = np.zeros(len(last), np.float32)
    for t in range(len(earned) - 1, -1, -1):
        for row in range(len(last)):
            end = t == len(earned) - 1
            alive = ONE - (np.float32(over[row]) if end else begun[t + 1, row])
            after = last[row] if end else worth[t + 1, row]
            error = earned[t, row] + discount * after * alive - worth[t, row]
            gained[row] = error + both * alive * gained[row]
            gains[t, row] = gained[row]
            returns[t, row] = gained[row] + worth[t, row]


@outlined
def lose_discrete(
    logits: Any,
    slope: Any,
    legal: Any,
    action: Any,
    old: Any,
    gain: Any,
    clip: Any,
    entropy_weight: Any,
    share: Any,
    report: Any,
) -> None:
    """Loss of one row, and its gradient by the logits [n], both times `share`, one part in M."""
    n = len(logits)
    highest = np.float32(-np.inf)
    for k in range(n):
        if legal[k]:
            highest = max(highest, logits[k])
    total = ZERO
    for k in range(n):
        slope[k] = ZERO
        if legal[k]:
            slope[k] = math.exp(logits[k] - highest)
            total += slope[k]
    normal = highest + np.float32(math.log(total))
    entropy = ZERO
    for k in range(n):
        if legal[k]:
            slope[k] /= total
            entropy -= slope[k] * (logits[k] - normal)
    ratio_log = logits[action] - normal - old
    push = weigh(ratio_log, gain, clip, share, report)
    report[ENTROPY_LOSS] -= entropy
    for k in range(n):
        if legal[k]:
            probability = slope[k]
            by_entropy = entropy_weight * share * probability * (logits[k] - normal + entropy)
            slope[k] = by_entropy - push * probability + (push if k == action else ZERO)


@outlined
def lose_continuous(
    mean: Any,
    slope: Any,
    log_std: Any,
    by_std: Any,
    action: Any,
    old: Any,
    gain: Any,
    clip: Any,
    entropy_weight: Any,
    share: Any,
    report: Any,
) -> None:
    """Loss of one row, and its gradients by mean [k] and, added, by log_std [k], times `share`."""
    log_prob, entropy = ZERO, ZERO
    for j in range(len(action)):
        z = (action[j] - mean[j]) / math.exp(log_std[j])
        log_prob -= np.float32(0.5) * z * z + log_std[j] + LOG_TAU
        entropy += np.float32(0.5) + LOG_TAU + log_std[j]
    push = weigh(log_prob - old, gain, clip, share, report)
    report[ENTROPY_LOSS] -= entropy
    for j in range(len(action)):
        std = math.exp(log_std[j])
        z = (action[j] - mean[j]) / std
        slope[j] = push * z / std
        by_std[j] += push * (z * z - ONE) - entropy_weight * share


@outlined
def weigh(ratio_log: Any, gain: Any, clip: Any, share: Any, report: Any) -> Any:
    """Note the clipped loss of one row, and return its gradient by the log probability, times `share`."""
    ratio = np.float32(math.exp(ratio_log))
    free, held = ratio * gain, min(max(ratio, ONE - clip), ONE + clip) * gain
    report[POLICY_LOSS] -= min(free, held)
    report[APPROX_KL] += ratio - ONE - ratio_log
    report[CLIPPED] += abs(ratio - ONE) > clip
    return -share * gain * ratio if free <= held else ZERO


@jit
def update(
    settings: Any,
    seen: Any,  # address of the rollout's observations [R, d], and whether they are bytes
    octet: Any,
    d: Any,
    starts: Any,  # its rows by what is not zero, if they are sparse
    places: Any,
    values: Any,
    chosen: Any,  # [R, 1]
    numbered: Any,  # [R, k]
    masks: Any,
    old: Any,
    gains: Any,
    returns: Any,
    order: Any,  # int64 [epochs, rows]
    until: Any,  # no minibatch begins at this row or later
    size: Any,
    layers: Any,
    buffers: Any,
    weights: Any,
    turned: Any,
    work: Any,
    slope: Any,
    slopes: Any,
    first: Any,
    second: Any,
    outputs: Any,
    count: Any,  # n or k
    report: Any,  # float64 [9]
) -> None:
    """Epochs over minibatches of `size` rows in this order; what becomes of them is in the report."""
    sparse = len(starts) > 0
    nothing = np.zeros((3, 0))
    inputs, logits = tile_of(work, buffers, 0), tile_of(work, buffers, outputs[0])
    value = tile_of(work, buffers, outputs[1])
    by_logits, by_value = tile_of(slope, buffers, outputs[0]), tile_of(slope, buffers, outputs[1])
    at = np.zeros((TILE, 2), np.int64)
    free = np.ones(logits.shape[1], masks.dtype)
    clip, entropy_weight = np.float32(settings[CLIP]), np.float32(settings[ENTROPY])
    value_weight = np.float32(2.0 * settings[VALUE])
    batch = np.zeros(9)
    report[:] = 0.0
    minibatches = 0
    for epoch in range(len(order)):
        kl, in_epoch = 0.0, 0  # the divergence is reported for the last epoch alone
        rows = order.shape[1]
        for begin in range(0, until, size):
            m = min(size, rows - begin)
            share = ONE / np.float32(m)
            center, deviation = 0.0, 1.0
            if settings[NORMALIZE] and m > 1:
                for i in range(begin, begin + m):
                    center += gains[order[epoch, i]]
                center /= m
                deviation = 0.0
                for i in range(begin, begin + m):
                    deviation += (gains[order[epoch, i]] - center) ** 2
                deviation = math.sqrt(deviation / (m - 1)) + 1e-8
            batch[:] = 0.0
            slopes[: len(weights)] = ZERO
            turn(layers, weights, turned)
            for low in range(begin, begin + m, TILE):
                high = min(low + TILE, begin + m)
                if sparse:
                    for r in range(high - low):
                        row = order[epoch, low + r]
                        at[r, 0], at[r, 1] = starts[row], starts[row + 1]
                else:
                    show(seen, octet, d, low, high, order[epoch], nothing, inputs)
                forward(high - low, layers, buffers, weights, turned, work, sparse, at, places, values)
                for r in range(high - low):
                    row = order[epoch, low + r]
                    gain = np.float32((gains[row] - center) / deviation)
                    if chosen.shape[1]:
                        own = masks[row] if masks.shape[1] else free
                        policy, slopes_here = logits[r, :count], by_logits[r, :count]
                        lose_discrete(
                            policy, slopes_here, own, chosen[row, 0], old[row], gain, clip, entropy_weight, share, batch
                        )
                    else:
                        spread, by_spread = weights[outputs[2] :][:count], slopes[outputs[2] :][:count]
                        lose_continuous(
                            logits[r],
                            by_logits[r],
                            spread,
                            by_spread,
                            numbered[row],
                            old[row],
                            gain,
                            clip,
                            entropy_weight,
                            share,
                            batch,
                        )
                    error = value[r, 0] - returns[row]
                    batch[VALUE_LOSS] += np.float64(error) * np.float64(error)
                    by_value[r, 0] = value_weight * share * error
                backward(high - low, layers, buffers, weights, turned, work, slope, slopes, sparse, at, places, values)
            minibatches += 1
            for k in range(APPROX_KL + 1):
                batch[k] /= m
                report[k] += batch[k]
            kl, in_epoch = kl + batch[APPROX_KL], in_epoch + 1
            loss = batch[POLICY_LOSS] + settings[ENTROPY] * batch[ENTROPY_LOSS] + settings[VALUE] * batch[VALUE_LOSS]
            report[LOSS] = loss
            report[APPROX_KL] = kl / in_epoch
            report[EPOCHS] = epoch + 1
            if batch[APPROX_KL] > 1.5 * settings[KL]:
                finish(report, minibatches)
                return
            taken = settings[TAKEN] + report[STEPS] + 1
            if not descend(weights, slopes, first, second, settings, taken):
                report[FAILED] = minibatches
                return
            report[STEPS] += 1
    finish(report, minibatches)


@outlined
def finish(report: Any, minibatches: Any) -> None:
    """Turn sums over minibatches into means."""
    for k in range(CLIPPED + 1):
        report[k] /= minibatches
