"""Stable-Baselines3 policies as agents, and SB3 algorithms as learners whose whole state can be saved."""

from __future__ import annotations

import random
import time
from collections import deque
from contextlib import suppress
from typing import Any, cast

import numpy as np
import torch
from gymnasium.spaces import Discrete
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ..agent import Saved
from ..batch import WorldInfo, Worlds
from ..engine import NonFiniteError
from ..world import Array
from .sb3 import LabVecEnv, indicated
from .sb3_fast import FastMaskablePPO, FastPPO
from .sb3_fast_dqn import FastDQN, FastRowDQN
from .sb3_greedy import Greedy
from .sb3_plan import StockError
from .sb3_rows import ActingMaskableRollout, ActingMeanStd, ActingReplay, ActingRollout, RowDQN

_ACTORS = (ActorCriticPolicy, MaskableActorCriticPolicy)  # one is no kind of the other
CHUNK = 1024  # environment steps an off-policy learner takes between looks at the clock


class Sb3Agent:
    """An SB3 policy together with the observation statistics it was trained under.

    `indicator` is the number of agents it was told apart by, 0 where it was not. At the seats of one role it finds
    observations padded to the longest of all roles, and leaves the padding out.
    """

    def __init__(
        self,
        name: str,
        policy: BasePolicy,
        normalizer: dict[str, Array] | None,
        *,
        indicator: int = 0,
        clip: float = 10.0,
    ) -> None:
        self.name, self.policy, self.normalizer, self.clip = name, policy, normalizer, clip
        self.indicator = indicator
        self.places = np.arange(max(indicator, 1))  # of each seat, what the indicator shows
        self._action_shape = policy.action_space.shape or ()
        self._greedy: Greedy | None = None
        with suppress(StockError):
            self._greedy = Greedy(policy)
        policy.set_training_mode(False)

    def attend(self, worlds: Worlds) -> None:
        """Note how the seats of these worlds are numbered; it needs nothing else of them."""
        world, self._action_shape = worlds.world, worlds.actions.shape[2:]
        self.places = np.arange(len(world.agents))
        if self.indicator and self.indicator != len(world.agents):
            for seats in world.roles.values():  # it was trained at one role's seats
                self.places[list(seats)] = np.arange(len(seats)) % self.indicator

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`; actions are clipped to the space as in training."""
        actions = self._decide(self._seen(observations, rows), legal, deterministic)
        if actions.shape[1:] != self._action_shape:  # others' actions have more numbers than this role's
            wide = np.zeros((len(actions), *self._action_shape), actions.dtype)
            wide[:, : actions.shape[1]] = actions
            actions = wide
        return actions, None

    def probabilities(self, observations: Array, legal: Array | None = None, *, rows: Array | None = None) -> Array:
        """Return how likely each action is where it draws, float64 [B, actions]; a DQN always takes the best.

        `legal` and `rows` are as in `act`. Raises ValueError where actions are not discrete, and where the policy is
        told whose observation it has, and `rows` do not say it.
        """
        policy: Any = self.policy
        if self.indicator > 1 and rows is None:
            raise ValueError(f"{self.name} has agent_indicator: its probabilities depend on the seat")
        if not isinstance(policy.action_space, Discrete):
            raise ValueError(f"{self.name} takes actions of {policy.action_space}, which have no probabilities")
        scores = self._scores(self._seen(observations, rows))
        if legal is not None:
            scores = np.where(legal[:, : scores.shape[1]] != 0, scores, -np.inf)
        if isinstance(policy, _ACTORS):
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
        else:
            chances = np.eye(scores.shape[1])[scores.argmax(axis=1)]
        beyond = 0 if legal is None else legal.shape[1] - scores.shape[1]  # others' actions are more than this role's
        return np.pad(chances, ((0, 0), (0, beyond)))

    def _scores(self, observations: Array) -> Array:
        """Return a PPO's logits or a DQN's values, float64 [B, actions]."""
        policy: Any = self.policy
        with torch.no_grad():
            shown = policy.obs_to_tensor(observations)[0]
            if isinstance(policy, _ACTORS):
                features: Any = policy.extract_features(shown, policy.pi_features_extractor)
                scores = policy.action_net(policy.mlp_extractor.forward_actor(features))
            else:
                scores = policy.q_net(shown)
        return np.asarray(scores.cpu().numpy(), np.float64)

    def _seen(self, observations: Array, rows: Array | None) -> Array:
        """Return the observations, [B, ...], as the policy was shown them in training."""
        shape = self.policy.observation_space.shape or ()
        if len(shape) == 1:
            observations = observations[:, : shape[0] - self.indicator]
        if self.indicator:
            numbers = np.arange(len(observations)) if rows is None else rows
            observations = indicated(observations, self.places[numbers % len(self.places)], self.indicator)
        if self.normalizer is not None:
            mean, var = self.normalizer["mean"], self.normalizer["var"]
            scaled = (observations - mean) / np.sqrt(var + 1e-8)
            observations = np.clip(scaled, -self.clip, self.clip).astype(np.float32)
        return observations

    def _decide(self, observations: Array, legal: Array | None, deterministic: bool) -> Array:
        policy: Any = self.policy
        if deterministic and self._greedy is not None:
            return self._greedy.act(observations, legal)
        if legal is None or not isinstance(policy.action_space, Discrete):
            return np.asarray(policy.predict(observations, deterministic=deterministic)[0])
        allowed = legal[:, : int(policy.action_space.n)] != 0
        if isinstance(policy, MaskableActorCriticPolicy):
            return np.asarray(policy.predict(observations, deterministic=deterministic, action_masks=allowed)[0])
        return np.asarray(np.where(allowed, self._scores(observations), -np.inf).argmax(axis=1))


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

    def _normalizer(self) -> Any:
        return self.model.get_vec_normalize_env()

    def _observation_statistics(self) -> dict[str, Array] | None:
        normalizer = self._normalizer()
        if normalizer is None or not normalizer.norm_obs:
            return None
        return {"mean": normalizer.obs_rms.mean.copy(), "var": normalizer.obs_rms.var.copy()}

    def agent(self) -> Sb3Agent:
        """Return the agent as it is now."""
        return Sb3Agent(self.name, self.model.policy, self._observation_statistics(), indicator=self.indicator)

    def save_agent(self) -> Saved:
        """Return the policy's parameters and the observation statistics."""
        tensors = {"policy": _arrays(self.model.policy.state_dict())}
        statistics = self._observation_statistics()
        if statistics is not None:
            tensors["normalizer"] = statistics
        return Saved(tensors, {})

    def save(self) -> Saved:
        """Return the algorithm's whole state between two iterations."""
        model: Any = self.model
        moments, groups = _optimizer_arrays(model.policy.optimizer)
        numpy_state: Any = np.random.get_state(legacy=False)
        tensors = {
            "policy": _arrays(model.policy.state_dict()),
            "optimizer": moments,
            "generators": {
                "torch": torch.get_rng_state().numpy(),
                "numpy": numpy_state["state"]["key"],
            },
            "last": {
                "observations": np.asarray(model._last_obs),
                "episode_starts": np.asarray(model._last_episode_starts),
            },
        }
        if torch.cuda.is_available():
            tensors["generators"]["cuda"] = torch.cuda.get_rng_state().cpu().numpy()
        state: dict[str, Any] = {
            "steps": model.num_timesteps,
            "updates": model._n_updates,
            "episodes": model._episode_num,
            "progress": model._current_progress_remaining,
            "optimizer_groups": groups,
            "episode_infos": [[e["r"], e["l"]] for e in model.ep_info_buffer or ()],
            "numpy": {
                "pos": numpy_state["state"]["pos"],
                "has_gauss": numpy_state["has_gauss"],
                "gauss": numpy_state["gauss"],
            },
            "python": _python_state(),
            "action_space": model.action_space.np_random.bit_generator.state,
        }
        if self.how == "compiled":
            state["key"], state["drawn"] = int(model.key), int(model.drawn)
        if (normalizer := self._normalizer()) is not None:
            tensors["normalizer"] = _normalizer_arrays(normalizer)
            state["normalizer_counts"] = [float(normalizer.obs_rms.count) if normalizer.norm_obs else 0.0]
            state["normalizer_counts"].append(float(normalizer.ret_rms.count))
            if model._last_original_obs is not None:
                tensors["last"]["original_observations"] = np.asarray(model._last_original_obs)
        if not self.on_policy:
            tensors["replay"], state["replay"] = _replay_arrays(model)
            if isinstance(model, FastDQN | FastRowDQN):
                tensors["replay"] |= model.priorities()
            state["calls"] = getattr(model, "_n_calls", 0)
            state["exploration_rate"] = getattr(model, "exploration_rate", 0.0)
        return Saved(tensors, state)

    def restore(self, saved: Saved) -> None:
        """Go on from `save`; raises ValueError where the state is another algorithm's or size's."""
        model: Any = self.model
        tensors, state = saved.tensors, saved.state
        try:
            counts = [state.get(name, 0) for name in ("steps", "updates", "episodes", "calls")]
            infos = [number for info in state.get("episode_infos", ()) for number in info]
            if not 0 <= state["numpy"]["pos"] <= 624:  # numpy would read beyond its state
                raise ValueError("the checkpoint's random generator is at no position")
            if (
                not all(type(n) in (int, float) for n in (*counts, *infos, state.get("progress", 0.0)))
                or min(counts) < 0
            ):
                raise ValueError(f"the checkpoint's counters do not fit this {self.name} learner")
            model.policy.load_state_dict(_torch(tensors["policy"]))
            _restore_optimizer(model.policy.optimizer, tensors["optimizer"], state["optimizer_groups"])
            if tensors["last"]["observations"].shape != np.shape(model._last_obs):
                raise ValueError(f"the checkpoint is of {len(tensors['last']['observations'])} worlds")
            if tensors["last"]["episode_starts"].shape != np.shape(model._last_episode_starts):
                raise ValueError("the checkpoint's episode starts are of another number of worlds")
            model._last_obs = tensors["last"]["observations"]
            model._last_episode_starts = tensors["last"]["episode_starts"]
            model.num_timesteps, model._n_updates = state["steps"], state["updates"]
            model._episode_num = state["episodes"]
            model._current_progress_remaining = state["progress"]
            infos = [{"r": r, "l": length} for r, length in state["episode_infos"]]
            model.ep_info_buffer = deque(infos, maxlen=model._stats_window_size)
            if (normalizer := self._normalizer()) is not None:
                _restore_normalizer(normalizer, tensors["normalizer"], state["normalizer_counts"])
                model._last_original_obs = tensors["last"].get("original_observations")
            if not self.on_policy:
                _restore_replay(model, tensors["replay"], state["replay"])
                if isinstance(model, FastDQN | FastRowDQN):
                    model.restore_priorities(tensors["replay"])
                model._n_calls, model.exploration_rate = state["calls"], state["exploration_rate"]
            if self.how == "compiled":
                model.key, model.drawn = np.uint64(state["key"] & 0xFFFFFFFF), state["drawn"] & (2**40 - 1)
            model.action_space.np_random.bit_generator.state = state["action_space"]
            _restore_generators(tensors["generators"], state)
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"the checkpoint does not fit this {self.name} learner: {error}") from None


def at_least_one(config: Any, *names: str) -> None:
    """Raise ValueError for the first of these hyperparameters that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}: expected at least 1")
    if config.learning_rate < 0:
        raise ValueError(f"learning_rate={config.learning_rate}: expected at least 0")


def load_policy(policy: BasePolicy, name: str, saved: Saved, *, normalized: bool, indicator: int = 0) -> Sb3Agent:
    """Return the agent of a policy built anew and the parameters saved; ValueError where they do not fit."""
    try:
        policy.load_state_dict(_torch(saved.tensors["policy"]))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the saved parameters do not fit this {name} policy: {error}") from None
    for member in ("policy", "normalizer"):
        for key, array in saved.tensors.get(member, {}).items():
            if not np.isfinite(array).all():
                raise ValueError(f"the saved {key} is not finite")
    statistics = saved.tensors.get("normalizer")
    if statistics is not None:
        statistics = {key.removeprefix("observation_"): value for key, value in statistics.items()}
        statistics = {key: statistics[key] for key in ("mean", "var")} if "mean" in statistics else None
    shape = policy.observation_space.shape
    if normalized != (statistics is not None) or any(a.shape != shape for a in (statistics or {}).values()):
        raise ValueError(f"the saved observation statistics do not fit this {name} policy")
    return Sb3Agent(name, policy, statistics, indicator=indicator)


def maskable(policy_arguments: dict[str, Any]) -> tuple[type[BasePolicy], dict[str, Any]]:
    """Return the policy class whose actions can be masked, and those of the arguments that it takes."""
    left_out = ("log_std_init", "use_sde")  # of continuous actions
    return MaskableActorCriticPolicy, {k: v for k, v in policy_arguments.items() if k not in left_out}


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


def only_discrete(name: str, world: WorldInfo) -> None:
    """Raise ValueError unless the world's actions are discrete."""
    if not isinstance(world.action, Discrete):
        raise ValueError(f"{name} needs discrete actions; {world.name}'s are {world.action}: use agent=ppo")


def _arrays(state: dict[str, torch.Tensor]) -> dict[str, Array]:
    return {key: value.detach().cpu().numpy().copy() for key, value in state.items()}


def _torch(arrays: dict[str, Array]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}


def _optimizer_arrays(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Array], list[dict[str, Any]]]:
    state = optimizer.state_dict()
    flat = {f"{i}.{key}": value for i, entry in state["state"].items() for key, value in entry.items()}
    return _arrays(flat), state["param_groups"]


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, arrays: dict[str, Array], groups: list[dict[str, Any]]
) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _torch(arrays).items():
        index, _, field = key.partition(".")
        state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _normalizer_arrays(normalizer: Any) -> dict[str, Array]:
    arrays = {"return_mean": normalizer.ret_rms.mean, "return_var": normalizer.ret_rms.var}
    arrays["returns"] = normalizer.returns
    if normalizer.norm_obs:
        arrays |= {"observation_mean": normalizer.obs_rms.mean, "observation_var": normalizer.obs_rms.var}
    return {key: np.array(value) for key, value in arrays.items()}


def _restore_normalizer(normalizer: Any, arrays: dict[str, Array], counts: list[float]) -> None:
    normalizer.ret_rms.mean, normalizer.ret_rms.var = arrays["return_mean"], arrays["return_var"]
    normalizer.returns, normalizer.ret_rms.count = arrays["returns"], counts[1]
    if normalizer.norm_obs:
        normalizer.obs_rms.mean, normalizer.obs_rms.var = (
            arrays["observation_mean"],
            arrays["observation_var"],
        )
        normalizer.obs_rms.count = counts[0]


_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _kept(buffer: Any) -> tuple[str, ...]:
    return (*_REPLAY, "next_legal", "acted") if isinstance(buffer, ActingReplay) else _REPLAY


def _replay_arrays(model: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    buffer = model.replay_buffer
    assert buffer is not None
    filled = buffer.buffer_size if buffer.full else buffer.pos
    return {key: getattr(buffer, key)[:filled] for key in _kept(buffer)}, {"pos": buffer.pos, "full": buffer.full}


def _restore_replay(model: Any, arrays: dict[str, Array], state: dict[str, Any]) -> None:
    buffer = model.replay_buffer
    assert buffer is not None
    if type(state["full"]) is not bool or type(state["pos"]) is not int or not 0 <= state["pos"] < buffer.buffer_size:
        raise ValueError("replay buffer: it is filled to no place of its own")
    if isinstance(model.action_space, Discrete) and arrays["actions"].size:
        lowest, highest = arrays["actions"].min(), arrays["actions"].max()
        if arrays["actions"].dtype.kind not in "iu" or lowest < 0 or highest >= model.action_space.n:
            raise ValueError(f"replay buffer: actions {lowest} to {highest} are not of {model.action_space}")
    for key in _kept(buffer):
        target = getattr(buffer, key)
        filled = len(target) if state["full"] else state["pos"]
        if arrays[key].shape != (filled, *target.shape[1:]):
            raise ValueError(f"replay buffer: {key} of shape {arrays[key].shape} does not fit {target.shape}")
        target[: len(arrays[key])] = arrays[key]
    buffer.pos, buffer.full = state["pos"], state["full"]


def _python_state() -> list[Any]:
    version, words, gauss = random.getstate()
    return [version, list(words), gauss]


def _restore_generators(arrays: dict[str, Array], state: dict[str, Any]) -> None:
    torch.set_rng_state(torch.from_numpy(np.array(arrays["torch"])))
    if "cuda" in arrays and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(np.array(arrays["cuda"])))
    numpy_state = state["numpy"]
    inner = {"key": arrays["numpy"], "pos": numpy_state["pos"]}
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": inner,
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        }
    )
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
