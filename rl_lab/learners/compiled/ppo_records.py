"""The arguments of the compiled PPO: tuples of arrays, addresses and numbers with the names of Stable-Baselines3.

`learners/sb3/ppo_arguments.py` makes them, `templates/ppo.py` computes with them and writes their arrays. This module
only declares types: NamedTuples, because numba compiles those. The address of an array is an int: code that receives
addresses is compiled once for all shapes and types of observations.

Shapes: N worlds of A agents make B = N x A rows; T steps of a rollout; R = T x B transitions of a rollout; P parameters
of the policy, padding included; n actions, or k numbers of a continuous action; d numbers of an observation. Discrete
and continuous actions are two arrays, one of which has no columns: the type of no argument depends on the action space.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rl_lab.core.world import Array

# Columns of the report of an update, see `UpdateReport`. FAILED_MINIBATCH is 0 unless a gradient was not finite.
(
    POLICY_LOSS, VALUE_LOSS, ENTROPY_LOSS, CLIP_FRACTION, APPROX_KL, LOSS, GRADIENT_STEPS, EPOCHS, FAILED_MINIBATCH,
) = range(9)  # fmt: skip
REPORTED = FAILED_MINIBATCH + 1  # columns


class EnvArrays(NamedTuple):
    """The arrays of a batch of worlds, with one row for each agent where the batch has [N, A, ...]."""

    native_handle: int  # address of the batch's header, see `Batch.native_handle`
    partition: Array  # int64 [threads + 1]: thread r steps the worlds partition[r] to partition[r + 1] - 1
    observations: int  # address of the observations, float32 or uint8 [B, d]
    final_observations: int  # address of each ended episode's last observations, float32 or uint8 [B, d]
    obs_is_uint8: bool
    obs_size: int  # d
    discrete_actions: Array  # int64 [B, 1] or [B, 0]
    continuous_actions: Array  # float32 [B, k] or [B, 0]
    action_low: Array  # float32 [k] or [0]: a continuous action is clipped before the worlds get it
    action_high: Array  # float32 [k] or [0]
    action_masks: Array  # uint8 [B, n or more], or [B, 0] where every action is always legal
    rewards: Array  # float32 [B]
    terminated: Array  # bool [N]
    truncated: Array  # bool [N]
    dones: Array  # bool [N]: terminated or truncated
    episode_returns: Array  # float64 [B]
    episode_lengths: Array  # int64 [N]


class PolicyOutputs(NamedTuple):
    """The outputs of the policy for the observations of T steps, and the action masks that it samples by."""

    discrete_actions: Array  # int64 [T, B, 1] or [T, B, 0]
    continuous_actions: Array  # float32 [T, B, k] or [T, B, 0]: before they are clipped
    action_masks: Array  # float32 [T, B, n] or [T, B, 0]
    values: Array  # float32 [T, B]
    log_probs: Array  # float32 [T, B]


class RolloutBuffers(NamedTuple):
    """The arrays of a `stable_baselines3.common.buffers.RolloutBuffer`, and further results of a rollout."""

    observations: int  # address, float32 or uint8 [T, B, d]: normalised if observations are
    obs_is_uint8: bool
    outputs: PolicyOutputs
    rewards: Array  # float32 [T, B]
    episode_starts: Array  # float32 [T, B]: 1 where the observation is the first of its episode
    advantages: Array  # float32 [T, B]
    returns: Array  # float32 [T, B]
    last_values: Array  # float32 [B]: values of the observations after the last step
    last_episode_starts: Array  # bool [B]: whether the worlds' present observation is the first of its episode
    ep_info: Array  # float64 [T, B, 2]: return and length of episodes that ended, length 0 where none did
    cycles: Array  # int64 [2]: processor cycles in steps of the worlds, and in the whole rollout
    gamma: float  # discount of the values with which truncated episodes are bootstrapped


class PolicyNetwork(NamedTuple):
    """An actor-critic, see `network.NetworkMemory`: the addresses of its memory and which buffers have its outputs."""

    tables: Array  # int64 [threads, NUM_ADDRESSES]: `NetworkMemory.tables`
    logits_buffer: int  # index of the buffer that has the logits, or the means of continuous actions
    value_buffer: int  # index of the buffer that has the value
    log_std_offset: int  # index of the first parameter of log_std, for continuous actions
    action_size: int  # n or k
    sparse: bool  # whether observations enter the network as lists of their numbers that are not zero
    all_legal: Array  # float32 [n or k]: ones, the action mask where there is no other


class RunningStats(NamedTuple):
    """The statistics of a `stable_baselines3.common.vec_env.VecNormalize`.

    A `RunningMeanStd` is float64 [3, d]: mean, variance and, in [2, 0], the count; or [3, 0] where nothing is counted.
    """

    obs_rms: Array  # float64 [3, d] or [3, 0]: observations are normalised by it if it has columns
    ret_rms: Array  # float64 [3, 1] or [3, 0]: of discounted returns
    returns: Array  # float64 [B]: discounted returns of the running episodes
    gamma: float  # discount of these returns
    norm_reward: bool  # whether rewards are normalised; their statistics are updated in any case


class RandomStream(NamedTuple):
    """The random numbers of one rollout: number j of row b in step t has the counter + ((t * B + b) << bits) + j."""

    key: np.uint64  # of Philox
    counter: np.uint64  # of the first number of row 0 in step 0
    bits: np.uint64  # a row takes up to 2 ** bits random numbers in a step


class RolloutSamples(NamedTuple):
    """A rollout as the update reads it: R transitions, see `stable_baselines3`'s `RolloutBufferSamples`.

    Of sparse observations, the numbers that are not zero are listed: row r has nonzero_indices and nonzero_values
    [nonzero_starts[r]:nonzero_starts[r + 1]]. The three arrays are empty where observations are dense.
    """

    observations: int  # address, float32 or uint8 [R, d]
    obs_is_uint8: bool
    obs_size: int  # d
    nonzero_starts: Array  # int64 [R + 1]
    nonzero_indices: Array  # int32 [more than there are]
    nonzero_values: Array  # float32 [more than there are]
    discrete_actions: Array  # int64 [R, 1] or [R, 0]
    continuous_actions: Array  # float32 [R, k] or [R, 0]
    action_masks: Array  # float32 [R, n], or [any, 0] where every action is always legal
    old_log_prob: Array  # float32 [R]
    advantages: Array  # float32 [R]
    returns: Array  # float32 [R]
    indices: Array  # int64 [epochs, up to R]: the order in which each epoch goes through the transitions
    end: int  # no minibatch begins at this position of the order, or later


class AdamSettings(NamedTuple):
    """The settings that `adam_step` reads by position: in the order of `adam_records.LEARNING_RATE` and so on."""

    learning_rate: float
    max_grad_norm: float
    beta_1: float
    beta_2: float
    eps: float


class AdamState(NamedTuple):
    """The parameters of a network, their gradient, and the state of Adam."""

    weights: Array  # float32 [P]
    grads: Array  # float32 [NUM_SHARDS, P]: each shard of a minibatch has a gradient of its own, and they are summed
    exp_avg: Array  # float32 [P]: first moments
    exp_avg_sq: Array  # float32 [P]: second moments
    step: float  # steps that Adam has taken before
    squared_norms: Array  # float64 [NUM_SHARDS], working memory of `adam_step`


class PpoSettings(NamedTuple):
    """The hyperparameters of `stable_baselines3.PPO` that an update depends on, by its names."""

    batch_size: int
    clip_range: float
    ent_coef: float
    vf_coef: float
    target_kl: float  # infinite if there is none
    normalize_advantage: bool
    adam: AdamSettings


class UpdateReport(NamedTuple):
    """The arrays to which an update writes its losses and counts: REPORTED columns, POLICY_LOSS and so on."""

    shards: Array  # float64 [NUM_SHARDS, REPORTED]: sums over the rows of a minibatch's shard, for the other threads
    totals: Array  # float64 [REPORTED]: means over the update's minibatches, and counts


class BatchScale(NamedTuple):
    """Numbers that all rows of a minibatch share."""

    advantage_mean: float
    advantage_std: float
    inv_batch: np.float32  # 1 / M


class SurrogateTerms(NamedTuple):
    """Numbers that the loss of one transition's action depends on, all float32."""

    old_log_prob: np.float32
    advantage: np.float32  # normalised if advantages are
    clip_range: np.float32
    ent_coef: np.float32
    inv_batch: np.float32  # 1 / M


class ThreadRank(NamedTuple):
    """One of the threads that share an update."""

    rank: int  # its number, from 0
    num_threads: int
    barrier: int  # address of the counters by which the threads wait for each other, see `templates/barrier.py`
