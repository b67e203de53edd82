"""Stable-Baselines3's DQN with compiled rollouts and gradient steps, and options that only compiled code has.

`CompiledDQN` and `CompiledMaskedDQN` replace `train` of SB3's class, and add `learn_compiled`, which collects rollouts
and trains without Python in between. The model's state stays where SB3 has it: parameters and Adam's moments in torch
tensors, transitions in the replay buffer. Both methods copy parameters and counters to arrays (`training_records`),
call `compiled/templates/dqn.py`, and copy the results back (`_sync_..._to_model`). A DQN that compiled code does not
support is trained by SB3's own code, and `backend` says why.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from gymnasium.spaces import Discrete
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer as Sb3ReplayBuffer
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.dqn.policies import DQNPolicy

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.stop_flag import check_flag
from rl_lab.core.world import Array
from rl_lab.engine.batch import Batch, NonFiniteError
from rl_lab.learners.compiled import adam_records, build
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
from rl_lab.learners.sb3.dqn_arguments import dqn_settings, env_arrays, q_networks, replay_arrays
from rl_lab.learners.sb3.generator_state import new_rng_key
from rl_lab.learners.sb3.masked_dqn import MaskedDQN
from rl_lab.learners.sb3.masked_replay_buffer import CompleteTransitionReplayBuffer
from rl_lab.learners.sb3.network_import import ParameterMirror, UnsupportedByCompiledError, adam_settings, q_network
from rl_lab.learners.sb3.priority_state import priority_arrays, restore_priority_tree
from rl_lab.learners.sb3.sparse_observations import is_sparse

TrainingRecords: TypeAlias = tuple[ReplayBuffer, PriorityTree, QNetworks, Minibatch, DqnSettings, Array]


class _CompiledDqnMixin:
    """The methods that `CompiledDQN` and `CompiledMaskedDQN` add to SB3's classes.

    `backend` says what trains: "compiled", or "Stable-Baselines3's own, because ...". It is "" until the first use.

    With `double_q`, the online network chooses the next action and the target network values it. `priority_exponent` 0
    samples transitions uniformly, 1 in proportion to their error; `importance_exponent` is the exponent of the
    correction for it at first, and rises to 1 by the end of training. All other options are SB3's.
    """

    backend = ""
    rng_key: np.uint64  # of the random numbers of compiled code
    rng_counter = 0  # stays 0: random numbers are numbered by num_timesteps and n_updates
    _priorities = PriorityTree(np.zeros(0), np.ones(1))

    def __init__(
        self,
        *args: Any,
        double_q: bool = False,
        priority_exponent: float = 0.0,
        importance_exponent: float = 0.4,
        **kwargs: Any,
    ) -> None:
        self.double_q = double_q
        self.priority_exponent, self.importance_exponent = priority_exponent, importance_exponent
        super().__init__(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        """Return the attributes that SB3's `save` leaves out."""
        excluded = "backend rng_key _compiled _q_net _q_net_target _output _adam_settings".split()
        excluded += ["_counters", "_priorities", "_minibatch", "_settings", "_q_networks"]
        return [*super()._excluded_save_params(), *excluded]  # type: ignore[misc]

    # --------------------------------------------------------------------------------------------------- preparation

    def prepare_compiled(self) -> bool:
        """Return whether compiled code trains this DQN; at the first call, decide it and prepare for it.

        Raises:
            ValueError: Compiled code does not support this DQN, but an option was given that only compiled code has.
        """
        if not self.backend:
            try:
                self._check_supported()
                self._prepare()
                self.backend = "compiled"
            except UnsupportedByCompiledError as error:
                self.backend = f"Stable-Baselines3's own, because {error}"
                if self.double_q or self.priority_exponent:
                    raise ValueError(f"double_q and priority_exponent need the compiled learner: {error}") from None
        return self.backend == "compiled"

    def _check_supported(self) -> None:
        """Raise UnsupportedByCompiledError where compiled code would compute something else than SB3's."""
        model: Any = self
        buffer = model.replay_buffer
        if type(model.policy) is not DQNPolicy or not isinstance(model.action_space, Discrete):
            raise UnsupportedByCompiledError(f"its policy is a {type(model.policy).__name__}")
        supported = type(buffer) in (Sb3ReplayBuffer, NStepReplayBuffer, CompleteTransitionReplayBuffer)
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
        """Make the compiled networks, and the arrays that are kept between calls of compiled code."""
        model: Any = self
        adam = adam_settings(model.policy.optimizer)
        q_net, tensors, self._output = q_network(model.q_net)
        self._q_net = ParameterMirror(q_net, tensors, model.policy.optimizer)
        q_net_target, tensors, _ = q_network(model.q_net_target)
        self._q_net_target = ParameterMirror(q_net_target, tensors, None)
        self._compiled = build.dqn()
        self.rng_key = new_rng_key()
        self._counters = np.zeros(1, DQN_COUNTERS)
        self._minibatch = empty_minibatch(0)
        # As many leaves as transitions, rounded up to a power of two.
        leaves = 1 << (model.replay_buffer.rewards.size - 1).bit_length() if self.priority_exponent else 0
        self._priorities = PriorityTree(sums=np.zeros(2 * leaves), max_priority=np.ones(1))
        self._adam_settings = np.zeros(adam_records.NUM_ADAM_SETTINGS)
        self._adam_settings[adam_records.MAX_GRAD_NORM] = model.max_grad_norm
        self._adam_settings[adam_records.EPSILON] = adam["eps"]
        self._adam_settings[[adam_records.BETA_1, adam_records.BETA_2]] = adam["betas"]
        self._settings = dqn_settings(model)
        both_networks = (self._q_net.network, self._q_net_target.network, self._q_net.moments, self._adam_settings)
        num_actions = int(model.action_space.n)
        self._q_networks = {
            sparse: q_networks(*both_networks, self._output, num_actions, sparse=sparse) for sparse in (False, True)
        }

    def priorities(self) -> dict[str, Array]:
        """Return the priorities for a checkpoint, see `priority_state`; nothing where sampling is uniform."""
        return priority_arrays(self._priorities)

    def restore_priorities(self, saved: dict[str, Array]) -> None:
        """Continue with what `priorities` returned. Raises ValueError where it does not fit this replay buffer."""
        model: Any = self
        if self.prepare_compiled() and len(self._priorities.sums):
            restore_priority_tree(self._priorities, saved, model.replay_buffer.rewards.size)

    # ------------------------------------------------------------------------------------ arguments of compiled code

    def _networks_for(self, observations: Array) -> QNetworks:
        """Return the record of both networks, with sparse inputs if these observations [B, ...] have mostly zeros."""
        self._q_net.tables(), self._q_net_target.tables()  # compiles the networks' functions at the first call
        flat = observations.reshape(len(observations), -1)
        return self._q_networks[is_sparse(self._q_net.network, flat)]

    # ------------------------------------------------------------------------------------ the model's state, copied

    def training_records(self, observations: Array, batch_size: int) -> TrainingRecords:
        """Copy the model's state to compiled code; return the common arguments of the compiled `train` and `learn`.

        They are all but the first of `train`, and all but the first two of `learn`. `observations` [B, ...] decide
        whether the networks' inputs are sparse.
        """
        self._sync_from_model()
        if len(self._minibatch.slots) != batch_size:
            self._minibatch = empty_minibatch(batch_size)
        model: Any = self
        replay, q_nets = replay_arrays(model.replay_buffer), self._networks_for(observations)
        total_timesteps, settings = max(int(model._total_timesteps), 1), self._settings
        if settings.total_timesteps != total_timesteps or settings.rng_key != self.rng_key:
            self._settings = settings._replace(total_timesteps=total_timesteps, rng_key=np.uint64(self.rng_key))
        return replay, self._priorities, q_nets, self._minibatch, self._settings, self._counters

    def _sync_from_model(self) -> None:
        """Copy parameters, Adam's moments, the learning rate and the counters from the model; set the others to 0."""
        model: Any = self
        self._q_net.copy_from_tensors()
        self._q_net_target.copy_from_tensors()
        model._update_learning_rate(model.policy.optimizer)
        self._adam_settings[adam_records.LEARNING_RATE] = model.policy.optimizer.param_groups[0]["lr"]
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
        """Take gradient steps on minibatches of the replay buffer; see `DQN.train`."""
        model: Any = self
        if not self.prepare_compiled():
            super().train(gradient_steps, batch_size)  # type: ignore[misc]
            return
        if self.priority_exponent:
            raise ValueError("priority_exponent is for training in the lab: SB3's own loop does not support it")
        is_complete = getattr(model.replay_buffer, "has_complete_transition", None)
        if is_complete is not None and not is_complete.any():
            return
        records = self.training_records(np.asarray(model._last_obs), batch_size)
        finite = self._compiled.train(gradient_steps, *records)
        check_flag()
        if not finite:
            self._raise_non_finite()
        self._sync_updates_to_model()

    def compiled_batch(self) -> Batch | None:
        """Return the batch of environments for `learn_compiled`, or None where SB3's loop has to step them."""
        model: Any = self
        env = model.env
        by_steps = model.train_freq.unit == TrainFrequencyUnit.STEP and model.gradient_steps >= 0
        return compiled_batch_of(env) if self.prepare_compiled() and by_steps and isinstance(env, LabVecEnv) else None

    def learn_compiled(self, batch: Batch, target_timesteps: int) -> dict[str, float]:
        """Collect rollouts and train until `num_timesteps` >= `target_timesteps`; see `OffPolicyAlgorithm.learn`.

        `batch` is what `compiled_batch` returned. Returns the fractions of the time that went into steps of the
        environments, "env", and gradient steps, "learn".
        """
        model: Any = self
        records = self.training_records(batch.observations.reshape(model.n_envs, -1), model.batch_size)
        is_complete = getattr(model.replay_buffer, "has_complete_transition", None)
        if is_complete is not None:
            is_complete[:] = True  # in a batch that `compiled_batch` returns, every agent acts in every step
        env = env_arrays(batch, model.n_envs, model.ep_info_buffer.maxlen)
        outcome = self._compiled.learn(target_timesteps, env, *records)
        check_flag()
        if outcome < 0:
            batch.raise_fault(outcome)
        if outcome > 0:
            self._raise_non_finite()
        self._sync_rollouts_to_model(batch, env.ep_info_buffer)
        self._sync_updates_to_model()
        counters = self._counters[0]
        total = max(float(counters["total_cycles"]), 1.0)
        return {"env": counters["env_cycles"] / total, "learn": counters["train_cycles"] / total}

    def _raise_non_finite(self) -> None:
        """Raise NonFiniteError for the gradient step that compiled code has not taken."""
        name, counters = self._q_net.first_nonfinite_gradient(), self._counters[0]
        self._q_net.invalidate_moments()
        raise NonFiniteError(
            f"dqn: non-finite gradient of {name} in update {counters['n_updates'] + 1} "
            f"at step {counters['num_timesteps']}; no parameter was changed by it"
        )


class CompiledDQN(_CompiledDqnMixin, DQN):
    """`stable_baselines3.DQN`, compiled where that is possible; in `learn_compiled`, each row explores by itself."""


class CompiledMaskedDQN(_CompiledDqnMixin, MaskedDQN):
    """`MaskedDQN`, compiled where that is possible."""
