"""This module has `AgentSubsetSpec`, the EnvSpec of an environment that has a subset of a world's agents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gymnasium.spaces import Box, Discrete

from rl_lab.core.agent_spaces import SharedSpaces
from rl_lab.core.protocols import EnvSpec


@dataclass(frozen=True)
class AgentSubsetSpec(SharedSpaces):
    """An `EnvSpec` for a subset of a world's agents, which share one observation space and one action space."""

    name: str
    observation: Box
    action: Discrete[Any] | Box
    horizon: int
    reward_threshold: float | None
    agents: tuple[str, ...]
    has_action_mask: bool
    frames_per_second: int
    is_multi_agent: bool
    current_player_field: str
    structures: tuple[Any, ...] = ()  # see `ForeignWorld.structures`

    @classmethod
    def of(
        cls,
        world: EnvSpec,
        agents: tuple[str, ...],
        observation: Box,
        action: Discrete[Any] | Box,
        *,
        is_multi_agent: bool,
        current_player_field: str = "",
        seats: Sequence[int] = (),
    ) -> AgentSubsetSpec:
        """Return the spec of `agents` of a world, where they have the indices `seats`."""
        structures: tuple[Any, ...] = getattr(world, "structures", ())
        return cls(
            name=world.name,
            observation=observation,
            action=action,
            horizon=world.horizon,
            reward_threshold=world.reward_threshold,
            agents=agents,
            has_action_mask=world.has_action_mask,
            frames_per_second=world.frames_per_second,
            is_multi_agent=is_multi_agent,
            current_player_field=current_player_field,
            structures=tuple(structures[a] for a in seats) if structures else (),
        )


def require_equal_size(name: str, roles: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return a world's roles. Raises ValueError where they differ in their number of agents."""
    if len({len(seats) for seats in roles}) > 1:
        raise ValueError(f"{name}: its roles have different numbers of agents; choose one with role=")
    return roles
