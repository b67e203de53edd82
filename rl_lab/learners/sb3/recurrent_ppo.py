"""PPO with a recurrent policy: rollouts that carry a state for each row, and updates on sequences of steps.

`RecurrentPPO` is SB3's PPO with another `collect_rollouts` and `train`. Both compute what SB3's do, for the steps in
which a row acts; settings, optimizer, schedules, logged names and callbacks are SB3's. torch computes everything.

Shapes: T steps of a rollout, B rows, H units of the recurrent layer.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms"
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional

from rl_lab.core.world import Array
from rl_lab.learners.sb3.recurrent_buffers import SequenceMinibatch
from rl_lab.learners.sb3.recurrent_policy import RecurrentPolicy


class RecurrentPPO(PPO):
    """SB3's PPO for a `RecurrentPolicy`.

    Its rollout buffer is one of `recurrent_buffers`. `sequence_length` steps of a row are learned from together, after
    a burn-in of `burn_in` steps; `batch_size` is a multiple of this length. `recurrent_states`, float32 [B, H], has
    the states of all rows before the next step.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": RecurrentPolicy}
    backend = "torch, because its policy is recurrent"

    def __init__(self, *args: Any, sequence_length: int = 32, burn_in: int = 0, **kwargs: Any) -> None:
        self.sequence_length, self.burn_in = sequence_length, burn_in
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        """Make the policy and the buffer, and set the states to zero."""
        super()._setup_model()
        policy: Any = self.policy
        self.recurrent_states = np.zeros((self.n_envs, policy.recurrent_size), np.float32)

    # ---------------------------------------------------------------------------------------------------- rollouts

    @torch.no_grad()
    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """Fill the rollout buffer, and carry the states on; see `OnPolicyAlgorithm.collect_rollouts`."""
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        dones = np.zeros(env.num_envs, np.bool_)
        for _ in range(n_rollout_steps):
            dones = self._step(env, rollout_buffer)
            callback.update_locals(locals())
            if not callback.on_step():
                return False
        self.recurrent_states[dones] = 0.0
        rollout_buffer.compute_returns_and_advantage(last_values=self._values(self._last_obs), dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _step(self, env: VecEnv, buffer: Any) -> Array:
        """Take a step in all environments, add it to the buffer, and return whether each row's episode ended, [B]."""
        policy: Any = self.policy
        vec_env = buffer.vec_env
        self.recurrent_states[np.asarray(self._last_episode_starts, np.bool_)] = 0.0
        states = self.recurrent_states
        masks = vec_env.action_masks() if hasattr(buffer, "action_masks") else None
        last_obs: Any = self._last_obs
        next_states = policy.next_states(obs_as_tensor(last_obs, self.device), self._tensor(states))
        distribution = policy.distribution(next_states, None if masks is None else self._tensor(masks))
        action_tensor = distribution.get_actions()
        actions, values = action_tensor.cpu().numpy(), policy.values(next_states)
        space = self.action_space
        clipped = np.clip(actions, space.low, space.high) if isinstance(space, Box) else actions
        new_obs: Any
        new_obs, rewards, dones, infos = env.step(clipped)
        self.num_timesteps += env.num_envs
        self._update_info_buffer(infos, dones)
        # A row that did not act has not seen its observation either: it keeps its state.
        self.recurrent_states = np.where(vec_env.is_decision_step[:, None], next_states.cpu().numpy(), states)
        truncated = [k for k in np.flatnonzero(dones) if infos[k].get("TimeLimit.truncated", False)]
        if truncated:
            final_obs = np.stack([infos[k]["terminal_observation"] for k in truncated])
            rewards[truncated] += self.gamma * self._values(final_obs, truncated).cpu().numpy()
        mask_arguments = {} if masks is None else {"action_masks": masks}
        buffer.add(
            last_obs,
            actions.reshape(env.num_envs, -1),
            rewards,
            self._last_episode_starts,
            values,
            distribution.log_prob(action_tensor),
            states=states,
            **mask_arguments,
        )
        self._last_obs, self._last_episode_starts = new_obs, dones
        return dones

    def _values(self, observations: Any, rows: Any = slice(None)) -> torch.Tensor:
        """Return the values of observations, [R, ...], of rows in their present states."""
        policy: Any = self.policy
        states = self._tensor(self.recurrent_states[rows])
        values: torch.Tensor = policy.values(policy.next_states(obs_as_tensor(observations, self.device), states))
        return values

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device)

    # ------------------------------------------------------------------------------------------------------ update

    def train(self) -> None:
        """Update the policy on the filled rollout buffer; see `PPO.train`."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        buffer: Any = self.rollout_buffer
        length = min(self.sequence_length, buffer.buffer_size)
        metrics: dict[str, list[float]] = defaultdict(list)
        for _ in range(self.n_epochs):
            metrics["approx_kl"].clear()  # as in SB3, the logged divergence is that of the last epoch
            continues = all(
                self._update(batch, clip_range, metrics)
                for batch in buffer.sequences(self.batch_size, length, self.burn_in)
            )
            self._n_updates += 1
            if not continues:
                break
        self._log(metrics, clip_range)

    def _update(self, batch: SequenceMinibatch, clip_range: float, metrics: dict[str, list[float]]) -> bool:
        """Take a gradient step and append to the metrics; return False, without a step, beyond `target_kl`."""
        policy: Any = self.policy
        loss, approx_kl = self._loss(batch, clip_range, metrics)
        if self.target_kl is not None and approx_kl > 1.5 * self.target_kl:
            return False
        policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.parameters(), self.max_grad_norm)
        policy.optimizer.step()
        return True

    def _loss(
        self, batch: SequenceMinibatch, clip_range: float, metrics: dict[str, list[float]]
    ) -> tuple[torch.Tensor, float]:
        """Return PPO's loss of a minibatch, and the divergence from the policy that acted; append to the metrics."""
        log_probs, values, entropy = self.evaluate_sequences(batch)
        advantages = batch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_probs - batch.old_log_probs
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        value_loss = functional.mse_loss(batch.returns, values)
        entropy_loss = -(-log_probs if entropy is None else entropy).mean()
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        with torch.no_grad():
            approx_kl = (ratio - 1 - log_ratio).mean().item()
            clip_fraction = ((ratio - 1).abs() > clip_range).float().mean().item()
        for name, value in (
            ("entropy_loss", entropy_loss.item()),
            ("policy_gradient_loss", policy_loss.item()),
            ("value_loss", value_loss.item()),
            ("approx_kl", approx_kl),
            ("clip_fraction", clip_fraction),
            ("loss", loss.item()),
        ):
            metrics[name].append(value)
        return loss, approx_kl

    def evaluate_sequences(self, batch: SequenceMinibatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return log probabilities, values and entropies, each [M], of the transitions of a minibatch.

        The burn-in only brings the states up to date: no gradient flows into it.
        """
        policy: Any = self.policy
        states, burn_in = batch.states, self.burn_in
        if burn_in:
            with torch.no_grad():
                _, states = policy.unroll(
                    batch.observations[:burn_in], states, batch.episode_starts[:burn_in], batch.updates_state[:burn_in]
                )
        outputs, _ = policy.unroll(
            batch.observations[burn_in:], states, batch.episode_starts[burn_in:], batch.updates_state[burn_in:]
        )
        learned = outputs[batch.is_learned]
        distribution = policy.distribution(learned, batch.action_masks)
        actions = batch.actions if isinstance(self.action_space, Box) else batch.actions.long().flatten()
        return distribution.log_prob(actions), policy.values(learned), distribution.entropy()

    def _log(self, metrics: dict[str, list[float]], clip_range: float) -> None:
        """Log the means of the metrics, and what else `PPO.train` logs, under its names."""
        for name, values in metrics.items():
            self.logger.record(f"train/{name}", values[-1] if name == "loss" else float(np.mean(values)))
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
