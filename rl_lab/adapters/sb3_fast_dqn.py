"""Stable-Baselines3's DQN with compiled rollouts and gradient steps, and three options that only they have.

Whatever compiled code does not know falls back to the library's own, and `learner` says why.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.dqn.policies import DQNPolicy

from ..engine import Batch, NonFiniteError
from ..fast import kernels, plan
from ..world import Array
from .sb3 import LabVecEnv
from .sb3_fast import DENSE_FROM, SPARSE_FROM, engine_below, key_of_its_own
from .sb3_plan import Shared, StockError, adam_of, q_network
from .sb3_rows import ActingReplay, RowDQN


class _Compiled:
    """What both DQNs have in common. `learner` says how they learn: "compiled" or "stock, because ...".

    double_q: the network chooses the next action, the target network values it. n_steps: rewards summed before the
    value is asked for. priority_exponent: 0 samples uniformly, 1 in proportion to the error; importance_exponent is
    what the correction for it begins with, 1 being reached at the end.
    """

    learner = ""
    _tree = np.zeros(0)  # sums of priorities

    drawn = 0  # its random numbers are counted by steps and updates

    def __init__(
        self,
        *arguments: Any,
        double_q: bool = False,
        n_steps: int = 1,
        priority_exponent: float = 0.0,
        importance_exponent: float = 0.4,
        **named: Any,
    ) -> None:
        self.double_q, self.horizon = double_q, n_steps
        self.priority_exponent, self.importance_exponent = priority_exponent, importance_exponent
        super().__init__(*arguments, **named)

    def _excluded_save_params(self) -> list[str]:
        own = "learner _shared _target _output _kernels _settings _counters _report _norms key _tree _picked"
        return [*super()._excluded_save_params(), *own.split()]  # type: ignore[misc]

    def ready(self) -> bool:
        """Say whether compiled code takes over, and prepare for it the first time.

        Raises ValueError where it cannot, but is asked for what only compiled code does.
        """
        if not self.learner:
            try:
                self._prepare()
                self.learner = "compiled"
            except StockError as error:
                self.learner = f"stock, because {error}"
                if self.double_q or self.horizon > 1 or self.priority_exponent:
                    raise ValueError(
                        f"double_q, n_steps and priority_exponent need the compiled learner: {error}"
                    ) from None
        return self.learner == "compiled"

    def _prepare(self) -> None:
        model: Any = self
        buffer = model.replay_buffer
        if type(model.policy) is not DQNPolicy or not isinstance(model.action_space, Discrete):
            raise StockError(f"its policy is a {type(model.policy).__name__}")
        if type(buffer) not in (ReplayBuffer, ActingReplay) or buffer.optimize_memory_usage:
            raise StockError(f"its replay buffer is a {type(buffer).__name__}")
        if not buffer.handle_timeout_termination:
            raise StockError("its replay buffer takes the end of time for a true end")
        if model.get_vec_normalize_env() is not None:
            raise StockError("its observations or rewards are normalised")
        if model.observation_space.dtype not in (np.float32, np.uint8):
            raise StockError(f"its observations are of {model.observation_space.dtype}")
        rows = model.env
        if self.priority_exponent and (not isinstance(rows, LabVecEnv) or engine_below(rows) is None):
            raise StockError("priorities are kept only where worlds step without Python in between")
        group = adam_of(model.policy.optimizer)
        network, tensors, self._output = q_network(model.q_net)
        self._shared = Shared(network, tensors, model.policy.optimizer)
        target, tensors, _ = q_network(model.q_net_target)
        self._target = Shared(target, tensors, None)
        self._kernels = kernels.dqn()
        self.key = key_of_its_own()
        self._counters, self._report, self._norms = np.zeros(5, np.int64), np.zeros(2), np.zeros(plan.SHARDS)
        self._report[plan.WORST] = 1.0  # what is new comes first
        self._picked = np.zeros((0, 2), np.int64)
        leaves = 1 << (buffer.rewards.size - 1).bit_length() if self.priority_exponent else 0
        self._tree = np.zeros(2 * leaves)
        self._settings = np.zeros(plan.TOTAL + 1)
        for place, value in (
            (plan.NORM, model.max_grad_norm),
            (plan.EPSILON, group["eps"]),
            (plan.BETA_1, group["betas"][0]),
            (plan.BETA_2, group["betas"][1]),
            (plan.MINIBATCH, model.batch_size),
            (plan.DISCOUNT, model.gamma),
            (plan.NSTEP, self.horizon),
            (plan.DOUBLE, self.double_q),
            (plan.PRIORITY, self.priority_exponent),
            (plan.CORRECTION, self.importance_exponent),
            (plan.STARTS, model.learning_starts),
            (plan.EVERY, model.train_freq.frequency),
            (plan.GRADIENTS, model.gradient_steps),
            (plan.FRESHEN, max(model.target_update_interval // model.n_envs, 1)),
            (plan.TAU, model.tau),
            (plan.EXPLORE_FIRST, model.exploration_initial_eps),
            (plan.EXPLORE_LAST, model.exploration_final_eps),
            (plan.EXPLORE_SHARE, max(model.exploration_fraction, 1e-12)),
        ):
            self._settings[place] = value

    # ----------------------------------------------------------------------------------------------- state, in and out

    def priorities(self) -> dict[str, Array]:
        """Return what a checkpoint needs beside the library's own state: leaves of the sum tree, and the highest."""
        if not len(self._tree):
            return {}
        return {"priorities": self._tree[len(self._tree) // 2 :].copy(), "highest": self._report[plan.WORST :].copy()}

    def restore_priorities(self, saved: dict[str, Array]) -> None:
        """Go on from `priorities`. Raises ValueError where they are of another size."""
        if not self.ready() or not len(self._tree):
            return
        leaves = len(self._tree) // 2
        if saved["priorities"].shape != (leaves,) or saved["highest"].shape != (1,):
            raise ValueError("the checkpoint's priorities are of another size")
        model: Any = self
        outside = saved["priorities"][model.replay_buffer.rewards.size :]
        if not np.isfinite(saved["priorities"]).all() or (saved["priorities"] < 0).any() or outside.any():
            raise ValueError("the checkpoint's priorities are no priorities")
        self._tree[leaves:], self._report[plan.WORST :] = saved["priorities"], saved["highest"]
        for node in range(leaves - 1, 0, -1):
            self._tree[node] = self._tree[2 * node] + self._tree[2 * node + 1]

    def _take_up(self) -> None:
        model: Any = self
        self._shared.read()
        self._target.read()
        buffer, settings = model.replay_buffer, self._settings
        model._update_learning_rate(model.policy.optimizer)
        settings[plan.RATE] = model.policy.optimizer.param_groups[0]["lr"]
        settings[plan.TAKEN], settings[plan.TOTAL] = self._shared.taken, max(model._total_timesteps, 1)
        filled = buffer.buffer_size if buffer.full else buffer.pos
        self._counters[:] = buffer.pos, filled, model.num_timesteps, model._n_calls, model._n_updates
        self._report[plan.LOSSES] = 0.0
        self._draw_at_once(model.batch_size)

    def _draw_at_once(self, size: int) -> None:
        self._settings[plan.MINIBATCH] = size
        if len(self._picked) != size:
            self._picked = np.zeros((size, 2), np.int64)

    def _give_back(self, gradients: int) -> None:
        model: Any = self
        if gradients:
            self._shared.write(int(self._settings[plan.TAKEN]))
            model.logger.record("train/loss", self._report[plan.LOSSES] / gradients)
            model.logger.record("train/n_updates", int(self._counters[plan.UPDATES]), exclude="tensorboard")
        model._n_updates = int(self._counters[plan.UPDATES])

    def _replay(self) -> tuple[Any, ...]:
        model: Any = self
        buffer = model.replay_buffer
        seen, after = buffer.observations, buffer.next_observations
        slots, rows = buffer.rewards.shape
        legal = getattr(buffer, "next_legal", None)
        return (
            seen.ctypes.data,
            after.ctypes.data,
            seen.dtype == np.uint8,
            seen[0, 0].size,
            buffer.actions,
            buffer.rewards,
            buffer.dones,
            buffer.timeouts,
            getattr(buffer, "acted", np.zeros((slots, 0), np.bool_)),
            np.zeros((slots, rows, 0), np.uint8) if legal is None else legal,
            self._tree,
            self._picked,
        )

    def _networks(self, seen: Array) -> tuple[Any, ...]:
        model: Any = self
        own, target = self._shared.network, self._target.network
        flat = seen.reshape(len(seen), -1)
        thin = flat.shape[1] >= SPARSE_FROM and bool(np.count_nonzero(flat) < DENSE_FROM * flat.size)
        network = (self._shared.tables(), self._target.tables(), own.weights, target.weights, own.slopes)
        memory = (*self._shared.moments, self._norms, self._output)
        return (int(model.action_space.n), *network, *memory, own.plan.convolves or thin)

    # ------------------------------------------------------------------------------------------------------- learning

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """See `DQN.train`."""
        model: Any = self
        if not self.ready():
            super().train(gradient_steps, batch_size)  # type: ignore[misc]
            return
        if self.priority_exponent:
            raise ValueError("priority_exponent is for training in the lab: SB3's own loop tells nobody what is new")
        self._take_up()
        self._draw_at_once(batch_size)
        sound = self._kernels.improve(
            gradient_steps,
            self._counters,
            self._settings,
            self._report,
            *self._replay(),
            self.key,
            *self._networks(np.asarray(model._last_obs)),
        )
        if not sound:
            self._fail()
        self._give_back(gradient_steps)

    def engine(self) -> Batch | None:
        """Return the batch below, if acting and learning can go on without Python in between."""
        model: Any = self
        env = model.env
        usual = model.train_freq.unit == TrainFrequencyUnit.STEP and model.gradient_steps >= 0
        return engine_below(env) if self.ready() and usual and isinstance(env, LabVecEnv) else None

    def advance(self, worlds: Batch, until: int) -> dict[str, float]:
        """Act and learn until all rows together have taken so many steps; return shares of the time: env, learn."""
        model: Any = self
        self._take_up()
        rows, before = model.n_envs, int(self._counters[plan.UPDATES])
        seen, actions, legal, rewards, returns = (
            a.reshape(rows, *a.shape[2:])
            for a in (worlds.observations, worlds.actions, worlds.legal, worlds.rewards, worlds.episode_returns)
        )
        acted = getattr(model.replay_buffer, "acted", None)
        if acted is not None:
            acted[:] = True  # everybody does, where the engine is asked directly
        most = model.ep_info_buffer.maxlen
        finished, episodes, spent = np.zeros((most, 2)), np.zeros(1, np.int64), np.zeros(3, np.int64)
        outcome = self._kernels.learn(
            until,
            worlds.entrance(),
            seen.ctypes.data,
            worlds.final_observations.ctypes.data,
            actions.reshape(rows, 1),
            legal if worlds.world.masked else legal[:, :0],
            rewards,
            worlds.terminated,
            worlds.truncated,
            worlds.ended,
            returns,
            worlds.episode_lengths,
            finished,
            episodes,
            spent,
            self._counters,
            self._settings,
            self._report,
            *self._replay(),
            self.key,
            *self._networks(seen),
        )
        if outcome < 0:
            worlds.fail(outcome)
        if outcome > 0:
            self._fail()
        self._target.push()
        buffer, counters = model.replay_buffer, self._counters
        buffer.pos, buffer.full = int(counters[plan.POSITION]), bool(counters[plan.FILLED] == buffer.buffer_size)
        model.num_timesteps, model._n_calls = int(counters[plan.SEEN]), int(counters[plan.CALLS])
        self._give_back(int(counters[plan.UPDATES]) - before)
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)
        model.logger.record("rollout/exploration_rate", model.exploration_rate)
        model._last_obs, model._last_episode_starts = seen.copy(), np.repeat(worlds.ended, rows // worlds.n)
        for k in range(max(int(episodes[0]) - most, 0), int(episodes[0])):
            model.ep_info_buffer.append({"r": float(finished[k % most, 0]), "l": int(finished[k % most, 1])})
        model._episode_num += int(episodes[0])
        total = max(float(spent[2]), 1.0)
        return {"env": spent[0] / total, "learn": spent[1] / total}

    def _fail(self) -> None:
        name = self._shared.unsound()
        self._shared.forget()
        raise NonFiniteError(
            f"dqn: non-finite gradient of {name} in update {int(self._counters[plan.UPDATES]) + 1} "
            f"at step {int(self._counters[plan.SEEN])}; no parameter was changed by it"
        )


class FastDQN(_Compiled, DQN):
    """`stable_baselines3.DQN`, compiled where that is possible; trained by the lab, each row explores by itself."""


class FastRowDQN(_Compiled, RowDQN):
    """`RowDQN`, compiled where that is possible."""
