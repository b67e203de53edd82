"""This module has the Gymnasium environments of the lab's worlds, for `gym.make("rl_lab/catch-v0")` and `make_vec`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rl_lab.adapters.make import parameters
from rl_lab.adapters.rendering import RENDER_MODES, RenderMixin, check_render_mode, engine_seed
from rl_lab.core.world import Array, World
from rl_lab.engine import world_registry
from rl_lab.engine.batch import NUM_SEEDS, Batch

_NEW_BUFFER_BYTES = 2**17  # observations of this size or more are written to a new buffer; smaller ones are copied


def _check_actions(actions: Any, shape: tuple[int, ...], discrete: bool, space: Any) -> Array:
    """Return actions as an array. Raises ValueError for another shape, or for other numbers."""
    array = np.asarray(actions)
    if array.shape != shape or array.dtype.kind not in (
        "iu" if discrete else "fiu"
    ):  # integers; for a Box, floats, too
        raise ValueError(f"action of shape {array.shape} and dtype {array.dtype}: expected {space}")
    return array


def _single_agent_world(name: str) -> World:
    """Return the world of this name. Raises ValueError if it has several agents."""
    world = world_registry.load(name)
    if len(world.agents) > 1:
        raise ValueError(
            f"{name} has {len(world.agents)} agents, Gymnasium's interface one: use rl_lab.adapters.pettingzoo"
        )
    return world


def _limited(world: World, steps: int | None) -> World:
    """Return the world with episodes of at most `steps` steps. Raises ValueError for fewer than one."""
    if steps in (None, -1, world.horizon):
        return world
    if type(steps) is not int or steps < 1:
        raise ValueError(f"max_episode_steps={steps!r}: expected a whole number of at least 1")
    return replace(world, horizon=min(steps, world.horizon or steps))


class LabEnv(RenderMixin, gymnasium.Env[Array, Any]):
    """A gymnasium.Env of one world; further keyword arguments are the world's parameters.

    Raises:
        ValueError: the world or a parameter is unknown, or an action is outside the space.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 30}

    def __init__(self, world: str, render_mode: str | None = None, **params: Any) -> None:
        check_render_mode(render_mode)
        lab_world = _single_agent_world(world)
        self.batch = Batch(lab_world, 1, parameters(lab_world, params), threads=1, autoreset=AutoresetMode.DISABLED)
        self.observation_space, self.action_space = lab_world.observation, lab_world.action
        self.metadata = {**self.metadata, "render_fps": lab_world.frames_per_second}
        self.render_mode = render_mode
        self._discrete = isinstance(lab_world.action, Discrete)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; a seed makes this one and the following ones reproducible."""
        unseeded = self._np_random is None
        super().reset(seed=seed)
        if seed is not None or unseeded:
            self.batch.seed(engine_seed(seed) if seed is not None else int(self.np_random.integers(NUM_SEEDS)))
        self.batch.reset()
        if self.render_mode == "human":
            self.render()
        return self.batch.observations[0, 0].copy(), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one action. Raises ValueError for one outside the space."""
        b = self.batch
        b.actions[0, 0] = _check_actions(action, b.actions.shape[2:], self._discrete, self.action_space)
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
    """A gymnasium VectorEnv of N environments; further keyword arguments are the world's parameters.

    `autoreset_mode` is next step by default, as in Gymnasium's vector environments; same step (with `final_obs` in the
    infos) and disabled (with `options["reset_mask"]`) are supported, too. `reset(seed=s)` gives world i the seed s + i,
    so that its episodes are those of LabEnv with that seed. `max_episode_steps` truncates episodes earlier than the
    world's horizon.
    """

    def __init__(
        self,
        world: str,
        num_envs: int = 1,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        threads: int | None = None,
        max_episode_steps: int | None = None,
        **params: Any,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r}: expected None or 'rgb_array'")
        lab_world = _limited(_single_agent_world(world), max_episode_steps)
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
        self._bind_views()
        self._discrete = isinstance(lab_world.action, Discrete)
        self._same_step = mode == AutoresetMode.SAME_STEP
        # Whether `step` returns a new array, not a copy. `step_into_new_buffer` needs a batch that resets by itself.
        self.returns_new_arrays = self.batch.observations.nbytes >= _NEW_BUFFER_BYTES and mode != AutoresetMode.DISABLED
        self._seeded = np.zeros(num_envs, np.bool_)

    def _bind_views(self) -> None:
        self._actions, self._rewards = self.batch.actions[:, 0], self.batch.rewards[:, 0]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy's views must refer to the copy's arrays.
        vars(self).update(state)
        self._bind_views()

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every world, or where `options["reset_mask"]`, bool [N], is True."""
        mask = (options or {}).get("reset_mask")
        if mask is not None and (np.shape(mask) != (self.num_envs,) or np.asarray(mask).dtype != np.bool_):
            raise ValueError(f"reset_mask: expected bool of shape ({self.num_envs},)")
        if isinstance(seed, int | np.integer):
            seed = [seed + i for i in range(self.num_envs)]
        seed_list: list[int | None] = [None] * self.num_envs if seed is None else list(seed)
        if len(seed_list) != self.num_envs:
            raise ValueError(f"{len(seed_list)} seeds for {self.num_envs} worlds")
        # Worlds without a seed continue their random stream, as Gymnasium's do; the first time they get a random seed.
        random_seeds = np.random.SeedSequence().generate_state(self.num_envs)
        seeds = [int(r) if s is None else engine_seed(s) for s, r in zip(seed_list, random_seeds, strict=True)]
        selected = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask)
        reseeded = selected & (np.array([s is not None for s in seed_list]) | ~self._seeded)
        self.batch.seed(np.array(seeds, np.int64), mask=reseeded)
        self._seeded |= reseeded
        if self.returns_new_arrays:
            # The caller owns the array that the last step returned. In the new one, `observe` writes all rows: the
            # reset writes those where the mask is True.
            self.batch.new_observation_buffer()
        self.batch.reset(mask)
        observations = self.batch.observe() if self.returns_new_arrays else self.batch.observations
        return observations[:, 0].copy(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take one action in each world, int64 [N] or float32 [N, k].

        Returns observations [N, ...], rewards float32 [N], terminated and truncated bool [N], and infos.
        Raises ValueError for actions outside the space.
        """
        b = self.batch
        self._actions[...] = _check_actions(actions, self._actions.shape, self._discrete, self.action_space)
        ended = b.step_into_new_buffer() if self.returns_new_arrays else b.step()
        infos = self._final_infos() if ended and self._same_step else {}
        observations = b.observations[:, 0] if self.returns_new_arrays else b.observations[:, 0].copy()
        return observations, self._rewards.copy(), b.terminated.copy(), b.truncated.copy(), infos

    def _final_infos(self) -> dict[str, Any]:
        ended = self.batch.done.copy()
        # Gymnasium's own vector environments return an object array, too, with None for environments that are not done.
        final = np.full(self.num_envs, None, object)
        for i, observation in zip(np.flatnonzero(ended), self.batch.final_observations[ended, 0], strict=True):
            final[i] = observation
        return {"final_obs": final, "_final_obs": ended, "final_info": {}, "_final_info": ended}

    def render(self) -> Any:
        """Return a tuple of each world's picture, uint8 [height, width, 3]; None without a render mode."""
        from rl_lab.rendering.render import picture

        return tuple(picture(self.batch, i) for i in range(self.num_envs)) if self.render_mode else None
