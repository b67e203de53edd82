"""DQN's actions while it trains: epsilon-greedy, on a schedule of epsilon.

A template, executed by `build` before `dqn`: see `engine/template_context.py`. `dqn.collect_rollouts` calls
`sample_actions`, which writes the environments' actions and those in the replay buffer. The records and their shapes
are described in `compiled.dqn_records`; `counters` is a record of DQN_COUNTERS, which is only read here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.dqn_records import DqnEnvArrays, DqnSettings, QNetworks, ReplayBuffer
from rl_lab.learners.compiled.network import TILE
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.calls import forward
from rl_lab.learners.compiled.templates.memory_views import activations
from rl_lab.learners.compiled.templates.observations import load_observations
from rl_lab.learners.compiled.templates.random_numbers import random_integer, unit_uniform

inline, internal = decorators().inline, decorators().internal
philox = primitives().philox
# Philox counters from here on are for actions; smaller ones, see `replay_buffer.UPDATE_SHIFT`, are for minibatches.
EXPLORATION_COUNTERS = np.uint64(1 << 62)
MINUS_INFINITY = np.float32(-np.inf)


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
    """Return a legal action, each with equal probability; 0 where no action is legal.

    `counter`, uint64, selects the random number of the stream `rng_key`.
    """
    num_legal = 0
    for k in range(num_actions):
        num_legal += action_mask[k] != 0
    legal_before, action = random_integer(max(num_legal, 1), rng_key, counter), 0
    for k in range(num_actions):
        if action_mask[k]:
            if legal_before == 0:
                action = k
            legal_before -= 1
    return action


@internal
def epsilon_greedy_action(
    q_values: Any, action_mask: Any, num_actions: Any, epsilon: Any, rng_key: Any, timestep: Any
) -> Any:
    """Return a random legal action with probability epsilon, and the greedy one otherwise.

    `timestep` is the number of this row's step among the steps of all rows so far; two random numbers belong to each.
    """
    counter = EXPLORATION_COUNTERS + (np.uint64(timestep) << np.uint64(1))
    if unit_uniform(philox(rng_key, counter)) < epsilon:
        return random_action(action_mask, num_actions, rng_key, counter + np.uint64(1))
    return greedy_action(q_values, action_mask, num_actions)


@inline
def sample_actions(
    env: DqnEnvArrays, replay: ReplayBuffer, q_nets: QNetworks, settings: DqnSettings, counters: Any
) -> None:
    """Write an epsilon-greedy action of every row to the environments, and to slot `pos` of the replay buffer.

    See `OffPolicyAlgorithm._sample_action`; here each row decides for itself whether to explore.
    """
    epsilon = exploration_rate(settings, counters)
    actions, action_masks, all_legal, replay_actions = env.actions, env.action_masks, q_nets.all_legal, replay.actions
    q_net, n_envs = q_nets.q_net, len(actions)
    inputs, q_values = activations(q_net, 0), activations(q_net, q_nets.output)
    for low in range(0, n_envs, TILE):
        high = min(low + TILE, n_envs)
        if epsilon < 1:
            load_observations(
                env.observations, replay.obs_is_uint8, replay.obs_size, low, high, env.row_indices,
                q_nets.obs_rms, inputs,
            )  # fmt: skip
            forward(high - low, replay.obs_size, q_nets.sparse, q_net)
        for row in range(low, high):
            action_mask = action_masks[row] if action_masks.shape[1] else all_legal
            action = epsilon_greedy_action(
                q_values[row - low], action_mask, len(all_legal), epsilon, settings.rng_key,
                counters.num_timesteps + row,
            )  # fmt: skip
            actions[row, 0] = action
            replay_actions[counters.pos, row, 0] = action
