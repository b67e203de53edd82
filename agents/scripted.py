"""Scripted: a world's own expert, written by its author."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rl_lab.agent import Agent
from rl_lab.batch import WorldInfo, Worlds
from rl_lab.engine import Batch
from rl_lab.world import Array, World


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


class ScriptedAgent:
    """Plays the expert kernel on the worlds' states; it sees everything and ignores observations."""

    name = "scripted"

    def __init__(self) -> None:
        self.worlds: Batch | None = None

    def attend(self, worlds: Worlds) -> None:
        """Keep the batch: the expert reads its states."""
        if not isinstance(worlds, Batch):
            raise ValueError(f"{worlds.world.name} has no expert: only the lab's own worlds can have one")
        self.worlds = worlds

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`; call `attend` first."""
        if self.worlds is None:
            raise ValueError("a scripted agent attends its worlds before it acts")
        return self.worlds.scripted_actions()[:, 0].copy(), None


def make(config: Config, world: WorldInfo) -> Agent:
    """Return the world's expert. Raises ValueError where it has none."""
    if not isinstance(world, World) or world.expert is None:
        raise ValueError(f"{world.name} has no expert; use agent=random, ppo or dqn")
    return ScriptedAgent()
