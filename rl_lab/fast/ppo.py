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
    ADDRESSES,
    APPROX_KL,
    AT_BACKWARD,
    AT_FORWARD,
    AT_PLACES,
    AT_SLOPES,
    AT_STARTS,
    AT_VALUES,
    AT_WEIGHTS,
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
    SHARD,
    STEPS,
    TAKEN,
    TILE,
    VALUE,
    VALUE_LOSS,
)

if TYPE_CHECKING:
    from rl_lab.compiler import jit, outlined
    from rl_lab.rng import philox

    from .parameters import descend, fold
    from .rows import (
        copy,
        find_octets,
        floats,
        forward,
        fraction,
        keep,
        list_nonzero,
        list_nonzero_octets,
        octets,
        show,
        slope_of,
        step_worlds,
        tile_of,
        turn,
        words,
    )
    from .team import call_off, meet

    call: Any
    cycles: Any
    fetch: Any
HALF = np.uint64(32)
LOG_TAU = np.float32(0.5 * math.log(2.0 * math.pi))
ONE, ZERO = np.float32(1.0), np.float32(0.0)


@jit
def find_all(seen: Any, octet: Any, rows: Any, d: Any, starts: Any, places: Any, values: Any) -> None:
    """Note what is not zero in [R, d] at an address: row r has places and values [starts[r]:starts[r + 1]].

    These have room for one more than there are.
    """
    for r in range(rows):
        if octet:
            starts[r + 1] = list_nonzero_octets(seen + r * d, d, starts[r], places, values)
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
    limit = fraction(drawn) * total
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
        u, v = fraction(drawn), fraction(drawn >> HALF)
        z = np.float32(math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(2.0 * math.pi * v))
        taken[j] = mean[j] + math.exp(log_std[j]) * z
        z = (taken[j] - mean[j]) / math.exp(log_std[j])
        log_prob -= np.float32(0.5) * z * z + log_std[j] + LOG_TAU
    return log_prob


@outlined
def choose(
    logits: Any, legal: Any, net: Any, outputs: Any, count: Any, key: Any, counter: Any, choice: Any, numbers: Any
) -> Any:
    """Draw an action of either kind; return its log probability. `count` is n or k."""
    if len(choice):
        return choose_discrete(logits[:count], legal, philox(key, counter), choice)
    log_std = floats(words(net, ADDRESSES)[AT_WEIGHTS] + 4 * outputs[2], count)
    return choose_continuous(logits, log_std, key, counter, numbers)


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
    rank: Any,
    ranks: Any,
    team: Any,
    bounds: Any,  # int64 [ranks + 1]: which worlds are whose
    batch: Any,  # address of the header of the worlds
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
    count: Any,  # n or k, and the limits of continuous actions, float32 [2, k]
    limits: Any,
    statistics: Any,  # of observations, float64 [3, d], and of discounted returns, [3, 1]; or [3, 0]
    paid: Any,
    running: Any,  # float64 [B], discounted returns so far
    gamma: Any,
    fading: Any,  # the discount of `running`
    key: Any,
    counter: Any,
    bits: Any,  # of the counter that count the numbers of one row
    nets: Any,  # int64 [ranks, ADDRESSES]
    outputs: Any,  # which buffers hold logits and values, and where log_std lies
    sparse: Any,
    spent: Any,  # int64 [2]: cycles in the worlds' steps, and in all
) -> Any:
    """Act and step for T steps; return 0, or the outcome of the step that failed.

    Each thread has worlds of its own, and what they do depends on no other, but for running statistics.
    """
    start, stepping = cycles(), 0
    horizon, rows = earned.shape
    per = rows // len(ended)
    lowest, highest = bounds[rank] * per, bounds[rank + 1] * per
    everyone, late = np.arange(rows), np.zeros(highest - lowest, np.int64)
    net = nets[rank].ctypes.data
    inputs, logits, value = tile_of(net, 0), tile_of(net, outputs[0]), tile_of(net, outputs[1])
    free = np.ones(logits.shape[1], masks.dtype)
    bytes_each = 1 if kept_octet else 4
    scaled = statistics.shape[1] + paid.shape[1] > 0
    turn(net)
    for t in range(horizon + 1):
        for low in range(lowest, highest, TILE):
            high = min(low + TILE, highest)
            show(seen, octet, d, low, high, everyone, statistics, inputs)
            if t < horizon:
                keep(kept + t * rows * d * bytes_each, kept_octet, d, low, high, inputs)
            if sparse and octet and not statistics.shape[1]:
                find_octets(seen + low * d, high - low, d, net)
                call(words(net, ADDRESSES)[AT_FORWARD], high - low, 1, net)
            else:
                forward(high - low, d, sparse, net)
            for r in range(high - low):
                row = low + r
                if t == horizon:
                    last[row] = value[r, 0]
                    continue
                worth[t, row] = value[r, 0]
                own = free
                if legal.shape[1]:
                    copy(masks[t, row], legal[row])
                    own = masks[t, row]
                place = counter + (np.uint64(t * rows + row) << bits)
                log_probs[t, row] = choose(
                    logits[r], own, net, outputs, count, key, place, chosen[t, row], numbered[t, row]
                )
                copy(choices[row], chosen[t, row])
                for j in range(numbers.shape[1]):
                    numbers[row, j] = min(max(numbered[t, row, j], limits[0, j]), limits[1, j])
        if t == horizon:
            break
        entered = cycles()
        outcome = step_worlds(bounds[rank], bounds[rank + 1], batch)
        stepping += cycles() - entered
        if outcome < 0:
            call_off(team)
            return outcome
        if paid.shape[1]:
            for row in range(lowest, highest):
                running[row] = running[row] * fading + rewards[row]
        if scaled:  # one thread counts for all, while they wait
            if not meet(ranks, team):
                return 0
            if rank == 0 and statistics.shape[1]:
                if octet:
                    note(octets(seen, rows * d).reshape(rows, d), statistics)
                else:
                    note(floats(seen, rows * d).reshape(rows, d), statistics)
            if rank == 0 and paid.shape[1]:
                note(running.reshape(rows, 1), paid)
            if not meet(ranks, team):
                return 0
        waiting = 0
        for row in range(lowest, highest):
            world = row // per
            reward = rewards[row]
            if paid.shape[1]:
                fair = reward / math.sqrt(paid[1, 0] + 1e-8)
                reward = np.float32(min(max(fair, -10.0), 10.0))
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
            forward(high - low, d, sparse, net)
            for r in range(high - low):
                earned[t, late[low + r]] += np.float32(gamma) * value[r, 0]
    if rank == 0:
        spent[0], spent[1] = stepping, cycles() - start
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
    nets: Any,
    outputs: Any,
    sparse: Any,
) -> None:
    """Act once for rows whose world steps elsewhere: actions, values and log probabilities, as `collect` does."""
    rows, d = seen.shape
    net = nets.ctypes.data
    inputs, logits, value = tile_of(net, 0), tile_of(net, outputs[0]), tile_of(net, outputs[1])
    free = np.ones(logits.shape[1], legal.dtype)
    turn(net)
    for low in range(0, rows, TILE):
        high = min(low + TILE, rows)
        for r in range(high - low):
            copy(inputs[r, :d], seen[low + r])
        forward(high - low, d, sparse, net)
        for r in range(high - low):
            row = low + r
            worth[row] = value[r, 0]
            own = legal[row] if legal.shape[1] else free
            place = counter + (np.uint64(row) << bits)
            log_probs[row] = choose(logits[r], own, net, outputs, count, key, place, choices[row], numbers[row])


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


@outlined
def standardise(gains: Any, which: Any) -> Any:
    """Return the mean of gains[which], and their deviation."""
    m = len(which)
    center, spread = 0.0, 0.0
    for i in which:
        center += gains[i]
    center /= m
    for i in which:
        spread += (gains[i] - center) ** 2
    return center, math.sqrt(spread / (m - 1)) + 1e-8


@outlined
def learn_from(
    which: Any,  # int64 [M]: rows of the rollout; the others as for `update`
    settings: Any,
    center: Any,
    deviation: Any,
    share: Any,
    seen: Any,
    octet: Any,
    d: Any,
    starts: Any,
    chosen: Any,
    numbered: Any,
    masks: Any,
    old: Any,
    gains: Any,
    returns: Any,
    net: Any,
    outputs: Any,
    count: Any,
    report: Any,
) -> None:
    """Add to the gradient, and to the report, what some rows of a minibatch say."""
    at = words(net, ADDRESSES)
    inputs, logits, value = tile_of(net, 0), tile_of(net, outputs[0]), tile_of(net, outputs[1])
    by_logits, by_value = slope_of(net, outputs[0]), slope_of(net, outputs[1])
    found = words(at[AT_STARTS], 2 * TILE).reshape(TILE, 2)
    sparse, nothing, free = len(starts) > 0, np.zeros((3, 0)), np.ones(logits.shape[1], masks.dtype)
    spread, by_spread = floats(at[AT_WEIGHTS] + 4 * outputs[2], count), floats(at[AT_SLOPES] + 4 * outputs[2], count)
    clip, entropy = np.float32(settings[CLIP]), np.float32(settings[ENTROPY])
    value_weight = np.float32(2.0 * settings[VALUE])
    for low in range(0, len(which), TILE):
        high = min(low + TILE, len(which))
        if sparse:
            for r in range(high - low):
                row = which[low + r]
                found[r, 0], found[r, 1] = starts[row], starts[row + 1]
                for memory in (at[AT_PLACES], at[AT_VALUES]):  # rows come in random order: nobody else foresees them
                    fetch(memory + 4 * found[r, 0], 4 * (found[r, 1] - found[r, 0]))
        else:
            show(seen, octet, d, low, high, which, nothing, inputs)
        call(at[AT_FORWARD], high - low, np.int64(sparse), net)
        for r in range(high - low):
            row = which[low + r]
            gain = np.float32((gains[row] - center) / deviation)
            if chosen.shape[1]:
                own = masks[row] if masks.shape[1] else free
                policy, slope = logits[r, :count], by_logits[r, :count]
                lose_discrete(policy, slope, own, chosen[row, 0], old[row], gain, clip, entropy, share, report)
            else:
                mean, slope, action = logits[r], by_logits[r], numbered[row]
                lose_continuous(mean, slope, spread, by_spread, action, old[row], gain, clip, entropy, share, report)
            error = value[r, 0] - returns[row]
            report[VALUE_LOSS] += np.float64(error) * np.float64(error)
            by_value[r, 0] = value_weight * share * error
        call(at[AT_BACKWARD], high - low, np.int64(sparse), net)


@jit
def update(
    rank: Any,
    ranks: Any,
    team: Any,
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
    nets: Any,  # int64 [ranks, ADDRESSES]
    weights: Any,
    slopes: Any,  # float32 [shards, n]
    first: Any,
    second: Any,
    outputs: Any,
    count: Any,  # n or k
    parts: Any,  # float64 [shards, 9] and [SHARDS]: what threads tell each other
    norms: Any,
    report: Any,  # float64 [9]
) -> None:
    """Epochs over minibatches of `size` rows in this order; what becomes of them is in the report.

    All threads are in step, and come to the same decisions from what they tell each other. A minibatch is cut into
    shards, however many threads there are to share them: their number changes no result.
    """
    mine = nets[rank].copy()  # a table that has the rollout's lists of what is not zero, and the shard's gradient
    net = mine.ctypes.data
    mine[AT_PLACES], mine[AT_VALUES] = places.ctypes.data, values.ctypes.data
    total, batch, taken = np.zeros(9), np.zeros(9), settings[TAKEN]
    minibatches, rows = 0, order.shape[1]
    for epoch in range(len(order)):
        kl, in_epoch = 0.0, 0  # the divergence is reported for the last epoch alone
        for begin in range(0, until, size):
            m = min(size, rows - begin)
            which = order[epoch, begin : begin + m]
            center, deviation = 0.0, 1.0
            if settings[NORMALIZE] and m > 1:
                center, deviation = standardise(gains, which)
            turn(net)
            shards = min(len(slopes), max(m // SHARD, 1))
            long = -(-m // shards)
            for shard in range(rank, shards, ranks):
                slopes[shard] = ZERO
                parts[shard] = 0.0
                mine[AT_SLOPES] = slopes[shard].ctypes.data
                learn_from(
                    which[shard * long : min((shard + 1) * long, m)],
                    settings,
                    center,
                    deviation,
                    ONE / np.float32(m),
                    seen,
                    octet,
                    d,
                    starts,
                    chosen,
                    numbered,
                    masks,
                    old,
                    gains,
                    returns,
                    net,
                    outputs,
                    count,
                    parts[shard],
                )
            used = fold(rank, ranks, slopes[:shards])
            if not meet(ranks, team):
                return
            minibatches += 1
            batch[:] = 0.0
            for k in range(APPROX_KL + 1):
                for shard in range(shards):
                    batch[k] += parts[shard, k]
                batch[k] /= m
                total[k] += batch[k]
            kl, in_epoch = kl + batch[APPROX_KL], in_epoch + 1
            total[LOSS] = batch[POLICY_LOSS] + settings[ENTROPY] * batch[ENTROPY_LOSS]
            total[LOSS] += settings[VALUE] * batch[VALUE_LOSS]
            total[APPROX_KL] = kl / in_epoch
            total[EPOCHS] = epoch + 1
            if batch[APPROX_KL] > 1.5 * settings[KL]:
                finish(rank, total, minibatches, report)
                return
            if not descend(
                rank, ranks, team, weights, slopes[:used], first, second, settings, taken + total[STEPS] + 1, norms
            ):
                total[FAILED] = minibatches
                finish(rank, total, minibatches, report)
                return
            total[STEPS] += 1
    finish(rank, total, minibatches, report)


@outlined
def finish(rank: Any, total: Any, minibatches: Any, report: Any) -> None:
    """Report means of what was summed over minibatches."""
    if rank == 0:
        copy(report, total)
        for k in range(CLIPPED + 1):
            report[k] /= minibatches
