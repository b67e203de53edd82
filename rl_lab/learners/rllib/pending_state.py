"""Pending transitions in a checkpoint: arrays by name, and their check."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box

from rl_lab.core.world import Array
from rl_lab.learners.rllib.transitions import Pending


def pending_arrays(pending: list[Pending | None]) -> dict[str, Array]:
    """Return the arrays of fragments' pending transitions; the place of a fragment is in front of each name."""
    present = [(k, each) for k, each in enumerate(pending) if each is not None]
    return {f"{k}.{name}": array for k, p in present for name, array in {"rows": p.rows, **p.columns}.items()}


def restored_pending(arrays: dict[str, Array]) -> list[Pending | None]:
    """Return what `pending_arrays` was given."""
    places = sorted({int(name.partition(".")[0]) for name in arrays})
    pending: list[Pending | None] = []
    for k in places:
        columns = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{k}.")}
        pending.append(Pending(columns.pop("rows"), columns))
    return pending


def check_pending(arrays: dict[str, Array], policy: Any, *, places: int, rows: int, has_mask: bool) -> None:
    """Raise ValueError unless these are arrays of `places` fragments, or of none, with `rows` rows each."""
    if not arrays:
        return
    expected = _expected(policy, has_mask)
    if set(arrays) != {f"{k}.{name}" for k in range(places) for name in expected}:
        raise ValueError("pending: the arrays are not those of this learner")
    for name, array in arrays.items():
        place, _, column = name.partition(".")
        shape, dtype = expected[column]
        count = len(arrays[f"{place}.rows"])
        if array.shape != (count, *shape) or array.dtype != dtype or not np.isfinite(array).all():
            raise ValueError(f"pending.{name}: expected finite {dtype} of shape {(count, *shape)}")
        if column == "rows" and not (np.all(np.diff(array) > 0) and np.all((array >= 0) & (array < rows))):
            raise ValueError(f"pending.{name}: expected different rows of 0 to {rows - 1}, in order")


def _expected(policy: Any, has_mask: bool) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape, without the number of transitions, and dtype by name."""
    space, action = policy.observation_space, policy.action_space
    continuous = isinstance(action, Box)
    actions = policy.action_net.out_features
    expected: dict[str, tuple[tuple[int, ...], Any]] = {
        "rows": ((), np.int64),
        "observations": (space.shape, space.dtype),
        "actions": (action.shape, np.float32) if continuous else ((), np.int64),
        "action_logp": ((), np.float32),
        "action_dist_inputs": ((2 * actions if continuous else actions,), np.float32),
        "rewards": ((), np.float32),
    }
    return expected | ({"action_mask": ((actions,), np.uint8)} if has_mask else {})
