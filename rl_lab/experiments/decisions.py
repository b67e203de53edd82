"""Decisions of a teacher, gathered in rounds, as a data set to learn from and as the arrays of a checkpoint.

Shapes: M decisions in all rounds. Rounds are told apart, and within a round the episodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.core.protocols import EnvSpec
from rl_lab.core.untrusted import checked_array
from rl_lab.core.world import Array
from rl_lab.datasets.columns import NO_SEED
from rl_lab.datasets.dataset import Dataset
from rl_lab.evaluation.demonstrations import Demonstrations

_FIELDS = ("observations", "actions", "weights", "action_mask", "worlds")


def as_dataset(rounds: Sequence[Demonstrations], world: EnvSpec, name: str, path: Path) -> Dataset:
    """Return the decisions as a data set: for each round and episode, an episode with the teacher's actions.

    These actions were not played, so that an episode has neither rewards nor ends: both are 0 in the data set. `name`
    is the world's name, `path` what errors call the data.
    """
    decisions = Demonstrations.concatenate(list(rounds))
    of_round = np.repeat(np.arange(len(rounds)), [len(each.actions) for each in rounds])
    order = np.lexsort((decisions.worlds, of_round))  # it is stable, so that decisions stay in the order of time
    keys = np.stack([of_round[order], decisions.worlds[order]])
    starts = np.flatnonzero(np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(axis=0)])
    observations, actions = decisions.observations[order], decisions.actions[order]
    actions = _with_type(actions)
    masks = decisions.action_mask[order] if decisions.action_mask.shape[1] else None
    content = hashlib.sha256(observations.tobytes() + actions.tobytes())
    steps, episodes = len(actions), len(starts)
    return Dataset(
        path=path,
        world=name,
        observation_space=world.observation,
        action_space=world.action,
        observations=observations,
        final_observations=np.zeros((episodes, *observations.shape[1:]), observations.dtype),
        actions=actions,
        rewards=np.zeros(steps, np.float32),
        terminated=np.zeros(steps, np.bool_),
        truncated=np.zeros(steps, np.bool_),
        action_masks=masks,
        episode_offsets=np.r_[starts, steps].astype(np.int64),
        seeds=np.full(episodes, NO_SEED, np.int64),
        agent_indices=np.zeros(episodes, np.int64),
        group_ids=np.arange(episodes),
        policy_indices=np.zeros(episodes, np.int64),
        policies=("teacher",),
        content_hash=content.hexdigest(),
        info={},
    )


def as_arrays(rounds: Sequence[Demonstrations]) -> dict[str, Array]:
    """Return all decisions as arrays of M rows, with the numbers of decisions of the rounds, int64 [rounds]."""
    decisions = Demonstrations.concatenate(list(rounds))
    sizes = np.array([len(each.actions) for each in rounds], np.int64)
    columns = {name: np.ascontiguousarray(getattr(decisions, name)) for name in _FIELDS}
    return {**columns, "actions": _with_type(decisions.actions), "sizes": sizes}


def _with_type(actions: Array) -> Array:
    """Return actions as a data set has them, int64 or float32."""
    return actions.astype(np.int64 if actions.dtype.kind in "iu" else np.float32)


def from_arrays(arrays: Mapping[str, Array], world: EnvSpec) -> list[Demonstrations]:
    """Return the rounds of arrays that `as_arrays` returned. Raises KeyError or ValueError where they do not fit."""
    sizes = arrays["sizes"]
    rows = int(sizes.sum()) if sizes.dtype == np.int64 and sizes.ndim == 1 and (sizes > 0).all() else -1
    if rows <= 0:
        raise ValueError("sizes are no numbers of decisions")
    num_actions = int(world.action.n) if isinstance(world.action, Discrete) else 0
    action_shape = () if isinstance(world.action, Discrete) else tuple(world.action.shape)
    like = {
        "observations": np.zeros((1, *world.observation.shape), world.observation.dtype),
        "actions": np.zeros((1, *action_shape), np.int64 if num_actions else np.float32),
        "weights": np.zeros(1, np.float64),
        "action_mask": np.zeros((1, num_actions if world.has_action_mask else 0), np.uint8),
        "worlds": np.zeros(1, np.int64),
    }
    columns = {
        name: checked_array(arrays[name], name, np.broadcast_to(like[name], (rows, *like[name].shape[1:])))
        for name in _FIELDS
    }
    if num_actions and not ((columns["actions"] >= 0) & (columns["actions"] < num_actions)).all():
        raise ValueError(f"actions are not all between 0 and {num_actions - 1}")
    ends = np.cumsum(sizes)
    return [
        Demonstrations(**{name: column[end - size : end] for name, column in columns.items()})
        for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)
    ]
