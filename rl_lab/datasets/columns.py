"""The columns of recorded episodes: one array for each quantity, episode after episode.

Shapes: S transitions, E episodes. Episode e has the transitions `offsets[e]` to `offsets[e + 1] - 1`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.agent_spaces import action_dtype_of

Array = np.ndarray[Any, Any]
NO_SEED = -1  # of an episode whose seed is not recorded


@dataclass(frozen=True)
class Columns:
    """Whole episodes as arrays.

    `observations[i]` is what the agent saw before `actions[i]`. The observation after an episode's last transition is
    `final_observations[e]`. It is no transition's observation.
    """

    observations: Array  # [S, *observation shape]
    actions: Array  # int64 [S] or float32 [S, k]
    rewards: Array  # float32 [S]
    terminated: Array  # bool [S]
    truncated: Array  # bool [S]
    action_masks: Array  # uint8 [S, actions]; [S, 0] where every action is legal
    final_observations: Array  # [E, *observation shape]
    lengths: Array  # int64 [E], transitions of each episode
    seeds: Array  # int64 [E]; NO_SEED where it is not recorded
    agent_indices: Array  # int64 [E], which agent of its world each episode is of
    group_ids: Array  # int64 [E]; episodes of agents that shared one episode of a world have one id
    policy_indices: Array  # int64 [E], which policy acted

    @property
    def offsets(self) -> Array:
        """Return the first transition of each episode, and S at the end: int64 [E + 1]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)])


STEP_COLUMNS = ("observations", "actions", "rewards", "terminated", "truncated", "action_masks")
EPISODE_COLUMNS = tuple(field.name for field in fields(Columns) if field.name not in STEP_COLUMNS)


def layout(
    observation_space: Box, action_space: Discrete[Any] | Box, mask_size: int
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape of one row and the dtype of each column, by name; `mask_size` is 0 without action masks."""
    observation = observation_space.shape, observation_space.low.dtype
    number, flag, index = np.dtype(np.float32), np.dtype(np.bool_), np.dtype(np.int64)
    return {
        "observations": observation,
        "actions": (action_space.shape or (), action_dtype_of(action_space)),
        "rewards": ((), number),
        "terminated": ((), flag),
        "truncated": ((), flag),
        "action_masks": ((mask_size,), np.dtype(np.uint8)),
        "final_observations": observation,
        **{name: ((), index) for name in EPISODE_COLUMNS[1:]},
    }


def concatenate(parts: list[Columns]) -> Columns:
    """Return the episodes of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    return Columns(**{field.name: np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(Columns)})


def step_rows(lengths: Array) -> Array:
    """Return the row of each transition where each episode has one more row at its end, int64 [S]."""
    return np.arange(lengths.sum()) + np.repeat(np.arange(len(lengths)), lengths)


class ContentHash:
    """The SHA-256 of episodes' columns, which does not depend on how they were divided into parts or files."""

    def __init__(self) -> None:
        self._hashes = {field.name: hashlib.sha256() for field in fields(Columns)}
        self._kinds: dict[str, str] = {}

    def update(self, columns: Columns) -> None:
        """Add episodes after those added so far."""
        for name, digest in self._hashes.items():
            column = np.ascontiguousarray(getattr(columns, name))
            self._kinds[name] = f"{column.dtype.str} {column.shape[1:]}"
            digest.update(column.reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        """Return the hash of all episodes that were added."""
        parts = {name: [self._kinds.get(name, ""), digest.hexdigest()] for name, digest in self._hashes.items()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
