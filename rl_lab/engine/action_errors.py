"""This module explains which action a batch refuses, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gymnasium.spaces import Box

from rl_lab.core.world_errors import StuckError

if TYPE_CHECKING:
    from rl_lab.engine.batch import Batch


def explain(batch: Batch, i: int) -> Exception:
    """Return the error for the actions of world i: StuckError where an agent has no legal one, else ValueError."""
    world, t = batch.world, int(batch.states["t"][i])
    for a, space in enumerate(world.action_spaces):
        if not batch.acting[i, a]:
            continue
        row = batch.actions[i, a]
        action = row[: space.shape[0]] if isinstance(space, Box) else row
        agent = f"world {i}" if len(world.agents) == 1 else f"{world.agents[a]} in world {i}"
        if world.has_action_mask and not batch.action_mask[i, a].any():
            return StuckError(world.name, world.agents[a], t)
        if not (space.contains(action) if isinstance(space, Box) else 0 <= action < space.n):
            return ValueError(f"{world.name}: action {action.tolist()} of {agent} at step {t} is outside {space}")
        if world.has_action_mask and not batch.action_mask[i, a, action]:
            legal = np.flatnonzero(batch.action_mask[i, a]).tolist()
            return ValueError(f"{world.name}: action {action} of {agent} at step {t} is illegal; legal are {legal}")
    return ValueError(f"{world.name}: an action of world {i} at step {t} is outside its space")
