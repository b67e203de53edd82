"""This module has `ForeignWorld`, the EnvSpec of environments from outside the lab, with spaces in the lab's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from rl_lab.adapters.structured import ObservationStructure
from rl_lab.core.agent_spaces import SharedSpaces


@dataclass(frozen=True)
class ForeignWorld(SharedSpaces):
    """The EnvSpec of a foreign environment, with spaces in the lab's form: discrete observations are one-hot."""

    name: str
    observation: Box
    action: Discrete[Any] | Box
    horizon: int
    reward_threshold: float | None
    frames_per_second: int
    agents: tuple[str, ...] = ("agent",)
    has_action_mask: bool = False
    current_player_field: str = ""
    structures: tuple[ObservationStructure | None, ...] = ()  # per agent: of observations that are no single array

    @property
    def is_multi_agent(self) -> bool:
        """See `World.is_multi_agent`."""
        return len(self.agents) > 1


def single_precision(space: Box) -> Box:
    """Return the Box in single precision; the bounds are cast first, because Gymnasium warns when it casts them."""
    return Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
