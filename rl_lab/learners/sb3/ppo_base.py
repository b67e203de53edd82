"""The part of compiled PPO that does not depend on a rollout or an update: preparation, network, actions.

`ppo.py` derives from `CompiledPpoBase`, which is mixed into SB3's classes: `self` is an SB3 model. `prepare_compiled`
decides whether compiled code can train this model, and makes what is kept between calls: the compiled network with
copies of the parameters, threads, and the key of random numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer

from rl_lab.core.world import Array
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.ppo_records import PolicyNetwork, RandomStream
from rl_lab.learners.compiled.thread_pool import WorkerPool, available_threads
from rl_lab.learners.sb3.generator_state import new_rng_key
from rl_lab.learners.sb3.masked_rollout_buffers import (
    CompleteTransitionMaskableRolloutBuffer,
    CompleteTransitionRolloutBuffer,
)
from rl_lab.learners.sb3.network_import import ParameterMirror, UnsupportedByCompiledError, actor_critic, adam_settings
from rl_lab.learners.sb3.ppo_arguments import policy_outputs
from rl_lab.learners.sb3.precompile import BackgroundCompile, background_compile
from rl_lab.learners.sb3.sparse_observations import is_sparse

_BUFFERS = (
    RolloutBuffer,
    MaskableRolloutBuffer,
    CompleteTransitionRolloutBuffer,
    CompleteTransitionMaskableRolloutBuffer,
)


class CompiledPpoBase:
    """Preparation of compiled code for a PPO of SB3, and actions of the compiled policy.

    `backend` says what trains: "compiled", or "Stable-Baselines3's own, because ...". It is "" until the first use.
    """

    backend = ""
    rng_key: np.uint64  # of the random numbers of compiled code
    rng_counter = 0  # actions sampled so far, before a restore too: each has random numbers of its own
    # Of the last rollout, if it was compiled: the environments' share of the time.
    env_time_fraction: float | None = None
    threads: int | None = None  # that share the work, read once: None means all cores; they change no result
    compiles_in_background = True  # whether another process may compile what this one will need
    mirror: ParameterMirror  # the compiled network, with copies of the policy's parameters and Adam's moments
    _worker_pool: WorkerPool
    _background_compile: BackgroundCompile | None = None

    def prepare_compiled(self) -> bool:
        """Return whether compiled code trains this PPO; at the first call, decide it and prepare for it."""
        if not self.backend:
            try:
                self._check_supported()
                self._prepare()
                self.backend = "compiled"
            except UnsupportedByCompiledError as error:
                self.backend = f"Stable-Baselines3's own, because {error}"
        return self.backend == "compiled"

    def _check_supported(self) -> None:
        """Raise UnsupportedByCompiledError where compiled code would compute something else than SB3's."""
        model: Any = self
        if type(model.rollout_buffer) not in _BUFFERS:
            raise UnsupportedByCompiledError(f"its rollout buffer is a {type(model.rollout_buffer).__name__}")
        if model.clip_range_vf is not None:
            raise UnsupportedByCompiledError("it clips its value function")
        if model.observation_space.dtype not in (np.float32, np.uint8):
            raise UnsupportedByCompiledError(f"its observations are of {model.observation_space.dtype}")

    def _prepare(self) -> None:
        """Make the compiled network and the threads. Raises UnsupportedByCompiledError for a policy or optimizer."""
        model: Any = self
        adam = adam_settings(model.policy.optimizer)
        self._adam_betas, self._adam_eps = adam["betas"], adam["eps"]
        self._worker_pool = WorkerPool(self.threads or available_threads())
        network, tensors, self._outputs = actor_critic(model.policy, self._worker_pool.threads)
        self.mirror = ParameterMirror(network, tensors, model.policy.optimizer)
        self._background_compile = background_compile() if self.compiles_in_background else None
        self._compiled = build.ppo()
        self.rng_key = new_rng_key()
        space = model.action_space
        self._discrete = isinstance(space, Discrete)
        self._action_size = int(space.n if self._discrete else space.shape[0])
        self._action_bounds = np.zeros((2, 0), np.float32) if self._discrete else np.stack([space.low, space.high])

    def _excluded_save_params(self) -> list[str]:
        """Return the attributes that SB3's `save` leaves out."""
        excluded = (
            "backend rng_counter env_time_fraction threads rng_key mirror _worker_pool _background_compile".split()
        )
        excluded += "_outputs _compiled _adam_betas _adam_eps _discrete _action_size _action_bounds".split()
        return [*super()._excluded_save_params(), *excluded]  # type: ignore[misc]

    def network_tables(self) -> Array:
        """Return `NetworkMemory.tables`, int64 [threads, NUM_ADDRESSES], once the network's functions are compiled."""
        if self._background_compile is not None:
            self._background_compile.wait("network")
        return self.mirror.tables()

    def _random_stream(self, rows: int) -> RandomStream:
        """Return a stream of random numbers for `rows` actions, and advance the counter beyond it."""
        bits = max(self._action_size - 1, 0).bit_length()
        counter, self.rng_counter = self.rng_counter << bits, self.rng_counter + rows
        return RandomStream(self.rng_key, np.uint64(counter), np.uint64(bits))

    def _policy_network(self, observations: Array) -> PolicyNetwork:
        """Return the network's record for compiled code; `observations` [R, d] decide whether its inputs are sparse."""
        all_legal = np.ones(self._action_size, np.float32)
        logits, value, log_std = map(int, self._outputs)
        sparse = is_sparse(self.mirror.network, observations)
        return PolicyNetwork(self.network_tables(), logits, value, log_std, self._action_size, sparse, all_legal)

    def _act(self, observations: Array, action_masks: Array | None) -> tuple[Array, Array, Array]:
        """Return actions [B, k or 1], values and log probabilities, float32 [B], of observations [B, ...]."""
        rows = len(observations)
        flat = np.ascontiguousarray(observations, np.float32).reshape(rows, -1)
        columns, dtype = (1, np.int64) if self._discrete else (self._action_size, np.float32)
        actions = np.zeros((1, rows, columns), dtype)
        values, log_probs = np.zeros((2, 1, rows), np.float32)
        masks = None if action_masks is None else np.ascontiguousarray(action_masks[None], np.float32)
        outputs = policy_outputs(actions, masks, values, log_probs)
        self._compiled.act(flat, outputs, self._policy_network(flat), self._random_stream(rows))
        return actions[0], values[0], log_probs[0]
