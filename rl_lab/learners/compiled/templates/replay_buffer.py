"""The replay buffer in compiled code: transitions are stored and sampled, uniformly or by priority.

Its functions are those of Stable-Baselines3's `ReplayBuffer` and `NStepReplayBuffer`. The arguments and their shapes
are described in `rl_lab.learners.compiled.dqn_records`; `counters` is the record of an array of `DQN_COUNTERS`. This
file is not imported as a module: `rl_lab.learners.compiled.build` executes it before `dqn.py`.

Source: Schaul et al. 2016 (prioritised)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.dqn_records import DqnSettings, EnvArrays, Minibatch, PriorityTree, ReplayBuffer
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.tiles import LOW_BITS, as_f32, as_u8, copy, unit_uniform

inline, internal = decorators().inline, decorators().internal
philox = primitives().philox
HALF_WORD = np.uint64(32)
UPDATE_SHIFT = np.uint64(24)  # each gradient step has 2**24 Philox counters
MIN_PRIORITY = 1e-6  # added to an error, so that every transition may be sampled again
MAX_DRAWS = 1000  # attempts to find a transition in which the row acted; the last attempt is used in any case


@internal
def random_integer(n: Any, rng_key: Any, counter: Any) -> Any:
    """Return a random integer from 0 to n - 1, int64; `counter`, uint64, is that of Philox."""
    return np.int64(((philox(rng_key, counter) & LOW_BITS) * np.uint64(n)) >> HALF_WORD)


# -------------------------------------------------------------------------------------------------------------- storing


@internal
def copy_observations(target: Any, source: Any, is_uint8: Any, size: Any) -> None:
    """Copy `size` numbers, uint8 or float32, from one address to another."""
    if is_uint8:
        copy(as_u8(target, size), as_u8(source, size))
    else:
        copy(as_f32(target, size), as_f32(source, size))


@inline
def store_observations_before(env: EnvArrays, replay: ReplayBuffer, counters: Any) -> None:
    """Copy the observations of all rows to slot `pos`, before the step overwrites them."""
    numbers = len(env.actions) * replay.obs_size
    bytes_each = 1 if replay.obs_is_uint8 else 4
    target = replay.observations + counters.pos * numbers * bytes_each
    copy_observations(target, env.observations, replay.obs_is_uint8, numbers)


@inline
def store_transition(env: EnvArrays, replay: ReplayBuffer, priorities: PriorityTree, counters: Any) -> None:
    """Write each row's reward, end flags, next observation and next action mask to slot `pos`, and advance `pos`.

    At the end of an episode the next observation is the final one; its legal actions are unknown, so all count as
    legal. See `OffPolicyAlgorithm._store_transition` and `ReplayBuffer.add`.
    """
    pos, n_envs, num_agents = counters.pos, len(env.rewards), len(env.rewards) // len(env.dones)
    rewards, dones, terminated, truncated = env.rewards, env.dones, env.terminated, env.truncated
    action_masks, next_action_masks = env.action_masks, replay.next_action_masks
    stored_rewards, stored_dones, stored_timeouts = replay.rewards, replay.dones, replay.timeouts
    row_bytes = replay.obs_size * (1 if replay.obs_is_uint8 else 4)
    for row in range(n_envs):
        world = row // num_agents
        done = dones[world]
        stored_rewards[pos, row] = rewards[row]
        stored_dones[pos, row] = done
        stored_timeouts[pos, row] = truncated[world] and not terminated[world]
        source = env.final_observations if done else env.observations
        target = replay.next_observations + (pos * n_envs + row) * row_bytes
        copy_observations(target, source + row * row_bytes, replay.obs_is_uint8, replay.obs_size)
        for k in range(next_action_masks.shape[2]):
            next_action_masks[pos, row, k] = 1 if done else action_masks[row, k]
        if done:
            record_episode(env, row, world, counters)
        if len(priorities.sums):
            set_priority(priorities.sums, pos * n_envs + row, max(priorities.max_priority[0], MIN_PRIORITY))
    counters.pos = (pos + 1) % len(stored_rewards)
    counters.size = max(counters.size, pos + 1)


@internal
def record_episode(env: EnvArrays, row: Any, world: Any, counters: Any) -> None:
    """Write the return and the length of a row's episode, which has ended, to the ring of SB3's `ep_info_buffer`."""
    place = counters.num_episodes % len(env.ep_info_buffer)
    env.ep_info_buffer[place, 0] = env.episode_returns[row]
    env.ep_info_buffer[place, 1] = env.episode_lengths[world]
    counters.num_episodes += 1


# ----------------------------------------------------------------------------------------------------------- priorities


@internal
def set_priority(sums: Any, leaf: Any, priority: Any) -> None:
    """Write the priority of a leaf and the sums of its ancestors, in a tree of sums float64 [2 * leaves]."""
    node = len(sums) // 2 + leaf
    sums[node] = priority
    while node > 1:
        node //= 2
        sums[node] = sums[2 * node] + sums[2 * node + 1]


@internal
def find_leaf(sums: Any, fraction: Any) -> Any:
    """Return the leaf at which the running sum of priorities passes this fraction of their total, 0 to 1."""
    node, rest = 1, fraction * sums[1]
    while node < len(sums) // 2:
        node *= 2
        if rest >= sums[node] and sums[node + 1] > 0:
            rest -= sums[node]
            node += 1
    return node - len(sums) // 2


@internal
def importance_weights(
    replay: ReplayBuffer, priorities: PriorityTree, batch: Minibatch, settings: DqnSettings, counters: Any
) -> None:
    """Write the weights that correct for sampling by priority, (size * probability) ** -beta over their maximum."""
    sums, weights, indices = priorities.sums, batch.weights, batch.indices
    progress = min(counters.num_timesteps / settings.total_timesteps, 1.0)
    beta = settings.importance_exponent + (1.0 - settings.importance_exponent) * progress
    num_transitions, max_weight = counters.size * replay.rewards.shape[1], 0.0
    for i in range(len(indices)):
        probability = sums[len(sums) // 2 + indices[i]] / sums[1]
        weights[i] = (num_transitions * probability) ** -beta
        max_weight = max(max_weight, weights[i])
    for i in range(len(indices)):
        weights[i] /= max_weight


# ------------------------------------------------------------------------------------------------------------- sampling


@inline
def n_step_return(slot: Any, row: Any, replay: ReplayBuffer, n_steps: Any, gamma: Any, pos: Any, size: Any) -> Any:
    """Return the discounted sum of up to `n_steps` rewards, the slot of the last of them, and gamma to their number.

    The sum begins with the transition in `slot` of `row`; it ends early where the episode does, and at the newest
    transition. `pos` is the slot that is written next, `size` the number of slots that are filled. Steps in which the
    row did not act are left out. See `NStepReplayBuffer._get_samples`.
    """
    rewards, dones, timeouts, acted = replay.rewards, replay.dones, replay.timeouts, replay.acted
    total, discount, buffer_size = 0.0, 1.0, len(rewards)
    for k in range(n_steps):
        total += discount * rewards[slot, row]
        discount *= gamma
        if dones[slot, row] or timeouts[slot, row] or k == n_steps - 1:
            break
        next_slot = (slot + 1) % buffer_size
        while acted.shape[1] and next_slot != pos and next_slot < size and not acted[next_slot, row]:
            next_slot = (next_slot + 1) % buffer_size
        if next_slot == pos or next_slot >= size:
            break
        slot = next_slot
    return total, slot, discount


@internal
def sample_uniformly(replay: ReplayBuffer, batch: Minibatch, settings: DqnSettings, counters: Any) -> None:
    """Choose the slots and rows of a minibatch, each transition with equal probability; see `ReplayBuffer.sample`.

    If the row did not act in a transition, another one is drawn, MAX_DRAWS times at most.
    """
    slots, rows, acted, n_envs = batch.slots, batch.rows, replay.acted, replay.rewards.shape[1]
    first = np.uint64(counters.n_updates) << UPDATE_SHIFT
    for i in range(len(slots)):
        for draw in range(MAX_DRAWS):
            counter = first + np.uint64(2 * (i + len(slots) * draw))
            slots[i] = random_integer(counters.size, settings.rng_key, counter)
            rows[i] = random_integer(n_envs, settings.rng_key, counter + np.uint64(1)) if n_envs > 1 else 0
            if acted.shape[1] == 0 or acted[slots[i], rows[i]]:
                break


@internal
def sample_by_priority(
    replay: ReplayBuffer, priorities: PriorityTree, batch: Minibatch, settings: DqnSettings, counters: Any
) -> None:
    """Choose the slots and rows of a minibatch in proportion to priority: one from each of M equal parts of the sum.

    If the row did not act in a transition, another one is drawn from the same part, MAX_DRAWS times at most.
    """
    slots, rows, acted, n_envs = batch.slots, batch.rows, replay.acted, replay.rewards.shape[1]
    first, batch_size = np.uint64(counters.n_updates) << UPDATE_SHIFT, len(slots)
    for i in range(batch_size):
        for draw in range(MAX_DRAWS):
            counter = first + np.uint64(2 * (i + batch_size * draw))
            fraction = (i + unit_uniform(philox(settings.rng_key, counter))) / batch_size
            leaf = find_leaf(priorities.sums, fraction)
            slots[i], rows[i] = leaf // n_envs, leaf % n_envs
            if acted.shape[1] == 0 or acted[slots[i], rows[i]]:
                break


@internal
def sample(
    replay: ReplayBuffer, priorities: PriorityTree, batch: Minibatch, settings: DqnSettings, counters: Any
) -> None:
    """Choose the transitions of a minibatch and write their n-step returns, discounts and weights."""
    if len(priorities.sums):
        sample_by_priority(replay, priorities, batch, settings, counters)
    else:
        sample_uniformly(replay, batch, settings, counters)
    slots, rows, indices, last_indices = batch.slots, batch.rows, batch.indices, batch.last_indices
    returns, discounts, n_envs = batch.returns, batch.discounts, replay.rewards.shape[1]
    dones, timeouts = replay.dones, replay.timeouts
    for i in range(len(slots)):
        row = rows[i]
        indices[i] = slots[i] * n_envs + row
        returns[i], last, discounts[i] = n_step_return(
            slots[i], row, replay, settings.n_steps, settings.gamma, counters.pos, counters.size
        )
        last_indices[i] = last * n_envs + row
        if dones[last, row] and not timeouts[last, row]:
            discounts[i] = 0.0
    if len(priorities.sums):
        importance_weights(replay, priorities, batch, settings, counters)
