"""DQN in compiled code: rollouts, replay buffer and gradient steps, without Python between them.

A template, executed by `build`: see `engine/template_context.py`. Python calls `learn` and `train`.
It computes what Stable-Baselines3's DQN computes; double Q-learning, n-step returns and prioritised replay are options:

    collect_rollouts      OffPolicyAlgorithm.collect_rollouts, with the actions of `dqn_exploration.py`
    take_gradient_steps   DQN.train, with the minibatches of `replay_buffer.py`, the loss of `dqn_loss.py` and the
                          optimizer of `adam.py`
    learn                 OffPolicyAlgorithm.learn

Arguments and their shapes are described in `rl_lab.learners.compiled.dqn_records`; `counters` is a record of
DQN_COUNTERS, but for functions that Python calls.

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
from rl_lab.learners.compiled.network import ADDRESSES, AT_STOP
from rl_lab.learners.compiled.ppo_records import AdamState, Worker
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.adam import adam_step
from rl_lab.learners.compiled.templates.dqn_exploration import sample_actions
from rl_lab.learners.compiled.templates.dqn_loss import compute_targets, loss_and_gradient
from rl_lab.learners.compiled.templates.replay_buffer import sample, store_observations_before, store_transition
from rl_lab.learners.compiled.templates.tiles import as_i64, step_envs, transpose_weights

inline, internal, jit = decorators().inline, decorators().internal, decorators().jit
cycles, read_at, uncounted = primitives().cycles, primitives().read_at, primitives().uncounted
NON_FINITE = 1  # what `learn` returns for a gradient that is not finite


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

    The transposed copies of both networks' weights must be up to date. Returns False if a loss or gradient is not
    finite; the weights are then those of the step before.
    Source: `stable_baselines3.DQN.train`
    """
    exp_avg, exp_avg_sq, norms = q_nets.exp_avg, q_nets.exp_avg_sq, q_nets.squared_norms
    for _ in range(gradient_steps):
        if is_interrupted(q_nets):
            break
        sample(replay, priorities, batch, settings, counters)
        compute_targets(replay, q_nets, batch, settings)
        loss_sum = loss_and_gradient(replay, priorities, q_nets, batch, settings)
        step = np.float64(counters.adam_step)
        optimizer = AdamState(q_nets.weights, q_nets.grads, exp_avg, exp_avg_sq, step, norms)
        if not math.isfinite(loss_sum) or not adam_step(Worker(0, 1, 0), optimizer, q_nets.adam_settings):
            return False
        transpose_weights(q_nets.q_net)
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
    replay, priorities, q_nets, batch = uncounted((replay, priorities, q_nets, batch))
    transpose_weights(q_nets.q_net)
    transpose_weights(q_nets.q_net_target)
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
    transpose_weights(q_nets.q_net_target)


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
    env, replay, priorities, q_nets, batch = uncounted((env, replay, priorities, q_nets, batch))
    transpose_weights(q_nets.q_net)
    transpose_weights(q_nets.q_net_target)
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
