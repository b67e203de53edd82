"""The columns of a train batch, by RLlib's names, of a fragment."""

from __future__ import annotations

import numpy as np

from rl_lab.core.world import Array
from rl_lab.learners.rllib.fragment import Fragment, RowOrder, row_order
from rl_lab.learners.rllib.transitions import Pending, acted_rows, flat_columns


def joined_columns(
    fragments: list[Fragment], pending: list[Pending | None]
) -> tuple[dict[str, Array], list[Pending | None]]:
    """Return the columns of `train_columns` of fragments one after the other, and what each has left pending.

    `pending` is what the fragments before them have left, empty for the first ones.
    """
    before = pending or [None] * len(fragments)
    if len(before) != len(fragments):
        raise ValueError(f"{len(fragments)} fragments follow {len(before)}: each continues one of the last batch")
    parts, pending_after = zip(*map(train_columns, fragments, before), strict=True)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, list(pending_after)


def train_columns(fragment: Fragment, pending: Pending | None) -> tuple[dict[str, Array], Pending | None]:
    """Return the columns, [R, ...] each, without advantages and value targets, and the transitions left pending.

    `pending` are those of the fragment before, None for the first one and where all rows act in every step.
    """
    columns, _, _, pending_after = ordered_columns(fragment, pending)
    return columns, pending_after


def ordered_columns(
    fragment: Fragment, pending: Pending | None
) -> tuple[dict[str, Array], RowOrder, Pending | None, Pending | None]:
    """Return the columns of `train_columns`, their order, the pending transitions that it indexes, and those left."""
    if not fragment.is_continuation:
        pending = None
    if fragment.acting is None:
        order, pending_after = row_order(fragment), None
    else:
        order, pending_after = acted_rows(fragment, pending)
    flat = flat_columns(fragment, pending)
    ordered = {name: array[order.steps] for name, array in flat.items()}
    ordered["observations"][order.ends] = _following(fragment, pending_after, "observations")[order.followers]
    if "action_mask" in ordered:
        ordered["action_mask"][order.ends] = _following(fragment, pending_after, "action_mask")[order.followers]
        ordered["action_mask"] = ordered["action_mask"] != 0
    columns = {"obs": ordered.pop("observations"), **ordered, **_flags(order)}
    return columns, order, pending, pending_after


def _following(fragment: Fragment, pending_after: Pending | None, name: str) -> Array:
    """Return what the followers of chunks index: of episodes that ended, of all rows now, of pending transitions."""
    last = getattr(fragment, f"last_{name}")
    ended = len(fragment.final_observations)
    final = fragment.final_observations if name == "observations" else np.ones((ended, *last.shape[1:]), last.dtype)
    return np.concatenate([final, last, *([] if pending_after is None else [pending_after.columns[name]])])


def _flags(order: RowOrder) -> dict[str, Array]:
    return {
        "rewards": order.rewards,
        "terminateds": order.terminated,
        "truncateds": order.truncated,
        "loss_mask": ~order.is_added,
    }
