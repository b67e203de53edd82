"""Agent `scripted`: it takes the actions of the expert, or the novice, that the world's author has written.

These are kernels of the world. They read the state of the bound batch; observations are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rl_lab.core.agent import Agent, hyperparameter
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.world import Array, World
from rl_lab.engine.batch import Batch


@dataclass(frozen=True)
class Config:
    """The settings of the agent."""

    strength: str = hyperparameter("expert", "expert, or novice if the world has one")  # the kernel's name


class ScriptedAgent:
    """An agent that calls the world's expert or novice kernel, which reads the state and ignores observations."""

    name = "scripted"

    def __init__(self, strength: str) -> None:
        self.strength = strength
        self.envs: Batch | None = None

    def is_row_wise(self, *, deterministic: bool) -> bool:
        """See `agent.Agent`. It is True because the expert's kernel reads the state of the row's own world alone."""
        return True

    def bind(self, envs: BatchedEnv) -> None:
        """Store the batch, whose states the expert reads. Raises ValueError for a world that cannot have an expert."""
        if not isinstance(envs, Batch):
            raise ValueError(f"{envs.world.name} has no expert: only the lab's own worlds can have one")
        self.envs = envs

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`; call `bind` first."""
        if self.envs is None:
            raise ValueError("call bind(envs) of a scripted agent before act")
        # The batch writes scripted actions into its own array, in which other agents may have actions already.
        actions_before = self.envs.actions.copy()
        actions = self.envs.scripted_actions(self.strength).reshape(-1, *actions_before.shape[2:])
        actions = actions.copy() if rows is None else actions[rows]
        self.envs.actions[...] = actions_before
        return actions, None


def make(config: Config, world: EnvSpec) -> Agent:
    """Return the agent. Raises ValueError for another strength, and if the world has no such kernel."""
    if config.strength not in ("expert", "novice"):
        raise ValueError(f"strength={config.strength!r}: expected expert or novice")
    if not isinstance(world, World) or getattr(world, config.strength) is None:
        raise ValueError(f"{world.name} has no {config.strength}; use agent=random, ppo or dqn")
    return ScriptedAgent(config.strength)
