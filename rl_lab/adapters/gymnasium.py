"""Gymnasium's faces: `gym.make("rl_lab/catch-v0")` and `gym.make_vec` over the engine."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from .. import worlds
from ..batch import parameters
from ..engine import SEEDS, Batch
from ..world import Array, World
from .shown import RENDER_MODES, Shown, check_render_mode, engine_seed

_MOVED = 2**17  # bytes of observations: so many are written to new memory in each step, fewer are sooner copied


def _checked(actions: Any, shape: tuple[int, ...], discrete: bool, space: Any) -> Array:
    """Return actions as an array the engine can take; ValueError for another shape or kind of number."""
    array = np.asarray(actions)
    if array.shape != shape or array.dtype.kind not in ("iu" if discrete else "fiu"):
        raise ValueError(f"action of shape {array.shape} and dtype {array.dtype}: expected {space}")
    return array


def _lone(name: str) -> World:
    """Return a world of one agent; ValueError for others."""
    world = worlds.load(name)
    if len(world.agents) > 1:
        raise ValueError(
            f"{name} has {len(world.agents)} agents, Gymnasium's interface one: use rl_lab.adapters.pettingzoo"
        )
    return world


class LabEnv(Shown, gymnasium.Env[Array, Any]):
    """One world as a gymnasium.Env; further keyword arguments are the world's parameters.

    Raises ValueError for an unknown world or parameter and for an action outside the space.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 30}

    def __init__(self, world: str, render_mode: str | None = None, **params: Any) -> None:
        check_render_mode(render_mode)
        lab_world = _lone(world)
        self.batch = Batch(lab_world, 1, parameters(lab_world, params), threads=1, autoreset=AutoresetMode.DISABLED)
        self.observation_space, self.action_space = lab_world.observation, lab_world.action
        self.metadata = {**self.metadata, "render_fps": lab_world.frames_per_second}
        self.render_mode = render_mode
        self._discrete = isinstance(lab_world.action, Discrete)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; a seed makes it, and the ones after it, reproducible."""
        fresh = self._np_random is None
        super().reset(seed=seed)
        if seed is not None or fresh:
            self.batch.seed(engine_seed(seed) if seed is not None else int(self.np_random.integers(SEEDS)))
        self.batch.reset()
        if self.render_mode == "human":
            self.render()
        return self.batch.observations[0, 0].copy(), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one action; ValueError for one outside the space."""
        b = self.batch
        b.actions[0, 0] = _checked(action, b.actions.shape[2:], self._discrete, self.action_space)
        b.step()
        if self.render_mode == "human":
            self.render()
        return (
            b.observations[0, 0].copy(),
            float(b.rewards[0, 0]),
            bool(b.terminated[0]),
            bool(b.truncated[0]),
            {},
        )


class LabVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """N worlds as a gymnasium VectorEnv; further keyword arguments are the world's parameters.

    `autoreset_mode`: next step by default, as in Gymnasium's own; same step (with `final_obs` in the infos) and
    disabled (with `options["reset_mask"]`) work too. `seed=s` gives world i the seed s + i, as LabEnv would have it.
    """

    def __init__(
        self,
        world: str,
        num_envs: int = 1,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        threads: int | None = None,
        **params: Any,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r}: expected None or 'rgb_array'")
        lab_world = _lone(world)
        mode = AutoresetMode(autoreset_mode)
        self.batch = Batch(lab_world, num_envs, parameters(lab_world, params), threads=threads, autoreset=mode)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space, self.single_action_space = lab_world.observation, lab_world.action
        self.observation_space = batch_space(lab_world.observation, num_envs)
        self.action_space = batch_space(lab_world.action, num_envs)
        self.metadata = {
            "autoreset_mode": mode,
            "render_modes": ["rgb_array"],
            "render_fps": lab_world.frames_per_second,
        }
        b = self.batch
        self._actions, self._rewards = b.actions[:, 0], b.rewards[:, 0]
        self._discrete = isinstance(lab_world.action, Discrete)
        self._same_step = mode == AutoresetMode.SAME_STEP
        self._anew = b.observations.nbytes >= _MOVED and mode != AutoresetMode.DISABLED
        self._seeded = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode everywhere, or in the worlds that `options["reset_mask"]`, bool [N], names."""
        mask = (options or {}).get("reset_mask")
        if mask is not None and (np.shape(mask) != (self.num_envs,) or np.asarray(mask).dtype != np.bool_):
            raise ValueError(f"reset_mask: expected bool of shape ({self.num_envs},)")
        if isinstance(seed, int | np.integer):
            seed = [seed + i for i in range(self.num_envs)]
        given: list[int | None] = [None] * self.num_envs if seed is None else list(seed)
        if len(given) != self.num_envs:
            raise ValueError(f"{len(given)} seeds for {self.num_envs} worlds")
        # Worlds without a seed go on with their own stream, as Gymnasium's do; the first time they draw one.
        fresh = np.random.SeedSequence().generate_state(self.num_envs)
        seeds = [int(f) if s is None else engine_seed(s) for s, f in zip(given, fresh, strict=True)]
        wanted = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask)
        reseeded = wanted & (np.array([s is not None for s in given]) | ~self._seeded)
        self.batch.seed(np.array(seeds, np.int64), mask=reseeded)
        self._seeded |= reseeded
        if self._anew:
            self.batch.renew()  # what the last step returned is the caller's
        self.batch.reset(mask)
        seen = self.batch.observe() if self._anew else self.batch.observations
        return seen[:, 0].copy(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take one action in each world; ValueError for actions outside the space."""
        b = self.batch
        self._actions[...] = _checked(actions, self._actions.shape, self._discrete, self.action_space)
        ended = b.step_anew() if self._anew else b.step()
        infos = self._final_infos() if ended and self._same_step else {}
        seen = b.observations[:, 0] if self._anew else b.observations[:, 0].copy()
        return seen, self._rewards.copy(), b.terminated.copy(), b.truncated.copy(), infos

    def _final_infos(self) -> dict[str, Any]:
        ended = self.batch.ended.copy()
        # An object array with None elsewhere is what Gymnasium's own vector environments return.
        final = np.full(self.num_envs, None, object)
        for i, observation in zip(np.flatnonzero(ended), self.batch.final_observations[ended, 0], strict=True):
            final[i] = observation
        return {"final_obs": final, "_final_obs": ended, "final_info": {}, "_final_info": ended}

    def render(self) -> Any:
        """Return a picture of each world, uint8 [height, width, 3]."""
        from ..picture import picture

        return tuple(picture(self.batch, i) for i in range(self.num_envs)) if self.render_mode else None
