"""DQN in compiled code: rollouts, replay buffer and gradient steps, without Python between them.

A template, executed by `build` after all that it imports: see `engine/template_context.py`. `learners/sb3/dqn.py` calls
`learn` and `train`. They compute what Stable-Baselines3's DQN computes; double Q-learning, n-step returns and
prioritised replay are options:

    learn                 OffPolicyAlgorithm.learn
    collect_rollouts      OffPolicyAlgorithm.collect_rollouts, with the actions of `dqn_exploration.py`
    train                 DQN.train, with the minibatches of `replay_buffer.py`, the loss of `dqn_loss.py` and the
                          optimizer of `adam.py`

They write the arrays of the records that they get: the batch of environments, the replay buffer, the priorities, both
networks' parameters, Adam's moments, and the counters. The records are described in `compiled.dqn_records`. One thread
does all the work.

Source: Mnih et al. 2015; van Hasselt et al. 2016 (double)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.dqn_records import (
    DqnEnvArrays,
    DqnSettings,
    Minibatch,
    PriorityTree,
    QNetworks,
    ReplayBuffer,
)
from rl_lab.learners.compiled.network import AT_STOP_FLAG, NUM_ADDRESSES
from rl_lab.learners.compiled.ppo_records import AdamState, ThreadRank
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.adam import adam_step
from rl_lab.learners.compiled.templates.calls import step_envs, transpose_weights
from rl_lab.learners.compiled.templates.dqn_exploration import sample_actions
from rl_lab.learners.compiled.templates.dqn_loss import compute_targets, loss_and_gradient
from rl_lab.learners.compiled.templates.memory_views import as_i64
from rl_lab.learners.compiled.templates.replay_buffer import sample, store_observations_before, store_transition

inline, internal, jit = decorators().inline, decorators().internal, decorators().jit
cycles, atomic_load, without_refcounts = primitives().cycles, primitives().atomic_load, primitives().without_refcounts
NON_FINITE = 1  # what `learn` returns for a gradient that is not finite


@jit
def learn(
    target_timesteps: Any,
    env: DqnEnvArrays,
    replay: ReplayBuffer,
    priorities: PriorityTree,
    q_nets: QNetworks,
    minibatch: Minibatch,
    settings: DqnSettings,
    counters: Any,
) -> Any:
    """Collect rollouts and train in turn until `num_timesteps` is at least `target_timesteps`.

    `counters` is an array of DQN_COUNTERS [1]. Returns 0, also if the user interrupts the work; the negative outcome of
    a step that failed; or NON_FINITE. See `OffPolicyAlgorithm.learn`.
    """
    start_cycle, count = cycles(), counters[0]
    env, replay, priorities, q_nets, minibatch = without_refcounts((env, replay, priorities, q_nets, minibatch))
    transpose_weights(q_nets.q_net)
    transpose_weights(q_nets.q_net_target)
    while count.num_timesteps < target_timesteps:
        outcome = collect_rollouts(env, replay, priorities, q_nets, settings, count)
        if outcome < 0:
            return outcome
        if is_interrupted(q_nets):
            return 0
        if count.num_timesteps > settings.learning_starts:
            train_cycle = cycles()
            is_finite = take_gradient_steps(
                settings.gradient_steps, replay, priorities, q_nets, minibatch, settings, count
            )
            count.train_cycles += cycles() - train_cycle
            if not is_finite:
                return NON_FINITE
    count.total_cycles += cycles() - start_cycle
    return 0


@jit
def train(
    gradient_steps: Any,
    replay: ReplayBuffer,
    priorities: PriorityTree,
    q_nets: QNetworks,
    minibatch: Minibatch,
    settings: DqnSettings,
    counters: Any,
) -> Any:
    """Take gradient steps, see `take_gradient_steps`; `counters` is an array of DQN_COUNTERS [1]."""
    replay, priorities, q_nets, minibatch = without_refcounts((replay, priorities, q_nets, minibatch))
    transpose_weights(q_nets.q_net)
    transpose_weights(q_nets.q_net_target)
    return take_gradient_steps(gradient_steps, replay, priorities, q_nets, minibatch, settings, counters[0])


# The parts of both. Their `counters` is a record of DQN_COUNTERS, which they update.


@inline
def collect_rollouts(
    env: DqnEnvArrays,
    replay: ReplayBuffer,
    priorities: PriorityTree,
    q_nets: QNetworks,
    settings: DqnSettings,
    counters: Any,
) -> Any:
    """Take `train_freq` steps of all environments and store them in the replay buffer.

    It takes fewer if the user interrupts the work. Returns 0, or the negative outcome of a step that failed. See
    `OffPolicyAlgorithm.collect_rollouts`.
    """
    for _ in range(settings.train_freq):
        if is_interrupted(q_nets):
            break
        store_observations_before(env, replay, counters)
        sample_actions(env, replay, q_nets, settings, counters)
        step_cycle = cycles()
        outcome = step_envs(0, len(env.dones), env.native_handle)
        counters.env_cycles += cycles() - step_cycle
        if outcome < 0:
            return outcome
        store_transition(env, replay, priorities, counters)
        on_step(len(env.rewards), q_nets, settings, counters)
    return 0


@inline
def on_step(n_envs: Any, q_nets: QNetworks, settings: DqnSettings, counters: Any) -> None:
    """Count a step of the batch of environments, and update the target network at its interval; see `DQN._on_step`."""
    counters.num_timesteps += n_envs
    counters.n_calls += 1
    if counters.n_calls % max(settings.target_update_interval // n_envs, 1) == 0:
        update_target_network(q_nets, settings.tau)


@internal
def update_target_network(q_nets: QNetworks, tau: Any) -> None:
    """Set the target network's weights to (1 - tau) * themselves + tau * the online network's; see `polyak_update`."""
    weights, target_weights, tau_f32 = q_nets.weights, q_nets.target_weights, np.float32(tau)
    for j in range(len(weights)):
        target_weights[j] += tau_f32 * (weights[j] - target_weights[j])
    transpose_weights(q_nets.q_net_target)


@internal
def take_gradient_steps(
    gradient_steps: Any,
    replay: ReplayBuffer,
    priorities: PriorityTree,
    q_nets: QNetworks,
    minibatch: Minibatch,
    settings: DqnSettings,
    counters: Any,
) -> Any:
    """Sample `gradient_steps` minibatches and take a step of Adam on the loss of each; see `DQN.train`.

    It takes fewer steps if the user interrupts the work. The transposed copies of both networks' weights must be up to
    date. Returns False if a loss or gradient is not finite; the weights are then those of the step before.
    """
    exp_avg, exp_avg_sq, norms = q_nets.exp_avg, q_nets.exp_avg_sq, q_nets.squared_norms
    for _ in range(gradient_steps):
        if is_interrupted(q_nets):
            break
        sample(replay, priorities, minibatch, settings, counters)
        compute_targets(replay, q_nets, minibatch, settings)
        loss_sum = loss_and_gradient(replay, priorities, q_nets, minibatch, settings)
        last_step, only_thread = np.float64(counters.adam_step), ThreadRank(0, 1, 0)
        adam_state = AdamState(q_nets.weights, q_nets.grads, exp_avg, exp_avg_sq, last_step, norms)
        if not math.isfinite(loss_sum) or not adam_step(only_thread, adam_state, q_nets.adam_settings):
            return False
        transpose_weights(q_nets.q_net)
        counters.adam_step += 1
        counters.n_updates += 1
        counters.loss_sum += loss_sum / len(minibatch.slots)
    return True


@internal
def is_interrupted(q_nets: QNetworks) -> Any:
    """Return whether the user has interrupted the work, so that it must stop at once."""
    return atomic_load(as_i64(q_nets.q_net, NUM_ADDRESSES)[AT_STOP_FLAG]) != 0
