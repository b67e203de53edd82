"""Stable-Baselines3's PPO with compiled rollouts and updates: same results, policies, callbacks and files.

`CompiledPPO` and `CompiledMaskablePPO` replace two methods of SB3's classes, `collect_rollouts` and `train`; all else
is SB3's, and `ppo_base` prepares for them. The model's state stays where SB3 has it: parameters and Adam's moments in
torch tensors, transitions in the rollout buffer. Both methods copy the parameters to the compiled network, call the
functions of `compiled/templates/ppo.py`, and copy the results back. Where compiled code does not support a
configuration, SB3's own code trains, and `backend` says why.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.world import Array
from rl_lab.engine.batch import Batch, NonFiniteError
from rl_lab.learners.compiled.ppo_records import (
    EPOCHS,
    FAILED_MINIBATCH,
    GRADIENT_STEPS,
    REPORTED,
    AdamState,
    RunningStats,
    UpdateReport,
)
from rl_lab.learners.compiled.thread_pool import MIN_SHARD_ROWS, NUM_SHARDS
from rl_lab.learners.sb3.compiled_batch import compiled_batch_of, has_no_callback, lab_env_of
from rl_lab.learners.sb3.ppo_arguments import (
    env_arrays,
    minibatch_indices,
    ppo_settings,
    rollout_buffers,
    rollout_samples,
)
from rl_lab.learners.sb3.ppo_base import CompiledPpoBase
from rl_lab.learners.sb3.ppo_report import log_update
from rl_lab.learners.sb3.sparse_observations import nonzero_lists
from rl_lab.learners.sb3.vec_normalize import has_default_settings, set_statistics, statistics_of

MIN_STEPS_FOR_THREADS = 1_000  # environment steps of a rollout; for fewer, one thread is faster than several


class _CompiledPpoMixin(CompiledPpoBase):
    """The methods that `CompiledPPO` and `CompiledMaskablePPO` have in place of SB3's."""

    # ---------------------------------------------------------------------------------------------------- rollouts

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int, use_masking: bool = True
    ) -> bool:
        """Fill the rollout buffer; see `OnPolicyAlgorithm.collect_rollouts`.

        Without callbacks, and in the lab's environments, the whole rollout is compiled; otherwise a Python loop steps
        the environments, which is slower, and compiled code only samples the actions.
        """
        model: Any = self
        if not self.prepare_compiled() or not use_masking:
            mask_arguments = {} if isinstance(self, PPO) else {"use_masking": use_masking}
            done: bool = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps, **mask_arguments)  # type: ignore[misc]
            return done
        model.policy.set_training_mode(False)
        self.mirror.copy_from_tensors()
        lab_env, batch = lab_env_of(env), None
        if (
            lab_env is not None
            and has_no_callback(callback)
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

    def _collect_compiled(self, env: VecEnv, batch: Batch, buffer: Any) -> None:
        """Fill the buffer without Python in between; update the model as `OnPolicyAlgorithm.collect_rollouts` does."""
        model: Any = self
        if buffer.generator_ready:  # SB3's own update has reshaped its arrays
            buffer.reset()
        n_steps, rows = buffer.rewards.shape
        observations = batch.observations.reshape(rows, *batch.observations.shape[2:])
        normalizer: Any = env if isinstance(env, VecNormalize) else None
        stats = RunningStats(
            *statistics_of(normalizer, rows),
            gamma=model.gamma if normalizer is None else normalizer.gamma,
            norm_reward=normalizer is not None and normalizer.norm_reward,
        )
        threads = self._worker_pool.threads if n_steps * rows >= MIN_STEPS_FOR_THREADS else 1
        envs = env_arrays(batch, self._action_bounds, threads)
        buffers = rollout_buffers(buffer, np.asarray(model._last_episode_starts, np.bool_), model.gamma)
        policy, stream = self._policy_network(observations.reshape(rows, -1)), self._random_stream(n_steps * rows)
        threads = len(envs.partition) - 1  # fewer than asked for, where there are fewer worlds
        arguments = (envs, buffers, policy, stats, stream)
        for outcome in self._worker_pool.run(threads, self._compiled.collect_rollouts, *arguments):
            if outcome < 0:
                batch.raise_fault(outcome)
        self.env_time_fraction = float(buffers.cycles[0]) / max(float(buffers.cycles[1]), 1.0)
        self._compiled.compute_returns_and_advantage(buffers, buffer.gamma, buffer.gae_lambda)
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
        """Append returns and lengths of the last episodes that ended in a rollout, see `RolloutBuffers.ep_info`."""
        model: Any = self
        ended = np.argwhere(ep_info[..., 1] > 0)[-model.ep_info_buffer.maxlen :]
        model.ep_info_buffer.extend({"r": float(ep_info[t, b, 0]), "l": int(ep_info[t, b, 1])} for t, b in ended)

    def _collect_with_callbacks(
        self, env: VecEnv, lab_env: LabVecEnv | None, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout in a Python loop; its variables have SB3's names, because callbacks may read them.

        Returns False if a callback stops the training.
        """
        model: Any = self
        rollout_buffer.reset()
        masked = hasattr(rollout_buffer, "action_masks")
        dones = np.zeros(env.num_envs, np.bool_)
        for n_steps in range(n_rollout_steps):  # noqa: B007 - for callbacks
            mask_arguments: dict[str, Any] = {}
            if masked:
                masks = lab_env.action_masks() if lab_env is not None else np.stack(env.env_method("action_masks"))
                mask_arguments["action_masks"] = masks
            obs_tensor = torch.as_tensor(model._last_obs)
            actions, values, log_probs = self._act(model._last_obs, mask_arguments.get("action_masks"))
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
            rollout_buffer.add(
                model._last_obs, actions, rewards, model._last_episode_starts, *tensors, **mask_arguments
            )
            model._last_obs, model._last_episode_starts = new_obs, dones
        last_values = torch.from_numpy(self._act(model._last_obs, None)[1])
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        return True

    # ------------------------------------------------------------------------------------------------------ update

    def train(self) -> None:
        """Update the policy on the filled rollout buffer; see `PPO.train`."""
        model: Any = self
        if not self.prepare_compiled():
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
        report = self._update(indices, end, clip_range)
        adam_steps = self.mirror.adam_steps + int(report[GRADIENT_STEPS])
        if report[FAILED_MINIBATCH]:
            self._raise_non_finite(adam_steps + 1)
        self.mirror.copy_to_tensors(adam_steps)
        model._n_updates += int(report[EPOCHS])
        log_update(model, report, clip_range)

    def _update(self, indices: Array, end: int, clip_range: float) -> Array:
        """Run the compiled update on the filled buffer; return its report, see `ppo_records.UpdateReport`."""
        model: Any = self
        mirror, network = self.mirror, self.mirror.network
        buffer = model.rollout_buffer
        observations = buffer.observations.reshape(buffer.values.size, -1)
        report = np.zeros(REPORTED)
        exp_avg, exp_avg_sq = mirror.moments
        arguments = (
            rollout_samples(buffer, indices, end, nonzero_lists(network, observations)),
            self._policy_network(observations),
            AdamState(
                network.weights, network.grads, exp_avg, exp_avg_sq, float(mirror.adam_steps), np.zeros(NUM_SHARDS)
            ),
            ppo_settings(model, clip_range, self._adam_betas, self._adam_eps),
            UpdateReport(np.zeros((NUM_SHARDS, len(report))), report),
        )
        threads = min(self._worker_pool.threads, max(min(model.batch_size, indices.shape[1]) // MIN_SHARD_ROWS, 1))
        try:
            self._worker_pool.run(threads, self._compiled.train, *arguments)
        except BaseException:  # after an interruption, the copied moments are those of an incomplete update
            mirror.invalidate_moments()
            raise
        return report

    def _raise_non_finite(self, update: int) -> None:
        """Raise NonFiniteError for the gradient of this update, the number of a gradient step from 1."""
        model: Any = self
        field = self.mirror.first_nonfinite_gradient()
        self.mirror.invalidate_moments()
        raise NonFiniteError(
            f"ppo: non-finite gradient of {field} in update {update} at step {model.num_timesteps}; "
            "no parameter was changed by it"
        )


class CompiledPPO(_CompiledPpoMixin, PPO):
    """`stable_baselines3.PPO`, compiled where that is possible."""


class CompiledMaskablePPO(_CompiledPpoMixin, MaskablePPO):
    """`sb3_contrib.MaskablePPO`, compiled where that is possible."""
