"""Stable-Baselines3's PPO with compiled rollouts and updates: same results, policies, callbacks and files.

Whatever compiled code does not know falls back to the library's own, and `learner` says why.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ..engine import Batch, NonFiniteError
from ..fast import kernels, plan
from ..fast.threads import Team, available
from ..world import Array
from .sb3 import LabVecEnv
from .sb3_ahead import Ahead, compiling
from .sb3_normal import give_statistics, statistics_of, usual
from .sb3_plan import Shared, StockError, actor_critic, adam_of
from .sb3_rows import ActingMaskableRollout, ActingRollout

SPARSE_FROM, DENSE_FROM = 64, 0.25  # numbers of an observation; share of them that is not zero
WORTH_SHARING = 1_000  # steps of a rollout: below it, waking threads costs more than they save
_BUFFERS = (RolloutBuffer, MaskableRolloutBuffer, ActingRollout, ActingMaskableRollout)


class _Compiled:
    """What both PPOs have in common. `learner` says how they learn: "compiled" or "stock, because ..."."""

    learner = ""
    drawn = 0  # rows that have acted, in this program and those before it: each draws numbers of its own
    stepping: float | None = None  # share of the last rollout that the worlds took, where it ran without Python
    threads: int | None = None  # that share the work, read once: None means all cores; they change no result
    ahead = True  # whether another process may compile what this one will need
    _shared: Shared
    _team: Team
    _ahead: Ahead | None = None

    def ready(self) -> bool:
        """Say whether compiled code takes over, and prepare for it the first time."""
        if not self.learner:
            model: Any = self
            try:
                if type(model.rollout_buffer) not in _BUFFERS:
                    raise StockError(f"its rollout buffer is a {type(model.rollout_buffer).__name__}")
                if model.clip_range_vf is not None:
                    raise StockError("it clips its value function")
                if model.observation_space.dtype not in (np.float32, np.uint8):
                    raise StockError(f"its observations are of {model.observation_space.dtype}")
                group = adam_of(model.policy.optimizer)
                self._team = Team(self.threads or available())
                network, tensors, self._outputs = actor_critic(model.policy, self._team.threads)
                self._shared = Shared(network, tensors, model.policy.optimizer)
            except StockError as error:
                self.learner = f"stock, because {error}"
                return False
            self._ahead = compiling() if self.ahead else None
            self._betas, self._epsilon = group["betas"], group["eps"]
            self._kernels = kernels.ppo()
            self.key = key_of_its_own()
            space = model.action_space
            self._discrete = isinstance(space, Discrete)
            self._count = int(space.n if self._discrete else space.shape[0])
            self._limits = np.zeros((2, 0), np.float32) if self._discrete else np.stack([space.low, space.high])
            self.learner = "compiled"
        return self.learner == "compiled"

    def _excluded_save_params(self) -> list[str]:
        own = "learner drawn stepping threads key _shared _team _ahead _outputs _kernels".split()
        own += "_betas _epsilon _discrete _count _limits".split()
        return [*super()._excluded_save_params(), *own]  # type: ignore[misc]

    # ---------------------------------------------------------------------------------------------------- rollouts

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int, use_masking: bool = True
    ) -> bool:
        """See `OnPolicyAlgorithm.collect_rollouts`. Callbacks that want to see every step get it, at a price."""
        model: Any = self
        if not self.ready() or not use_masking:
            more = {} if isinstance(self, PPO) else {"use_masking": use_masking}
            done: bool = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps, **more)  # type: ignore[misc]
            return done
        model.policy.set_training_mode(False)
        self._shared.read()
        rows, worlds = _rows(env), None
        if rows is not None and _idle(callback) and usual(env) and n_rollout_steps == rollout_buffer.buffer_size:
            worlds = engine_below(rows)
        callback.on_rollout_start()
        if worlds is None or rows is None:
            if not self._step_by_step(env, rows, callback, rollout_buffer, n_rollout_steps):
                return False
        else:
            self._at_once(env, worlds, rollout_buffer)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def tables(self) -> Array:
        """Return the network as compiled code wants it."""
        if self._ahead is not None:
            self._ahead.wait("network")
        return self._shared.tables()

    def _draw(self, rows: int) -> tuple[np.uint64, np.uint64]:
        """Return where so many rows' random numbers begin, and how many bits count the numbers of one row."""
        bits = max(self._count - 1, 0).bit_length()
        begin, self.drawn = self.drawn << bits, self.drawn + rows
        return np.uint64(begin), np.uint64(bits)

    def _at_once(self, env: VecEnv, worlds: Batch, buffer: Any) -> None:
        model: Any = self
        if buffer.generator_ready:  # the library's own update has reshaped its arrays
            buffer.reset()
        horizon, rows = buffer.rewards.shape
        seen, actions, legal, rewards, returns = (
            a.reshape(rows, *a.shape[2:])
            for a in (worlds.observations, worlds.actions, worlds.legal, worlds.rewards, worlds.episode_returns)
        )
        normalizer: Any = env if isinstance(env, VecNormalize) else None
        statistics, paid, running = statistics_of(normalizer, rows)
        finished = np.zeros((horizon, rows, 2))
        starts = np.asarray(model._last_episode_starts, np.bool_).copy()
        last, spent = np.zeros(rows, np.float32), np.zeros(2, np.int64)
        masks = getattr(buffer, "action_masks", None)
        kept = buffer.observations
        bounds = worlds.shares(self._team.threads if horizon * rows >= WORTH_SHARING else 1)
        outcomes = self._team.run(
            len(bounds) - 1,
            self._kernels.collect,
            bounds,
            worlds.entrance(),
            *(a.ctypes.data for a in (seen, worlds.final_observations, kept)),
            *(a.dtype == np.uint8 for a in (seen, kept)),
            seen[0].size,
            *self._two_kinds(actions.reshape(rows, -1)),
            legal if worlds.world.masked else legal[:, :0],
            rewards,
            worlds.terminated,
            worlds.truncated,
            worlds.ended,
            returns,
            worlds.episode_lengths,
            *self._two_kinds(buffer.actions),
            np.zeros((horizon, rows, 0), np.float32) if masks is None else masks,
            buffer.rewards,
            buffer.episode_starts,
            buffer.values,
            buffer.log_probs,
            finished,
            starts,
            last,
            self._count,
            self._limits,
            statistics,
            paid,
            running,
            model.gamma,
            model.gamma if normalizer is None else normalizer.gamma,
            self.key,
            *self._draw(horizon * rows),
            self.tables(),
            self._outputs,
            self._sparse(seen.reshape(rows, -1)),
            spent,
        )
        for outcome in outcomes:
            if outcome < 0:
                worlds.fail(outcome)
        self.stepping = float(spent[0]) / max(float(spent[1]), 1.0)
        self._kernels.advantages(
            buffer.rewards,
            buffer.values,
            buffer.episode_starts,
            last,
            starts,
            buffer.gamma,
            buffer.gae_lambda,
            buffer.advantages,
            buffer.returns,
        )
        buffer.pos, buffer.full = horizon, True
        model.num_timesteps += horizon * rows
        self._note_episodes(finished)
        model._last_episode_starts = starts
        model._last_obs = seen.copy()
        if normalizer is not None:
            give_statistics(normalizer, statistics, paid, running)
            model._last_original_obs, normalizer.old_obs = model._last_obs, model._last_obs
            model._last_obs = normalizer.normalize_obs(model._last_obs)

    def _two_kinds(self, actions: Array) -> tuple[Array, Array]:
        """Return actions as choices, int64 [..., 1], and as numbers, float32 [..., k]: one of them has no columns."""
        if self._discrete:
            return actions, np.zeros((*actions.shape[:-1], 0), np.float32)
        return np.zeros((*actions.shape[:-1], 0), np.int64), actions

    def _note_episodes(self, finished: Array) -> None:
        model: Any = self
        ended = np.argwhere(finished[..., 1] > 0)[-model.ep_info_buffer.maxlen :]
        model.ep_info_buffer.extend({"r": float(finished[t, b, 0]), "l": int(finished[t, b, 1])} for t, b in ended)

    def _step_by_step(
        self, env: VecEnv, rows: LabVecEnv | None, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """Roll out with a Python loop; its variables have the library's names, because callbacks may read them."""
        model: Any = self
        rollout_buffer.reset()
        masked = hasattr(rollout_buffer, "action_masks")
        dones = np.zeros(env.num_envs, np.bool_)
        for n_steps in range(n_rollout_steps):  # noqa: B007 - for callbacks
            more: dict[str, Any] = {}
            if masked:
                own = rows.action_masks() if rows is not None else np.stack(env.env_method("action_masks"))
                more["action_masks"] = own
            obs_tensor = torch.as_tensor(model._last_obs)
            actions, values, log_probs = self._act(model._last_obs, more.get("action_masks"))
            clipped_actions = actions[:, 0] if self._discrete else np.clip(actions, *self._limits)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            model.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            model._update_info_buffer(infos, dones)
            late = [k for k in np.flatnonzero(dones) if infos[k].get("TimeLimit.truncated", False)]
            if late:
                final = np.stack([infos[k]["terminal_observation"] for k in late])
                rewards[late] += np.float32(model.gamma) * self._act(final, None)[1]
            given = (torch.from_numpy(values), torch.from_numpy(log_probs))
            rollout_buffer.add(model._last_obs, actions, rewards, model._last_episode_starts, *given, **more)
            model._last_obs, model._last_episode_starts = new_obs, dones
        last = self._act(model._last_obs, None)[1]
        rollout_buffer.compute_returns_and_advantage(last_values=torch.from_numpy(last), dones=dones)
        return True

    def _act(self, observations: Array, masks: Array | None) -> tuple[Array, Array, Array]:
        """Return actions [B, k or 1], values and log probabilities, float32 [B], of observations [B, ...]."""
        rows = len(observations)
        made = np.zeros((rows, self._count if not self._discrete else 1), np.int64 if self._discrete else np.float32)
        values, log_probs = np.zeros((2, rows), np.float32)
        legal = np.zeros((rows, 0), np.bool_) if masks is None else np.ascontiguousarray(masks, np.bool_)
        seen = np.ascontiguousarray(observations, np.float32).reshape(rows, -1)
        given = (seen, legal, *self._two_kinds(made), values, log_probs, self._count, self.key, *self._draw(rows))
        self._kernels.act(*given, self.tables(), self._outputs, self._sparse(seen))
        return made, values, log_probs

    def _sparse(self, seen: Array) -> bool:
        if self._shared.network.plan.convolves:
            return True
        return seen.shape[1] >= SPARSE_FROM and bool(np.count_nonzero(seen) < DENSE_FROM * seen.size)

    # ------------------------------------------------------------------------------------------------------ update

    def train(self) -> None:
        """See `PPO.train`."""
        model: Any = self
        if not self.ready():
            super().train()  # type: ignore[misc]
            return
        buffer = model.rollout_buffer
        horizon, rows = model.n_steps, buffer.n_envs
        model.policy.set_training_mode(True)
        model._update_learning_rate(model.policy.optimizer)
        shared, network = self._shared, self._shared.network
        shared.read()
        acted = getattr(buffer, "acted", None)
        some = np.arange(horizon * rows) if acted is None else np.flatnonzero(acted.swapaxes(0, 1))
        order = np.stack([np.random.permutation(some) for _ in range(model.n_epochs)])
        order = order % horizon * rows + order // horizon  # the library counts world by world
        observations = buffer.observations.reshape(horizon * rows, -1)
        masks = getattr(buffer, "action_masks", None)
        masks = np.zeros((1, 0), np.float32) if masks is None else masks.reshape(horizon * rows, -1)
        report, taken = np.zeros(9), shared.taken
        clip = float(model.clip_range(model._current_progress_remaining))
        size = min(model.batch_size, order.shape[1])
        if self._ahead is not None:
            self._ahead.wait("update")
            self._ahead = None
        self._team.run(
            min(self._team.threads, max(size // plan.SHARD, 1)),
            self._kernels.update,
            self._settings(clip, taken),
            observations.ctypes.data,
            observations.dtype == np.uint8,
            observations.shape[1],
            *self._nonzero(observations),
            *self._two_kinds(buffer.actions.reshape(horizon * rows, -1)),
            masks,
            *(getattr(buffer, name).reshape(-1) for name in ("log_probs", "advantages", "returns")),
            order,
            # Of rows that did not all act, a last minibatch of one is left out: see `sb3_rows`.
            len(some) if acted is None else max(len(some) - 1, 1),
            model.batch_size,
            self.tables(),
            network.weights,
            network.slopes,
            *shared.moments,
            self._outputs,
            self._count,
            np.zeros((plan.SHARDS, len(report))),
            np.zeros(plan.SHARDS),
            report,
        )
        if report[plan.FAILED]:
            self._fail(taken + int(report[plan.STEPS]) + 1)
        shared.write(taken + int(report[plan.STEPS]))
        model._n_updates += int(report[plan.EPOCHS])
        self._log(report, clip)

    def _settings(self, clip: float, taken: int) -> Array:
        model: Any = self
        settings = np.zeros(plan.NORMALIZE + 1)
        settings[plan.RATE] = model.policy.optimizer.param_groups[0]["lr"]
        settings[plan.NORM], settings[plan.EPSILON] = model.max_grad_norm, self._epsilon
        settings[plan.BETA_1], settings[plan.BETA_2] = self._betas
        settings[plan.TAKEN], settings[plan.CLIP] = taken, clip
        settings[plan.ENTROPY], settings[plan.VALUE] = model.ent_coef, model.vf_coef
        settings[plan.KL] = np.inf if model.target_kl is None else model.target_kl
        settings[plan.NORMALIZE] = model.normalize_advantage
        return settings

    def _nonzero(self, observations: Array) -> tuple[Array, Array, Array]:
        """Return what is not zero in each row: where it begins, int64 [R + 1], places and values; nothing if dense."""
        if not self._sparse(observations):
            return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
        starts = np.zeros(len(observations) + 1, np.int64)
        count = np.count_nonzero(observations) + 1
        places, values = np.zeros(count, np.int32), np.zeros(count, np.float32)
        given = (observations.ctypes.data, observations.dtype == np.uint8, *observations.shape)
        self._kernels.find_all(*given, starts, places, values)
        return starts, places, values

    def _fail(self, update: int) -> None:
        model: Any = self
        field = self._shared.unsound()
        self._shared.forget()
        raise NonFiniteError(
            f"ppo: non-finite gradient of {field} in update {update} at step {model.num_timesteps}; "
            "no parameter was changed by it"
        )

    def _log(self, report: Array, clip: float) -> None:
        model: Any = self
        buffer, logger = model.rollout_buffer, model.logger
        for name, place in (
            ("entropy_loss", plan.ENTROPY_LOSS),
            ("policy_gradient_loss", plan.POLICY_LOSS),
            ("value_loss", plan.VALUE_LOSS),
            ("approx_kl", plan.APPROX_KL),
            ("clip_fraction", plan.CLIPPED),
            ("loss", plan.LOSS),
        ):
            logger.record(f"train/{name}", float(report[place]))
        explained = explained_variance(buffer.values.reshape(-1), buffer.returns.reshape(-1))
        logger.record("train/explained_variance", explained)
        if hasattr(model.policy, "log_std"):
            logger.record("train/std", torch.exp(model.policy.log_std).mean().item())
        logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        logger.record("train/clip_range", clip)


class FastPPO(_Compiled, PPO):
    """`stable_baselines3.PPO`, compiled where that is possible."""


class FastMaskablePPO(_Compiled, MaskablePPO):
    """`sb3_contrib.MaskablePPO`, compiled where that is possible."""


def key_of_its_own() -> np.uint64:
    """Return a key for random numbers, drawn from the global generator: seeded by it, and no two alike."""
    return np.uint64(int(torch.randint(2**32, (1,))))


def _rows(env: VecEnv) -> LabVecEnv | None:
    inner = env.venv if type(env) is VecNormalize else env
    return inner if isinstance(inner, LabVecEnv) else None


def engine_below(rows: LabVecEnv) -> Batch | None:
    """Return the batch below, if compiled code can act in it without Python."""
    worlds = rows.worlds
    if not isinstance(worlds, Batch) or worlds.plain or rows.indicated or not vars(type(rows)).get("whole"):
        return None
    return None if worlds.world.turns or worlds.world.present else worlds


def _idle(callback: BaseCallback) -> bool:
    if isinstance(callback, CallbackList):
        return all(map(_idle, callback.callbacks))
    return isinstance(callback, ConvertCallback) and callback.callback is None
