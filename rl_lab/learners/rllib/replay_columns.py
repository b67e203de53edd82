"""The transitions of a fragment for a replay buffer, by RLlib's names.

Shapes: R transitions, B rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_lab.core.world import Array
from rl_lab.learners.rllib.fragment import Fragment
from rl_lab.learners.rllib.train_columns import ordered_columns
from rl_lab.learners.rllib.transitions import Pending


@dataclass(frozen=True)
class Transitions:
    """Transitions in an order in which those of one row follow each other in time: [R, ...] each."""

    columns: dict[str, Array]
    row: Array  # int64
    ended: Array  # bool, the episode ends with it


def transitions_of(fragment: Fragment, pending: Pending | None) -> tuple[Transitions, Pending | None]:
    """Return the fragment's transitions, and those that are pending after it; `pending` were so before it.

    The next observation of a transition that ends an episode is the episode's final one, in which all actions count as
    legal.
    """
    columns, order, pending, pending_after = ordered_columns(fragment, pending)
    places = np.flatnonzero(~order.is_added)
    # In the train batch's order, the row after a transition has the observation that follows it.
    own_columns = {
        "obs": columns["obs"][places],
        "new_obs": columns["obs"][places + 1],
        "actions": columns["actions"][places],
        "rewards": columns["rewards"][places],
        "terminateds": columns["terminateds"][places],
    }
    if "action_mask" in columns:
        own_columns["next_action_mask"] = columns["action_mask"][places + 1]
    ended = np.zeros(len(order.steps), np.bool_)
    ended[order.ends - 1] = order.followers < len(fragment.final_observations)
    rows = fragment.rewards.shape[1]
    row = order.steps[places] % rows
    if pending is not None and len(pending.rows):
        older = order.steps[places] - fragment.rewards.size
        row = np.where(older >= 0, pending.rows[np.maximum(older, 0)], row)
    return Transitions(own_columns, row, ended[places]), pending_after
