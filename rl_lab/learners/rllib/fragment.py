"""A fragment: what T steps of a batch of environments give, as arrays, and the order of its rows in a train batch.

Shapes: T steps, B rows (environments x agents), E episodes that ended, C chunks, R rows of the train batch.

A chunk is the part of one row's episode that lies in the fragment. RLlib's learners expect the chunks one after the
other: those that ended, by step and row, then those still running, by row. After a chunk comes one more row with the
observation that followed its last step, for the value that its advantages are bootstrapped from; the loss leaves this
row out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array


@dataclass
class Fragment:
    """Arrays of one fragment. RLlib passes it where it passes episodes, and needs its length only.

    Actions are those that the policy sampled, before they are clipped to the action space.
    """

    observations: Array  # [T, B, *shape]
    last_observations: Array  # [B, *shape], after the last step
    final_observations: Array  # [E, *shape], of the episodes that ended, by step and row
    actions: Array  # int64 [T, B] or float32 [T, B, k]
    action_logp: Array  # float32 [T, B]
    action_dist_inputs: Array  # float32 [T, B, n], or [T, B, 2k] for continuous actions
    rewards: Array  # float32 [T, B]
    terminated: Array  # bool [T, B]
    truncated: Array  # bool [T, B]
    action_mask: Array | None = None  # uint8 [T, B, n]
    last_action_mask: Array | None = None  # uint8 [B, n]
    acting: Array | None = None  # bool [T, B], where rows may wait: those that acted in each step
    last_acting: Array | None = None  # bool [B], those that act after the last step
    is_continuation: bool = True  # of the episodes of the fragment before; False where these could not be restored

    def __len__(self) -> int:
        return int(self.rewards.size)


@dataclass
class Sample:
    """One fragment with what else its sampling gives."""

    fragment: Fragment = field(init=False)
    returns: list[float] = field(default_factory=list)  # of the episodes that ended, by step and row
    lengths: list[int] = field(default_factory=list)  # of the same episodes, one for all agents of an environment
    env_seconds: float = 0.0
    infer_seconds: float = 0.0

    def count_episodes(self, envs: BatchedEnv) -> None:
        """Add the episodes that the last step has ended."""
        ended = np.flatnonzero(envs.done)
        if len(ended):
            self.returns += envs.episode_returns[ended].ravel().tolist()
            self.lengths += envs.episode_lengths[ended].tolist()


@dataclass(frozen=True)
class RowOrder:
    """The rows of a train batch of one fragment: [R] each."""

    # int64, index of the step in the flat arrays [T * B], which transitions of the fragment before may follow; of an
    # added row, that of the chunk's last step.
    steps: Array
    is_added: Array  # bool, the rows after each chunk
    is_last: Array  # bool, the last step of each chunk
    # int64 [C], for each chunk, the index into the E final, then the B last observations, then those of the transitions
    # that are left pending.
    followers: Array
    ends: Array  # int64 [C], the position of each chunk's added row
    rewards: Array  # float32, 0 in added rows
    terminated: Array  # bool
    truncated: Array  # bool


def row_order(fragment: Fragment) -> RowOrder:
    """Return the order of the rows of a fragment in which all rows act in every step."""
    over = np.asarray(fragment.terminated | fragment.truncated)
    num_steps, rows = over.shape
    end_step, end_row = np.nonzero(over)
    # The step after the last end before each step, by row: where the step's chunk begins.
    begins = np.where(over, np.arange(1, num_steps + 1)[:, None], 0)
    begins = np.concatenate([np.zeros((1, rows), np.int64), np.maximum.accumulate(begins, axis=0)])
    running = np.flatnonzero(begins[-1] < num_steps)
    row = np.concatenate([end_row, running])
    start = np.concatenate([begins[end_step, end_row], begins[-1, running]])
    stop = np.concatenate([end_step + 1, np.full(len(running), num_steps)])
    lengths = stop - start
    ends = np.cumsum(lengths + 1) - 1
    chunk = np.repeat(np.arange(len(row)), lengths + 1)
    position = np.arange(len(chunk)) - (ends - lengths)[chunk]
    is_added = position == lengths[chunk]
    steps = (start[chunk] + np.minimum(position, lengths[chunk] - 1)) * rows + row[chunk]
    is_last = position == lengths[chunk] - 1
    flat_terminated, flat_truncated, rewards = (
        array.reshape(-1)[steps] for array in (fragment.terminated, fragment.truncated, fragment.rewards)
    )
    return RowOrder(
        steps,
        is_added,
        is_last,
        followers=np.concatenate([np.arange(len(end_row)), len(end_row) + running]),
        ends=ends,
        rewards=rewards * ~is_added,
        terminated=flat_terminated & is_last,
        # A chunk that the fragment's end cuts is truncated, too.
        truncated=is_last & (flat_truncated | ~flat_terminated),
    )
