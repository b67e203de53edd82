"""Stable-Baselines3's face: a VecEnv over any batch of worlds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnv

from ..batch import Worlds
from ..world import Array


def with_indicator(space: Box, agents: int) -> Box:
    """Return the space of vectors [d + A]: an agent's observation and which of A agents it is, one-hot."""
    if len(space.shape) != 1:
        raise ValueError(f"agent_indicator needs vectors as observations, not shape {space.shape}")
    ones = np.ones(agents, space.dtype)
    return Box(np.concatenate([space.low, 0 * ones]), np.concatenate([space.high, ones]), dtype=np.float32)


def indicated(observations: Array, seats: Array, agents: int) -> Array:
    """Return observations [B, d] with their seats, int64 [B], as one-hot columns: float32 [B, d + A]."""
    return np.concatenate([observations, np.eye(agents, dtype=np.float32)[seats]], axis=1, dtype=np.float32)


class LabVecEnv(VecEnv):
    """N worlds x A agents as B = N x A rows; agent a of world i is row i * A + a.

    SB3's contract: `terminal_observation`, `TimeLimit.truncated` and `episode` in the infos.

    The batch must reset in the same step. Rows that are not done share one empty info: SB3 loops over all of them at
    every step. An agent that leaves before its episode ends is done; what its row does until the next episode counts
    for nothing, and `acted`, bool [B], tells which rows acted in the last step. `legal`, uint8 [B, actions], says what
    each may do next; `action_masks` is what sb3-contrib asks for. `indicator` adds to vectors which agent they are of.
    """

    whole = True  # a class that says so itself steps as this one does: compiled code may step the batch in its place

    def __init__(self, worlds: Worlds, *, indicator: bool = False) -> None:
        self.worlds, self.agents = worlds, len(worlds.world.agents)
        rows = worlds.n * self.agents
        self._actions, self._rewards, self._observations, self._final, self.active, self._departed, self.legal = (
            array.reshape(rows, *array.shape[2:])
            for array in (
                worlds.actions,
                worlds.rewards,
                worlds.observations,
                worlds.final_observations,
                worlds.active,
                worlds.departed,
                worlds.legal,
            )
        )
        self._waiting, self._in_turns = worlds.world.waiting, bool(worlds.world.turns)
        self.indicated = indicator
        self._seats = np.tile(np.arange(self.agents), worlds.n) if indicator else None
        self.acted = np.ones(rows, np.bool_)
        self._empty: dict[str, Any] = {}
        self._begin = time.time()
        space = worlds.world.observation
        # A copy: a space has a random generator, and the world's own is everybody's.
        action = deepcopy(worlds.world.action)
        super().__init__(rows, with_indicator(space, self.agents) if indicator else space, action)

    def _shown(self, observations: Array) -> Array:
        return observations.copy() if self._seats is None else indicated(observations, self._seats, self.agents)

    def reset(self) -> Array:
        """Begin an episode everywhere, from the seeds given to `seed`, if any."""
        given = [s for s in self._seeds if s is not None]
        if given:
            self.worlds.seed(np.asarray(given[:: self.agents], np.int64))
        self._reset_seeds()
        self._reset_options()
        self.worlds.reset()
        return self._shown(self._observations)

    def step_async(self, actions: Array) -> None:
        """Take the actions, int [B] or float [B, k]; ValueError where the shape is another."""
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
        if not self._waiting:
            ended = worlds.ended if worlds.step() else None
            if ended is not None:
                self._report(np.flatnonzero(ended), infos)
            return self._shown(self._observations), self._rewards.copy(), worlds.ended.copy(), infos
        self.acted[...] = self.active
        finished = worlds.step()
        over = np.repeat(worlds.ended, self.agents)
        dones = over | self._departed
        if finished or self._departed.any():
            # Who left before has been told already; who waited for its turn has not.
            self._report(np.flatnonzero(dones if self._in_turns else dones & self.acted), infos)
        return self._shown(self._observations), self._rewards.copy(), dones, infos

    def _report(self, rows: Array, infos: list[dict[str, Any]]) -> None:
        worlds, now = self.worlds, round(time.time() - self._begin, 6)
        for row in rows.tolist():
            i, a = divmod(row, self.agents)
            over = bool(worlds.ended[i])
            # Who has left sees its own last observation; where the episode is over, the next one's is there already.
            last = self._final[row] if over else self._observations[row]
            if self._seats is not None:
                last = indicated(last[None], self._seats[row : row + 1], self.agents)[0]
            truncated = over and worlds.truncated[i] and not worlds.terminated[i] and not self._departed[row]
            infos[row] = {
                "terminal_observation": last.copy(),
                "TimeLimit.truncated": bool(truncated),
                "episode": {
                    "r": float(worlds.episode_returns[i, a] if over else worlds.running_returns[i, a]),
                    "l": int(worlds.episode_lengths[i]) if over else 0,
                    "t": now,
                },
            }

    def action_masks(self) -> Array:
        """Return `legal` as bool [B, actions]; whoever does not act may do anything."""
        masks: Array = self.legal != 0
        masks[~masks.any(axis=1)] = True
        return masks

    def close(self) -> None:
        """Close the batch."""
        self.worlds.close()

    def get_images(self) -> Sequence[Array | None]:
        """Return a picture of each world, uint8 [height, width, 3], once for each of its agents."""
        from ..picture import picture

        return [picture(self.worlds, row // self.agents) for row in range(self.num_envs)]

    def has_attr(self, attr_name: str) -> bool:
        """Say whether there is such an attribute: sb3-contrib looks for `action_masks` in masked worlds."""
        return self.worlds.world.masked if attr_name == "action_masks" else super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of this VecEnv once for each row asked for; AttributeError where there is none."""
        if attr_name == "render_mode":  # SB3 asks for it while it is being constructed
            return ["rgb_array" for _ in self._get_indices(indices)]
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: worlds have no attributes of their own."""
        raise AttributeError(f"worlds in a batch have no attribute {attr_name!r} to set")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refused but for `action_masks`: worlds have no methods of their own."""
        if method_name != "action_masks":
            raise AttributeError(f"worlds in a batch have no method {method_name!r}")
        return list(self.action_masks()[list(self._get_indices(indices))])

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Worlds in a batch are never wrapped."""
        return [False for _ in self._get_indices(indices)]
