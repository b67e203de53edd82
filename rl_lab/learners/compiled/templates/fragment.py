"""A fragment of T steps without Python: what the worlds return and what the policy says of it.

A template, executed by `build` after `ppo_rollout`: see `engine/template_context.py`. It acts as `ppo.collect` does,
with the same functions; it records the inputs of the action distribution too, and leaves bootstrapping to the learner.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.fragment_records import ILLEGAL_LOGIT, FragmentBuffers
from rl_lab.learners.compiled.network import ADDRESSES, AT_STOP, AT_WEIGHTS, TILE
from rl_lab.learners.compiled.ppo_records import EnvArrays, PolicyNetwork, PolicyOutputs, RandomStream
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.barrier import barrier_abort, barrier_stopped
from rl_lab.learners.compiled.templates.ppo_rollout import evaluate_observations, sample_actions, send_actions
from rl_lab.learners.compiled.templates.tiles import (
    activations,
    as_f32,
    as_i64,
    as_u8,
    copy,
    forward,
    step_envs,
    store_observations,
    transpose_weights,
)

internal, jit = decorators().internal, decorators().jit
cycles, uncounted = primitives().cycles, primitives().uncounted
ILLEGAL = np.float32(ILLEGAL_LOGIT)


@jit
def sample_fragment(
    rank: Any,
    ranks: Any,
    team: Any,
    envs: EnvArrays,
    buffers: FragmentBuffers,
    policy: PolicyNetwork,
    stream: RandomStream,
) -> Any:
    """Act in the worlds for T steps; thread `rank` acts in worlds partition[rank] to partition[rank + 1] - 1.

    Returns 0, or the negative outcome of a step that failed. If the user interrupts the work, it returns 0 and the
    buffers are incomplete.
    """
    start, env_cycles = cycles(), 0
    envs, buffers, policy = uncounted((envs, buffers, policy))
    n_steps, rows = buffers.rewards.shape
    agents, first, last = rows // len(envs.dones), envs.partition[rank], envs.partition[rank + 1]
    low_row, high_row = first * agents, last * agents
    all_rows, no_statistics = np.arange(rows), np.zeros((3, 0))
    net, stop_flag = policy.tables[rank].ctypes.data, policy.tables[rank, AT_STOP]
    outputs, is_uint8, d = buffers.outputs, envs.obs_is_uint8, envs.obs_size
    inputs = activations(net, 0)
    row_bytes = d * (1 if is_uint8 else 4)
    final_observations = buffers.final_observations + low_row * n_steps * row_bytes
    num_final = 0
    transpose_weights(net)
    for t in range(n_steps):
        for low in range(low_row, high_row, TILE):
            if barrier_stopped(team, stop_flag):
                return 0
            high = min(low + TILE, high_row)
            evaluate_observations(envs.observations, all_rows[low:high], is_uint8, d, no_statistics, policy.sparse, net)
            store_observations(buffers.observations + t * rows * row_bytes, is_uint8, d, low, high, inputs)
            if envs.action_masks.shape[1]:
                for row in range(low, high):
                    copy(outputs.action_masks[t, row], envs.action_masks[row])
            sample_actions(t, low, high, outputs, policy, stream, net)
            record_distributions(t, low, high, outputs, buffers.dist_inputs, policy, net)
            send_actions(t, low, high, envs, outputs)
        entered = cycles()
        outcome = step_envs(first, last, envs.native_handle)
        env_cycles += cycles() - entered
        if outcome < 0:
            barrier_abort(team)
            return outcome
        num_final = record_outcomes(t, low_row, high_row, envs, buffers, final_observations, num_final)
    buffers.num_final[rank] = num_final
    if rank == 0:
        buffers.cycles[0], buffers.cycles[1] = env_cycles, cycles() - start
    return 0


@jit
def act(
    observations: Any, outputs: PolicyOutputs, dist_inputs: Any, policy: PolicyNetwork, stream: RandomStream
) -> None:
    """Sample actions for observations float32 [B, d] of environments that Python steps; the outputs have T = 1."""
    rows, d = observations.shape
    net = policy.tables.ctypes.data
    inputs = activations(net, 0)
    transpose_weights(net)
    for low in range(0, rows, TILE):
        high = min(low + TILE, rows)
        for r in range(high - low):
            copy(inputs[r, :d], observations[low + r])
        forward(high - low, d, policy.sparse, net)
        sample_actions(0, low, high, outputs, policy, stream, net)
        record_distributions(0, low, high, outputs, dist_inputs, policy, net)


@internal
def record_distributions(
    t: Any, low: Any, high: Any, outputs: PolicyOutputs, dist_inputs: Any, policy: PolicyNetwork, net: Any
) -> None:
    """Record the inputs of the action distributions of rows low to high - 1, which the network has just evaluated."""
    n, logits = policy.action_size, activations(net, policy.logits_buffer)
    log_std = as_f32(as_i64(net, ADDRESSES)[AT_WEIGHTS] + 4 * policy.log_std_offset, n)
    action_masks, discrete = outputs.action_masks, outputs.discrete_actions.shape[2] > 0
    for r in range(high - low):
        inputs = dist_inputs[t, low + r]
        for j in range(n):
            inputs[j] = logits[r, j]
            if action_masks.shape[2] and not action_masks[t, low + r, j]:
                inputs[j] = ILLEGAL
            if not discrete:
                inputs[n + j] = log_std[j]


@internal
def record_outcomes(
    t: Any, low: Any, high: Any, envs: EnvArrays, buffers: FragmentBuffers, final_observations: Any, num_final: Any
) -> Any:
    """Record what step t gave rows low to high - 1; append the last observations of episodes that ended in it.

    These are appended at the address `final_observations`, which has `num_final` already. Returns how many it has now.
    """
    agents = len(envs.rewards) // len(envs.dones)
    rewards, terminated, truncated = buffers.rewards, buffers.terminated, buffers.truncated
    episode_returns, episode_lengths = buffers.episode_returns, buffers.episode_lengths
    row_bytes = envs.obs_size * (1 if envs.obs_is_uint8 else 4)
    for row in range(low, high):
        env = row // agents
        rewards[t, row] = envs.rewards[row]
        terminated[t, row], truncated[t, row] = envs.terminated[env], envs.truncated[env]
        episode_lengths[t, env] = 0
        if envs.dones[env]:
            episode_returns[t, row], episode_lengths[t, env] = envs.episode_returns[row], envs.episode_lengths[env]
            target = as_u8(final_observations + num_final * row_bytes, row_bytes)
            copy(target, as_u8(envs.final_observations + row * row_bytes, row_bytes))
            num_final += 1
    return num_final
