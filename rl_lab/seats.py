"""What is known of a world from some of its seats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gymnasium.spaces import Box, Discrete

from .batch import WorldInfo
from .world import roles_of


@dataclass(frozen=True)
class SeatedWorld:
    """What is known of a world from one role's seats."""

    name: str
    observation: Box
    action: Discrete[Any] | Box
    horizon: int
    solved: float | None
    agents: tuple[str, ...]
    masked: bool
    frames_per_second: int
    waiting: bool
    turns: str

    @classmethod
    def of(
        cls,
        whole: WorldInfo,
        agents: tuple[str, ...],
        observation: Box,
        action: Discrete[Any] | Box,
        *,
        waiting: bool,
        turns: str = "",
    ) -> SeatedWorld:
        """Return what is known of the whole world at these agents' seats."""
        facts = whole.name, observation, action, whole.horizon, whole.solved, agents, whole.masked
        return cls(*facts, whole.frames_per_second, waiting, turns)

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
