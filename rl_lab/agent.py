"""What an agent is: the one thing training returns and evaluation, video and tournament know."""

from __future__ import annotations

from typing import Any, Protocol

from .batch import Worlds
from .world import Array


class Agent(Protocol):
    """Decides for B rows at once (B = N worlds x A agents)."""

    name: str

    def attend(self, worlds: Worlds) -> None:
        """Take a seat at these worlds before their first step; agents that need no more than observations ignore it."""

    def act(
        self, observations: Array, *, state: Any = None, legal: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, Any]:
        """Return actions, int64 [B] or float32 [B, k], for observations [B, *shape], and the agent's next state.

        `legal`, uint8 [B, actions], masks actions where a world has illegal ones; `state` is what the last call returned,
        None at first.
        """
