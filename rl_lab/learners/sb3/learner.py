"""Stable-Baselines3 algorithms as `Learner` objects, which are trained one iteration at a time.

`agents/ppo.py` and `agents/dqn.py` make an `Sb3Learner`; the trainer calls `train_iteration` and, between iterations,
`save` and `agent`. The object owns the SB3 model with its buffers, and steps the environments. Making one seeds the
global random generators of torch, numpy and random, and keeps torch from importing its compiler.
"""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
import torch
from gymnasium.spaces import Dict
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_lab.adapters.structured import structure_of
from rl_lab.core.agent import Rollout, StateDict
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.engine.batch import NonFiniteError
from rl_lab.learners.sb3.agent import PolicyAgentBase, Sb3Agent
from rl_lab.learners.sb3.algorithms import with_masked_rows, with_sb3_algorithm, with_sequence_buffer
from rl_lab.learners.sb3.backbone import BackboneHandoff
from rl_lab.learners.sb3.dqn import CompiledDQN, CompiledMaskedDQN
from rl_lab.learners.sb3.encoder import EncodedVecEnv, Encoder, TimedVecEnv
from rl_lab.learners.sb3.masked_dqn import MaskedDQN
from rl_lab.learners.sb3.memory import require_memory
from rl_lab.learners.sb3.ppo import CompiledMaskablePPO, CompiledPPO
from rl_lab.learners.sb3.recurrent_agent import RecurrentAgent
from rl_lab.learners.sb3.recurrent_ppo import RecurrentPPO
from rl_lab.learners.sb3.training_state import as_arrays, export_state, restore, save
from rl_lab.learners.sb3.vec_normalize import ActingRunningMeanStd

STEPS_PER_ITERATION = 1024  # environment steps of an off-policy algorithm in one iteration


class Sb3Learner:
    """An SB3 algorithm that is trained one iteration at a time, so that its state can be saved between iterations."""

    def __init__(
        self,
        name: str,
        algorithm: type[BaseAlgorithm],
        envs: BatchedEnv,
        *,
        budget: int,
        seed: int,
        device: str,
        normalize_observations: bool,
        normalize_rewards: bool,
        arguments: dict[str, Any],
        indicator: bool = False,
        backbone: BackboneHandoff | None = None,
    ) -> None:
        _without_dynamo()
        self.name, self.budget, self.backbone = name, budget, backbone
        self.on_policy = issubclass(algorithm, OnPolicyAlgorithm)
        set_random_seed(seed)
        self.indicator = len(envs.world.agents) if indicator else 0
        # The environments, in the wrappers that the arguments ask for.
        self.encoder: Encoder | None = None if backbone is None else backbone.encoder(device)
        self.vec_env = TimedVecEnv(envs, indicator=indicator)
        if self.encoder is not None:
            self.vec_env = EncodedVecEnv(envs, self.encoder)
        self.structure = structure_of(envs.world)
        if self.structure is not None:
            if normalize_observations:
                raise ValueError(f"normalize_observations: {envs.world.name} observes a {self.structure.kind}")
            algorithm, arguments = with_sb3_algorithm(algorithm, dict(arguments))
        if issubclass(algorithm, RecurrentPPO):
            arguments = with_sequence_buffer(self.vec_env, dict(arguments))
        elif envs.world.has_action_mask or envs.world.is_multi_agent:
            algorithm, arguments = with_masked_rows(algorithm, self.vec_env, dict(arguments))
        env: VecEnv = self.vec_env
        require_memory(env, arguments)
        if normalize_observations or normalize_rewards:
            gamma = arguments["gamma"]
            env = self._normalized(env, normalize_observations, normalize_rewards, gamma)
        # The model. SB3 gets no seed, because it would seed environment i with seed + i; the batch has its own streams.
        policy = "MultiInputPolicy" if isinstance(self.vec_env.observation_space, Dict) else "MlpPolicy"
        self.model = algorithm(policy, env, device=device, **arguments)
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.model.action_space.seed(seed)
        if backbone is not None:
            backbone.attach(self.model)
        if isinstance(self.model, MaskedDQN):
            self.model.vec_env = self.vec_env
        backend = self._prepare_backend()
        self._is_compiled = backend == "compiled"
        self.backend = backend if backbone is None else f"{backend}; {backbone.describe()}"
        _, self.callback = self.model._setup_learn(budget)
        self.model.policy.optimizer.register_step_pre_hook(self._check_gradients)
        self._seconds_by_activity = {"env": 0.0, "infer": 0.0, "learn": 0.0}

    def _prepare_backend(self) -> str:
        """Compile the update where that is possible, and return what trains the model, see `Learner.backend`."""
        if isinstance(self.model, CompiledPPO | CompiledMaskablePPO | CompiledDQN | CompiledMaskedDQN):
            self.model.prepare_compiled()
            return self.model.backend
        if self.structure is not None:
            return f"Stable-Baselines3's own, because its observations are a {self.structure.kind}"
        return getattr(type(self.model), "backend", "") or "Stable-Baselines3's own, because compiled=false"

    def _normalized(self, env: VecEnv, observations: bool, rewards: bool, gamma: float) -> VecEnv:
        """Return the env in a VecNormalize, whose statistics leave out rows whose agents do not act."""
        normalizer = VecNormalize(env, norm_obs=observations, norm_reward=rewards, gamma=gamma)
        if self.vec_env.envs.world.is_multi_agent:
            normalizer.ret_rms = ActingRunningMeanStd(self.vec_env, "reward_is_valid", normalizer.ret_rms)
            if observations:
                statistics: Any = ActingRunningMeanStd(self.vec_env, "acting", cast(Any, normalizer.obs_rms))
                normalizer.obs_rms = statistics
        return normalizer

    @property
    def steps(self) -> int:
        """Return the number of environment steps so far."""
        return int(self.model.num_timesteps)

    @property
    def seconds(self) -> dict[str, float]:
        """Return the time so far in seconds by activity: env, infer, learn."""
        return dict(self._seconds_by_activity)

    @property
    def rollout(self) -> Rollout:
        """Return how much is collected before each update, and the setting that says so."""
        model: Any = self.model
        steps = model.n_steps if self.on_policy else model.train_freq.frequency
        return Rollout(int(steps) * self.vec_env.num_envs, "n_steps" if self.on_policy else "train_freq")

    def train_iteration(self) -> dict[str, float]:
        """Collect one rollout and update; return the metrics.

        An off-policy algorithm repeats this for `STEPS_PER_ITERATION` steps.

        Raises NonFiniteError for a loss or a gradient that is not finite.
        """
        model: Any = self.model
        if self.backbone is not None:
            self.backbone.begin_iteration(self.steps)
        model.logger.name_to_value.clear()
        if self.on_policy:
            self._train_on_policy(model)
        else:
            self._train_off_policy(model)
        return self._metrics(model)

    def _train_on_policy(self, model: Any) -> None:
        """Collect one rollout and update."""
        self._collect(model)
        is_complete = getattr(model.rollout_buffer, "has_complete_transition", None)
        if is_complete is None or is_complete.any():
            self._learn(lambda: _train(model, single=is_complete is not None and is_complete.sum() == 1))
            if is_complete is not None and not self._is_compiled:  # SB3 has counted rows whose agents did not act
                explained = model.rollout_buffer.explained_variance()
                model.logger.record("train/explained_variance", explained)

    def _train_off_policy(self, model: Any) -> None:
        """Collect and update until the next multiple of `STEPS_PER_ITERATION` steps, in whole steps of the vector env.

        Several policies that are trained in one batch take equally many steps in this way.
        """
        calls_per_chunk = max(STEPS_PER_ITERATION // self.vec_env.envs.num_envs, 1)
        calls = self.steps // self.vec_env.num_envs
        target = min((calls // calls_per_chunk + 1) * calls_per_chunk * self.vec_env.num_envs, self.budget)
        batch = model.compiled_batch() if isinstance(model, CompiledDQN | CompiledMaskedDQN) else None
        if batch is not None:
            begin = time.perf_counter()
            shares = model.learn_compiled(batch, target)
            seconds = time.perf_counter() - begin
            for part, share in {**shares, "infer": 1 - shares["env"] - shares["learn"]}.items():
                self._seconds_by_activity[part] += share * seconds
        while self.steps < target:
            self._collect(model)
            if self.steps > model.learning_starts and model.gradient_steps > 0:
                self._learn(lambda: model.train(model.gradient_steps, model.batch_size))

    def _metrics(self, model: Any) -> dict[str, float]:
        """Return the finite metrics of the logger, and the mean return and length of the last episodes."""
        episodes = list(model.ep_info_buffer or ())
        metrics = {key: float(value) for key, value in model.logger.name_to_value.items()}
        for key, value in metrics.items():
            if "loss" in key and not np.isfinite(value):
                raise NonFiniteError(f"{self.name}: non-finite {key} at step {self.steps}")
        # Other metrics may be undefined, as the explained variance is while all returns are equal.
        metrics = {key: value for key, value in metrics.items() if np.isfinite(value)}
        if episodes:
            metrics["rollout/return"] = float(np.mean([e["r"] for e in episodes]))
        if lengths := [e["l"] for e in episodes if e["l"]]:  # the length is unknown for agents that left early
            metrics["rollout/length"] = float(np.mean(lengths))
        return metrics

    def _collect(self, model: Any) -> None:
        """Collect a rollout; add its time to "env" and "infer"."""
        begin, before = time.perf_counter(), self.vec_env.seconds
        if self.on_policy:
            model.collect_rollouts(model.env, self.callback, model.rollout_buffer, model.n_steps)
        else:
            model.collect_rollouts(
                model.env,
                self.callback,
                model.train_freq,
                model.replay_buffer,
                learning_starts=model.learning_starts,
                log_interval=None,
            )
        model._update_current_progress_remaining(self.steps, self.budget)
        env_seconds, seconds = self.vec_env.seconds - before, time.perf_counter() - begin
        if getattr(model, "env_time_fraction", None) is not None:
            env_seconds = model.env_time_fraction * seconds
        self._seconds_by_activity["env"] += env_seconds
        self._seconds_by_activity["infer"] += seconds - env_seconds

    def _learn(self, update: Any) -> None:
        """Call `update()`; add its time to "learn"."""
        begin = time.perf_counter()
        update()
        self._seconds_by_activity["learn"] += time.perf_counter() - begin

    def _check_gradients(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Raise NonFiniteError, before a step of torch's optimizer, for a gradient that is not finite."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            for field, parameter in self.model.policy.named_parameters():
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                    raise NonFiniteError(
                        f"{self.name}: non-finite gradient of {field} in update {self.model._n_updates + 1} "
                        f"at step {self.steps}; no parameter was changed by it"
                    )

    def _observation_statistics(self) -> dict[str, Array] | None:
        """Return mean and variance of a VecNormalize's observations; None where they are not normalized."""
        normalizer: Any = self.model.get_vec_normalize_env()
        if normalizer is None or not normalizer.norm_obs:
            return None
        return {"mean": normalizer.obs_rms.mean.copy(), "var": normalizer.obs_rms.var.copy()}

    def agent(self) -> PolicyAgentBase:
        """Return the current agent, which shares the learner's parameters."""
        statistics = self._observation_statistics()
        arguments: dict[str, Any] = {"indicator": self.indicator, "structure": self.structure, "encoder": self.encoder}
        agent_class: Any = RecurrentAgent if isinstance(self.model, RecurrentPPO) else Sb3Agent
        return cast(PolicyAgentBase, agent_class(self.name, self.model.policy, statistics, **arguments))

    def save_agent(self) -> StateDict:
        """Return the policy's parameters and the observation statistics."""
        tensors = {"policy": as_arrays(self.model.policy.state_dict())}
        statistics = self._observation_statistics()
        if statistics is not None:
            tensors["normalizer"] = statistics
        if self.encoder is not None:
            tensors["encoder"] = self.encoder.arrays()
        return StateDict(tensors, {})

    def export_state(self) -> StateDict:
        """Return the state with which training of an exported agent continues, beside what `save_agent` returns."""
        return export_state(self.model)

    def save(self) -> StateDict:
        """Return the algorithm's whole state between two iterations."""
        state_dict = save(self.model, compiled=self._is_compiled)
        if self.encoder is not None:  # it does not change; an agent is made of a checkpoint, too
            state_dict.tensors["encoder"] = self.encoder.arrays()
        return state_dict

    def restore(self, state_dict: StateDict) -> None:
        """Restore what `save` returned. Raises ValueError for the state of another algorithm or size."""
        restore(self.model, self.name, state_dict, compiled=self._is_compiled)

    def close(self) -> None:
        """Do nothing: there are no other processes."""


def _train(model: Any, *, single: bool) -> None:
    """Update an on-policy algorithm. The advantages of a `single` row have no deviation, so they are not normalized."""
    normalize = model.normalize_advantage
    model.normalize_advantage = normalize and not single
    try:
        model.train()
    finally:
        model.normalize_advantage = normalize


def _without_dynamo() -> None:
    """Prevent torch from importing its compiler at the first use of an optimizer, which takes more than a second.

    torch wraps the methods of optimizers so that torch.compile ignores them. The wrapper imports the compiler unless
    the method has this attribute.
    """
    for method in vars(torch.optim.Optimizer).values():
        wrapped = getattr(method, "__wrapped__", None)
        code = getattr(method, "__code__", None)
        if wrapped is not None and code is not None and code.co_filename.endswith("_compile.py"):
            wrapped.__dynamo_disable = wrapped
