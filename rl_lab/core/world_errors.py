"""This module has the errors about a world: a mistake in its file, or a state in which an agent cannot act."""

from __future__ import annotations

from typing import Any

from rl_lab.core.errors import WorkFailed


class WorldError(WorkFailed, TypeError):
    """A world file has a mistake; the message names the file, the line and the fix."""


class StuckError(WorldError):
    """An agent has to act and has no legal action, which is a mistake in the world, not of an agent."""

    def __init__(self, world: str, agent: str, step: int) -> None:
        super().__init__(f"{world}: stuck: {agent} has to act at step {step} and has no legal action")
        self.parts = world, agent, step

    def __reduce__(self) -> Any:
        """Return the arguments for unpickling in another process."""
        return type(self), self.parts
