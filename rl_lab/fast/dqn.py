"""DQN in compiled code: worlds, replay and gradient steps in turn, without Python in between.

Not imported as it stands: see `kernels.py`. What a gradient step computes is what Stable-Baselines3's DQN does; double
Q-learning, n-step returns and prioritised replay are options. Shapes: B rows (of N worlds), S slots of the replay
buffer, M transitions of a minibatch, n actions, d numbers of an observation.

Source: Mnih et al. 2015; van Hasselt et al. 2016 (double); Schaul et al. 2016 (prioritised)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_lab.fast.plan import (
    AT_BACKWARD,
    CALLS,
    CORRECTION,
    DISCOUNT,
    DOUBLE,
    EVERY,
    EXPLORE_FIRST,
    EXPLORE_LAST,
    EXPLORE_SHARE,
    FILLED,
    FRESHEN,
    GRADIENTS,
    LOSSES,
    MINIBATCH,
    NSTEP,
    POSITION,
    PRIORITY,
    SEEN,
    STARTS,
    TAKEN,
    TAU,
    TILE,
    TOTAL,
    UPDATES,
    WORST,
)

if TYPE_CHECKING:
    from rl_lab.compiler import jit, outlined
    from rl_lab.rng import philox

    from .parameters import descend
    from .rows import LOW_BITS, forward, fraction, keep, show, slope_of, step_worlds, tile_of, turn

    call: Any
    cycles: Any

HALF = np.uint64(32)
FORBIDDEN = np.float32(-np.inf)
LEAST = 1e-6  # added to an error that becomes a priority


@outlined
def below(n: Any, key: Any, counter: Any) -> Any:
    """Return a random integer in 0..n-1."""
    return np.int64(((philox(key, counter) & LOW_BITS) * np.uint64(n)) >> HALF)


@outlined
def best(values: Any, legal: Any, count: Any) -> Any:
    """Return the legal action of the highest value; -1 where none is legal."""
    choice, highest = -1, FORBIDDEN
    for k in range(count):
        if legal[k] and (choice < 0 or values[k] > highest):
            choice, highest = k, values[k]
    return choice


@outlined
def explore(settings: Any, counters: Any) -> Any:
    """Return the probability of a random action now: linear over the first share of all steps."""
    passed = counters[SEEN] / settings[TOTAL]
    if passed > settings[EXPLORE_SHARE]:
        return settings[EXPLORE_LAST]
    slope = (settings[EXPLORE_LAST] - settings[EXPLORE_FIRST]) / settings[EXPLORE_SHARE]
    return settings[EXPLORE_FIRST] + passed * slope


@outlined
def set_priority(tree: Any, slot: Any, priority: Any) -> None:
    """Write a leaf of the sum tree, float64 [2 * leaves], and its ancestors."""
    node = len(tree) // 2 + slot
    tree[node] = priority
    while node > 1:
        node //= 2
        tree[node] = tree[2 * node] + tree[2 * node + 1]


@outlined
def by_priority(tree: Any, share: Any) -> Any:
    """Return the leaf at which the running sum of priorities passes this share of their sum."""
    node, left = 1, share * tree[1]
    while node < len(tree) // 2:
        node *= 2
        if left >= tree[node] and tree[node + 1] > 0:
            left -= tree[node]
            node += 1
    return node - len(tree) // 2


@outlined
def follow(
    slot: Any, row: Any, steps: Any, gamma: Any, position: Any, filled: Any, earned: Any, over: Any, late: Any
) -> Any:
    """Return the discounted rewards of up to `steps` steps from here, the last one's slot and its discount."""
    total, discount, slots = 0.0, 1.0, len(earned)
    for k in range(steps):
        total += discount * earned[slot, row]
        discount *= gamma
        after = (slot + 1) % slots
        if over[slot, row] or late[slot, row] or after == position or after >= filled or k == steps - 1:
            break
        slot = after
    return total, slot, discount


@jit
def improve(
    gradients: Any,  # how many steps
    counters: Any,
    settings: Any,
    report: Any,
    before: Any,  # addresses of the replay buffer's observations and next ones [S, B, d]
    after: Any,
    octet: Any,
    d: Any,
    chosen: Any,  # the replay buffer's, [S, B, ...]
    earned: Any,
    over: Any,
    late: Any,
    acted: Any,
    next_legal: Any,
    tree: Any,
    picked: Any,  # int64 [M, 2]: slots and rows that are drawn
    key: Any,
    count: Any,
    nets: Any,  # int64 [1, ADDRESSES], of the network and of its target
    targets: Any,
    weights: Any,
    target: Any,
    slopes: Any,
    first: Any,
    second: Any,
    norms: Any,  # float64 [SHARDS], for `descend`
    output: Any,
    sparse: Any,
) -> Any:
    """Take gradient steps on the Huber loss; return False where a gradient was not finite and nothing changed."""
    size, gamma, steps = int(settings[MINIBATCH]), settings[DISCOUNT], int(settings[NSTEP])
    rows, filled, position = earned.shape[1], counters[FILLED], counters[POSITION]
    net, backward = nets.ctypes.data, nets[0, AT_BACKWARD]
    inputs, values, by_values = tile_of(net, 0), tile_of(net, output), slope_of(net, output)
    none = np.zeros((3, 0))
    free = np.ones(values.shape[1], np.uint8)
    here, there, wanted = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size)
    sums, discounts, share = np.zeros(size), np.zeros(size), np.ones(size)
    greedy = np.zeros(size, np.int64)
    use_tree = len(tree) > 0
    correction = settings[CORRECTION] + (1.0 - settings[CORRECTION]) * min(counters[SEEN] / settings[TOTAL], 1.0)
    turn(targets.ctypes.data)
    for _ in range(gradients):
        place = np.uint64(counters[UPDATES]) << np.uint64(24)
        turn(net)
        heaviest = 0.0
        for i in range(size):
            for attempt in range(1000):  # a row that did not act is no experience
                one = place + np.uint64(2 * (i + size * attempt))
                if use_tree:
                    leaf = by_priority(tree, (i + fraction(philox(key, one))) / size)
                    picked[i, 0], picked[i, 1] = leaf // rows, leaf % rows
                else:
                    picked[i, 0] = below(filled, key, one)
                    picked[i, 1] = below(rows, key, one + np.uint64(1))
                if acted.shape[1] == 0 or acted[picked[i, 0], picked[i, 1]]:
                    break
            slot, row = picked[i, 0], picked[i, 1]
            here[i] = slot * rows + row
            sums[i], last, discounts[i] = follow(slot, row, steps, gamma, position, filled, earned, over, late)
            there[i] = last * rows + row
            if over[last, row] and not late[last, row]:
                discounts[i] = 0.0
            if use_tree:
                chance = tree[len(tree) // 2 + here[i]] / tree[1]
                share[i] = (filled * rows * chance) ** -correction
                heaviest = max(heaviest, share[i])
        for stage in range(0 if settings[DOUBLE] else 1, 2):  # who chooses the next action, and what it is worth
            judge = net if stage == 0 else targets.ctypes.data
            asked, answers = tile_of(judge, 0), tile_of(judge, output)
            for low in range(0, size, TILE):
                high = min(low + TILE, size)
                show(after, octet, d, low, high, there, none, asked)
                forward(high - low, d, sparse, judge)
                for r in range(high - low):
                    i = low + r
                    own = next_legal[there[i] // rows, there[i] % rows] if next_legal.shape[2] else free
                    if stage == 0 or not settings[DOUBLE]:
                        greedy[i] = best(answers[r], own, count)
                    if stage == 1:
                        wanted[i] = sums[i]
                        if discounts[i] > 0 and greedy[i] >= 0:
                            wanted[i] += discounts[i] * answers[r, greedy[i]]
        slopes[0] = np.float32(0.0)
        loss = 0.0
        for low in range(0, size, TILE):
            high = min(low + TILE, size)
            show(before, octet, d, low, high, here, none, inputs)
            forward(high - low, d, sparse, net)
            for r in range(high - low):
                i = low + r
                action = chosen[here[i] // rows, here[i] % rows, 0]
                error = values[r, action] - np.float32(wanted[i])
                part = share[i] / heaviest if use_tree else 1.0
                loss += part * (0.5 * error * error if abs(error) < 1 else abs(error) - 0.5)
                for k in range(values.shape[1]):
                    by_values[r, k] = np.float32(0.0)
                by_values[r, action] = np.float32(part / size) * min(max(error, np.float32(-1.0)), np.float32(1.0))
                if use_tree:
                    priority = (abs(np.float64(error)) + LEAST) ** settings[PRIORITY]
                    report[WORST] = max(report[WORST], priority)
                    set_priority(tree, here[i], priority)
            call(backward, high - low, np.int64(sparse), net)
        taken = settings[TAKEN] + 1
        if not math.isfinite(loss) or not descend(0, 1, 0, weights, slopes, first, second, settings, taken, norms):
            return False
        settings[TAKEN] += 1
        counters[UPDATES] += 1
        report[LOSSES] += loss / size
    return True


@jit
def learn(
    until: Any,  # steps of all rows
    batch: Any,  # address of the header of the worlds
    seen: Any,  # addresses of the batch's observations and final ones
    final: Any,
    choices: Any,  # the batch's arrays, one row an agent
    legal: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
    ended: Any,
    returns: Any,
    lengths: Any,
    finished: Any,  # float64 [E, 2]: return and length of the episodes that ended last, and how many there were
    episodes: Any,
    spent: Any,  # int64 [3]: cycles in the worlds' steps, in gradient steps, and in all
    counters: Any,
    settings: Any,
    report: Any,
    before: Any,  # as for `improve`
    after: Any,
    octet: Any,
    d: Any,
    chosen: Any,
    earned: Any,
    over: Any,
    late: Any,
    acted: Any,
    next_legal: Any,
    tree: Any,
    picked: Any,
    key: Any,
    count: Any,
    nets: Any,  # int64 [1, ADDRESSES], of the network and of its target
    targets: Any,
    weights: Any,
    target: Any,
    slopes: Any,
    first: Any,
    second: Any,
    norms: Any,  # float64 [SHARDS], for `descend`
    output: Any,
    sparse: Any,
) -> Any:
    """Act, step, keep and learn until so many steps are taken; return 0, a failed step's outcome, or 1 as `improve`."""
    start = cycles()
    rows, slots = len(rewards), len(earned)
    everyone = np.arange(rows)
    net = nets.ctypes.data
    inputs, values = tile_of(net, 0), tile_of(net, output)
    none = np.zeros((3, 0))
    free = np.ones(values.shape[1], np.uint8)
    each = 1 if octet else 4
    per = rows // len(ended)
    while counters[SEEN] < until:
        turn(net)
        for _ in range(int(settings[EVERY])):
            slot = counters[POSITION]
            chance = 1.0 if counters[SEEN] < settings[STARTS] else explore(settings, counters)
            for low in range(0, rows, TILE):
                high = min(low + TILE, rows)
                show(seen, octet, d, low, high, everyone, none, inputs)
                keep(before + slot * rows * d * each, octet, d, low, high, inputs)
                if chance < 1:
                    forward(high - low, d, sparse, net)
                for r in range(high - low):
                    row = low + r
                    own = legal[row] if legal.shape[1] else free
                    draw = (np.uint64(1) << np.uint64(62)) + (np.uint64(counters[SEEN] + row) << np.uint64(1))
                    if fraction(philox(key, draw)) < chance:
                        allowed = 0
                        for k in range(count):
                            allowed += own[k] != 0
                        rank = below(max(allowed, 1), key, draw + np.uint64(1))
                        choices[row, 0] = 0
                        for k in range(count):
                            if own[k]:
                                if rank == 0:
                                    choices[row, 0] = k
                                rank -= 1
                    else:
                        choices[row, 0] = best(values[r], own, count)
                    chosen[slot, row, 0] = choices[row, 0]
            entered = cycles()
            outcome = step_worlds(0, len(ended), batch)
            spent[0] += cycles() - entered
            if outcome < 0:
                return outcome
            for row in range(rows):
                world = row // per
                done = ended[world]
                earned[slot, row] = rewards[row]
                over[slot, row] = done
                late[slot, row] = truncated[world] and not terminated[world]
                one = everyone[row : row + 1]
                show(final if done else seen, octet, d, 0, 1, one, none, inputs)
                keep(after + (slot * rows + row) * d * each, octet, d, 0, 1, inputs)
                for k in range(next_legal.shape[2]):
                    next_legal[slot, row, k] = 1 if done else legal[row, k]
                if done:
                    finished[episodes[0] % len(finished), 0] = returns[row]
                    finished[episodes[0] % len(finished), 1] = lengths[world]
                    episodes[0] += 1
                if len(tree):
                    set_priority(tree, slot * rows + row, max(report[WORST], LEAST))
            counters[POSITION] = (slot + 1) % slots
            counters[FILLED] = max(counters[FILLED], slot + 1)
            counters[SEEN] += rows
            counters[CALLS] += 1
            if counters[CALLS] % int(settings[FRESHEN]) == 0:
                tau = np.float32(settings[TAU])
                for j in range(len(weights)):
                    target[j] += tau * (weights[j] - target[j])
        if counters[SEEN] > settings[STARTS]:
            entered = cycles()
            sound = improve(
                int(settings[GRADIENTS]),
                counters,
                settings,
                report,
                before,
                after,
                octet,
                d,
                chosen,
                earned,
                over,
                late,
                acted,
                next_legal,
                tree,
                picked,
                key,
                count,
                nets,
                targets,
                weights,
                target,
                slopes,
                first,
                second,
                norms,
                output,
                sparse,
            )
            spent[1] += cycles() - entered
            if not sound:
                return 1
    spent[2] += cycles() - start
    return 0
