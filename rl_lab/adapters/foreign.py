"""Foreign Gymnasium environments as a batch, by id: `world=gym:Acrobot-v1`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ..engine import NonFiniteError
from ..world import Array, roles_of


@dataclass(frozen=True)
class ForeignWorld:
    """What is known of a foreign environment: its spaces as the lab sees them (observations one-hot if discrete)."""

    name: str
    observation: Box
    action: Discrete[Any] | Box
    horizon: int
    solved: float | None
    frames_per_second: int
    agents: tuple[str, ...] = ("agent",)
    masked: bool = False
    turns: str = ""

    @property
    def observation_spaces(self) -> tuple[Box, ...]:
        """See `World.observation_spaces`."""
        return (self.observation,) * len(self.agents)

    @property
    def action_spaces(self) -> tuple[Discrete[Any] | Box, ...]:
        """See `World.action_spaces`."""
        return (self.action,) * len(self.agents)

    @property
    def waiting(self) -> bool:
        """See `World.waiting`."""
        return len(self.agents) > 1

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """See `World.roles`."""
        return roles_of(self.agents)


def _single(space: Box) -> Box:
    """Return the Box in single precision; cast here, because Gymnasium warns when it does so itself."""
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


class ForeignBatch:
    """N environments of one Gymnasium id, batched with Gymnasium's own SyncVectorEnv, in `engine.Batch`'s terms.

    Foreign environments cannot be saved as bytes: `exact` is False, and a resumed run begins new episodes.
    Raises ValueError for an unknown id or arguments and for spaces that are not Box or Discrete.
    """

    exact = False

    def __init__(
        self, name: str, n: int, params: dict[str, Any], *, seed: int, autoreset: AutoresetMode, render: bool
    ) -> None:
        if n < 1:
            raise ValueError(f"worlds={n}: expected at least 1")
        identity = name.partition(":")[2]
        if ":" in identity:
            # Gymnasium would import the module before the colon: a name in a file must not run code.
            raise ValueError(f"world {name!r}: an id that names a module to import is refused")
        try:
            spec = gymnasium.spec(identity)
            arguments = {**params, "render_mode": "rgb_array"} if render else dict(params)
            self.env: Any = SyncVectorEnv(
                [lambda: gymnasium.make(identity, **arguments) for _ in range(n)], autoreset_mode=autoreset
            )
        except (gymnasium.error.Error, TypeError, ImportError, ModuleNotFoundError) as error:
            ids = difflib.get_close_matches(identity, list(gymnasium.registry), 1)
            known = identity in gymnasium.registry
            hint = "" if known or not ids else f"; did you mean {'gym:' + ids[0]!r}?"
            reason = str(error).partition("\n")[0]
            if hint:
                reason = reason.partition(" Did you mean")[0]  # Gymnasium's guess lacks what the command needs
            raise ValueError(f"cannot make world {name!r}: {reason.rstrip('.')}{hint}") from None
        self.n, self.autoreset, self.renders = n, autoreset, render
        space, action = self.env.single_observation_space, self.env.single_action_space
        self._one_hot = int(space.n) if isinstance(space, Discrete) else 0
        self._first_observation = int(space.start) if isinstance(space, Discrete) else 0
        self.world = ForeignWorld(
            name=name,
            observation=self._observation_space(name, space),
            action=self._action_space(name, action),
            horizon=spec.max_episode_steps or 0,
            solved=spec.reward_threshold,
            frames_per_second=int(self.env.metadata.get("render_fps", 30)),
        )
        shape, taken = self.world.observation.shape, self.world.action.shape or ()
        self.actions = np.zeros((n, 1, *taken), np.int64 if isinstance(action, Discrete) else np.float32)
        self.observations = np.zeros((n, 1, *shape), self.world.observation.dtype)
        self.final_observations = np.zeros_like(self.observations)
        self.rewards = np.zeros((n, 1), np.float32)
        self.terminated, self.truncated, self.ended = (np.zeros(n, np.bool_) for _ in range(3))
        self.legal, self.active = np.zeros((n, 1, 1), np.uint8), np.ones((n, 1), np.bool_)
        self.departed, self.held = np.zeros((n, 1), np.bool_), np.zeros(n, np.bool_)
        self.episode_returns = np.zeros((n, 1))
        self.episode_lengths = np.zeros(n, np.int32)
        self.running_returns, self._t = np.zeros((n, 1)), np.zeros(n, np.int32)
        self._finished = self._drained = 0
        self.seed(seed)

    @staticmethod
    def _observation_space(name: str, space: gymnasium.Space[Any]) -> Box:
        if isinstance(space, Discrete):
            return Box(0.0, 1.0, (int(space.n),), np.float32)
        if isinstance(space, Box):
            return _single(space) if space.dtype == np.float64 else space
        raise ValueError(f"world {name!r}: observations are {type(space).__name__}; Box and Discrete are supported")

    @staticmethod
    def _action_space(name: str, space: gymnasium.Space[Any]) -> Discrete[Any] | Box:
        if isinstance(space, Discrete):
            return Discrete(int(space.n))
        if isinstance(space, Box) and len(space.shape) == 1:
            return _single(space)
        raise ValueError(f"world {name!r}: actions are {space}; Discrete and Box of shape (k,) are supported")

    def seed(self, seed: int | Array, first: int = 0) -> None:
        """Derive environment i's seed from (seed, first + i), or take its own of int [N]; takes hold at reset.

        Derived seeds lie below 2**31, where no evaluation's seeds are.
        """
        seeds = np.asarray(seed, np.int64)
        if seeds.ndim == 0:
            streams = [np.random.SeedSequence((int(seeds), first + i)) for i in range(self.n)]
            seeds = np.array([int(s.generate_state(1)[0]) >> 1 for s in streams], np.int64)
        self._seeds = seeds
        self._reseed = np.ones(self.n, np.bool_)

    def reset(self, mask: Array | None = None) -> Array:
        """Begin a new episode in every environment, or where mask bool [N] says so; returns `observations`."""
        wanted = np.ones(self.n, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        if not wanted.any():
            return self.observations
        seeds = [int(s) if fresh else None for s, fresh in zip(self._seeds, self._reseed, strict=True)]
        observations, _ = self.env.reset(seed=seeds, options={"reset_mask": wanted})
        self._reseed &= ~wanted
        self._keep(self.observations, observations, wanted)
        self.rewards[wanted] = 0
        for array in (self.terminated, self.truncated, self.ended):
            array[wanted] = False
        self.running_returns[wanted], self._t[wanted] = 0.0, 0
        self._check_numbers("observation", self.observations)
        return self.observations

    def step(self) -> int:
        """Step every environment with `actions`; return how many episodes ended. Errors as `engine.Batch.step`."""
        self._check_actions()
        live = ~self.ended if self.autoreset == AutoresetMode.DISABLED else np.ones(self.n, np.bool_)
        fresh = self.ended if self.autoreset == AutoresetMode.NEXT_STEP else np.zeros(self.n, np.bool_)
        self.running_returns[fresh], self._t[fresh] = 0.0, -1
        infos = self._step_all() if live.all() else self._step_some(live)
        self.running_returns += self.rewards
        self._t[live] += 1
        done = live & (self.terminated | self.truncated)
        self.ended[live] = done[live]
        self._check_numbers("reward", self.rewards)
        self._check_numbers("observation", self.observations)
        if not done.any():
            return 0
        self.episode_returns[done], self.episode_lengths[done] = self.running_returns[done], self._t[done]
        self._finished += int(done.sum())
        if self.autoreset == AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(done):
                self._keep(self.final_observations[i : i + 1], np.asarray(infos["final_obs"][i])[None], slice(None))
            self._check_numbers("observation", self.final_observations)
            self.running_returns[done], self._t[done] = 0.0, 0
        return int(done.sum())

    def _step_all(self) -> dict[str, Any]:
        observations, rewards, terminated, truncated, infos = self.env.step(self._taken())
        self._keep(self.observations, observations, slice(None))
        self.rewards[:, 0], self.terminated[:], self.truncated[:] = rewards, terminated, truncated
        return dict(infos)

    def _step_some(self, live: Array) -> dict[str, Any]:
        # Gymnasium's batch steps all or none, and an environment that has ended must not be stepped.
        taken = self._taken()
        self.rewards[~live] = 0.0
        for i in np.flatnonzero(live):
            observation, reward, terminated, truncated, _ = self.env.envs[i].step(taken[i])
            self._keep(self.observations[i : i + 1], np.asarray(observation)[None], slice(None))
            self.rewards[i, 0], self.terminated[i], self.truncated[i] = reward, terminated, truncated
        return {}

    def _taken(self) -> Array:
        """Return the actions as the environments want them: their own numbering, type and exact bounds."""
        space, actions = self.env.single_action_space, self.actions[:, 0]
        if isinstance(space, Discrete):
            return np.asarray(actions + int(space.start))
        return np.asarray(np.clip(actions.astype(space.dtype), space.low, space.high))

    def _keep(self, target: Array, observations: Array, rows: Any) -> None:
        if self._one_hot:
            places = np.asarray(observations)[rows] - self._first_observation
            target[rows, 0] = np.eye(self._one_hot, dtype=np.float32)[places]
        else:
            target[rows, 0] = observations[rows]

    def _check_actions(self) -> None:
        space: Any = self.world.action
        given = self.actions[:, 0]
        low, high = (0, int(space.n) - 1) if isinstance(space, Discrete) else (space.low, space.high)
        good = ((given >= low) & (given <= high)).reshape(self.n, -1).all(axis=1)
        if not good.all():
            i = int(np.argmin(good))
            raise ValueError(
                f"{self.world.name}: action {given[i].tolist()} of world {i} at step {self._t[i]} is outside {space}"
            )

    def _check_numbers(self, field: str, values: Array) -> None:
        good = np.isfinite(values).reshape(self.n, -1).all(axis=1)
        if not good.all():
            i = int(np.argmin(good))
            raise NonFiniteError(f"{self.world.name}: non-finite {field} in world {i} at step {self._t[i]}")

    def picture(self, i: int) -> Array:
        """Return environment i's own picture, uint8 [height, width, 3]; made with render=True only."""
        return np.asarray(self.env.envs[i].render(), np.uint8)

    def snapshot(self) -> dict[str, Array]:
        """Return the seeds the next episodes are to begin with: all that can be kept of foreign environments."""
        streams = [np.random.SeedSequence((int(s), self._finished)) for s in self._seeds]
        return {"seeds": np.array([int(s.generate_state(1)[0]) >> 1 for s in streams], np.int64)}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Begin new episodes from the seeds kept."""
        if set(snapshot) != {"seeds"} or snapshot["seeds"].shape != (self.n,):
            raise ValueError(f"snapshot of another batch: it does not fit {self.world.name} x {self.n}")
        self.seed(snapshot["seeds"])
        self.reset()

    def drain_log(self) -> dict[str, float]:
        """Return how many episodes finished since the last call."""
        finished, self._drained = self._finished - self._drained, self._finished
        return {"episodes": float(finished)}

    def close(self) -> None:
        """Close the environments."""
        self.env.close()
