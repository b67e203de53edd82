"""A fragment, RLlib's word for T steps of every row, sampled without Python.

A template: `build` executes this file as a new module, after `ppo_rollout`, and does not import it; see
`engine/template_context.py`. `learners/rllib/compiled_sampler.py` calls the functions that are `jit`. `sample_fragment`
acts as `ppo.collect_rollouts` does, with the same functions, but records other things: the inputs of the action
distributions, which RLlib's losses need, and the worlds' rewards and end flags, unmodified. Bootstrapping and
advantages are left to the learner. It writes the buffers, the batch of environments and the network's memory. Shapes
are those of `fragment_records`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.template_context import decorators
from rl_lab.learners.compiled.fragment_records import ILLEGAL_LOGIT, FragmentBuffers
from rl_lab.learners.compiled.network import AT_STOP_FLAG, AT_WEIGHTS, NUM_ADDRESSES, TILE
from rl_lab.learners.compiled.ppo_records import EnvArrays, PolicyNetwork, PolicyOutputs, RandomStream
from rl_lab.learners.compiled.primitives import primitives
from rl_lab.learners.compiled.templates.barrier import abort_if_interrupted, barrier_abort
from rl_lab.learners.compiled.templates.calls import forward, step_envs, transpose_weights
from rl_lab.learners.compiled.templates.memory_views import activations, as_f32, as_i64, as_u8, copy
from rl_lab.learners.compiled.templates.observations import store_observations
from rl_lab.learners.compiled.templates.ppo_rollout import (
    evaluate_observations,
    sample_actions,
    send_actions,
    store_action_masks,
)

internal, jit = decorators().internal, decorators().jit
cycles, without_refcounts = primitives().cycles, primitives().without_refcounts
ILLEGAL = np.float32(ILLEGAL_LOGIT)
ENV_CYCLES, ALL_CYCLES = 0, 1  # indices of `FragmentBuffers.cycles`


@jit
def sample_fragment(
    rank: Any,
    num_threads: Any,
    barrier: Any,
    envs: EnvArrays,
    buffers: FragmentBuffers,
    policy: PolicyNetwork,
    stream: RandomStream,
) -> Any:
    """Act in the worlds for T steps and record them in the buffers.

    Thread `rank` acts in worlds partition[rank] to partition[rank + 1] - 1, whose rows are low_row to high_row - 1.
    Returns 0, or the negative outcome of a step that failed. If the user interrupts the work, it returns 0 and the
    buffers are incomplete.
    """
    start_cycle, env_cycles = cycles(), 0
    envs, buffers, policy = without_refcounts((envs, buffers, policy))
    n_steps, rows = buffers.rewards.shape
    num_agents = rows // len(envs.dones)
    first_env, end_env = envs.partition[rank], envs.partition[rank + 1]
    low_row, high_row = first_env * num_agents, end_env * num_agents
    all_rows, no_obs_rms = np.arange(rows), np.zeros((3, 0))  # without columns: observations are not normalised
    net, stop_flag = policy.tables[rank].ctypes.data, policy.tables[rank, AT_STOP_FLAG]
    outputs, is_uint8, d = buffers.outputs, envs.obs_is_uint8, envs.obs_size
    inputs = activations(net, 0)
    row_bytes = d * (1 if is_uint8 else 4)
    final_observations = buffers.final_observations + low_row * n_steps * row_bytes
    num_final = 0
    transpose_weights(net)
    for t in range(n_steps):
        for low in range(low_row, high_row, TILE):
            if abort_if_interrupted(barrier, stop_flag):
                return 0
            high = min(low + TILE, high_row)
            evaluate_observations(envs.observations, all_rows[low:high], is_uint8, d, no_obs_rms, policy.sparse, net)
            store_observations(buffers.observations + t * rows * row_bytes, is_uint8, d, low, high, inputs)
            store_action_masks(t, low, high, envs, outputs)
            sample_actions(t, low, high, outputs, policy, stream, net)
            record_distributions(t, low, high, outputs, buffers.dist_inputs, policy, net)
            send_actions(t, low, high, envs, outputs)
        step_cycle = cycles()
        outcome = step_envs(first_env, end_env, envs.native_handle)
        env_cycles += cycles() - step_cycle
        if outcome < 0:
            barrier_abort(barrier)
            return outcome
        num_final = record_step(t, low_row, high_row, envs, buffers, final_observations, num_final)
    buffers.num_final[rank] = num_final
    if rank == 0:
        buffers.cycles[ENV_CYCLES], buffers.cycles[ALL_CYCLES] = env_cycles, cycles() - start_cycle
    return 0


@jit
def act(
    observations: Any, outputs: PolicyOutputs, dist_inputs: Any, policy: PolicyNetwork, stream: RandomStream
) -> None:
    """Sample actions for observations float32 [B, d] of environments that Python steps; write them to outputs of T = 1.

    The inputs of their distributions are written to dist_inputs [1, B, ...].
    """
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
    """Record the inputs of the action distributions of rows low to high - 1, which the network has just evaluated.

    They are written to step t of dist_inputs, see `FragmentBuffers`.
    """
    n, logits = policy.action_size, activations(net, policy.logits_buffer)
    log_std = as_f32(as_i64(net, NUM_ADDRESSES)[AT_WEIGHTS] + 4 * policy.log_std_offset, n)
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
def record_step(
    t: Any, low: Any, high: Any, envs: EnvArrays, buffers: FragmentBuffers, final_observations: Any, num_final: Any
) -> Any:
    """Record step t of rows low to high - 1 in the buffers; append the last observations of episodes that ended in it.

    These are appended at the address `final_observations`, where `num_final` lie already. Returns how many lie there
    now.
    """
    num_agents = len(envs.rewards) // len(envs.dones)
    rewards, terminated, truncated = buffers.rewards, buffers.terminated, buffers.truncated
    episode_returns, episode_lengths = buffers.episode_returns, buffers.episode_lengths
    row_bytes = envs.obs_size * (1 if envs.obs_is_uint8 else 4)
    for row in range(low, high):
        env = row // num_agents
        rewards[t, row] = envs.rewards[row]
        terminated[t, row], truncated[t, row] = envs.terminated[env], envs.truncated[env]
        episode_lengths[t, env] = 0
        if envs.dones[env]:
            episode_returns[t, row], episode_lengths[t, env] = envs.episode_returns[row], envs.episode_lengths[env]
            target = as_u8(final_observations + num_final * row_bytes, row_bytes)
            copy(target, as_u8(envs.final_observations + row * row_bytes, row_bytes))
            num_final += 1
    return num_final
