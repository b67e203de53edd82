"""What SB3's algorithms need to learn from rows of agents that have illegal actions or are not there.

Rows are those of `LabVecEnv`. Illegal actions are left out of the softmax by sb3-contrib's MaskablePPO, and here out of
DQN's exploration, greedy choice and target. Steps in which a row's agent did not act are never learned from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd

from ..chance import actions_of
from ..world import Array
from .sb3 import LabVecEnv

_FORBIDDEN = -1e9  # added to the value of what may not be chosen


class _ActingRows(RolloutBuffer):
    """Hands out only rows that acted. Rollouts are [T, B]; `rows` is where they come from."""

    names: tuple[str, ...] = ("observations", "actions", "values", "log_probs", "advantages", "returns")

    def __init__(self, *arguments: Any, rows: LabVecEnv, **named: Any) -> None:
        self.rows = rows
        super().__init__(*arguments, **named)

    def reset(self) -> None:
        self.acted = np.ones((self.buffer_size, self.n_envs), np.bool_)
        super().reset()

    def add(self, *arguments: Any, **named: Any) -> None:
        self.acted[self.pos] = self.rows.acted
        super().add(*arguments, **named)

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: Array) -> None:
        """GAE over the steps in which a row acted: what it is paid until it acts again belongs to its last act."""
        after = last_values.clone().cpu().numpy().flatten()
        alive, gained, owed = 1.0 - dones.astype(np.float32), np.zeros_like(after), np.zeros_like(after)
        for t in reversed(range(self.buffer_size)):
            acted, reward = self.acted[t], self.rewards[t] + owed
            error = reward + self.gamma * after * alive - self.values[t]
            self.advantages[t] = error + self.gamma * self.gae_lambda * alive * gained
            gained = np.where(acted, self.advantages[t], gained)
            after = np.where(acted, self.values[t], after)
            begun = self.episode_starts[t] != 0
            alive = np.where(begun, 0.0, np.where(acted, 1.0, alive))
            owed = np.where(begun | acted, 0.0, reward)
        self.returns = self.advantages + self.values

    def get(self, batch_size: int | None = None) -> Iterator[Any]:  # type: ignore[override]
        if not self.generator_ready:
            for name in self.names:
                setattr(self, name, self.swap_and_flatten(getattr(self, name)))
            self.generator_ready = True
        places = np.random.permutation(np.flatnonzero(self.acted.swapaxes(0, 1)))
        # The last minibatch may be small, but no standard deviation is taken of one row.
        for first in range(0, max(len(places) - 1, 1), batch_size or max(len(places), 1)):
            yield self._get_samples(places[first : first + (batch_size or len(places))])


class ActingRollout(_ActingRows):
    """For PPO."""


class ActingMaskableRollout(_ActingRows, MaskableRolloutBuffer):  # type: ignore[misc]  # one yields more fields
    """For MaskablePPO."""

    names = (*_ActingRows.names, "action_masks")


class ActingMeanStd(RunningMeanStd):
    """Running statistics of the rows that `which` marks, "active" or "acted" of a LabVecEnv: of VecNormalize's."""

    def __init__(self, rows: LabVecEnv, which: str, like: RunningMeanStd) -> None:
        super().__init__(shape=like.mean.shape)
        self.rows, self.which = rows, which

    def update(self, arr: Array) -> None:
        """Take up [B, ...], but not of who has left or waits."""
        if (marked := getattr(self.rows, self.which)).any():
            super().update(arr[marked])


class Transitions(NamedTuple):
    """A minibatch of DQN's: tensors of M rows."""

    observations: torch.Tensor
    actions: torch.Tensor
    next_observations: torch.Tensor
    dones: torch.Tensor
    rewards: torch.Tensor
    next_legal: torch.Tensor  # [M, actions], 1 for legal


class ActingReplay(ReplayBuffer):
    """A replay buffer that knows what is legal afterwards, and samples only rows that acted."""

    def __init__(self, *arguments: Any, rows: LabVecEnv, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.rows = rows
        count = int(self.action_space.n)  # type: ignore[attr-defined]
        self.next_legal = np.ones((self.buffer_size, self.n_envs, count), np.uint8)
        self.acted = np.zeros((self.buffer_size, self.n_envs), np.bool_)

    def add(self, obs: Array, next_obs: Array, action: Array, reward: Array, done: Array, infos: Any) -> None:
        """Keep a step of every row, float [B, ...]."""
        self.acted[self.pos] = self.rows.acted
        if self.rows.worlds.world.masked:
            # Of a truncated episode's last state nobody has said what was legal: all is then.
            self.next_legal[self.pos] = np.where(done[:, None], 1, self.rows.action_masks())
        super().add(obs, next_obs, action, reward, done, infos)

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Return `Transitions`, drawn uniformly from the steps of rows that acted."""
        filled = self.buffer_size if self.full else self.pos
        places = np.flatnonzero(self.acted[:filled])
        step, row = np.divmod(places[np.random.randint(len(places), size=batch_size)], self.n_envs)
        data = (
            self._normalize_obs(self.observations[step, row], env),
            self.actions[step, row],
            self._normalize_obs(self.next_observations[step, row], env),
            (self.dones[step, row] * (1 - self.timeouts[step, row])).reshape(-1, 1),
            self._normalize_reward(self.rewards[step, row].reshape(-1, 1), env),
            self.next_legal[step, row],
        )
        return Transitions(*map(self.to_torch, data))


class RowDQN(DQN):
    """DQN whose rows explore one by one, choose what is legal, and are not asked while they do not act."""

    rows: LabVecEnv

    def _sample_action(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> tuple[Array, Array]:
        chance = self.action_space.np_random
        legal = self.rows.action_masks() if self.rows.worlds.world.masked else None
        actions = actions_of(chance.random(n_envs), self.action_space, legal)  # type: ignore[arg-type]
        if self.num_timesteps >= learning_starts:
            self.policy.set_training_mode(False)
            with torch.no_grad():
                values = self.q_net(self.policy.obs_to_tensor(self._last_obs)[0]).cpu().numpy()  # type: ignore[arg-type]
            best = (values if legal is None else np.where(legal, values, _FORBIDDEN)).argmax(axis=1)
            actions = np.where(chance.random(n_envs) < self.exploration_rate, actions, best)
        return actions, actions

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take gradient steps on the Huber loss of the one-step target, its maximum over legal actions."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            batch: Any = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
            with torch.no_grad():
                after = self.q_net_target(batch.next_observations) + (1 - batch.next_legal.float()) * _FORBIDDEN
                target = batch.rewards + (1 - batch.dones) * self.gamma * after.max(dim=1, keepdim=True).values
            chosen = self.q_net(batch.observations).gather(1, batch.actions.long())
            loss = torch.nn.functional.smooth_l1_loss(chosen, target)
            losses.append(loss.item())
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps
        self.logger.record("train/loss", np.mean(losses))
