"""This module makes any batch of environments a Stable-Baselines3 VecEnv, `LabVecEnv`.

SB3's learners, and the lab's compiled ones that keep SB3's interface, step environments through it. It writes the
batch's `actions` and copies the results.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnv

from rl_lab.adapters.structured import structure_of
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array


def with_indicator(space: Box, agents: int) -> Box:
    """Return the space of vectors [d + A]: an observation [d] followed by the agent's index, one-hot [A].

    Raises ValueError for observations that are no vectors.
    """
    if len(space.shape or ()) != 1 or not isinstance(space, Box):
        raise ValueError(f"agent_indicator needs vectors as observations, not shape {space.shape}")
    ones = np.ones(agents, space.dtype)
    return Box(np.concatenate([space.low, 0 * ones]), np.concatenate([space.high, ones]), dtype=np.float32)


def append_agent_indicator(observations: Array, seats: Array, agents: int) -> Array:
    """Return observations [B, d] followed by their agents' indices, int64 [B], one-hot: float32 [B, d + A]."""
    return np.concatenate([observations, np.eye(agents, dtype=np.float32)[seats]], axis=1, dtype=np.float32)


class LabVecEnv(VecEnv):
    """A VecEnv of B = N x A rows over N environments with A agents each; agent a of environment i is row i * A + a.

    The infos have SB3's keys `terminal_observation`, `TimeLimit.truncated` and `episode`. The batch must reset in the
    same step. Rows that are not done share one empty info, because SB3 loops over the infos at every step.

    An agent's own episode may end before its world's. Its row is done in that step, and it is ignored until the world's
    next episode. Of two agents, one may be truncated in the step in which the other is terminated.

    Attributes, all of B rows:
        is_decision_step: bool, True for rows that acted in the last step.
        reward_is_valid: bool, True for rows whose last reward counts: those that acted, and those that got a reward or
            came to the end of their episode while other agents acted.
        agent_done: bool, True for rows whose own episode is over while their world's is not.
        acting: bool, True for rows that act in the next step.
        action_mask: uint8 [B, actions], 1 for legal actions; `action_masks` returns it for sb3-contrib.
        resets: the number of calls of `reset`, each of which ends every episode without reporting it.

    With `indicator`, observations are followed by the agent's index, one-hot.
    """

    # Compiled code may step the batch instead of `step_wait`. A subclass that overrides `step_wait` must not set this;
    # the flag is looked up in the class itself, not in its bases.
    supports_compiled_rollout = True

    def __init__(self, envs: BatchedEnv, *, indicator: bool = False) -> None:
        self.envs, self.agents = envs, len(envs.world.agents)
        self._bind_views()
        rows = envs.num_envs * self.agents
        self._agents_can_wait = envs.world.is_multi_agent
        self.has_agent_indicator = indicator
        self._seats = np.tile(np.arange(self.agents), envs.num_envs) if indicator else None
        self._structure = structure_of(envs.world)
        self.is_decision_step, self.agent_done = np.ones(rows, np.bool_), np.zeros(rows, np.bool_)
        self.reward_is_valid = np.ones(rows, np.bool_)
        self.resets = 0
        self._empty: dict[str, Any] = {}
        self._start_time = time.time()
        space: Any = envs.world.observation if self._structure is None else self._structure.space
        # The space is copied, because its random generator must not be shared with other users of the world.
        action = deepcopy(envs.world.action)
        super().__init__(rows, with_indicator(space, self.agents) if indicator else space, action)

    def _bind_views(self) -> None:
        envs, rows = self.envs, self.envs.num_envs * self.agents

        def by_row(array: Array) -> Array:
            return array.reshape(rows, *array.shape[2:])

        self._actions, self._rewards = by_row(envs.actions), by_row(envs.rewards)
        self._observations, self._final_observations = by_row(envs.observations), by_row(envs.final_observations)
        self.acting, self._left_episode = by_row(envs.acting), by_row(envs.left_episode)
        self.action_mask = by_row(envs.action_mask)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The views of a copy must show the copy's own batch.
        vars(self).update(state)
        self._bind_views()

    def _policy_observations(self, observations: Array) -> Any:
        if self._structure is not None:
            return self._structure.unflatten(observations)
        return (
            observations.copy()
            if self._seats is None
            else append_agent_indicator(observations, self._seats, self.agents)
        )

    def current_observations(self) -> Any:
        """Return the current observations, [B, ...], or a dict of such arrays if the space is a Dict."""
        return self._policy_observations(self._observations)

    def reset(self) -> Any:
        """Begin an episode in every environment, with the seeds passed to `seed`, if any."""
        seeds = [s for s in self._seeds if s is not None]
        if seeds:
            self.envs.seed(np.asarray(seeds[:: self.agents], np.int64))
        self._reset_seeds()
        self._reset_options()
        self.envs.reset()
        self.agent_done[:] = False
        self.resets += 1
        return self.current_observations()

    def step_async(self, actions: Array) -> None:
        """Store the actions, int [B] or float [B, k], for `step_wait`. Raises ValueError for another shape."""
        values = np.asarray(actions)
        kinds = "iu" if self._actions.dtype.kind == "i" else "fiu"
        if values.shape != self._actions.shape or values.dtype.kind not in kinds:
            expected = f"{self._actions.shape} of {self._actions.dtype}"
            raise ValueError(f"actions of shape {values.shape} and dtype {values.dtype}: expected {expected}")
        self._actions[...] = actions

    def step_wait(self) -> tuple[Any, Array, Array, list[dict[str, Any]]]:
        """Step the batch; return copies of observations, rewards and dones, because SB3 uses them after the next step.

        The infos of rows that are done have SB3's keys; see the class.
        """
        envs = self.envs
        infos = [self._empty] * self.num_envs
        if not self._agents_can_wait:
            ended = envs.done if envs.step() else None
            if ended is not None:
                self._write_infos(ended, infos)
            return self._policy_observations(self._observations), self._rewards.copy(), envs.done.copy(), infos
        self.is_decision_step[...] = self.acting
        finished = envs.step()
        world_done = np.repeat(envs.done, self.agents)
        dones = world_done | self._left_episode
        self.reward_is_valid[...] = self.is_decision_step | ((dones | (self._rewards != 0)) & ~self.agent_done)
        if finished or self._left_episode.any():
            self.agent_done &= ~self.is_decision_step
            # The ends of rows in `agent_done` have been reported already.
            self._write_infos(dones & ~self.agent_done, infos)
            self.agent_done |= self._left_episode
            self.agent_done &= ~world_done
        return self._policy_observations(self._observations), self._rewards.copy(), dones, infos

    def _write_infos(self, ends: Array, infos: list[dict[str, Any]]) -> None:
        envs, now = self.envs, round(time.time() - self._start_time, 6)
        truncated = (envs.agent_truncated & ~envs.agent_terminated).reshape(-1)
        for row in np.flatnonzero(ends).tolist():
            i, a = divmod(row, self.agents)
            world_done = bool(envs.done[i])
            # An agent that left the episode has its last observation in `observations`. Where the world's episode is
            # over, `observations` holds the first one of the next episode already.
            last = self._final_observations[row] if world_done else self._observations[row]
            if self._seats is not None:
                last = append_agent_indicator(last[None], self._seats[row : row + 1], self.agents)[0]
            infos[row] = {
                "terminal_observation": last.copy() if self._structure is None else self._structure.unflatten_row(last),
                "TimeLimit.truncated": bool(truncated[row]),
                "episode": {
                    "r": float(envs.episode_returns[i, a] if world_done else envs.running_returns[i, a]),
                    "l": int(envs.episode_lengths[i]) if world_done else 0,
                    "t": now,
                },
            }

    def action_masks(self) -> Array:
        """Return `action_mask` as bool [B, actions]; rows that do not act have all actions."""
        masks: Array = self.action_mask != 0
        masks[~masks.any(axis=1)] = True
        return masks

    def close(self) -> None:
        """Close the batch."""
        self.envs.close()

    def get_images(self) -> Sequence[Array | None]:
        """Return a picture of each world, uint8 [height, width, 3], once for each of its agents."""
        from rl_lab.rendering.render import picture

        return [picture(self.envs, row // self.agents) for row in range(self.num_envs)]

    def has_attr(self, attr_name: str) -> bool:
        """Return True if there is such an attribute; `action_masks` counts only if actions can be illegal."""
        return self.envs.world.has_action_mask if attr_name == "action_masks" else super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of this VecEnv once for each row in `indices`. Raises AttributeError."""
        if attr_name == "render_mode":  # SB3's constructor reads it
            return ["rgb_array" for _ in self._get_indices(indices)]
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise AttributeError: worlds have no attributes of their own."""
        raise AttributeError(f"worlds in a batch have no attribute {attr_name!r} to set")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Return the rows of `action_masks()`. Raises AttributeError for other methods, which worlds do not have."""
        if method_name != "action_masks":
            raise AttributeError(f"worlds in a batch have no method {method_name!r}")
        return list(self.action_masks()[list(self._get_indices(indices))])

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return False for each row: worlds in a batch are never wrapped."""
        return [False for _ in self._get_indices(indices)]
