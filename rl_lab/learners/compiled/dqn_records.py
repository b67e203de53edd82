"""The arguments of the compiled DQN: tuples of arrays, addresses and numbers with the names of Stable-Baselines3.

`learners/sb3/dqn_arguments.py` and `dqn.py` make them, `templates/dqn.py` computes with them and writes their arrays.
This module only declares types: NamedTuples, because numba compiles those. The address of an array is an int: code that
receives addresses is compiled once for all shapes and types of observations.

Shapes: N environments of A agents make B = N x A rows; S slots of the replay buffer; M transitions of a minibatch; n
actions; d numbers of an observation; P parameters of a network, padding included.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rl_lab.core.world import Array


class DqnEnvArrays(NamedTuple):
    """The arrays of a batch of environments, with one row for each agent where the batch has [N, A, ...]."""

    native_handle: int  # address of the batch's header, see `Batch.native_handle`
    observations: int  # address of the observations, float32 or uint8 [B, d]
    final_observations: int  # address of each ended episode's last observations, float32 or uint8 [B, d]
    actions: Array  # int64 [B, 1]
    action_masks: Array  # uint8 [B, n or more], or [B, 0] where every action is always legal
    rewards: Array  # float32 [B]
    terminated: Array  # bool [N]
    truncated: Array  # bool [N]
    dones: Array  # bool [N]: terminated or truncated
    episode_returns: Array  # float64 [B]
    episode_lengths: Array  # int64 [N]
    row_indices: Array  # int64 [B]: 0 to B - 1
    ep_info_buffer: Array  # float64 [E, 2]: return and length of the E episodes that ended last, cyclically overwritten


class ReplayBuffer(NamedTuple):
    """The arrays of a `stable_baselines3.common.buffers.ReplayBuffer`, or of `CompleteTransitionReplayBuffer`.

    Slot s of row b is the transition that b's agent made in one step.
    """

    observations: int  # address, float32 or uint8 [S, B, d]
    next_observations: int  # address, float32 or uint8 [S, B, d]
    obs_is_uint8: bool
    obs_size: int  # d
    actions: Array  # int64 [S, B, 1]
    rewards: Array  # float32 [S, B]
    dones: Array  # float32 [S, B]: 1 where the episode ended, truncations included
    timeouts: Array  # float32 [S, B]: 1 where it was truncated
    has_complete_transition: Array  # bool [S, B]: the transitions that may be sampled; or [S, 0]: all of them may be
    next_action_masks: Array  # uint8 [S, B, n]: of the next states; or [S, B, 0] where every action is legal


class PriorityTree(NamedTuple):
    """The priorities of prioritised replay in a tree of sums, see `templates/replay_buffer.py`.

    Node 1 is the root and node k has the children 2k and 2k + 1. Transition (s, b) is the leaf s * B + b.
    """

    sums: Array  # float64 [2 * leaves], leaves a power of two; [0] where sampling is uniform
    max_priority: Array  # float64 [1]: the highest priority so far, which new transitions get


class QNetworks(NamedTuple):
    """The network that learns, its target network, and the state of Adam."""

    q_net: int  # address of the online network's row of `network.NetworkMemory.tables`
    q_net_target: int  # the same of the target network
    weights: Array  # float32 [P]
    target_weights: Array  # float32 [P]
    grads: Array  # float32 [1, P]
    exp_avg: Array  # float32 [P]: Adam's first moments
    exp_avg_sq: Array  # float32 [P]: Adam's second moments
    adam_settings: Array  # float64 [NUM_ADAM_SETTINGS], as `adam_step` reads them
    squared_norms: Array  # float64 [NUM_SHARDS], working memory of `adam_step`
    output: int  # index of the network's buffer that has the values of actions
    sparse: bool  # whether observations enter the network as lists of their numbers that are not zero
    all_legal: Array  # uint8 [n]: ones, the action mask where there is no other
    obs_rms: Array  # float64 [3, 0]: observations are not normalised, see `ppo_records.RunningStats`


class Minibatch(NamedTuple):
    """The transitions of one gradient step and what is computed for each of them; it is written anew at each step."""

    slots: Array  # int64 [M]
    rows: Array  # int64 [M]
    indices: Array  # int64 [M]: slot * B + row
    last_indices: Array  # int64 [M]: the same of the last transition of the n-step return
    returns: Array  # float64 [M]: n-step returns
    discounts: Array  # float64 [M]: factor of the next state's value, 0 where the episode terminated
    weights: Array  # float64 [M]: importance-sampling weights; ones where sampling is uniform
    next_actions: Array  # int64 [M]: the greedy actions of the next states; -1 where no action is legal
    target_q_values: Array  # float64 [M]


class DqnSettings(NamedTuple):
    """The hyperparameters of `stable_baselines3.DQN` by its names, those of the lab's options, and the random key."""

    gamma: float
    n_steps: int
    double_q: bool  # q_net chooses the next action, q_net_target values it
    priority_exponent: float
    importance_exponent: float  # beta at first; it rises to 1 until total_timesteps
    learning_starts: int  # environment steps
    train_freq: int  # steps of every world between updates
    gradient_steps: int
    target_update_interval: int  # environment steps
    tau: float
    exploration_initial_eps: float
    exploration_final_eps: float
    exploration_fraction: float  # above 0
    total_timesteps: int  # environment steps
    rng_key: np.uint64  # of Philox; counters are made of num_timesteps or n_updates


DQN_COUNTERS = np.dtype(
    [
        ("pos", np.int64),  # the slot that is written next
        ("size", np.int64),  # slots that are filled
        ("num_timesteps", np.int64),  # environment steps of all rows
        ("n_calls", np.int64),  # steps of the batch, by which the target network is updated
        ("n_updates", np.int64),  # gradient steps
        ("adam_step", np.int64),  # steps that Adam has taken
        ("loss_sum", np.float64),  # of the gradient steps since it was set to 0
        ("num_episodes", np.int64),  # that ended since it was set to 0
        ("env_cycles", np.int64),  # processor cycles in steps of the environments since it was set to 0
        ("train_cycles", np.int64),  # the same in gradient steps
        ("total_cycles", np.int64),  # the same in all
    ]
)
"""The counters of a DQN: the dtype of an array [1] that compiled code and Python share."""


def empty_minibatch(batch_size: int) -> Minibatch:
    """Return new arrays for a minibatch of this size, with weights of 1."""
    integers = [np.zeros(batch_size, np.int64) for _ in range(5)]
    floats = [np.zeros(batch_size) for _ in range(3)]
    slots, rows, indices, last_indices, next_actions = integers
    returns, discounts, target_q_values = floats
    weights = np.ones(batch_size)
    return Minibatch(slots, rows, indices, last_indices, returns, discounts, weights, next_actions, target_q_values)
