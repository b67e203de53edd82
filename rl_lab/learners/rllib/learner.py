"""An RLlib algorithm as a `Learner`, which the lab trains one iteration at a time."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from rl_lab.core.agent import StateDict
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.untrusted import checked_int, checked_list, checked_number, checked_type
from rl_lab.core.world import Array
from rl_lab.engine.batch import NonFiniteError
from rl_lab.learners.rllib import in_process
from rl_lab.learners.rllib.cluster import Cluster
from rl_lab.learners.rllib.learners import MODULE, Learners, policy_of, restore_state, state_of
from rl_lab.learners.rllib.pending_state import check_pending
from rl_lab.learners.rllib.policy_builder import PolicyBuilder
from rl_lab.learners.sb3.agent import Sb3Agent
from rl_lab.learners.sb3.state_validation import check_generators, check_parameters, validated_moments
from rl_lab.learners.sb3.training_state import as_arrays

_UPDATE = 600.0  # seconds that learners in other processes may take for one update


class RllibLearner:
    """An algorithm of RLlib's over environments: RLlib's learner, and `EnvRunner`s of the lab's.

    A class of an algorithm has the agent's `name`, and `metric_names`, RLlib's name of each metric and the lab's.

    Args:
        settings: the agent's Config, whose names are RLlib's.
        envs: the environments.
        build: a function that returns the policy as it is at the start.
        seed: seeds initial weights, sampled actions and the order of minibatches.
        device: "cpu" or "cuda", of the learner.
    """

    name: str
    metric_names: dict[str, str]

    def __init__(self, settings: Any, envs: BatchedEnv, build: PolicyBuilder, *, seed: int, device: str) -> None:
        self.envs: Any = envs
        self._settings, self._backbone = settings, build.backbone
        self._cluster = self._open_cluster()
        self._close = weakref.finalize(self, self._cluster.close)
        self._steps, self._learn_seconds = 0, 0.0
        try:
            self.algorithm = self._build(build, seed, device)
            self._learners = Learners(self.algorithm.learner_group, timeout=_UPDATE, check=self._cluster.check)
            self._runner: Any = self.algorithm.env_runner
            self._policy = self._runner.module.policy
            self._encoder = None if self._backbone is None else self._backbone.encoder("cpu")
            self._attach()
        except BaseException:
            self._close()
            raise

    def _open_cluster(self) -> Cluster | in_process.NoCluster:
        return in_process.NoCluster()

    def _instantiate(self, config: Any) -> Any:
        """Return RLlib's runners and learners for this configuration."""
        return in_process.build(config)

    def _build(self, build: PolicyBuilder, seed: int, device: str) -> Any:
        """Return RLlib's algorithm."""
        raise NotImplementedError

    def _attach(self) -> None:
        self._runner.attach(self.envs)

    @property
    def backend(self) -> str:
        """Return what trains, and where, and with which backbone."""
        backbone = self._backbone
        return self._engine() + ("" if backbone is None else f"; {backbone.describe(self._policy)}")

    def _engine(self) -> str:
        """Return what trains, and where."""
        import ray

        acting = "compiled code" if self._runner.acts_compiled else "torch"
        return f"RLlib {ray.__version__}, one process, acting by {acting}, updates by {self._learner().code}"

    @property
    def steps(self) -> int:
        """Return the number of environment steps so far."""
        return self._steps

    @property
    def seconds(self) -> dict[str, float]:
        """Return the time so far in seconds by activity: env, infer, learn."""
        return {**self._runner.seconds, "learn": self._learn_seconds}

    def _plain(self, result: dict[str, Any]) -> dict[str, float]:
        """Return the metrics that the lab reports of what a learner returns, by RLlib's names."""
        values = {key: result[MODULE][key] for key in self.metric_names if key in result[MODULE]}
        return {key: float(getattr(value, "peek", lambda value=value: value)()) for key, value in values.items()}

    def _metrics(self, result: dict[str, float]) -> dict[str, float]:
        loss = result.get("total_loss", 0.0)
        if not math.isfinite(loss):
            raise NonFiniteError(f"{self.name}: the loss is {loss} at step {self._steps}")
        metrics = {self.metric_names[key]: value for key, value in result.items() if math.isfinite(value)}
        runner = self._runner
        if runner.lengths:
            metrics["rollout/return"] = float(np.mean(runner.returns))
            metrics["rollout/length"] = float(np.mean(runner.lengths))
        return metrics

    def _learner(self) -> Any:
        """Return RLlib's learner in this process."""
        return self._learners.local

    def _send_weights(self) -> None:
        """Copy the learner's parameters to the policy that samples and that `agent` has."""
        self._policy.load_state_dict(policy_of(self._learner()).state_dict())

    def agent(self) -> Sb3Agent:
        """Return an agent that shares the parameters with which actions are sampled."""
        return Sb3Agent(self.name, self._policy, None, encoder=self._encoder)

    def save_agent(self) -> StateDict:
        """Return the policy's parameters, by the names of Stable-Baselines3."""
        return StateDict({"policy": as_arrays(self._policy.state_dict()), **self._encoder_arrays()}, {})

    def _encoder_arrays(self) -> dict[str, dict[str, Array]]:
        """Return the encoder's parameters as a member of a state, which has none without an encoder."""
        return {} if self._encoder is None else {"encoder": self._encoder.arrays()}

    def save(self) -> StateDict:
        """Return the whole state between two iterations; RLlib's own checkpoints lack parts of it."""
        state_dict = self._learners_state()
        # The encoder does not change; an agent is made of a checkpoint, too.
        return StateDict({**state_dict.tensors, **self._encoder_arrays()}, {**self._counters(), **state_dict.state})

    def _learners_state(self) -> StateDict:
        return state_of(self._learner())

    def _counters(self) -> dict[str, Any]:
        runner = self._runner
        return {
            "algorithm": self.name,
            "steps": self._steps,
            "episodes": runner.episodes,
            "returns": runner.returns,
            "lengths": runner.lengths,
        }

    def _set_counters(self, state: dict[str, Any]) -> None:
        runner = self._runner
        self._steps = state["steps"]
        runner.episodes, runner.returns, runner.lengths = state["episodes"], state["returns"], state["lengths"]

    def restore(self, state_dict: StateDict) -> None:
        """Restore what `save` returned, also the global random generators. Raises ValueError where it does not fit."""
        state, tensors, runner = state_dict.state, state_dict.tensors, self._runner
        try:
            self._check(state, tensors)
            validated_moments(self._optimizer(), tensors["optimizer"])
        except KeyError as error:
            raise ValueError(f"the checkpoint does not fit this learner: {error.args[0]} is missing") from None
        self._restore_learners(state_dict)
        self._send_weights()
        self._set_counters(state)
        runner.set_started()

    def _restore_learners(self, state_dict: StateDict) -> None:
        restore_state(self._learner(), state_dict, with_pending=self.envs.restores_exactly)

    def _check(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        """Raise ValueError or KeyError unless the state has the types, shapes and ranges of this learner's."""
        if state["algorithm"] != self.name:
            raise ValueError(f"it is the state of {state['algorithm']!r:.40}, not of {self.name}")
        for name in ("steps", "episodes"):
            checked_int(state[name], name)
        for value in checked_list(state["returns"], "returns"):
            checked_number(checked_type(value, "returns", float), "returns")
        for value in checked_list(state["lengths"], "lengths"):
            checked_int(value, "lengths")
        check_parameters(self._policy, tensors["policy"])
        self._check_own(state, tensors)

    def _check_own(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        """Check, as `_check` does, what each of several learners has of its own."""
        check_generators(tensors["generators"], state)

    def _check_kl_and_pending(self, state: dict[str, Any], tensors: dict[str, dict[str, Array]]) -> None:
        """Check the own state of a learner that updates from fragments."""
        checked_number(state["kl_coeff"], "kl_coeff", 0.0)
        rows, has_mask = self._runner.config.num_envs_per_env_runner, self.envs.world.has_action_mask
        places = self._fragments_per_learner()
        check_pending(tensors.get("pending", {}), self._policy, places=places, rows=rows, has_mask=has_mask)

    def _fragments_per_learner(self) -> int:
        """Return how many fragments a learner's train batch has."""
        return 1

    def close(self) -> None:
        """End Ray."""
        self._close()

    def _optimizer(self) -> Any:
        return self._learner().get_optimizer(MODULE)
