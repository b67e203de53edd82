"""Stable-Baselines3's PPO with compiled rollouts and updates: same results, policies, callbacks and files.

Where compiled code does not support a configuration, SB3's own code trains, and `learner` says why.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.world import Array
from rl_lab.engine.batch import Batch, NonFiniteError
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.network import EPOCHS, FAILED_MINIBATCH, GRADIENT_STEPS, MIN_SHARD_ROWS, NUM_SHARDS
from rl_lab.learners.compiled.ppo_records import AdamState, PolicyNetwork, RandomStream, RunningStats, UpdateReport
from rl_lab.learners.compiled.thread_pool import WorkerPool, available_threads
from rl_lab.learners.sb3.compiled_batch import compiled_batch_of, lab_env_of
from rl_lab.learners.sb3.generator_state import new_rng_key
from rl_lab.learners.sb3.masked_rollout_buffers import ActingMaskableRollout, ActingRollout
from rl_lab.learners.sb3.network_import import ParameterMirror, UnsupportedByCompiledError, actor_critic, adam_settings
from rl_lab.learners.sb3.ppo_arguments import (
    env_arrays,
    minibatch_indices,
    policy_outputs,
    ppo_settings,
    rollout_buffers,
    rollout_samples,
)
from rl_lab.learners.sb3.ppo_report import log_update
from rl_lab.learners.sb3.precompile import BackgroundCompile, background_compile
from rl_lab.learners.sb3.sparse_observations import is_sparse, nonzero_of
from rl_lab.learners.sb3.vec_normalize import has_default_settings, set_statistics, statistics_of

WORTH_SHARING = 1_000  # environment steps of a rollout; for fewer, one thread is faster
_BUFFERS = (RolloutBuffer, MaskableRolloutBuffer, ActingRollout, ActingMaskableRollout)


class _CompiledPpoMixin:
    """What both PPOs have in common. `learner` says how they learn: "compiled" or "stock, because ..."."""

    learner = ""
    rng_counter = 0  # actions sampled so far, before a restore too: each has random numbers of its own
    env_time_fraction: float | None = (
        None  # share of the last rollout that the environments took, where it ran without Python
    )
    threads: int | None = None  # that share the work, read once: None means all cores; they change no result
    ahead = True  # whether another process may compile what this one will need
    mirror: ParameterMirror
    _team: WorkerPool
    _background_compile: BackgroundCompile | None = None

    def ready(self) -> bool:
        """Return whether compiled code trains this PPO, and prepare for it at the first call."""
        if not self.learner:
            model: Any = self
            try:
                if type(model.rollout_buffer) not in _BUFFERS:
                    raise UnsupportedByCompiledError(f"its rollout buffer is a {type(model.rollout_buffer).__name__}")
                if model.clip_range_vf is not None:
                    raise UnsupportedByCompiledError("it clips its value function")
                if model.observation_space.dtype not in (np.float32, np.uint8):
                    raise UnsupportedByCompiledError(f"its observations are of {model.observation_space.dtype}")
                group = adam_settings(model.policy.optimizer)
                self._team = WorkerPool(self.threads or available_threads())
                network, tensors, self._outputs = actor_critic(model.policy, self._team.threads)
                self.mirror = ParameterMirror(network, tensors, model.policy.optimizer)
            except UnsupportedByCompiledError as error:
                self.learner = f"stock, because {error}"
                return False
            self._background_compile = background_compile() if self.ahead else None
            self._betas, self._epsilon = group["betas"], group["eps"]
            self._kernels = build.ppo()
            self.key = new_rng_key()
            space = model.action_space
            self._discrete = isinstance(space, Discrete)
            self._action_size = int(space.n if self._discrete else space.shape[0])
            self._action_bounds = np.zeros((2, 0), np.float32) if self._discrete else np.stack([space.low, space.high])
            self.learner = "compiled"
        return self.learner == "compiled"

    def _excluded_save_params(self) -> list[str]:
        own = "learner rng_counter env_time_fraction threads key mirror _team _background_compile _outputs".split()
        own += "_kernels _betas _epsilon _discrete _action_size _action_bounds".split()
        return [*super()._excluded_save_params(), *own]  # type: ignore[misc]

    # ---------------------------------------------------------------------------------------------------- rollouts

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int, use_masking: bool = True
    ) -> bool:
        """See `OnPolicyAlgorithm.collect_rollouts`. With callbacks for every step it is slower."""
        model: Any = self
        if not self.ready() or not use_masking:
            more = {} if isinstance(self, PPO) else {"use_masking": use_masking}
            done: bool = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps, **more)  # type: ignore[misc]
            return done
        model.policy.set_training_mode(False)
        self.mirror.copy_from_tensors()
        lab_env, batch = lab_env_of(env), None
        if (
            lab_env is not None
            and _idle(callback)
            and has_default_settings(env)
            and n_rollout_steps == rollout_buffer.buffer_size
        ):
            batch = compiled_batch_of(lab_env)
        callback.on_rollout_start()
        if batch is None:
            if not self._collect_with_callbacks(env, lab_env, callback, rollout_buffer, n_rollout_steps):
                return False
        else:
            self._collect_compiled(env, batch, rollout_buffer)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def tables(self) -> Array:
        """Return the addresses of the network, int64 [threads, NUM_ADDRESSES], once its functions are compiled."""
        if self._background_compile is not None:
            self._background_compile.wait("network")
        return self.mirror.tables()

    def _random_stream(self, rows: int) -> RandomStream:
        """Return a stream of random numbers for `rows` actions, and advance the counter beyond it."""
        bits = max(self._action_size - 1, 0).bit_length()
        counter, self.rng_counter = self.rng_counter << bits, self.rng_counter + rows
        return RandomStream(self.key, np.uint64(counter), np.uint64(bits))

    def _policy_network(self, observations: Array) -> PolicyNetwork:
        """Return the network's record for compiled code; `observations` [R, d] decide whether its inputs are sparse."""
        all_legal = np.ones(self._action_size, np.float32)
        logits, value, log_std = map(int, self._outputs)
        sparse = is_sparse(self.mirror.network, observations)
        return PolicyNetwork(self.tables(), logits, value, log_std, self._action_size, sparse, all_legal)

    def _collect_compiled(self, env: VecEnv, batch: Batch, buffer: Any) -> None:
        """Fill the buffer without Python in between, as `OnPolicyAlgorithm.collect_rollouts` does."""
        model: Any = self
        if buffer.generator_ready:  # the library's own update has reshaped its arrays
            buffer.reset()
        n_steps, rows = buffer.rewards.shape
        observations = batch.observations.reshape(rows, *batch.observations.shape[2:])
        normalizer: Any = env if isinstance(env, VecNormalize) else None
        stats = RunningStats(
            *statistics_of(normalizer, rows),
            gamma=model.gamma if normalizer is None else normalizer.gamma,
            norm_reward=normalizer is not None and normalizer.norm_reward,
        )
        envs = env_arrays(batch, self._action_bounds, self._team.threads if n_steps * rows >= WORTH_SHARING else 1)
        buffers = rollout_buffers(buffer, np.asarray(model._last_episode_starts, np.bool_), model.gamma)
        policy, stream = self._policy_network(observations.reshape(rows, -1)), self._random_stream(n_steps * rows)
        threads = len(envs.partition) - 1
        for outcome in self._team.run(threads, self._kernels.collect_rollouts, envs, buffers, policy, stats, stream):
            if outcome < 0:
                batch.fail(outcome)
        self.env_time_fraction = float(buffers.cycles[0]) / max(float(buffers.cycles[1]), 1.0)
        self._kernels.compute_returns_and_advantage(buffers, buffer.gamma, buffer.gae_lambda)
        buffer.pos, buffer.full = n_steps, True
        model.num_timesteps += n_steps * rows
        self._update_ep_info_buffer(buffers.ep_info)
        model._last_episode_starts = buffers.last_episode_starts
        model._last_obs = observations.copy()
        if normalizer is not None:
            set_statistics(normalizer, stats.obs_rms, stats.ret_rms, stats.returns)
            normalizer.old_reward = batch.rewards.reshape(rows).copy()
            model._last_original_obs, normalizer.old_obs = model._last_obs, model._last_obs
            model._last_obs = normalizer.normalize_obs(model._last_obs)

    def _update_ep_info_buffer(self, ep_info: Array) -> None:
        model: Any = self
        ended = np.argwhere(ep_info[..., 1] > 0)[-model.ep_info_buffer.maxlen :]
        model.ep_info_buffer.extend({"r": float(ep_info[t, b, 0]), "l": int(ep_info[t, b, 1])} for t, b in ended)

    def _collect_with_callbacks(
        self, env: VecEnv, lab_env: LabVecEnv | None, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """Roll out with a Python loop; its variables have the library's names, because callbacks may read them."""
        model: Any = self
        rollout_buffer.reset()
        masked = hasattr(rollout_buffer, "action_masks")
        dones = np.zeros(env.num_envs, np.bool_)
        for n_steps in range(n_rollout_steps):  # noqa: B007 - for callbacks
            more: dict[str, Any] = {}
            if masked:
                own = lab_env.action_masks() if lab_env is not None else np.stack(env.env_method("action_masks"))
                more["action_masks"] = own
            obs_tensor = torch.as_tensor(model._last_obs)
            actions, values, log_probs = self._act(model._last_obs, more.get("action_masks"))
            clipped_actions = actions[:, 0] if self._discrete else np.clip(actions, *self._action_bounds)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            model.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            model._update_info_buffer(infos, dones)
            truncated_rows = [k for k in np.flatnonzero(dones) if infos[k].get("TimeLimit.truncated", False)]
            if truncated_rows:
                terminal_obs = np.stack([infos[k]["terminal_observation"] for k in truncated_rows])
                rewards[truncated_rows] += np.float32(model.gamma) * self._act(terminal_obs, None)[1]
            tensors = (torch.from_numpy(values), torch.from_numpy(log_probs))
            rollout_buffer.add(model._last_obs, actions, rewards, model._last_episode_starts, *tensors, **more)
            model._last_obs, model._last_episode_starts = new_obs, dones
        last_values = torch.from_numpy(self._act(model._last_obs, None)[1])
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        return True

    def _act(self, observations: Array, action_masks: Array | None) -> tuple[Array, Array, Array]:
        """Return actions [B, k or 1], values and log probabilities, float32 [B], of observations [B, ...]."""
        rows = len(observations)
        flat = np.ascontiguousarray(observations, np.float32).reshape(rows, -1)
        columns, dtype = (1, np.int64) if self._discrete else (self._action_size, np.float32)
        actions = np.zeros((1, rows, columns), dtype)
        values, log_probs = np.zeros((2, 1, rows), np.float32)
        masks = None if action_masks is None else np.ascontiguousarray(action_masks[None], np.float32)
        outputs = policy_outputs(actions, masks, values, log_probs)
        self._kernels.act(flat, outputs, self._policy_network(flat), self._random_stream(rows))
        return actions[0], values[0], log_probs[0]

    # ------------------------------------------------------------------------------------------------------ update

    def train(self) -> None:
        """See `PPO.train`."""
        model: Any = self
        if not self.ready():
            super().train()  # type: ignore[misc]
            return
        model.policy.set_training_mode(True)
        model._update_learning_rate(model.policy.optimizer)
        self.mirror.copy_from_tensors()
        indices, end = minibatch_indices(model)
        clip_range = float(model.clip_range(model._current_progress_remaining))
        if self._background_compile is not None:
            self._background_compile.wait("update")
            self._background_compile = None
        report, step = self._update(indices, end, clip_range), self.mirror.adam_steps
        if report[FAILED_MINIBATCH]:
            self._fail(step + int(report[GRADIENT_STEPS]) + 1)
        self.mirror.copy_to_tensors(step + int(report[GRADIENT_STEPS]))
        model._n_updates += int(report[EPOCHS])
        log_update(model, report, clip_range)

    def _update(self, indices: Array, end: int, clip_range: float) -> Array:
        """Run the compiled update on the filled buffer; return its report, see `ppo_records.UpdateReport`."""
        model: Any = self
        shared, network = self.mirror, self.mirror.network
        buffer = model.rollout_buffer
        observations = buffer.observations.reshape(buffer.values.size, -1)
        report = np.zeros(FAILED_MINIBATCH + 1)
        exp_avg, exp_avg_sq = shared.moments
        arguments = (
            rollout_samples(buffer, indices, end, nonzero_of(network, observations)),
            self._policy_network(observations),
            AdamState(
                network.weights, network.grads, exp_avg, exp_avg_sq, float(shared.adam_steps), np.zeros(NUM_SHARDS)
            ),
            ppo_settings(model, clip_range, self._betas, self._epsilon),
            UpdateReport(np.zeros((NUM_SHARDS, len(report))), report),
        )
        threads = min(self._team.threads, max(min(model.batch_size, indices.shape[1]) // MIN_SHARD_ROWS, 1))
        try:
            self._team.run(threads, self._kernels.train, *arguments)
        except BaseException:  # an interruption leaves the moments of an update that is not whole
            shared.invalidate_moments()
            raise
        return report

    def _fail(self, update: int) -> None:
        model: Any = self
        field = self.mirror.first_nonfinite_gradient()
        self.mirror.invalidate_moments()
        raise NonFiniteError(
            f"ppo: non-finite gradient of {field} in update {update} at step {model.num_timesteps}; "
            "no parameter was changed by it"
        )


class FastPPO(_CompiledPpoMixin, PPO):
    """`stable_baselines3.PPO`, compiled where that is possible."""


class FastMaskablePPO(_CompiledPpoMixin, MaskablePPO):
    """`sb3_contrib.MaskablePPO`, compiled where that is possible."""


def _idle(callback: BaseCallback) -> bool:
    if isinstance(callback, CallbackList):
        return all(map(_idle, callback.callbacks))
    return isinstance(callback, ConvertCallback) and callback.callback is None
