"""Samples a fragment in compiled code: acting and stepping without Python, with the lab's compiled networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
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
from rl_lab.learners.rllib.torch_sampler import encoder_of, sample_fragment, torch_act
from rl_lab.learners.sb3.compiled_batch import is_compiled_batch
from rl_lab.learners.sb3.network_import import ParameterMirror, UnsupportedByCompiledError, actor_critic
from rl_lab.learners.sb3.ppo import MIN_STEPS_FOR_THREADS
from rl_lab.learners.sb3.ppo_arguments import env_arrays, policy_outputs
from rl_lab.learners.sb3.sparse_observations import is_sparse

_SEEDS = 2**63 - 1  # keys of random streams


def sampler(module: Any, envs: BatchedEnv, threads: int) -> Callable[[int], Sample]:
    """Return a function of the number of steps that samples a fragment: compiled where that is possible, else torch's.

    Its random numbers depend on torch's global generator. Compiled code uses up to `threads` threads, which change no
    result. Environments that Python steps are acted in by compiled code, too, where it knows the network.
    """
    act, encode = torch_act(module), encoder_of(module)
    with suppress(UnsupportedByCompiledError):
        act = CompiledActor(module)
        if encode is np.copy:
            return CompiledSampler(module, envs, threads)
    return partial(sample_fragment, module, envs, act=act, encode=encode)


def is_compiled(module: Any) -> bool:
    """Return whether `sampler` acts in compiled code with this module, and not with torch."""
    try:
        CompiledActor(module)
    except UnsupportedByCompiledError:
        return False
    return True


def acts_compiled(sample: Callable[[int], Sample]) -> bool:
    """Return whether a sampler acts in compiled code, and not with torch."""
    return isinstance(sample, CompiledSampler) or (
        isinstance(sample, partial) and isinstance(sample.keywords["act"], CompiledActor)
    )


class _CompiledPolicy:
    """A policy of Stable-Baselines3 in compiled code, whose tensors are read at each call.

    Raises UnsupportedByCompiledError for a policy that compiled code does not support.
    """

    def __init__(self, module: Any, threads: int) -> None:
        if not module.model_config.get("compiled", True):
            raise UnsupportedByCompiledError("its settings say so")
        network, tensors, self._outputs = actor_critic(module.policy, threads)
        self._shared, self._space, self._kernels = (
            ParameterMirror(network, tensors, None),
            module.action_space,
            build.fragment(),
        )
        self._is_discrete = isinstance(self._space, Discrete)
        self._action_size = int(self._space.n if self._is_discrete else self._space.shape[0])

    def _network(self, observations: Array) -> PolicyNetwork:
        """Return the network's record; `observations` [B, ...] decide whether its inputs are sparse."""
        logits, value, log_std = map(int, self._outputs)
        sparse = is_sparse(self._shared.network, observations.reshape(len(observations), -1))
        all_legal = np.ones(self._action_size, np.uint8)
        return PolicyNetwork(self._shared.tables(), logits, value, log_std, self._action_size, sparse, all_legal)

    def _random_stream(self) -> RandomStream:
        bits = max(self._action_size - 1, 0).bit_length()
        return RandomStream(np.uint64(int(torch.randint(_SEEDS, (1,)))), np.uint64(0), np.uint64(bits))

    def _arrays(self, num_steps: int, rows: int) -> tuple[Array, Array, Array, Array]:
        """Return arrays [T, B, ...] for actions, values, log probabilities and inputs of the distribution."""
        n, shape = self._action_size, (num_steps, rows)
        actions = np.empty((*shape, 1), np.int64) if self._is_discrete else np.empty((*shape, n), np.float32)
        values, log_probs = np.empty((2, *shape), np.float32)
        return actions, values, log_probs, np.empty((*shape, n if self._is_discrete else 2 * n), np.float32)


class CompiledActor(_CompiledPolicy):
    """Samples actions for environments that Python steps."""

    def __init__(self, module: Any) -> None:
        super().__init__(module, 1)

    def __call__(self, observations: Array, action_mask: Array | None) -> tuple[Array, Array, Array]:
        """Return actions, their log probabilities and the inputs of the distribution, [B, ...] each.

        Rows without a legal action, which do not act, get any action.
        """
        self._shared.copy_from_tensors()
        rows = len(observations)
        flat = np.ascontiguousarray(observations, np.float32).reshape(rows, -1)
        actions, values, log_probs, inputs = self._arrays(1, rows)
        masks = None if action_mask is None else np.where(action_mask.any(axis=1, keepdims=True), action_mask, 1)
        masks = None if masks is None else np.ascontiguousarray(masks[None, :, : self._action_size], np.uint8)
        outputs = policy_outputs(
            actions, np.zeros((1, rows, 0), np.uint8) if masks is None else masks, values, log_probs
        )
        self._kernels.act(flat, outputs, inputs, self._network(flat), self._random_stream())
        return actions[0, :, 0] if self._is_discrete else actions[0], log_probs[0], inputs[0]


class CompiledSampler(_CompiledPolicy):
    """Samples whole fragments without Python.

    Raises UnsupportedByCompiledError for a policy or environments that compiled code does not support.
    """

    def __init__(self, module: Any, envs: BatchedEnv, threads: int) -> None:
        if not is_compiled_batch(envs):
            raise UnsupportedByCompiledError("its environments are not stepped by compiled code alone")
        if envs.observations.dtype not in (np.float32, np.uint8):
            raise UnsupportedByCompiledError(f"its observations are of {envs.observations.dtype}")
        super().__init__(module, threads)
        self._team, self._batch = WorkerPool(threads), envs

    def __call__(self, num_steps: int) -> Sample:
        """Sample `num_steps` steps of each environment, which were reset before. Raises what `Batch.step` raises."""
        begin, batch, rows = time.perf_counter(), self._batch, self._batch.rewards.size
        self._shared.copy_from_tensors()
        threads = self._team.threads if num_steps * rows >= MIN_STEPS_FOR_THREADS else 1
        space = self._space
        bounds = np.zeros((2, 0), np.float32) if self._is_discrete else np.stack([space.low, space.high])
        envs = env_arrays(batch, bounds, threads)
        final = _like(batch.observations, num_steps * rows)
        observations = _like(batch.observations, num_steps, rows)
        buffers = self._buffers(num_steps, observations, final, len(envs.partition) - 1)
        policy = self._network(batch.observations.reshape(rows, *batch.observations.shape[2:]))
        stream = self._random_stream()
        ranks = len(envs.partition) - 1
        for outcome in self._team.run(ranks, self._kernels.sample_fragment, envs, buffers, policy, stream):
            if outcome < 0:
                batch.raise_fault(outcome)
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
        batch, shape = self._batch, (num_steps, self._batch.rewards.size)
        actions, values, log_probs, dist_inputs = self._arrays(*shape)
        masks = np.empty((*shape, self._action_size if batch.world.has_action_mask else 0), np.uint8)
        terminated, truncated = np.empty((2, *shape), np.bool_)
        return FragmentBuffers(
            observations=observations.ctypes.data,
            final_observations=final.ctypes.data,
            num_final=np.zeros(threads, np.int64),
            outputs=policy_outputs(actions, masks, values, log_probs),
            dist_inputs=dist_inputs,
            rewards=np.empty(shape, np.float32),
            terminated=terminated,
            truncated=truncated,
            episode_returns=np.empty(shape),
            episode_lengths=np.empty((num_steps, batch.num_envs), np.int64),
            cycles=np.zeros(2, np.int64),
        )


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
