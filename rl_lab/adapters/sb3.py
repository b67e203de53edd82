"""Stable-Baselines3's face: a VecEnv over any batch of worlds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from ..batch import Worlds
from ..world import Array


class LabVecEnv(VecEnv):
    """N worlds with SB3's contract: `terminal_observation`, `TimeLimit.truncated` and `episode` in the infos.

    The batch must reset in the same step. Worlds that are not done share one empty info: SB3 loops over all of them
    at every step.
    """

    def __init__(self, worlds: Worlds) -> None:
        self.worlds = worlds
        self._actions, self._rewards = worlds.actions[:, 0], worlds.rewards[:, 0]
        self._observations, self._final = worlds.observations[:, 0], worlds.final_observations[:, 0]
        self._empty: dict[str, Any] = {}
        self._begin = time.time()
        super().__init__(worlds.n, worlds.world.observation, worlds.world.action)

    def reset(self) -> Array:
        """Begin an episode everywhere, from the seeds given to `seed`, if any."""
        given = [s for s in self._seeds if s is not None]
        if given:
            self.worlds.seed(np.asarray(given, np.int64))
        self._reset_seeds()
        self._reset_options()
        self.worlds.reset()
        return self._observations.copy()

    def step_async(self, actions: Array) -> None:
        """Take the actions, int [N] or float [N, k]; ValueError where the shape is another."""
        given = np.asarray(actions)
        kinds = "iu" if self._actions.dtype.kind == "i" else "fiu"
        if given.shape != self._actions.shape or given.dtype.kind not in kinds:
            expected = f"{self._actions.shape} of {self._actions.dtype}"
            raise ValueError(f"actions of shape {given.shape} and dtype {given.dtype}: expected {expected}")
        self._actions[...] = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Step; observations, rewards and dones are copies, because SB3 keeps them over the next step."""
        worlds = self.worlds
        infos = [self._empty] * self.num_envs
        if worlds.step():
            now = round(time.time() - self._begin, 6)
            for i in np.flatnonzero(worlds.ended):
                infos[i] = {
                    "terminal_observation": self._final[i].copy(),
                    "TimeLimit.truncated": bool(worlds.truncated[i] and not worlds.terminated[i]),
                    "episode": {
                        "r": float(worlds.episode_returns[i, 0]),
                        "l": int(worlds.episode_lengths[i]),
                        "t": now,
                    },
                }
        return self._observations.copy(), self._rewards.copy(), worlds.ended.copy(), infos

    def close(self) -> None:
        """Close the batch."""
        self.worlds.close()

    def get_images(self) -> Sequence[Array | None]:
        """Return a picture of each world, uint8 [height, width, 3]."""
        from ..picture import picture

        return [picture(self.worlds, i) for i in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of this VecEnv once for each world asked for; AttributeError where there is none."""
        if attr_name == "render_mode":  # SB3 asks for it while it is being constructed
            return ["rgb_array" for _ in self._get_indices(indices)]
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: worlds have no attributes of their own."""
        raise AttributeError(f"worlds in a batch have no attribute {attr_name!r} to set")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refused: worlds have no methods of their own."""
        raise AttributeError(f"worlds in a batch have no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Worlds in a batch are never wrapped."""
        return [False for _ in self._get_indices(indices)]
