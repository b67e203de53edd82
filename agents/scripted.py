"""Scripted: a world's own expert, written by its author."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rl_lab.agent import Agent, hyperparameter
from rl_lab.batch import WorldInfo, Worlds
from rl_lab.engine import Batch
from rl_lab.world import Array, World


@dataclass(frozen=True)
class Config:
    """How well it plays."""

    strength: str = hyperparameter("expert", "expert, or novice where the world has one")


class ScriptedAgent:
    """Plays the expert or novice kernel on the worlds' states; it sees everything and ignores observations."""

    name = "scripted"

    def __init__(self, strength: str) -> None:
        self.strength = strength
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
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`; call `attend` first."""
        if self.worlds is None:
            raise ValueError("a scripted agent attends its worlds before it acts")
        given = self.worlds.actions.copy()  # others may have written theirs already
        chosen = self.worlds.scripted_actions(self.strength).reshape(-1, *given.shape[2:])
        chosen = chosen.copy() if rows is None else chosen[rows]
        self.worlds.actions[...] = given
        return chosen, None


def make(config: Config, world: WorldInfo) -> Agent:
    """Return the world's expert. Raises ValueError where it has none."""
    if config.strength not in ("expert", "novice"):
        raise ValueError(f"strength={config.strength!r}: expected expert or novice")
    if not isinstance(world, World) or getattr(world, config.strength) is None:
        raise ValueError(f"{world.name} has no {config.strength}; use agent=random, ppo or dqn")
    return ScriptedAgent(config.strength)
