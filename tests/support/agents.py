"""Agents that tests play against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rl_lab.core import agent_registry
from rl_lab.core.agent import Agent
from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array


class Takes:
    """Takes as many as it always does, or as the legal actions allow."""

    name = "takes"

    def __init__(self, count: int = 1) -> None:
        self.count, self.asked = count, []

    def bind(self, envs: Any) -> None:
        self.asked: list[Array] = []

    def act(self, observations: Array, *, action_mask: Any = None, rows: Any = None, **_: Any) -> tuple[Array, Any]:
        self.asked.append(observations.copy())
        return np.minimum(self.count, action_mask.sum(axis=1)) - 1, None


class FunctionAgent:
    """Takes the actions of a function of the observations."""

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
    module = agent_registry.load("random")
    agent: Agent = module.make(module.Config(seed=seed), world)
    return agent
