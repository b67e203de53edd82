"""DQN's targets of a minibatch, and its Huber loss with the loss's gradient.

A template, executed by `build` before `dqn`: see `engine/template_context.py`. `dqn.take_gradient_steps` calls
`compute_targets` and then `loss_and_gradient`. They write the minibatch's next actions and target Q-values, the
gradient of the online network, the priorities, and both networks' activations. The records and their shapes are
described in `compiled.dqn_records`. Rows low to high - 1 of a minibatch, at most TILE, go through a network together;
row r of its buffers is then row low + r of the minibatch.

Source: Mnih et al. 2015; van Hasselt et al. 2016 (double)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.dqn_records import DqnSettings, Minibatch, PriorityTree, QNetworks, ReplayBuffer
from rl_lab.learners.compiled.network import AT_BACKWARD, NUM_ADDRESSES, TILE
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.calls import forward
from rl_lab.learners.compiled.templates.dqn_exploration import greedy_action
from rl_lab.learners.compiled.templates.memory_views import activation_grads, activations, as_i64
from rl_lab.learners.compiled.templates.observations import load_observations
from rl_lab.learners.compiled.templates.replay_buffer import MIN_PRIORITY, set_priority

internal, call = decorators().internal, primitives().call


@internal
def forward_next(net: Any, low: Any, high: Any, replay: ReplayBuffer, q_nets: QNetworks, minibatch: Minibatch) -> None:
    """Run the network at `net` over the next observations of rows low to high - 1 of a minibatch."""
    load_observations(
        replay.next_observations, replay.obs_is_uint8, replay.obs_size, low, high, minibatch.last_indices,
        q_nets.obs_rms, activations(net, 0),
    )  # fmt: skip
    forward(high - low, replay.obs_size, q_nets.sparse, net)


@internal
def write_next_actions(
    net: Any, low: Any, high: Any, replay: ReplayBuffer, q_nets: QNetworks, minibatch: Minibatch
) -> None:
    """Write the greedy actions in the next states of rows low to high - 1 to minibatch.next_actions.

    They follow from the Q-values that `forward_next` has left in the output buffer of the network at `net`.
    """
    q_values, all_legal, masks = activations(net, q_nets.output), q_nets.all_legal, replay.next_action_masks
    next_actions, last_indices, n_envs = minibatch.next_actions, minibatch.last_indices, replay.rewards.shape[1]
    for i in range(low, high):
        last, row = last_indices[i] // n_envs, last_indices[i] % n_envs
        action_mask = masks[last, row] if masks.shape[2] else all_legal
        next_actions[i] = greedy_action(q_values[i - low], action_mask, len(all_legal))


@internal
def compute_targets(replay: ReplayBuffer, q_nets: QNetworks, minibatch: Minibatch, settings: DqnSettings) -> None:
    """Write minibatch.target_q_values = n-step return + discount * Q_target(next state, next action).

    The next action is greedy by the target network or, with `double_q`, by the online network.
    """
    batch_size, q_net, q_net_target = len(minibatch.slots), q_nets.q_net, q_nets.q_net_target
    returns, discounts, next_actions = minibatch.returns, minibatch.discounts, minibatch.next_actions
    target_q_values, next_q_values = minibatch.target_q_values, activations(q_net_target, q_nets.output)
    if settings.double_q:
        for low in range(0, batch_size, TILE):
            high = min(low + TILE, batch_size)
            forward_next(q_net, low, high, replay, q_nets, minibatch)
            write_next_actions(q_net, low, high, replay, q_nets, minibatch)
    for low in range(0, batch_size, TILE):
        high = min(low + TILE, batch_size)
        forward_next(q_net_target, low, high, replay, q_nets, minibatch)
        if not settings.double_q:
            write_next_actions(q_net_target, low, high, replay, q_nets, minibatch)
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
    replay: ReplayBuffer, priorities: PriorityTree, q_nets: QNetworks, minibatch: Minibatch, settings: DqnSettings
) -> Any:
    """Return the sum of the minibatch's weighted losses, float64, and write the gradient of their mean to q_nets.grads.

    With prioritised replay, a transition's priority becomes its absolute error to the power of `priority_exponent`.
    """
    q_net, batch_size, n_envs = q_nets.q_net, len(minibatch.slots), replay.rewards.shape[1]
    inputs, current_q_values = activations(q_net, 0), activations(q_net, q_nets.output)
    q_value_grads = activation_grads(q_net, q_nets.output)
    actions, indices, weights, target_q_values = (
        replay.actions,
        minibatch.indices,
        minibatch.weights,
        minibatch.target_q_values,
    )
    sums, max_priority = priorities.sums, priorities.max_priority
    q_nets.grads[0] = np.float32(0.0)
    loss_sum = 0.0
    for low in range(0, batch_size, TILE):
        high = min(low + TILE, batch_size)
        load_observations(
            replay.observations, replay.obs_is_uint8, replay.obs_size, low, high, indices, q_nets.obs_rms, inputs
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
        # The backward pass adds these rows' gradient to q_nets.grads.
        call(as_i64(q_net, NUM_ADDRESSES)[AT_BACKWARD], high - low, np.int64(q_nets.sparse), q_net)
    return loss_sum
