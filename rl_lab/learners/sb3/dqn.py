"""Stable-Baselines3's DQN with compiled rollouts and gradient steps, and the options that only compiled code has.

A DQN that compiled code does not support is trained by the library's own code, and `learner` says why.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from gymnasium.spaces import Discrete
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer as LibraryReplayBuffer
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.dqn.policies import DQNPolicy

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.interrupts import check_flag
from rl_lab.core.world import Array
from rl_lab.engine.batch import Batch, NonFiniteError
from rl_lab.learners.compiled import build, network
from rl_lab.learners.compiled.dqn_records import (
    DQN_COUNTERS,
    DqnSettings,
    Minibatch,
    PriorityTree,
    QNetworks,
    ReplayBuffer,
    empty_minibatch,
)
from rl_lab.learners.sb3.compiled_batch import compiled_batch_of
from rl_lab.learners.sb3.dqn_arguments import dqn_settings, env_arrays, replay_arrays
from rl_lab.learners.sb3.generator_state import new_rng_key
from rl_lab.learners.sb3.masked_dqn import RowDQN
from rl_lab.learners.sb3.masked_replay_buffer import ActingReplay
from rl_lab.learners.sb3.network_import import ParameterMirror, UnsupportedByCompiledError, adam_settings, q_network
from rl_lab.learners.sb3.priority_state import priority_arrays, restore_priority_tree
from rl_lab.learners.sb3.sparse_observations import is_sparse

TrainingRecords: TypeAlias = tuple[ReplayBuffer, PriorityTree, QNetworks, Minibatch, DqnSettings, Array]


class _CompiledDqnMixin:
    """What `FastDQN` and `FastRowDQN` add to DQN. `learner` says which code trains: "compiled" or "stock, because ...".

    With `double_q`, the network chooses the next action and the target network values it. `priority_exponent` 0
    samples transitions uniformly, 1 in proportion to their error; `importance_exponent` is the exponent of the
    correction for it at first, and rises to 1 by the end of training. All other options are the library's own.
    """

    learner = ""
    rng_counter = 0  # stays 0: random numbers are numbered by num_timesteps and n_updates
    _priorities = PriorityTree(np.zeros(0), np.ones(1))

    def __init__(
        self,
        *arguments: Any,
        double_q: bool = False,
        priority_exponent: float = 0.0,
        importance_exponent: float = 0.4,
        **named: Any,
    ) -> None:
        self.double_q = double_q
        self.priority_exponent, self.importance_exponent = priority_exponent, importance_exponent
        super().__init__(*arguments, **named)

    def _excluded_save_params(self) -> list[str]:
        own = "learner key _compiled _q_net _q_net_target _output _adam_settings _squared_norms".split()
        own += ["_counters", "_priorities", "_minibatch", "_settings", "_q_networks"]
        return [*super()._excluded_save_params(), *own]  # type: ignore[misc]

    # --------------------------------------------------------------------------------------------------- preparation

    def ready(self) -> bool:
        """Say whether compiled code trains this DQN, and prepare for it at the first call.

        Raises:
            ValueError: Compiled code does not support this DQN, but an option was given that only compiled code has.
        """
        if not self.learner:
            try:
                self._check_supported()
                self._prepare()
                self.learner = "compiled"
            except UnsupportedByCompiledError as error:
                self.learner = f"stock, because {error}"
                if self.double_q or self.priority_exponent:
                    raise ValueError(f"double_q and priority_exponent need the compiled learner: {error}") from None
        return self.learner == "compiled"

    def _check_supported(self) -> None:
        """Raise UnsupportedByCompiledError where compiled code would compute something else than the library."""
        model: Any = self
        buffer = model.replay_buffer
        if type(model.policy) is not DQNPolicy or not isinstance(model.action_space, Discrete):
            raise UnsupportedByCompiledError(f"its policy is a {type(model.policy).__name__}")
        supported = type(buffer) in (LibraryReplayBuffer, NStepReplayBuffer, ActingReplay)
        if not supported or buffer.optimize_memory_usage:
            raise UnsupportedByCompiledError(f"its replay buffer is a {type(buffer).__name__}")
        if not buffer.handle_timeout_termination:
            raise UnsupportedByCompiledError("its replay buffer treats truncation as termination")
        if model.get_vec_normalize_env() is not None:
            raise UnsupportedByCompiledError("its observations or rewards are normalised")
        if model.observation_space.dtype not in (np.float32, np.uint8):
            raise UnsupportedByCompiledError(f"its observations are of {model.observation_space.dtype}")
        env = model.env
        if self.priority_exponent and (not isinstance(env, LabVecEnv) or compiled_batch_of(env) is None):
            raise UnsupportedByCompiledError(
                "prioritised replay needs environments that step without Python in between"
            )

    def _prepare(self) -> None:
        model: Any = self
        adam = adam_settings(model.policy.optimizer)
        q_net, tensors, self._output = q_network(model.q_net)
        self._q_net = ParameterMirror(q_net, tensors, model.policy.optimizer)
        q_net_target, tensors, _ = q_network(model.q_net_target)
        self._q_net_target = ParameterMirror(q_net_target, tensors, None)
        self._compiled = build.dqn()
        self.key = new_rng_key()
        self._counters = np.zeros(1, DQN_COUNTERS)
        self._minibatch = empty_minibatch(0)
        self._squared_norms = np.zeros(network.NUM_SHARDS)
        leaves = 1 << (model.replay_buffer.rewards.size - 1).bit_length() if self.priority_exponent else 0
        self._priorities = PriorityTree(sums=np.zeros(2 * leaves), max_priority=np.ones(1))
        self._adam_settings = np.zeros(network.NUM_ADAM_SETTINGS)
        self._adam_settings[network.MAX_GRAD_NORM] = model.max_grad_norm
        self._adam_settings[network.EPSILON] = adam["eps"]
        self._adam_settings[[network.BETA_1, network.BETA_2]] = adam["betas"]
        self._settings = dqn_settings(model)
        self._q_networks = {sparse: self._make_q_networks(sparse) for sparse in (False, True)}

    def priorities(self) -> dict[str, Array]:
        """Return what a checkpoint needs beside the library's own state; nothing where sampling is uniform."""
        return priority_arrays(self._priorities)

    def restore_priorities(self, saved: dict[str, Array]) -> None:
        """Continue with what `priorities` returned. Raises ValueError where it does not fit this replay buffer."""
        model: Any = self
        if self.ready() and len(self._priorities.sums):
            restore_priority_tree(self._priorities, saved, model.replay_buffer.rewards.size)

    # ------------------------------------------------------------------------------ what compiled code is called with

    def _make_q_networks(self, sparse: bool) -> QNetworks:
        model: Any = self
        q_net, q_net_target = self._q_net.network, self._q_net_target.network
        exp_avg, exp_avg_sq = self._q_net.moments
        return QNetworks(
            q_net=q_net.tables.ctypes.data,
            q_net_target=q_net_target.tables.ctypes.data,
            weights=q_net.weights,
            target_weights=q_net_target.weights,
            grads=q_net.grads,
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
            adam_settings=self._adam_settings,
            squared_norms=self._squared_norms,
            output=self._output,
            sparse=sparse,
            all_legal=np.ones(int(model.action_space.n), np.uint8),
            obs_rms=np.zeros((3, 0)),
        )

    def _networks(self, observations: Array) -> QNetworks:
        """Return both networks, with sparse inputs if these observations [B, ...] have mostly zeros."""
        self._q_net.tables(), self._q_net_target.tables()  # compiles the networks' functions at the first call
        flat = observations.reshape(len(observations), -1)
        return self._q_networks[is_sparse(self._q_net.network, flat)]

    # ------------------------------------------------------------------------------------ the model's state, in and out

    def training_records(self, observations: Array, batch_size: int) -> TrainingRecords:
        """Return the arguments of the compiled `train` after its first one, and of `learn` after its first two.

        Parameters, Adam's moments, the learning rate and the counters are copied from the model first. `observations`
        [B, ...] decide whether the network's inputs are sparse.
        """
        self._sync_from_model()
        if len(self._minibatch.slots) != batch_size:
            self._minibatch = empty_minibatch(batch_size)
        model: Any = self
        replay, q_nets = replay_arrays(model.replay_buffer), self._networks(observations)
        total_timesteps, settings = max(int(model._total_timesteps), 1), self._settings
        if settings.total_timesteps != total_timesteps or settings.rng_key != self.key:
            self._settings = settings._replace(total_timesteps=total_timesteps, rng_key=np.uint64(self.key))
        return replay, self._priorities, q_nets, self._minibatch, self._settings, self._counters

    def _sync_from_model(self) -> None:
        model: Any = self
        self._q_net.copy_from_tensors()
        self._q_net_target.copy_from_tensors()
        model._update_learning_rate(model.policy.optimizer)
        self._adam_settings[network.LEARNING_RATE] = model.policy.optimizer.param_groups[0]["lr"]
        counters, buffer = self._counters[0], model.replay_buffer
        for name in ("loss_sum", "num_episodes", "env_cycles", "train_cycles", "total_cycles"):
            counters[name] = 0
        counters["pos"], counters["size"] = buffer.pos, buffer.size()
        counters["num_timesteps"], counters["n_calls"] = model.num_timesteps, model._n_calls
        counters["n_updates"], counters["adam_step"] = model._n_updates, self._q_net.adam_steps

    def _sync_updates_to_model(self) -> None:
        """Copy the results of gradient steps to the model, and log them as `DQN.train` does."""
        model: Any = self
        n_updates = int(self._counters[0]["n_updates"])
        if gradient_steps := n_updates - model._n_updates:
            self._q_net.copy_to_tensors(int(self._counters[0]["adam_step"]))
            model.logger.record("train/loss", self._counters[0]["loss_sum"] / gradient_steps)
            model.logger.record("train/n_updates", n_updates, exclude="tensorboard")
        model._n_updates = n_updates

    def _sync_rollouts_to_model(self, batch: Batch, ep_info_buffer: Array) -> None:
        """Copy the results of rollouts to the model, and log them as SB3 does."""
        model: Any = self
        counters, buffer = self._counters[0], model.replay_buffer
        self._q_net_target.copy_parameters_to_tensors()
        buffer.pos, buffer.full = int(counters["pos"]), bool(counters["size"] == buffer.buffer_size)
        model.num_timesteps, model._n_calls = int(counters["num_timesteps"]), int(counters["n_calls"])
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)
        model.logger.record("rollout/exploration_rate", model.exploration_rate)
        model._last_obs = batch.observations.reshape(model.n_envs, *batch.observations.shape[2:]).copy()
        model._last_episode_starts = np.repeat(batch.done, model.n_envs // batch.num_envs)
        episodes, window = int(counters["num_episodes"]), len(ep_info_buffer)
        for k in range(max(episodes - window, 0), episodes):
            episode_return, length = ep_info_buffer[k % window]
            model.ep_info_buffer.append({"r": float(episode_return), "l": int(length)})
        model._episode_num += episodes

    # ------------------------------------------------------------------------------------------------------- learning

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take gradient steps; see `DQN.train`."""
        model: Any = self
        if not self.ready():
            super().train(gradient_steps, batch_size)  # type: ignore[misc]
            return
        if self.priority_exponent:
            raise ValueError("priority_exponent is for training in the lab: SB3's own loop does not support it")
        acted = getattr(model.replay_buffer, "acted", None)
        if acted is not None and not acted.any():
            return
        records = self.training_records(np.asarray(model._last_obs), batch_size)
        finite = self._compiled.train(gradient_steps, *records)
        check_flag()
        if not finite:
            self._raise_non_finite()
        self._sync_updates_to_model()

    def engine(self) -> Batch | None:
        """Return the batch of environments that compiled code can step, or None where the library's loop has to."""
        model: Any = self
        env = model.env
        by_steps = model.train_freq.unit == TrainFrequencyUnit.STEP and model.gradient_steps >= 0
        return compiled_batch_of(env) if self.ready() and by_steps and isinstance(env, LabVecEnv) else None

    def learn_compiled(self, batch: Batch, until: int) -> dict[str, float]:
        """Collect rollouts and train until `num_timesteps` is at least `until`; see `OffPolicyAlgorithm.learn`.

        Returns the fractions of the time that went into steps of the environments, "env", and gradient steps, "learn".
        """
        model: Any = self
        records = self.training_records(batch.observations.reshape(model.n_envs, -1), model.batch_size)
        acted = getattr(model.replay_buffer, "acted", None)
        if acted is not None:
            acted[:] = True  # in a batch that `engine` returns, every agent acts in every step
        env = env_arrays(batch, model.n_envs, model.ep_info_buffer.maxlen)
        outcome = self._compiled.learn(until, env, *records)
        check_flag()
        if outcome < 0:
            batch.fail(outcome)
        if outcome > 0:
            self._raise_non_finite()
        self._sync_rollouts_to_model(batch, env.ep_info_buffer)
        self._sync_updates_to_model()
        counters = self._counters[0]
        total = max(float(counters["total_cycles"]), 1.0)
        return {"env": counters["env_cycles"] / total, "learn": counters["train_cycles"] / total}

    def _raise_non_finite(self) -> None:
        name, counters = self._q_net.first_nonfinite_gradient(), self._counters[0]
        self._q_net.invalidate_moments()
        raise NonFiniteError(
            f"dqn: non-finite gradient of {name} in update {counters['n_updates'] + 1} "
            f"at step {counters['num_timesteps']}; no parameter was changed by it"
        )


class FastDQN(_CompiledDqnMixin, DQN):
    """`stable_baselines3.DQN`, compiled where that is possible; trained by the lab, each row explores by itself."""


class FastRowDQN(_CompiledDqnMixin, RowDQN):
    """`RowDQN`, compiled where that is possible."""
