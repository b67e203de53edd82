"""This module makes a batch of a Gymnasium environment, by its id: `world=gym:Acrobot-v1`.

`ForeignBatch` steps N environments of Gymnasium one after the other and copies what they return into arrays like those
of `engine.Batch`, so that learners and evaluation need not know the difference. Errors of the environments become one
line, see `foreign_errors`; what they return is checked by `foreign_data`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformObservation

from rl_lab.adapters import foreign_data as data
from rl_lab.adapters.foreign_errors import calling, close
from rl_lab.adapters.foreign_world import ForeignWorld, single_precision
from rl_lab.adapters.structured import ObservationStructure, is_structured
from rl_lab.adapters.user_env import horizon_of, spec_of, with_render_mode
from rl_lab.core.errors import nearest_id
from rl_lab.core.world import Array
from rl_lab.engine.buffers import EnvBuffers, allocate_env

_STEP_RESULT = "observation, reward, terminated, truncated, info"


@contextmanager
def _quiet(render: bool) -> Iterator[None]:
    """Suppress Gymnasium's warnings about rendering: a missing picture raises an error anyway."""
    with warnings.catch_warnings():
        if render:
            warnings.filterwarnings("ignore", message="(?s).*render")
        yield


def explain_refusal(name: str, error: Exception) -> str:
    """Return in one line why Gymnasium does not make an id, with the nearest one where it is unknown."""
    identity = name.partition(":")[2]
    hint = "" if identity in gymnasium.registry else nearest_id(identity, gymnasium.registry, "gym:")
    # Gymnasium's hint lacks the prefix `gym:`, and may be a name that is not near.
    reason = str(error).partition("\n")[0].partition(" Did you mean")[0]
    return f"cannot make world {name!r}: {reason.rstrip('.')}{hint}"


class ForeignBatch(EnvBuffers):
    """A BatchedEnv of N environments of one Gymnasium id, made with Gymnasium's SyncVectorEnv.

    The state of foreign environments cannot be saved, so `restores_exactly` is False and a resumed run begins new
    episodes. The arrays are those of `engine.Batch`, with one agent.

    Raises:
        ValueError: the id or an argument is unknown, or a space is not supported.
    """

    restores_exactly = False

    def __init__(
        self, name: str, num_envs: int, params: dict[str, Any], *, seed: int, autoreset: AutoresetMode, render: bool
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"worlds={num_envs}: expected at least 1")
        try:
            spec = spec_of(name)
            data.check_metadata(name, spec.entry_point)
            with calling(name, "constructor", spec.entry_point, params), _quiet(render):
                arguments = dict(params)
                if render:  # the checker has seen the environment in training; it is too strict about rendering
                    arguments = {**with_render_mode(spec.entry_point, params), "disable_env_checker": True}
                self.env: Any = SyncVectorEnv([self._maker(name, spec, arguments)] * num_envs, autoreset_mode=autoreset)
        except (gymnasium.error.Error, TypeError, ImportError, ModuleNotFoundError) as error:
            raise ValueError(explain_refusal(name, error)) from None
        self.num_envs, self.autoreset, self.renders = num_envs, autoreset, render and "render_mode" in arguments
        space, action = self.env.single_observation_space, self.env.single_action_space
        self._one_hot = int(space.n) if isinstance(space, Discrete) else 0
        self._first_observation = int(space.start) if isinstance(space, Discrete) else 0
        self.world = ForeignWorld(
            name=name,
            observation=self._observation_space(name, space),
            action=self._action_space(name, action),
            horizon=horizon_of(self.env.envs[0]),
            reward_threshold=spec.reward_threshold,
            structures=(self._structure,),
            frames_per_second=data.frames_per_second(self.env.metadata),
        )
        vars(self).update(allocate_env(self.world, num_envs))
        self._elapsed = np.zeros(num_envs, np.int32)
        self._num_finished = self._num_drained = 0
        self._has_warned = False  # True once the user was warned of observations outside their bounds
        self.seed(seed)

    @property
    def raw_spaces(self) -> list[tuple[Any, Any]]:
        """Return each agent's observation space and action space, as the environment itself declares them."""
        env = self.env.envs[0]
        source = env if self._structure is None else env.env  # without the wrapper that flattens observations
        return [(source.observation_space, env.action_space)]

    _structure: ObservationStructure | None = None

    def _maker(self, name: str, spec: Any, arguments: dict[str, Any]) -> Callable[[], Any]:
        """Return a function that makes one environment; its observations are flattened if they are structured."""

        def make() -> Any:
            env = gymnasium.make(spec, **arguments)
            for what in ("observation_space", "action_space"):
                data.checked_space(getattr(env, what), f"an {what}")
            if not is_structured(env.observation_space):
                return env
            self._structure = self._structure or ObservationStructure(name, env.observation_space)
            return TransformObservation(env, self._structure.flatten, self._structure.box)

        return make

    @staticmethod
    def _observation_space(name: str, space: gymnasium.Space[Any]) -> Box:
        if isinstance(space, Discrete):
            return Box(0.0, 1.0, (int(space.n),), np.float32)
        if isinstance(space, Box) and 0 in space.shape:
            raise ValueError(f"world {name!r}: observations are {space}, which holds no number")
        if isinstance(space, Box):
            space = data.as_vector(space)
            return single_precision(space) if space.dtype == np.float64 else space
        raise ValueError(f"world {name!r}: observations are {type(space).__name__}; Box and Discrete are supported")

    @staticmethod
    def _action_space(name: str, space: gymnasium.Space[Any]) -> Discrete[Any] | Box:
        if isinstance(space, Discrete):
            return Discrete(int(space.n))
        if isinstance(space, Box) and len(space.shape) == 1 and space.shape[0]:
            return single_precision(space)
        raise ValueError(f"world {name!r}: actions are {space}; Discrete and Box of shape (k,), k > 0, are supported")

    def seed(self, seed: int | Array, first: int = 0) -> None:
        """Set the seeds of the next reset: environment i gets one derived from (seed, first + i), or seed[i].

        Derived seeds lie below 2**31; evaluation uses seeds above.
        """
        seeds = np.asarray(seed, np.int64)
        if seeds.ndim == 0:
            streams = [np.random.SeedSequence((int(seeds), first + i)) for i in range(self.num_envs)]
            seeds = np.array([int(s.generate_state(1)[0]) >> 1 for s in streams], np.int64)
        self._seeds = seeds
        self._seed_pending = np.ones(self.num_envs, np.bool_)

    def reset(self, mask: Array | None = None) -> Array:
        """Begin a new episode in every environment, or where mask, bool [N], is True; return `observations`."""
        selected = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        if not selected.any():
            return self.observations
        for i in np.flatnonzero(selected).tolist():
            self._begin_episode(i, int(self._seeds[i]) if self._seed_pending[i] else None)
        self._seed_pending &= ~selected
        self._check_numbers("observation", self.observations)
        return self.observations

    def _begin_episode(self, i: int, seed: int | None = None) -> None:
        """Begin environment i's next episode."""
        env = self.env.envs[i]
        with calling(self.world.name, "reset", env):
            value, _ = data.checked_parts(env.reset(seed=seed), "observation, info")
            observation = self._store_observation(i, value)
        if not self._has_warned and (violation := data.out_of_bounds(observation, self.env.single_observation_space)):
            self._has_warned = True
            warnings.warn(f"{self.world.name}: in an observation that reset returned, {violation}", stacklevel=2)
        self.rewards[i] = 0.0
        self.terminated[i] = self.truncated[i] = self.done[i] = False
        self.running_returns[i], self._elapsed[i] = 0.0, 0

    def step(self) -> int:
        """Step every environment with `actions`; return how many episodes ended.

        Raises:
            ForeignError: an environment raised an exception or returned an invalid value.
            ValueError, NonFiniteError: as `engine.Batch.step` does.
        """
        self._check_actions()
        actions, was_done = self._env_actions(), self.done.copy()
        finished = 0
        for i in range(self.num_envs):
            if not was_done[i] or self.autoreset == AutoresetMode.SAME_STEP:
                finished += self._step_env(i, actions[i])
            elif self.autoreset == AutoresetMode.NEXT_STEP:
                self._begin_episode(i)
            else:  # an environment that has ended must not be stepped
                self.rewards[i] = 0.0
        self._check_numbers("reward", self.rewards)
        self._check_numbers("observation", self.observations)
        self._num_finished += finished
        return finished

    def _step_env(self, i: int, action: Any) -> bool:
        """Step environment i; return whether its episode ended."""
        env = self.env.envs[i]
        with calling(self.world.name, "step", env):
            observation, reward, terminated, truncated, _ = data.checked_parts(env.step(action), _STEP_RESULT)
            self._store_observation(i, observation)
            reward = data.checked_number(reward, "reward")
            ends = data.checked_flag(terminated, "terminated"), data.checked_flag(truncated, "truncated")
        # Returns are summed in double precision, because single precision would lose digits of the environment's
        # rewards.
        self.running_returns[i] += reward
        data.store(self.rewards[i], reward)
        self._elapsed[i] += 1
        if any(ends):
            self.episode_returns[i], self.episode_lengths[i] = self.running_returns[i], self._elapsed[i]
            if self.autoreset == AutoresetMode.SAME_STEP:
                self._check_numbers("reward", self.rewards)
                self._check_numbers("observation", self.observations)
                # The copy is made before the reset, because an environment may change the returned array in place.
                self.final_observations[i] = self.observations[i]
                self._begin_episode(i)
                self.rewards[i] = reward
        self.terminated[i], self.truncated[i], self.done[i] = *ends, any(ends)
        return any(ends)

    def elapsed_steps(self, i: int) -> int:
        """Return the number of steps of environment i's episode so far."""
        return int(self._elapsed[i])

    def _env_actions(self) -> Array:
        """Return the actions in the environments' own numbering and dtype, clipped to their bounds."""
        space, actions = self.env.single_action_space, self.actions[:, 0]
        if isinstance(space, Discrete):
            return np.asarray(actions + int(space.start))
        return np.asarray(np.clip(actions.astype(space.dtype), space.low, space.high))

    def _store_observation(self, i: int, value: Any) -> Any:
        """Check an observation of environment i against its space, write it to `observations` and return it."""
        observation = data.checked_observation(value, self.env.single_observation_space)
        if self._one_hot:
            self.observations[i] = 0
            self.observations[i, 0, observation - self._first_observation] = 1
        else:
            data.store(self.observations[i, 0], observation)
        return observation

    def _check_actions(self) -> None:
        space: Any = self.world.action
        actions = self.actions[:, 0]
        low, high = (0, int(space.n) - 1) if isinstance(space, Discrete) else (space.low, space.high)
        valid = ((actions >= low) & (actions <= high)).reshape(self.num_envs, -1).all(axis=1)
        if not valid.all():
            i = int(np.argmin(valid))
            subject = f"{self.world.name}: action {actions[i].tolist()} of world {i} at step {self._elapsed[i]}"
            raise ValueError(f"{subject} is outside {space}")

    def _check_numbers(self, field: str, values: Array) -> None:
        data.check_finite(self.world, field, values, self._elapsed, self.env.envs)

    @property
    def agent_terminated(self) -> Array:
        """See `Batch.agent_terminated`."""
        return self.terminated[:, None]

    @property
    def agent_truncated(self) -> Array:
        """See `Batch.agent_truncated`."""
        return self.truncated[:, None]

    def picture(self, i: int) -> Array:
        """Return environment i's own picture, uint8 [height, width, 3]; the batch must be made with render=True."""
        env = self.env.envs[i]
        with calling(self.world.name, "render", env), _quiet(True):
            return data.as_picture(env.render())

    def snapshot(self) -> dict[str, Array]:
        """Return seeds, int64 [N], for the next episodes; the state of foreign environments cannot be saved."""
        streams = [np.random.SeedSequence((int(s), self._num_finished)) for s in self._seeds]
        return {"seeds": np.array([int(s.generate_state(1)[0]) >> 1 for s in streams], np.int64)}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Begin new episodes from the seeds of a snapshot."""
        if set(snapshot) != {"seeds"} or snapshot["seeds"].shape != (self.num_envs,):
            raise ValueError(f"snapshot of another batch: it does not fit {self.world.name} x {self.num_envs}")
        self.seed(snapshot["seeds"])
        self.reset()

    def drain_log(self) -> dict[str, float]:
        """Return the number of episodes that finished since the last call."""
        finished, self._num_drained = self._num_finished - self._num_drained, self._num_finished
        return {"episodes": float(finished)}

    def close(self) -> None:
        """Close the environments."""
        for env in self.env.envs:
            close(self.world.name, env)
        self.env.closed = True
