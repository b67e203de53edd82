"""Transitions of rows that may wait: agents that are not to move, or that left their episode.

A transition starts in a step in which the row acts and ends when the row acts again or its episode ends. Its reward is
the sum over these steps. One that is still pending when the fragment ends is moved to the next fragment, and the
transition before it bootstraps from its observation. The terms are those of `learners.sb3.masked_rollout_buffers`.

Shapes: T steps, B rows, E ends of episodes, K transitions, P of them pending, R rows of the train batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_lab.core.world import Array
from rl_lab.learners.rllib.fragment import Fragment, RowOrder

COLUMNS = ("observations", "actions", "action_logp", "action_dist_inputs", "rewards", "action_mask")


@dataclass
class Pending:
    """Pending transitions: their rows, int64 [P], in order, and what a fragment has of them, [P, ...] by COLUMNS."""

    rows: Array
    columns: dict[str, Array]


@dataclass
class _Transitions:
    """Transitions in the order of rows and steps: [K] each."""

    row: Array  # int64
    begin: Array  # int64, the step in which the row acts; -1 for one of an earlier fragment
    source: Array  # int64, its place in the flat arrays [T * B + P]
    stop: Array  # int64, the step after its last
    ended: Array  # bool, the episode ends with it
    is_complete: Array  # bool
    rewards: Array  # float32, the sums


def acted_rows(fragment: Fragment, pending: Pending | None) -> tuple[RowOrder, Pending]:
    """Return the order of the fragment's complete transitions in a train batch, by row and step, and the pending ones.

    `RowOrder.steps` are places in the fragment's flat arrays followed by those of the `pending` of the fragment before.
    A pending transition whose row acts in the first step is dropped: its environment was reset in between.
    """
    transitions = _transitions(fragment, pending)
    waits = ~transitions.is_complete  # at most the last of each row
    is_chunk_end = transitions.is_complete & (
        transitions.ended | ~_same_row_follows(transitions.row) | np.append(waits[1:], False)
    )
    complete = np.flatnonzero(transitions.is_complete)
    repeats = 1 + is_chunk_end[complete]
    place = np.repeat(complete, repeats)
    last = np.flatnonzero(is_chunk_end)
    ends = np.cumsum(repeats)[is_chunk_end[complete]] - 1
    is_added, is_last = np.zeros((2, len(place)), np.bool_)
    is_added[ends], is_last[ends - 1] = True, True
    terminated = _flag(fragment.terminated, transitions)[place] & is_last
    order = RowOrder(
        steps=transitions.source[place],
        is_added=is_added,
        is_last=is_last,
        followers=_followers(fragment, transitions, last),
        ends=ends,
        rewards=transitions.rewards[place] * ~is_added,
        terminated=terminated,
        truncated=is_last & (_flag(fragment.truncated, transitions)[place] | ~terminated),
    )
    flat = flat_columns(fragment, pending)
    columns = {name: array[transitions.source[waits]] for name, array in flat.items()}
    return order, Pending(transitions.row[waits], {**columns, "rewards": transitions.rewards[waits]})


def flat_columns(fragment: Fragment, pending: Pending | None) -> dict[str, Array]:
    """Return the fragment's arrays of COLUMNS as [T * B + P, ...], followed by those of pending transitions."""
    flat = {}
    for name in COLUMNS:
        array = getattr(fragment, name)
        if array is not None:
            flat[name] = array.reshape(-1, *array.shape[2:])
            if pending is not None and len(pending.rows):
                flat[name] = np.concatenate([flat[name], pending.columns[name]])
    return flat


def _transitions(fragment: Fragment, pending: Pending | None) -> _Transitions:
    acting, last_acting = fragment.acting, fragment.last_acting
    assert acting is not None and last_acting is not None
    num_steps, rows = fragment.rewards.shape
    row, begin = np.nonzero(acting.T)
    source = begin * rows + row
    if pending is not None:
        waiting = np.flatnonzero(~acting[0, pending.rows])
        row = np.concatenate([pending.rows[waiting], row])
        begin = np.concatenate([np.full(len(waiting), -1), begin])
        source = np.concatenate([num_steps * rows + waiting, source])
        by_row = np.lexsort((begin, row))
        row, begin, source = row[by_row], begin[by_row], source[by_row]
    next_act = np.where(_same_row_follows(row), np.append(begin[1:], 0), num_steps)
    first = np.maximum(begin, 0)
    end = _next_end(fragment.terminated | fragment.truncated)[first, row]
    ended = end < next_act
    stop = np.where(ended, end + 1, next_act)
    rewards = _sums(fragment.rewards, row, first, stop)
    if pending is not None:
        rewards[begin < 0] += pending.columns["rewards"][source[begin < 0] - num_steps * rows]
    is_complete = ended | (next_act < num_steps) | last_acting[row]
    return _Transitions(row, begin, source, stop, ended, is_complete, rewards)


def _same_row_follows(row: Array) -> Array:
    """Return whether the next transition is of the same row, bool [K]."""
    return np.append(row[1:] == row[:-1], np.zeros(min(len(row), 1), np.bool_))


def _next_end(over: Array) -> Array:
    """Return for each step and row the first step from there on that ends an episode, T if none: int64 [T, B]."""
    num_steps = len(over)
    ends = np.where(over, np.arange(num_steps)[:, None], num_steps)
    return np.minimum.accumulate(ends[::-1], axis=0)[::-1]


def _sums(rewards: Array, row: Array, first: Array, stop: Array) -> Array:
    """Return the sums of rewards[first:stop, row], float32 [K]."""
    if not len(row):
        return np.zeros(0, np.float32)
    flat, num_steps = np.append(rewards.T.reshape(-1), np.float32(0)), len(rewards)
    slices = np.stack([row * num_steps + first, row * num_steps + stop], axis=1)
    return np.asarray(np.add.reduceat(flat, slices.reshape(-1))[::2])


def _flag(flags: Array, transitions: _Transitions) -> Array:
    """Return the flag, bool [T, B], with which each transition ends, bool [K]."""
    return np.asarray(transitions.ended & flags[transitions.stop - 1, transitions.row])


def _followers(fragment: Fragment, transitions: _Transitions, last: Array) -> Array:
    """Return which observation follows each chunk, int64 [C]; `last` are the chunks' last transitions.

    It is an index into the E final, then the B last, then the P observations of the transitions that are now pending.
    """
    over, row = fragment.terminated | fragment.truncated, transitions.row[last]
    num_ends, rows = int(over.sum()), over.shape[1]
    ends = np.cumsum(over).reshape(over.shape)[transitions.stop[last] - 1, row] - 1
    waiting = transitions.row[~transitions.is_complete]
    pending = np.full(rows, -1)
    pending[waiting] = np.arange(len(waiting))
    after = np.where(pending[row] >= 0, num_ends + rows + pending[row], num_ends + row)
    # The row's last chunk may have ended while a later episode's transition is pending.
    return np.where(transitions.ended[last], ends, after)
