"""Stable-Baselines3 algorithms as learners, driven one iteration at a time."""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ..agent import Saved
from ..batch import Worlds
from ..engine import NonFiniteError
from ..world import Array
from .sb3 import LabVecEnv
from .sb3_agent import Sb3Agent, maskable
from .sb3_fast import FastMaskablePPO, FastPPO
from .sb3_fast_dqn import FastDQN, FastRowDQN
from .sb3_rows import ActingMaskableRollout, ActingMeanStd, ActingReplay, ActingRollout, RowDQN
from .sb3_state import as_arrays, restore, save

CHUNK = 1024  # environment steps an off-policy learner takes between looks at the clock


class _TimedVecEnv(LabVecEnv):
    """Counts the seconds spent in the worlds."""

    whole = True
    seconds = 0.0

    def step_wait(self) -> Any:
        begin = time.perf_counter()
        result = super().step_wait()
        self.seconds += time.perf_counter() - begin
        return result


class Sb3Learner:
    """An SB3 algorithm driven one iteration at a time, so that its state between iterations is all there is to save."""

    def __init__(
        self,
        name: str,
        algorithm: type[BaseAlgorithm],
        worlds: Worlds,
        *,
        budget: int,
        seed: int,
        device: str,
        normalize_observations: bool,
        normalize_rewards: bool,
        arguments: dict[str, Any],
        indicator: bool = False,
    ) -> None:
        _without_dynamo()
        self.name, self.budget = name, budget
        self.on_policy = issubclass(algorithm, OnPolicyAlgorithm)
        set_random_seed(seed)
        self.indicator = len(worlds.world.agents) if indicator else 0
        self.timed = _TimedVecEnv(worlds, indicator=indicator)
        if worlds.world.masked or worlds.world.waiting:
            algorithm, arguments = _for_rows(algorithm, self.timed, dict(arguments))
        env: VecEnv = self.timed
        if normalize_observations or normalize_rewards:
            env = VecNormalize(
                env, norm_obs=normalize_observations, norm_reward=normalize_rewards, gamma=arguments["gamma"]
            )
            if worlds.world.waiting:
                env.ret_rms = ActingMeanStd(self.timed, "acted", env.ret_rms)
                if normalize_observations:
                    statistics: Any = ActingMeanStd(self.timed, "active", cast(Any, env.obs_rms))
                    env.obs_rms = statistics
        # No seed for SB3: the batch seeds its worlds as independent streams, SB3 would give them seed + i.
        self.model = algorithm("MlpPolicy", env, device=device, **arguments)
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.model.action_space.seed(seed)
        if isinstance(self.model, RowDQN):
            self.model.rows = self.timed
        self.how = "stock, as asked"
        if isinstance(self.model, FastPPO | FastMaskablePPO | FastDQN | FastRowDQN):
            self.model.ready()
            self.how = self.model.learner
        _, self._callback = self.model._setup_learn(budget)
        self.model.policy.optimizer.register_step_pre_hook(self._check_gradients)
        self._spent = {"env": 0.0, "infer": 0.0, "learn": 0.0}

    @property
    def steps(self) -> int:
        """Environment steps taken."""
        return int(self.model.num_timesteps)

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went so far."""
        return dict(self._spent)

    def advance(self) -> dict[str, float]:
        """One rollout and its update; for an off-policy algorithm, as many as fill `CHUNK` steps."""
        model: Any = self.model
        model.logger.name_to_value.clear()
        if self.on_policy:
            self._collect(model)
            acted = getattr(model.rollout_buffer, "acted", None)
            if acted is None or acted.sum() > 1:  # of a single row there is no standard deviation
                self._learn(model.train)
        else:
            # In rounds of all rows: several policies that learn side by side stay in step.
            rounds = max(CHUNK // self.timed.worlds.n, 1)
            calls = self.steps // self.timed.num_envs
            target = min((calls // rounds + 1) * rounds * self.timed.num_envs, self.budget)
            engine = model.engine() if isinstance(model, FastDQN | FastRowDQN) else None
            if engine is not None:
                begin = time.perf_counter()
                shares = model.advance(engine, target)
                took = time.perf_counter() - begin
                for part, share in {**shares, "infer": 1 - shares["env"] - shares["learn"]}.items():
                    self._spent[part] += share * took
            while self.steps < target:
                self._collect(model)
                if self.steps > model.learning_starts and model.gradient_steps > 0:
                    self._learn(lambda: model.train(model.gradient_steps, model.batch_size))
        episodes = list(model.ep_info_buffer or ())
        metrics = {key: float(value) for key, value in model.logger.name_to_value.items()}
        for key, value in metrics.items():
            if "loss" in key and not np.isfinite(value):
                raise NonFiniteError(f"{self.name}: non-finite {key} at step {self.steps}")
        # Others may be undefined: the explained variance is, while all returns are equal.
        metrics = {key: value for key, value in metrics.items() if np.isfinite(value)}
        if episodes:
            metrics["rollout/return"] = float(np.mean([e["r"] for e in episodes]))
        if lengths := [e["l"] for e in episodes if e["l"]]:  # of agents that left early it is not known
            metrics["rollout/length"] = float(np.mean(lengths))
        return metrics

    def _collect(self, model: Any) -> None:
        begin, before = time.perf_counter(), self.timed.seconds
        if self.on_policy:
            model.collect_rollouts(model.env, self._callback, model.rollout_buffer, model.n_steps)
        else:
            model.collect_rollouts(
                model.env,
                self._callback,
                model.train_freq,
                model.replay_buffer,
                learning_starts=model.learning_starts,
                log_interval=None,
            )
        model._update_current_progress_remaining(self.steps, self.budget)
        env, spent = self.timed.seconds - before, time.perf_counter() - begin
        if getattr(model, "stepping", None) is not None:
            env = model.stepping * spent
        self._spent["env"] += env
        self._spent["infer"] += spent - env

    def _learn(self, update: Any) -> None:
        begin = time.perf_counter()
        update()
        self._spent["learn"] += time.perf_counter() - begin

    def _check_gradients(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            for field, parameter in self.model.policy.named_parameters():
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                    raise NonFiniteError(
                        f"{self.name}: non-finite gradient of {field} in update {self.model._n_updates + 1} "
                        f"at step {self.steps}; no parameter was changed by it"
                    )

    def _observation_statistics(self) -> dict[str, Array] | None:
        normalizer: Any = self.model.get_vec_normalize_env()
        if normalizer is None or not normalizer.norm_obs:
            return None
        return {"mean": normalizer.obs_rms.mean.copy(), "var": normalizer.obs_rms.var.copy()}

    def agent(self) -> Sb3Agent:
        """Return the agent as it is now."""
        return Sb3Agent(self.name, self.model.policy, self._observation_statistics(), indicator=self.indicator)

    def save_agent(self) -> Saved:
        """Return the policy's parameters and the observation statistics."""
        tensors = {"policy": as_arrays(self.model.policy.state_dict())}
        statistics = self._observation_statistics()
        if statistics is not None:
            tensors["normalizer"] = statistics
        return Saved(tensors, {})

    def save(self) -> Saved:
        """Return the algorithm's whole state between two iterations."""
        return save(self.model, compiled=self.how == "compiled")

    def restore(self, saved: Saved) -> None:
        """Go on from `save`; raises ValueError where the state is another algorithm's or size's."""
        restore(self.model, self.name, saved, compiled=self.how == "compiled")


def _for_rows(
    algorithm: type[BaseAlgorithm], rows: LabVecEnv, arguments: dict[str, Any]
) -> tuple[type[BaseAlgorithm], dict[str, Any]]:
    """Return the algorithm and arguments that learn from rows with illegal actions or absent agents."""
    if not issubclass(algorithm, OnPolicyAlgorithm):
        if rows.worlds.world.turns:
            raise ValueError("dqn learns a game of turns only against an opponent: add opponent=NAME, or use ppo")
        fast = issubclass(algorithm, FastDQN)
        algorithm = FastRowDQN if fast else RowDQN
        return algorithm, arguments | {"replay_buffer_class": ActingReplay, "replay_buffer_kwargs": {"rows": rows}}
    if not rows.worlds.world.masked:
        return algorithm, arguments | {"rollout_buffer_class": ActingRollout, "rollout_buffer_kwargs": {"rows": rows}}
    if arguments.pop("use_sde"):
        raise ValueError("use_sde is for continuous actions")
    del arguments["sde_sample_freq"]
    _, arguments["policy_kwargs"] = maskable(arguments["policy_kwargs"])
    arguments |= {"rollout_buffer_class": ActingMaskableRollout, "rollout_buffer_kwargs": {"rows": rows}}
    return FastMaskablePPO if issubclass(algorithm, FastPPO) else MaskablePPO, arguments


def _without_dynamo() -> None:
    """Keep torch from importing its compiler, a second and more, the first time an optimizer is touched.

    Its methods are wrapped so that torch.compile leaves them alone; the wrapper looks for this attribute first.
    """
    for method in vars(torch.optim.Optimizer).values():
        wrapped = getattr(method, "__wrapped__", None)
        code = getattr(method, "__code__", None)
        if wrapped is not None and code is not None and code.co_filename.endswith("_compile.py"):
            wrapped.__dynamo_disable = wrapped
