"""This module joins the spaces of several agents to one, and computes array shapes and roles that follow from them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.core.world_errors import WorldError

MOST_ACTIONS = 2**20  # the most actions of a Discrete space: masks and policy outputs have an element for each


def mask_size_of(action: Discrete[Any] | Box, has_action_mask: bool) -> int:
    """Return the length of an agent's row in an `action_mask` array: 1 where all actions are legal."""
    return int(action.n) if has_action_mask and isinstance(action, Discrete) else 1


def action_dtype_of(action: Discrete[Any] | Box) -> np.dtype[Any]:
    """Return the dtype of an `actions` array: int64, or float32 for a Box."""
    return np.dtype(np.int64) if isinstance(action, Discrete) else np.dtype(np.float32)


def roles_of(agents: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Return agents' indices by role, which is the agent's name without a number at its end."""
    roles: dict[str, tuple[int, ...]] = {}
    for index, agent in enumerate(agents):
        role = re.sub(r"_\d+$", "", agent)
        roles[role] = (*roles.get(role, ()), index)
    return roles


def join_spaces(name: str, spaces: tuple[Any, ...], location: str) -> Any:
    """Return the space that holds every agent's space; `name` is "observation" or "action".

    Raises WorldError, which begins with `location`, for spaces that are not supported or do not go together.
    """
    for space in spaces:
        if isinstance(space, Box) and 0 in space.shape:
            raise WorldError(f"{location}: {name} is a Box of shape {space.shape}, which holds no number")
        if isinstance(space, Discrete) and int(space.n) > MOST_ACTIONS:
            raise WorldError(f"{location}: {name} has {space.n:,} choices; expected {MOST_ACTIONS:,} at most")
    first = spaces[0]
    if name == "action" and all(isinstance(space, Discrete) for space in spaces):
        if any(space.start != 0 for space in spaces):
            raise WorldError(f"{location}: a Discrete action space starts at 0")
        return Discrete(max(space.n for space in spaces))
    if not all(isinstance(space, Box) and space.dtype == first.dtype for space in spaces):
        raise WorldError(
            f"{location}: {name} must be a Box{' or a Discrete' * (name == 'action')}, of one kind for all agents"
        )
    if name == "action" and any(space.dtype != np.float32 or len(space.shape) != 1 for space in spaces):
        raise WorldError(f"{location}: a Box action space is float32 of shape [k]")
    if all(space == first for space in spaces):
        return first
    if any(len(space.shape) != 1 for space in spaces):
        raise WorldError(f"{location}: only vectors can differ between agents in their {name}")
    longest = max(len(space.low) for space in spaces)
    padded = [[np.pad(side, (0, longest - len(side))) for side in (space.low, space.high)] for space in spaces]
    low, high = np.min([p[0] for p in padded], axis=0), np.max([p[1] for p in padded], axis=0)
    return Box(low, high, (longest,), first.dtype)


class SharedSpaces:
    """The properties of an `EnvSpec` whose agents share one observation space and one action space."""

    observation: Box
    action: Discrete[Any] | Box
    agents: tuple[str, ...]

    @property
    def observation_spaces(self) -> tuple[Box, ...]:
        """See `World.observation_spaces`."""
        return (self.observation,) * len(self.agents)

    @property
    def action_spaces(self) -> tuple[Discrete[Any] | Box, ...]:
        """See `World.action_spaces`."""
        return (self.action,) * len(self.agents)

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """See `World.roles`."""
        return roles_of(self.agents)
