"""A recorder of transitions: it takes them from a batch as it is stepped, and returns the columns of whole episodes.

Shapes: N worlds, A agents, B = N x A rows; row i * A + a is agent a of world i.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.core.protocols import BatchedEnv
from rl_lab.datasets.columns import EPISODE_COLUMNS, STEP_COLUMNS, Array, Columns, layout

_BYTES = 2**24  # of the recorded steps that are kept before `take` is called


class EpisodeRecorder:
    """The steps of B rows that are not yet returned, in arrays [B, capacity, ...] in which each row fills its own part.

    A row's episode has a transition for each of its decisions. Its rewards between two decisions are added to the
    first of them. An agent that never acts in an episode of its world has none.

    For each step of the batch, call `record_decisions` before it and `record_outcomes` after it.
    """

    def __init__(self, envs: BatchedEnv) -> None:
        world = envs.world
        self._envs, self._num_rows, self._num_agents = envs, envs.rewards.size, len(world.agents)
        mask_size = envs.action_mask.shape[-1] if world.has_action_mask else 0
        self._layout = layout(world.observation, world.action, mask_size)
        row_bytes = sum(int(np.prod(s)) * d.itemsize for name, (s, d) in self._layout.items() if name in STEP_COLUMNS)
        self._capacity = int(np.clip(_BYTES // (row_bytes * self._num_rows), 64, 4096))
        self._steps = {name: self._empty(name) for name in STEP_COLUMNS}
        self._length = np.zeros(self._num_rows, np.int64)  # steps in each row
        self._first = np.zeros(self._num_rows, np.int64)  # where in its row the current episode begins
        self._plays = np.zeros(self._num_rows, np.bool_)  # whether the row's current episode goes on
        self._labels = {name: np.zeros(self._num_rows, np.int64) for name in EPISODE_COLUMNS[2:]}
        self._ended: list[dict[str, Array]] = []

    def _empty(self, name: str) -> Array:
        shape, dtype = self._layout[name]
        return np.zeros((self._num_rows, self._capacity, *shape), dtype)

    @property
    def is_full(self) -> bool:
        """Return whether `take` should be called before the next step."""
        return bool(self._length.max() == self._capacity)

    @property
    def unfinished_steps(self) -> int:
        """Return the number of steps of the episodes that go on."""
        return int((self._length - self._first)[self._plays].sum())

    def begin(self, worlds: Array, seeds: Array, group_ids: Array, policy_indices: Array) -> None:
        """Begin an episode in these worlds, int64 [n], of these seeds and groups, [n], and policies, [n, A]."""
        rows = (worlds[:, None] * self._num_agents + np.arange(self._num_agents)).reshape(-1)
        self._plays[rows] = True
        self._first[rows] = self._length[rows]
        self._labels["seeds"][rows] = np.repeat(seeds, self._num_agents)
        self._labels["agent_indices"][rows] = np.tile(np.arange(self._num_agents), len(worlds))
        self._labels["group_ids"][rows] = np.repeat(group_ids, self._num_agents)
        self._labels["policy_indices"][rows] = policy_indices.reshape(-1)

    def record_decisions(self, rows: Array) -> None:
        """Copy the observations, action masks and actions of the rows that act in the next step, int64 [R]."""
        envs, place = self._envs, (rows, self._length[rows])
        self._steps["observations"][place] = envs.observations.reshape(-1, *envs.observations.shape[2:])[rows]
        self._steps["actions"][place] = envs.actions.reshape(-1, *envs.actions.shape[2:])[rows]
        for name in ("rewards", "terminated", "truncated"):
            self._steps[name][place] = 0
        if self._layout["action_masks"][0] != (0,):
            self._steps["action_masks"][place] = envs.action_mask.reshape(self._num_rows, -1)[rows]
        self._length[rows] += 1

    def record_outcomes(self) -> int:
        """Add the rewards of the last step, end the episodes that ended in it, and return their number of steps."""
        envs = self._envs
        rows = np.flatnonzero(self._plays & (self._length > self._first))
        self._steps["rewards"][rows, self._length[rows] - 1] += envs.rewards.reshape(-1)[rows]
        terminated, truncated = envs.agent_terminated.reshape(-1), envs.agent_truncated.reshape(-1)
        ended = self._plays & (terminated | truncated)
        if not ended.any():
            return 0
        self._plays[ended] = False
        rows = rows[ended[rows]]
        last = self._length[rows] - 1
        self._steps["terminated"][rows, last] = terminated[rows]
        self._steps["truncated"][rows, last] = truncated[rows]
        lengths = self._length[rows] - self._first[rows]
        self._ended.append(
            {
                "row": rows,
                "last": last,
                "final_observations": envs.observations.reshape(-1, *envs.observations.shape[2:])[rows],
                "lengths": lengths,
                **{name: labels[rows] for name, labels in self._labels.items()},
            }
        )
        return int(lengths.sum())

    def take(self) -> Columns | None:
        """Return the episodes that have ended since the last call, ordered by row; None where none has.

        The steps of the others are kept.
        """
        num_flushed, columns = np.zeros(self._num_rows, np.int64), None
        if self._ended:
            ended = {name: np.concatenate([part[name] for part in self._ended]) for name in self._ended[0]}
            order = np.lexsort((ended["last"], ended["row"]))
            np.maximum.at(num_flushed, ended["row"], ended["last"] + 1)
            is_flushed = np.arange(self._capacity) < num_flushed[:, None]
            columns = Columns(
                **{name: array[is_flushed] for name, array in self._steps.items()},
                **{name: ended[name][order] for name in EPISODE_COLUMNS},
            )
            self._ended = []
        self._keep_from(num_flushed)
        return columns

    def _keep_from(self, num_flushed: Array) -> None:
        """Move the remaining steps of each row, from number `num_flushed`, int64 [B], to its beginning; make room."""
        num_remaining = int((self._length - num_flushed).max())
        source: Any = np.minimum(num_flushed[:, None] + np.arange(num_remaining), self._capacity - 1)
        before = {name: array[np.arange(self._num_rows)[:, None], source] for name, array in self._steps.items()}
        if 2 * num_remaining > self._capacity:
            self._capacity *= 2
            self._steps = {name: self._empty(name) for name in STEP_COLUMNS}
        for name, array in self._steps.items():
            array[:, :num_remaining] = before[name]
        self._length -= num_flushed
        self._first = np.maximum(self._first - num_flushed, 0)
