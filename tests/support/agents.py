"""Small agents for tests: in Nim, of a function of the observations, and the random agent of the lab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rl_lab.core import agent_registry
from rl_lab.core.agent import Agent
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array


class TakesFixedCount:
    """Plays Nim: takes always the same number of objects, or fewer where fewer are left; records its observations."""

    name = "takes"

    def __init__(self, count: int = 1) -> None:
        self.count, self.observed = count, []

    def bind(self, envs: Any) -> None:
        self.observed: list[Array] = []

    def act(self, observations: Array, *, action_mask: Any = None, rows: Any = None, **_: Any) -> tuple[Array, Any]:
        self.observed.append(observations.copy())
        return np.minimum(self.count, action_mask.sum(axis=1)) - 1, None


class FunctionAgent:
    """Takes the actions that a function computes from the observations."""

    name = "fixed"

    def __init__(self, decide: Callable[[Array], Array]) -> None:
        self.decide = decide

    def bind(self, envs: BatchedEnv) -> None:
        pass

    def act(
        self, observations: Array, *, state: Any = None, action_mask: Array | None = None, deterministic: bool = True
    ) -> tuple[Array, Any]:
        return self.decide(observations), None


def random_agent(world: Any, seed: int = 0) -> Agent:
    """Return the agent `random` of the lab for this world."""
    module = agent_registry.load("random")
    agent: Agent = module.make(module.Config(seed=seed), world)
    return agent
