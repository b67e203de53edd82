"""The replay buffer in compiled code: transitions are stored, and sampled uniformly or by priority.

A template, executed by `build` before `dqn`: see `engine/template_context.py`. Its functions do what those of
Stable-Baselines3's `ReplayBuffer` and `NStepReplayBuffer` do. A row, one agent of one environment, is what SB3 counts
as an environment in `n_envs`. `dqn.collect_rollouts` stores, which writes slot `pos` of the replay buffer, the
counters, the priority of new transitions, and `ep_info_buffer` where episodes end. `dqn.take_gradient_steps` samples,
which writes the minibatch. The records and their shapes are described in `compiled.dqn_records`; `counters` is a record
of DQN_COUNTERS.

Priorities are the leaves of a binary tree whose inner nodes are the sums of their two children, so that one priority is
changed, or a leaf sampled in proportion to its priority, in as many steps as the tree has levels:

    sums[1]                       the sum of all
    sums[2]           sums[3]     node k has the children 2 k and 2 k + 1
    sums[4]  sums[5]  ...         leaf i is node len(sums) / 2 + i

Source: Schaul et al. 2016 (prioritised)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.dqn_records import DqnEnvArrays, DqnSettings, Minibatch, PriorityTree, ReplayBuffer
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.memory_views import as_f32, as_u8, copy
from rl_lab.learners.compiled.templates.random_numbers import random_integer, unit_uniform

inline, internal = decorators().inline, decorators().internal
philox = primitives().philox
# Gradient step u uses the Philox counters from u * 2**24 on, at most 2 * batch size * MAX_ATTEMPTS of them. Nothing
# enforces this limit: above 8388 transitions in a batch, of which many need many attempts, a gradient step also uses
# numbers of the next one.
UPDATE_SHIFT = np.uint64(24)
MIN_PRIORITY = 1e-6  # added to an error, so that every transition may be sampled again
MAX_ATTEMPTS = 1000  # to find a transition in which the row acted; the last attempt is used in any case


# Storing


@internal
def copy_observations(target: Any, source: Any, is_uint8: Any, size: Any) -> None:
    """Copy `size` numbers, uint8 or float32, from one address to another."""
    if is_uint8:
        copy(as_u8(target, size), as_u8(source, size))
    else:
        copy(as_f32(target, size), as_f32(source, size))


@inline
def store_observations_before(env: DqnEnvArrays, replay: ReplayBuffer, counters: Any) -> None:
    """Copy the observations of all rows to slot `pos`, before the step overwrites them."""
    size = len(env.actions) * replay.obs_size
    slot_bytes = size * (1 if replay.obs_is_uint8 else 4)
    target = replay.observations + counters.pos * slot_bytes
    copy_observations(target, env.observations, replay.obs_is_uint8, size)


@inline
def store_transition(env: DqnEnvArrays, replay: ReplayBuffer, priorities: PriorityTree, counters: Any) -> None:
    """Write each row's reward, end flags, next observation and next action mask to slot `pos`, and advance `pos`.

    It also sets the priority of the new transitions, and records the episodes that have ended in `ep_info_buffer`. The
    slot's observations and actions are already there: `store_observations_before` and `dqn_exploration.sample_actions`
    wrote them before the step. Its `has_complete_transition` is set in Python, see `sb3.dqn`.

    At the end of an episode the next observation is the final one; its legal actions are unknown, so all count as
    legal. See `OffPolicyAlgorithm._store_transition` and `ReplayBuffer.add`.
    """
    pos, num_rows, num_agents = counters.pos, len(env.rewards), len(env.rewards) // len(env.dones)
    rewards, dones, terminated, truncated = env.rewards, env.dones, env.terminated, env.truncated
    action_masks, next_action_masks = env.action_masks, replay.next_action_masks
    stored_rewards, stored_dones, stored_timeouts = replay.rewards, replay.dones, replay.timeouts
    row_bytes = replay.obs_size * (1 if replay.obs_is_uint8 else 4)
    for row in range(num_rows):
        env_index = row // num_agents
        done = dones[env_index]
        stored_rewards[pos, row] = rewards[row]
        stored_dones[pos, row] = done
        stored_timeouts[pos, row] = truncated[env_index] and not terminated[env_index]
        source = env.final_observations if done else env.observations
        target = replay.next_observations + (pos * num_rows + row) * row_bytes
        copy_observations(target, source + row * row_bytes, replay.obs_is_uint8, replay.obs_size)
        for k in range(next_action_masks.shape[2]):
            next_action_masks[pos, row, k] = 1 if done else action_masks[row, k]
        if done:
            record_episode(env, row, env_index, counters)
        if len(priorities.sums):
            set_priority(priorities.sums, pos * num_rows + row, max(priorities.max_priority[0], MIN_PRIORITY))
    counters.pos = (pos + 1) % len(stored_rewards)
    counters.size = max(counters.size, pos + 1)


@internal
def record_episode(env: DqnEnvArrays, row: Any, env_index: Any, counters: Any) -> None:
    """Write the return and the length of a row's episode, which has ended, over the oldest ones in `ep_info_buffer`."""
    oldest = counters.num_episodes % len(env.ep_info_buffer)
    env.ep_info_buffer[oldest, 0] = env.episode_returns[row]
    env.ep_info_buffer[oldest, 1] = env.episode_lengths[env_index]
    counters.num_episodes += 1


# Priorities


@internal
def set_priority(sums: Any, leaf: Any, priority: Any) -> None:
    """Write the priority of a leaf and the sums of its ancestors in the tree `sums`, float64 [2 * leaves]."""
    node = len(sums) // 2 + leaf
    sums[node] = priority
    while node > 1:
        node //= 2
        sums[node] = sums[2 * node] + sums[2 * node + 1]


@internal
def find_leaf(sums: Any, fraction: Any) -> Any:
    """Return the leaf at which the sum of priorities from leaf 0 on passes this fraction, 0 to 1, of their total."""
    node, remaining = 1, fraction * sums[1]
    while node < len(sums) // 2:
        node *= 2
        # The leaf is right of the left child where that child's sum is passed. Rounding may pass the sum of both; the
        # right child is then not entered if its sum is 0, because none of its leaves holds a transition.
        if remaining >= sums[node] and sums[node + 1] > 0:
            remaining -= sums[node]
            node += 1
    return node - len(sums) // 2


@internal
def importance_weights(
    replay: ReplayBuffer, priorities: PriorityTree, minibatch: Minibatch, settings: DqnSettings, counters: Any
) -> None:
    """Write the weights that correct for sampling by priority to minibatch.weights.

    They are (transitions * probability) ** -beta, divided by their maximum; beta rises to 1 by the end of training.
    """
    sums, weights, indices = priorities.sums, minibatch.weights, minibatch.indices
    progress = min(counters.num_timesteps / settings.total_timesteps, 1.0)
    beta = settings.importance_exponent + (1.0 - settings.importance_exponent) * progress
    num_transitions, max_weight = counters.size * replay.rewards.shape[1], 0.0
    for i in range(len(indices)):
        probability = sums[len(sums) // 2 + indices[i]] / sums[1]
        weights[i] = (num_transitions * probability) ** -beta
        max_weight = max(max_weight, weights[i])
    for i in range(len(indices)):
        weights[i] /= max_weight


# Sampling


@inline
def n_step_return(slot: Any, row: Any, replay: ReplayBuffer, n_steps: Any, gamma: Any, pos: Any, size: Any) -> Any:
    """Return the discounted sum of up to `n_steps` rewards, the slot of the last of them, and gamma ** their number.

    The sum begins with the transition in `slot` of `row`; it ends early where the episode does, and at the newest
    transition. `pos` is the slot that is written next, `size` the number of slots that are filled. Steps in which the
    row did not act are left out. See `NStepReplayBuffer._get_samples`.
    """
    rewards, dones, timeouts = replay.rewards, replay.dones, replay.timeouts
    is_complete = replay.has_complete_transition
    total, discount, buffer_size = 0.0, 1.0, len(rewards)
    for k in range(n_steps):
        total += discount * rewards[slot, row]
        discount *= gamma
        if dones[slot, row] or timeouts[slot, row] or k == n_steps - 1:
            break
        next_slot = (slot + 1) % buffer_size
        while is_complete.shape[1] and next_slot != pos and next_slot < size and not is_complete[next_slot, row]:
            next_slot = (next_slot + 1) % buffer_size
        if next_slot == pos or next_slot >= size:
            break
        slot = next_slot
    return total, slot, discount


@internal
def sample_uniformly(replay: ReplayBuffer, minibatch: Minibatch, settings: DqnSettings, counters: Any) -> None:
    """Write random slots and rows of a minibatch, each transition with equal probability; see `ReplayBuffer.sample`.

    If the row did not act in a transition, another one is sampled, up to MAX_ATTEMPTS in all.
    """
    slots, rows, num_rows = minibatch.slots, minibatch.rows, replay.rewards.shape[1]
    is_complete = replay.has_complete_transition
    first_counter = np.uint64(counters.n_updates) << UPDATE_SHIFT
    for i in range(len(slots)):
        for attempt in range(MAX_ATTEMPTS):
            counter = first_counter + np.uint64(2 * (i + len(slots) * attempt))
            slots[i] = random_integer(counters.size, settings.rng_key, counter)
            rows[i] = random_integer(num_rows, settings.rng_key, counter + np.uint64(1)) if num_rows > 1 else 0
            if is_complete.shape[1] == 0 or is_complete[slots[i], rows[i]]:
                break


@internal
def sample_by_priority(
    replay: ReplayBuffer, priorities: PriorityTree, minibatch: Minibatch, settings: DqnSettings, counters: Any
) -> None:
    """Write random slots and rows of a minibatch in proportion to priority: one from each of M equal parts of the sum.

    If the row did not act in a transition, another one is sampled from the same part, up to MAX_ATTEMPTS in all.
    """
    slots, rows, num_rows = minibatch.slots, minibatch.rows, replay.rewards.shape[1]
    is_complete = replay.has_complete_transition
    first_counter, batch_size = np.uint64(counters.n_updates) << UPDATE_SHIFT, len(slots)
    for i in range(batch_size):
        for attempt in range(MAX_ATTEMPTS):
            counter = first_counter + np.uint64(2 * (i + batch_size * attempt))
            fraction = (i + unit_uniform(philox(settings.rng_key, counter))) / batch_size
            leaf = find_leaf(priorities.sums, fraction)
            slots[i], rows[i] = leaf // num_rows, leaf % num_rows
            if is_complete.shape[1] == 0 or is_complete[slots[i], rows[i]]:
                break


@internal
def sample(
    replay: ReplayBuffer, priorities: PriorityTree, minibatch: Minibatch, settings: DqnSettings, counters: Any
) -> None:
    """Sample the transitions of a minibatch; write all of its arrays that do not depend on the networks.

    These are slots, rows, indices, last indices, n-step returns, discounts and importance-sampling weights.
    """
    if len(priorities.sums):
        sample_by_priority(replay, priorities, minibatch, settings, counters)
    else:
        sample_uniformly(replay, minibatch, settings, counters)
    slots, rows, indices, last_indices = minibatch.slots, minibatch.rows, minibatch.indices, minibatch.last_indices
    returns, discounts, num_rows = minibatch.returns, minibatch.discounts, replay.rewards.shape[1]
    dones, timeouts = replay.dones, replay.timeouts
    for i in range(len(slots)):
        row = rows[i]
        indices[i] = slots[i] * num_rows + row
        returns[i], last, discounts[i] = n_step_return(
            slots[i], row, replay, settings.n_steps, settings.gamma, counters.pos, counters.size
        )
        last_indices[i] = last * num_rows + row
        if dones[last, row] and not timeouts[last, row]:
            discounts[i] = 0.0
    if len(priorities.sums):
        importance_weights(replay, priorities, minibatch, settings, counters)
