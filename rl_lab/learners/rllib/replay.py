"""A replay buffer of arrays, prioritised as RLlib's, whose n-step transitions have the names of RLlib's learner.

Shapes: S slots, P parts of the environments, B rows of a part, M transitions of a minibatch.

Source: Schaul et al. 2016; `ray.rllib.utils.replay_buffers.prioritized_episode_buffer` (2.60)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.core.untrusted import checked_array, checked_int, checked_number, checked_shape
from rl_lab.core.world import Array
from rl_lab.learners.rllib.fragment import Fragment
from rl_lab.learners.rllib.pending_state import pending_arrays, restored_pending
from rl_lab.learners.rllib.replay_columns import transitions_of
from rl_lab.learners.rllib.transitions import Pending

_SMALLEST_PRIORITY = 1e-12


class PrioritizedReplayBuffer:
    """The last S transitions.

    A transition has a number, and lies in the slot of this number modulo S. `following` has the number of the next
    transition of the same row, or -1: n-step returns are summed along it.

    Args:
        capacity: S.
        space: of the observations of one row.
        num_actions: whose legality is stored, 0 where all are legal.
        parts: P.
        rows: B.
        alpha: exponent of the priorities; 0 samples uniformly.
        beta: exponent of the importance weights.
    """

    def __init__(
        self, capacity: int, space: Any, num_actions: int, *, parts: int, rows: int, alpha: float, beta: float
    ) -> None:
        self.capacity, self._alpha, self._beta = capacity, alpha, beta
        observations = (capacity, *space.shape)
        self.columns: dict[str, Array] = {
            "obs": np.zeros(observations, space.dtype),
            "new_obs": np.zeros(observations, space.dtype),
            "actions": np.zeros(capacity, np.int64),
            "rewards": np.zeros(capacity, np.float32),
            "terminateds": np.zeros(capacity, np.bool_),
            "ended": np.zeros(capacity, np.bool_),
            "following": np.full(capacity, -1, np.int64),
            "priorities": np.zeros(capacity),
        }
        if num_actions:
            self.columns["next_action_mask"] = np.zeros((capacity, num_actions), np.bool_)
        self.total = 0  # transitions so far
        self.largest_priority = 1.0
        self.pending: list[Pending | None] = [None] * parts
        self._last = np.full((parts, rows), -1)  # the number of each row's last transition

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def add(self, part: int, fragment: Fragment) -> None:
        """Add the transitions that end in the next fragment of a part of the environments."""
        if not fragment.is_continuation:
            self._last[part] = -1
        transitions, self.pending[part] = transitions_of(fragment, self.pending[part])
        count = len(transitions.row)
        numbers = self.total + np.arange(count)
        slots = numbers % self.capacity
        # The last of those that share a slot remains, and the first have no place.
        for name, column in transitions.columns.items():
            self.columns[name][slots] = column
        self.columns["ended"][slots] = transitions.ended
        self.columns["following"][slots] = -1
        self.columns["priorities"][slots] = self.largest_priority**self._alpha
        self.total += count
        self._link(part, numbers, transitions.row)

    def _link(self, part: int, numbers: Array, row: Array) -> None:
        """Note which transition follows each row's last one, and those among the new ones."""
        by_row = np.argsort(row, kind="stable")
        row, numbers = row[by_row], numbers[by_row]
        before = np.append(-1, numbers[:-1]) if len(numbers) else numbers
        is_first = np.append(True, row[1:] != row[:-1]) if len(row) else np.zeros(0, np.bool_)
        before[is_first] = self._last[part, row[is_first]]
        is_kept = before >= max(self.total - self.capacity, 0)
        self.columns["following"][before[is_kept] % self.capacity] = numbers[is_kept]
        self._last[part, row] = numbers  # where a row is repeated, its last one

    def sample(self, size: int, n_step: int, gamma: float) -> tuple[dict[str, Array], Array]:
        """Return M = `size` transitions by RLlib's names, by numpy's global generator, and their slots, int64 [M].

        The return of a transition sums up to `n_step` rewards of its episode; `n_step` among the columns is how many.
        """
        priorities = self.columns["priorities"][: len(self)]
        sums = np.cumsum(priorities)
        slots = np.searchsorted(sums, np.random.random_sample(size) * sums[-1], side="right")
        slots = np.minimum(slots, len(self) - 1)
        # Divided by the largest weight, as in RLlib.
        weights = (priorities[slots] / priorities.min()) ** -self._beta
        last, rewards, steps = self._returns(slots, n_step, gamma)
        columns = {
            "obs": self.columns["obs"][slots],
            "new_obs": self.columns["new_obs"][last],
            "actions": self.columns["actions"][slots],
            "rewards": rewards,
            "terminateds": self.columns["terminateds"][last],
            "truncateds": self.columns["ended"][last] & ~self.columns["terminateds"][last],
            "weights": weights.astype(np.float32),
            "n_step": steps,
        }
        if "next_action_mask" in self.columns:
            columns["next_action_mask"] = self.columns["next_action_mask"][last]
        return columns, slots

    def _returns(self, slots: Array, n_step: int, gamma: float) -> tuple[Array, Array, Array]:
        """Return the slots of the last transitions of the sums, the sums, float32, and how many they are: [M] each."""
        last, steps = slots, np.ones(len(slots), np.float32)
        rewards, goes_on = self.columns["rewards"][slots].astype(np.float64), np.ones(len(slots), np.bool_)
        for k in range(1, n_step):
            next_index = self.columns["following"][last]
            goes_on = goes_on & ~self.columns["ended"][last] & (next_index >= 0)
            last = np.where(goes_on, next_index % self.capacity, last)
            rewards += goes_on * gamma**k * self.columns["rewards"][last]
            steps += goes_on
        return last, rewards.astype(np.float32), steps

    def set_priorities(self, slots: Array, errors: Array) -> None:
        """Give the transitions in these slots the priorities of their absolute errors, [M] each."""
        priorities = np.maximum(errors.astype(np.float64), _SMALLEST_PRIORITY)
        self.columns["priorities"][slots] = priorities**self._alpha
        self.largest_priority = max(self.largest_priority, float(priorities.max()))

    def end_episodes(self) -> None:
        """Forget what is pending: the environments have begun new episodes."""
        self.pending = [None] * len(self.pending)
        self._last[:] = -1

    def arrays(self) -> dict[str, dict[str, Array]]:
        """Return the arrays of a checkpoint, which are not copied."""
        members = {"replay": {name: column[: len(self)] for name, column in self.columns.items()}}
        members["replay"]["last"] = self._last
        pending = pending_arrays(self.pending)
        return members | ({"pending": pending} if pending else {})

    def values(self) -> dict[str, Any]:
        """Return the numbers of a checkpoint."""
        return {"replay_total": self.total, "largest_priority": self.largest_priority}

    def check(self, tensors: dict[str, dict[str, Array]], state: dict[str, Any]) -> None:
        """Raise ValueError or KeyError unless these are what `arrays` and `values` of such a buffer return."""
        total, saved = checked_int(state["replay_total"], "replay_total"), tensors["replay"]
        checked_number(state["largest_priority"], "largest_priority", 1.0)
        size = min(total, self.capacity)
        limits = {"priorities": (0.0, 1e300), "following": (-1, total - 1)}
        for name, column in self.columns.items():
            low, high = limits.get(name, (-np.inf, np.inf))
            checked_array(saved[name], f"replay: {name}", column[:1].repeat(size, axis=0), low, high)
        if size and not saved["priorities"].min() > 0:
            raise ValueError("replay: priorities are not positive")
        checked_array(saved["last"], "replay: last", self._last, -1, total - 1)

    def restore(self, tensors: dict[str, dict[str, Array]], state: dict[str, Any]) -> None:
        """Restore what `arrays` and `values` returned, after `check`."""
        self.total, self.largest_priority = state["replay_total"], float(state["largest_priority"])
        for name, column in self.columns.items():
            column[: len(self)] = tensors["replay"][name]
        self._last[:] = checked_shape(tensors["replay"]["last"], "replay: last", self._last)
        places = restored_pending(tensors.get("pending", {}))
        self.pending = places or [None] * len(self.pending)
