"""DQN for rows whose agents may wait, leave early or have illegal actions, in torch.

`CompiledMaskedDQN` computes the same in compiled code. Illegal actions are left out of exploration, of the greedy
action and of the target. The terms (row, complete, pending) are those of `masked_rollout_buffers`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.random_actions import sample_actions
from rl_lab.core.world import Array

_ILLEGAL_PENALTY = -1e9  # the value of an illegal action, or added to it: below all others


class MaskedDQN(DQN):
    """DQN in which each row explores by itself, takes legal actions only, and learns only from complete transitions."""

    vec_env: LabVecEnv  # set by `Sb3Learner`

    def _sample_action(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> tuple[Array, Array]:
        """Return epsilon-greedy actions of every row, int64 [B], twice: for the environment and for the buffer."""
        generator = self.action_space.np_random
        action_masks = self.vec_env.action_masks() if self.vec_env.envs.world.has_action_mask else None
        actions = sample_actions(generator.random(n_envs), self.action_space, action_masks)  # type: ignore[arg-type]
        if self.num_timesteps >= learning_starts:
            self.policy.set_training_mode(False)
            with torch.no_grad():
                q_values = self.q_net(self.policy.obs_to_tensor(self._last_obs)[0]).cpu().numpy()  # type: ignore[arg-type]
            if action_masks is not None:
                q_values = np.where(action_masks, q_values, _ILLEGAL_PENALTY)
            actions = np.where(generator.random(n_envs) < self.exploration_rate, actions, q_values.argmax(axis=1))
        return actions, actions

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take gradient steps on the Huber loss of n-step targets, with the maximum over legal actions."""
        if not self.replay_buffer.has_complete_transition.any():  # type: ignore[union-attr]
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            replay_data: Any = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
            with torch.no_grad():
                next_q_values = self.q_net_target(replay_data.next_observations)
                next_q_values = next_q_values + (1 - replay_data.next_action_masks.float()) * _ILLEGAL_PENALTY
                next_q_values = next_q_values.max(dim=1, keepdim=True).values
                discounts = (1 - replay_data.dones) * replay_data.discounts
                target_q_values = replay_data.rewards + discounts * next_q_values
            current_q_values = self.q_net(replay_data.observations).gather(1, replay_data.actions.long())
            loss = torch.nn.functional.smooth_l1_loss(current_q_values, target_q_values)
            losses.append(loss.item())
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps
        self.logger.record("train/loss", np.mean(losses))
