"""Samples a fragment in compiled code: acting and stepping without Python, with the lab's compiled networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete

from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.engine.batch import Batch
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.fragment_records import FragmentBuffers
from rl_lab.learners.compiled.ppo_records import PolicyNetwork, RandomStream
from rl_lab.learners.compiled.thread_pool import WorkerPool
from rl_lab.learners.rllib.fragment import Fragment, Sample
from rl_lab.learners.rllib.torch_sampler import sample_fragment
from rl_lab.learners.sb3.compiled_batch import is_compiled_batch
from rl_lab.learners.sb3.network_import import ParameterMirror, UnsupportedByCompiledError, actor_critic
from rl_lab.learners.sb3.ppo import WORTH_SHARING
from rl_lab.learners.sb3.ppo_arguments import env_arrays, policy_outputs
from rl_lab.learners.sb3.sparse_observations import is_sparse

_SEEDS = 2**63 - 1  # keys of random streams


def sampler(module: Any, envs: BatchedEnv, threads: int) -> Callable[[int], Sample]:
    """Return a function of the number of steps that samples a fragment: compiled where that is possible, else torch's.

    Its random numbers depend on torch's global generator. Compiled code uses up to `threads` threads, which change no
    result.
    """
    try:
        return CompiledSampler(module, envs, threads)
    except UnsupportedByCompiledError:
        return partial(sample_fragment, module, envs)


class CompiledSampler:
    """Samples fragments with a policy of Stable-Baselines3, whose tensors it reads at each call.

    Raises UnsupportedByCompiledError for a policy or environments that compiled code does not support.
    """

    def __init__(self, module: Any, envs: BatchedEnv, threads: int) -> None:
        if not module.model_config.get("compiled", True):
            raise UnsupportedByCompiledError("its settings say so")
        if not is_compiled_batch(envs):
            raise UnsupportedByCompiledError("its environments are not stepped by compiled code alone")
        if envs.observations.dtype not in (np.float32, np.uint8):
            raise UnsupportedByCompiledError(f"its observations are of {envs.observations.dtype}")
        network, tensors, self._outputs = actor_critic(module.policy, threads)
        self._shared, self._team, self._batch = ParameterMirror(network, tensors, None), WorkerPool(threads), envs
        self._space, self._kernels = module.action_space, build.fragment()

    def __call__(self, num_steps: int) -> Sample:
        """Sample `num_steps` steps of each environment, which were reset before. Raises what `Batch.step` raises."""
        begin, batch, rows = time.perf_counter(), self._batch, self._batch.rewards.size
        self._shared.copy_from_tensors()
        threads = self._team.threads if num_steps * rows >= WORTH_SHARING else 1
        space = self._space
        bounds = np.zeros((2, 0), np.float32) if isinstance(space, Discrete) else np.stack([space.low, space.high])
        envs = env_arrays(batch, bounds, threads)
        final = _like(batch.observations, num_steps * rows)
        observations = _like(batch.observations, num_steps, rows)
        buffers = self._buffers(num_steps, observations, final, len(envs.partition) - 1)
        policy, stream = self._policy_network(), self._random_stream()
        ranks = len(envs.partition) - 1
        for outcome in self._team.run(ranks, self._kernels.sample_fragment, envs, buffers, policy, stream):
            if outcome < 0:
                batch.fail(outcome)
        sample = Sample()
        sample.fragment = _fragment(batch, buffers, observations, _by_step(final, buffers, envs.partition, rows))
        ended = buffers.episode_lengths > 0
        sample.lengths = buffers.episode_lengths[ended].tolist()
        sample.returns = buffers.episode_returns.reshape(*ended.shape, -1)[ended].ravel().tolist()
        seconds, (env_cycles, cycles) = time.perf_counter() - begin, buffers.cycles.tolist()
        sample.env_seconds = seconds * env_cycles / max(cycles, 1)
        sample.infer_seconds = seconds - sample.env_seconds
        return sample

    def _buffers(self, num_steps: int, observations: Array, final: Array, threads: int) -> FragmentBuffers:
        batch, rows, n = self._batch, self._batch.rewards.size, self._action_size
        is_discrete = isinstance(self._space, Discrete)
        shape = num_steps, rows
        actions = np.empty((*shape, 1), np.int64) if is_discrete else np.empty((*shape, n), np.float32)
        masks = np.empty((*shape, n if batch.world.has_action_mask else 0), np.uint8)
        values, log_probs, rewards = np.empty((3, *shape), np.float32)
        terminated, truncated = np.empty((2, *shape), np.bool_)
        return FragmentBuffers(
            observations=observations.ctypes.data,
            final_observations=final.ctypes.data,
            num_final=np.zeros(threads, np.int64),
            outputs=policy_outputs(actions, masks, values, log_probs),
            dist_inputs=np.empty((*shape, n if is_discrete else 2 * n), np.float32),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            episode_returns=np.empty(shape),
            episode_lengths=np.empty((num_steps, batch.num_envs), np.int64),
            cycles=np.zeros(2, np.int64),
        )

    @property
    def _action_size(self) -> int:
        return int(self._space.n if isinstance(self._space, Discrete) else self._space.shape[0])

    def _policy_network(self) -> PolicyNetwork:
        logits, value, log_std = map(int, self._outputs)
        sparse = is_sparse(self._shared.network, self._batch.observations.reshape(self._batch.rewards.size, -1))
        all_legal = np.ones(self._action_size, np.uint8)
        return PolicyNetwork(self._shared.tables(), logits, value, log_std, self._action_size, sparse, all_legal)

    def _random_stream(self) -> RandomStream:
        bits = max(self._action_size - 1, 0).bit_length()
        return RandomStream(np.uint64(int(torch.randint(_SEEDS, (1,)))), np.uint64(0), np.uint64(bits))


def _like(observations: Array, *shape: int) -> Array:
    """Return an array [*shape, ...] for observations [N, A, ...], without values."""
    return np.empty((*shape, *observations.shape[2:]), observations.dtype)


def _by_step(final: Array, buffers: FragmentBuffers, partition: Array, rows: int) -> Array:
    """Return the final observations [E, ...] by step and row, of those that each thread has written by itself."""
    num_steps, agents = len(buffers.rewards), rows // buffers.episode_lengths.shape[1]
    (_, row), starts = np.nonzero(buffers.terminated | buffers.truncated), partition[:-1] * agents
    thread = np.searchsorted(starts, row, side="right") - 1
    order = np.empty(len(row), np.int64)
    for rank, (start, count) in enumerate(zip(starts, buffers.num_final, strict=True)):
        order[thread == rank] = start * num_steps + np.arange(count)
    return np.asarray(final[order])


def _fragment(batch: Batch, buffers: FragmentBuffers, observations: Array, final: Array) -> Fragment:
    outputs, rows = buffers.outputs, batch.rewards.size
    discrete = outputs.discrete_actions.shape[2] > 0
    mask = outputs.action_masks if outputs.action_masks.shape[2] else None
    return Fragment(
        observations=observations,
        last_observations=batch.observations.reshape(rows, *observations.shape[2:]).copy(),
        final_observations=final,
        actions=outputs.discrete_actions[..., 0] if discrete else outputs.continuous_actions,
        action_logp=outputs.log_probs,
        action_dist_inputs=buffers.dist_inputs,
        rewards=buffers.rewards,
        terminated=buffers.terminated,
        truncated=buffers.truncated,
        action_mask=mask,
        last_action_mask=None if mask is None else batch.action_mask.reshape(rows, -1)[:, : mask.shape[2]].copy(),
    )
