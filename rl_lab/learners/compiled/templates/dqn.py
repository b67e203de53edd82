"""DQN in compiled code: rollouts, replay buffer and gradient steps, without Python between them.

It computes what Stable-Baselines3's DQN computes, and its functions are those of `DQN` and `OffPolicyAlgorithm`; double
Q-learning, n-step returns and prioritised replay are options. Python calls `learn` and `train`.
The arguments and their shapes are described in `rl_lab.learners.compiled.dqn_records`; `counters` is the record of an
array of `DQN_COUNTERS`. This file is not imported as a module: `rl_lab.learners.compiled.build` executes it.

Source: Mnih et al. 2015; van Hasselt et al. 2016 (double)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.dqn_records import (
    DqnSettings,
    EnvArrays,
    Minibatch,
    PriorityTree,
    QNetworks,
    ReplayBuffer,
)
from rl_lab.learners.compiled.network import ADDRESSES, AT_BACKWARD, AT_STOP, TILE
from rl_lab.learners.compiled.ppo_records import AdamState, Worker
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.adam import adam_step
from rl_lab.learners.compiled.templates.replay_buffer import (
    MIN_PRIORITY,
    random_integer,
    sample,
    set_priority,
    store_observations_before,
    store_transition,
)
from rl_lab.learners.compiled.templates.tiles import (
    activation_grads,
    activations,
    as_i64,
    forward,
    load_observations,
    step_envs,
    transpose_weights,
    unit_uniform,
)

inline, internal, jit = decorators().inline, decorators().internal, decorators().jit
philox, call, cycles, read_at = primitives().philox, primitives().call, primitives().cycles, primitives().read_at
# Philox counters from here on choose actions; smaller ones sample minibatches.
EXPLORATION_COUNTERS = np.uint64(1 << 62)
MINUS_INFINITY = np.float32(-np.inf)
NON_FINITE = 1  # what `learn` returns for a gradient that is not finite


# ---------------------------------------------------------------------------------------------------------- exploration


@internal
def exploration_rate(settings: DqnSettings, counters: Any) -> Any:
    """Return epsilon, float64: 1 before learning starts, then a linear schedule over the exploration fraction."""
    if counters.num_timesteps < settings.learning_starts:
        return 1.0
    progress = counters.num_timesteps / settings.total_timesteps
    if progress > settings.exploration_fraction:
        return settings.exploration_final_eps
    slope = (settings.exploration_final_eps - settings.exploration_initial_eps) / settings.exploration_fraction
    return settings.exploration_initial_eps + progress * slope


@internal
def greedy_action(q_values: Any, action_mask: Any, num_actions: Any) -> Any:
    """Return the legal action of the highest value, the first of equals; -1 where no action is legal."""
    action, max_q_value = -1, MINUS_INFINITY
    for k in range(num_actions):
        if action_mask[k] and (action < 0 or q_values[k] > max_q_value):
            action, max_q_value = k, q_values[k]
    return action


@internal
def random_action(action_mask: Any, num_actions: Any, rng_key: Any, counter: Any) -> Any:
    """Return a legal action, each with equal probability; 0 where no action is legal."""
    num_legal = 0
    for k in range(num_actions):
        num_legal += action_mask[k] != 0
    rank, action = random_integer(max(num_legal, 1), rng_key, counter), 0
    for k in range(num_actions):
        if action_mask[k]:
            if rank == 0:
                action = k
            rank -= 1
    return action


@internal
def epsilon_greedy_action(
    q_values: Any, action_mask: Any, num_actions: Any, epsilon: Any, rng_key: Any, timestep: Any
) -> Any:
    """Return a random legal action with probability epsilon, and the greedy one otherwise.

    `timestep`, the row's number among all environment steps, selects the random numbers.
    """
    counter = EXPLORATION_COUNTERS + (np.uint64(timestep) << np.uint64(1))
    if unit_uniform(philox(rng_key, counter)) < epsilon:
        return random_action(action_mask, num_actions, rng_key, counter + np.uint64(1))
    return greedy_action(q_values, action_mask, num_actions)


@inline
def sample_actions(
    env: EnvArrays, replay: ReplayBuffer, q_nets: QNetworks, settings: DqnSettings, counters: Any
) -> None:
    """Choose the action of every row, epsilon-greedily; write it to the environments and to the replay buffer.

    See `OffPolicyAlgorithm._sample_action`; here each row decides for itself whether to explore.
    """
    epsilon = exploration_rate(settings, counters)
    actions, action_masks, all_legal, stored = env.actions, env.action_masks, q_nets.all_legal, replay.actions
    q_net, n_envs = q_nets.q_net, len(actions)
    inputs, q_values = activations(q_net, 0), activations(q_net, q_nets.output)
    for low in range(0, n_envs, TILE):
        high = min(low + TILE, n_envs)
        if epsilon < 1:
            load_observations(
                env.observations, replay.obs_is_uint8, replay.obs_size, low, high, env.row_indices,
                q_nets.obs_statistics, inputs,
            )  # fmt: skip
            forward(high - low, replay.obs_size, q_nets.sparse, q_net)
        for row in range(low, high):
            action_mask = action_masks[row] if action_masks.shape[1] else all_legal
            action = epsilon_greedy_action(
                q_values[row - low], action_mask, len(all_legal), epsilon, settings.rng_key,
                counters.num_timesteps + row,
            )  # fmt: skip
            actions[row, 0] = action
            stored[counters.pos, row, 0] = action


# -------------------------------------------------------------------------------------------------------- gradient step


@internal
def forward_next(net: Any, low: Any, high: Any, replay: ReplayBuffer, q_nets: QNetworks, batch: Minibatch) -> None:
    """Run a network over the next observations of transitions low..high-1 of a minibatch, at most TILE."""
    load_observations(
        replay.next_observations, replay.obs_is_uint8, replay.obs_size, low, high, batch.last_indices,
        q_nets.obs_statistics, activations(net, 0),
    )  # fmt: skip
    forward(high - low, replay.obs_size, q_nets.sparse, net)


@internal
def choose_next_actions(
    net: Any, low: Any, high: Any, replay: ReplayBuffer, q_nets: QNetworks, batch: Minibatch
) -> None:
    """Write the greedy actions of the next states low..high-1.

    They are those of the Q-values that `forward_next` left in this network's output buffer.
    """
    q_values, all_legal, masks = activations(net, q_nets.output), q_nets.all_legal, replay.next_action_masks
    next_actions, last_indices, n_envs = batch.next_actions, batch.last_indices, replay.rewards.shape[1]
    for i in range(low, high):
        last, row = last_indices[i] // n_envs, last_indices[i] % n_envs
        action_mask = masks[last, row] if masks.shape[2] else all_legal
        next_actions[i] = greedy_action(q_values[i - low], action_mask, len(all_legal))


@internal
def compute_targets(replay: ReplayBuffer, q_nets: QNetworks, batch: Minibatch, settings: DqnSettings) -> None:
    """Write target_q_values = n-step return + discount * Q_target(next state, next action).

    The next action is greedy by the target network or, with `double_q`, by the online network.
    """
    batch_size, q_net, q_net_target = len(batch.slots), q_nets.q_net, q_nets.q_net_target
    returns, discounts, next_actions = batch.returns, batch.discounts, batch.next_actions
    target_q_values, next_q_values = batch.target_q_values, activations(q_net_target, q_nets.output)
    if settings.double_q:
        for low in range(0, batch_size, TILE):
            high = min(low + TILE, batch_size)
            forward_next(q_net, low, high, replay, q_nets, batch)
            choose_next_actions(q_net, low, high, replay, q_nets, batch)
    for low in range(0, batch_size, TILE):
        high = min(low + TILE, batch_size)
        forward_next(q_net_target, low, high, replay, q_nets, batch)
        if not settings.double_q:
            choose_next_actions(q_net_target, low, high, replay, q_nets, batch)
        for i in range(low, high):
            target_q_values[i] = returns[i]
            if discounts[i] > 0 and next_actions[i] >= 0:
                target_q_values[i] += discounts[i] * next_q_values[i - low, next_actions[i]]


@internal
def huber_loss(error: Any) -> Any:
    """Return the Huber loss of an error, torch's smooth_l1_loss, float64, and its derivative, float32."""
    loss = 0.5 * error * error if abs(error) < 1 else abs(error) - 0.5
    return loss, min(max(error, np.float32(-1.0)), np.float32(1.0))


@internal
def loss_and_gradient(
    replay: ReplayBuffer, priorities: PriorityTree, q_nets: QNetworks, batch: Minibatch, settings: DqnSettings
) -> Any:
    """Return the sum of the minibatch's weighted losses, float64, and write the gradient of their mean.

    With prioritised replay, a transition's priority becomes its absolute error to the power of `priority_exponent`.
    """
    q_net, batch_size, n_envs = q_nets.q_net, len(batch.slots), replay.rewards.shape[1]
    inputs, current_q_values = activations(q_net, 0), activations(q_net, q_nets.output)
    q_value_grads = activation_grads(q_net, q_nets.output)
    actions, indices, weights, target_q_values = replay.actions, batch.indices, batch.weights, batch.target_q_values
    sums, max_priority = priorities.sums, priorities.max_priority
    q_nets.grads[0] = np.float32(0.0)
    loss_sum = 0.0
    for low in range(0, batch_size, TILE):
        high = min(low + TILE, batch_size)
        load_observations(
            replay.observations, replay.obs_is_uint8, replay.obs_size, low, high, indices, q_nets.obs_statistics, inputs
        )
        forward(high - low, replay.obs_size, q_nets.sparse, q_net)
        for i in range(low, high):
            r, action = i - low, actions[indices[i] // n_envs, indices[i] % n_envs, 0]
            error = current_q_values[r, action] - np.float32(target_q_values[i])
            loss, grad = huber_loss(error)
            loss_sum += weights[i] * loss
            for k in range(q_value_grads.shape[1]):
                q_value_grads[r, k] = np.float32(0.0)
            q_value_grads[r, action] = np.float32(weights[i] / batch_size) * grad
            if len(sums):
                priority = (abs(np.float64(error)) + MIN_PRIORITY) ** settings.priority_exponent
                max_priority[0] = max(max_priority[0], priority)
                set_priority(sums, indices[i], priority)
        # The backward pass: it adds these rows' gradient to q_nets.grads.
        call(as_i64(q_net, ADDRESSES)[AT_BACKWARD], high - low, np.int64(q_nets.sparse), q_net)
    return loss_sum


@internal
def take_gradient_steps(
    gradient_steps: Any,
    replay: ReplayBuffer,
    priorities: PriorityTree,
    q_nets: QNetworks,
    batch: Minibatch,
    settings: DqnSettings,
    counters: Any,
) -> Any:
    """Sample `gradient_steps` minibatches, or fewer if the user interrupts the work, and take a step of Adam for each.

    Returns False if a loss or gradient is not finite; the weights are then those of the step before.
    Source: `stable_baselines3.DQN.train`
    """
    exp_avg, exp_avg_sq, norms = q_nets.exp_avg, q_nets.exp_avg_sq, q_nets.squared_norms
    transpose_weights(q_nets.q_net_target)
    for _ in range(gradient_steps):
        if is_interrupted(q_nets):
            break
        transpose_weights(q_nets.q_net)
        sample(replay, priorities, batch, settings, counters)
        compute_targets(replay, q_nets, batch, settings)
        loss_sum = loss_and_gradient(replay, priorities, q_nets, batch, settings)
        step = np.float64(counters.adam_step)
        optimizer = AdamState(q_nets.weights, q_nets.grads, exp_avg, exp_avg_sq, step, norms)
        if not math.isfinite(loss_sum) or not adam_step(Worker(0, 1, 0), optimizer, q_nets.adam_settings):
            return False
        counters.adam_step += 1
        counters.n_updates += 1
        counters.loss_sum += loss_sum / len(batch.slots)
    return True


@jit
def train(
    gradient_steps: Any,
    replay: ReplayBuffer,
    priorities: PriorityTree,
    q_nets: QNetworks,
    batch: Minibatch,
    settings: DqnSettings,
    counters: Any,
) -> Any:
    """Take gradient steps, see `take_gradient_steps`; `counters` is an array of DQN_COUNTERS [1]."""
    return take_gradient_steps(gradient_steps, replay, priorities, q_nets, batch, settings, counters[0])


# ------------------------------------------------------------------------------------------------------------- the loop


@internal
def is_interrupted(q_nets: QNetworks) -> Any:
    """Return whether the user has interrupted the work, so that it must stop at once."""
    return read_at(as_i64(q_nets.q_net, ADDRESSES)[AT_STOP]) != 0


@internal
def update_target_network(q_nets: QNetworks, tau: Any) -> None:
    """Move the target network's weights towards the online network's by the share tau; see `polyak_update`."""
    weights, target_weights, share = q_nets.weights, q_nets.target_weights, np.float32(tau)
    for j in range(len(weights)):
        target_weights[j] += share * (weights[j] - target_weights[j])


@inline
def on_step(n_envs: Any, q_nets: QNetworks, settings: DqnSettings, counters: Any) -> None:
    """Count a step of the batch and update the target network at its interval; see `DQN._on_step`."""
    counters.num_timesteps += n_envs
    counters.n_calls += 1
    if counters.n_calls % max(settings.target_update_interval // n_envs, 1) == 0:
        update_target_network(q_nets, settings.tau)


@inline
def collect_rollouts(
    env: EnvArrays,
    replay: ReplayBuffer,
    priorities: PriorityTree,
    q_nets: QNetworks,
    settings: DqnSettings,
    counters: Any,
) -> Any:
    """Take `train_freq` steps of the batch, or fewer if the user interrupts the work; store them in the replay buffer.

    Returns 0, or the negative outcome of a step that failed. See `OffPolicyAlgorithm.collect_rollouts`.
    """
    transpose_weights(q_nets.q_net)
    for _ in range(settings.train_freq):
        if is_interrupted(q_nets):
            break
        store_observations_before(env, replay, counters)
        sample_actions(env, replay, q_nets, settings, counters)
        begin = cycles()
        outcome = step_envs(0, len(env.dones), env.native_handle)
        counters.env_cycles += cycles() - begin
        if outcome < 0:
            return outcome
        store_transition(env, replay, priorities, counters)
        on_step(len(env.rewards), q_nets, settings, counters)
    return 0


@jit
def learn(
    until: Any,
    env: EnvArrays,
    replay: ReplayBuffer,
    priorities: PriorityTree,
    q_nets: QNetworks,
    batch: Minibatch,
    settings: DqnSettings,
    counters: Any,
) -> Any:
    """Collect rollouts and train in turn until `num_timesteps` is at least `until`, or the user interrupts the work.

    `counters` is an array of DQN_COUNTERS [1]. Returns 0, also if interrupted; the negative outcome of a step that
    failed; or NON_FINITE. See `OffPolicyAlgorithm.learn`.
    """
    begin, now = cycles(), counters[0]
    while now.num_timesteps < until:
        outcome = collect_rollouts(env, replay, priorities, q_nets, settings, now)
        if outcome < 0:
            return outcome
        if is_interrupted(q_nets):
            return 0
        if now.num_timesteps > settings.learning_starts:
            train_begin = cycles()
            finite = take_gradient_steps(settings.gradient_steps, replay, priorities, q_nets, batch, settings, now)
            now.train_cycles += cycles() - train_begin
            if not finite:
                return NON_FINITE
    now.total_cycles += cycles() - begin
    return 0
