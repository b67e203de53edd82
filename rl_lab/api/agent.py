"""A trained agent that acts on observations, one at a time or a batch of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box

from rl_lab.adapters import make
from rl_lab.core.errors import UsageError
from rl_lab.core.world import Array
from rl_lab.experiments.agent_targets import find_agent


class ActingAgent:
    """An agent that needs observations alone, for use outside of the lab's evaluation.

    An agent with a memory, such as a recurrent policy, remembers between calls of `act`: call `reset` at the start of
    each episode.

    Args:
        target: a run's folder or name, or RUN@STEP.

    Raises UsageError where there is no such agent; for worlds of several agents, where an action depends on the seat;
    for environments of other libraries whose observations or actions the lab converts; and for agents that read more
    than observations, such as a Decision Transformer, which reads the rewards.
    """

    def __init__(self, target: str) -> None:
        self._agent, scenario, _, _ = find_agent(target, [])
        self._envs = make.make(scenario.world, 1, scenario.params)
        if len(self._envs.world.agents) > 1:
            raise UsageError(f"{target} plays {scenario.world}, a world of several agents: use rl_lab.evaluate")
        if getattr(self._agent, "needs_environment", False) or not _has_plain_spaces(self._envs):
            raise UsageError(f"{target} does not act on observations alone, as arrays: use rl_lab.evaluate")
        self._agent.bind(self._envs)
        self.name, self.observation_space = self._agent.name, self._envs.world.observation
        self.action_space = self._envs.world.action
        self.reset()

    def reset(self) -> None:
        """Forget what was observed: the next call of `act` begins an episode."""
        self._state: Any = None

    def act(self, observation: Any, *, action_mask: Any = None, deterministic: bool = True) -> Any:
        """Return the action for an observation [*shape], or the actions for a batch of observations [B, *shape].

        Args:
            observation: as the world's observation space has it.
            action_mask: uint8 [actions] or [B, actions], 1 where an action is legal, for worlds that have masks.
            deterministic: choose the most probable action, or draw one.

        Returns an int or float32 [k] for one observation, int64 [B] or float32 [B, k] for a batch. Raises ValueError
        for another shape, for a batch where the agent has a memory, and without a mask where the world has masks.
        """
        space = self.observation_space
        observations, shape = np.asarray(observation, space.dtype), space.shape
        if observations.shape != shape and observations.shape[1:] != shape:
            raise ValueError(f"an observation has shape {list(shape)}, not {list(observations.shape)}")
        is_single = observations.shape == shape
        if not is_single and hasattr(self._agent, "begin"):
            raise ValueError(f"{self.name} remembers one episode: give it one observation at a time")
        if action_mask is None and self._envs.world.has_action_mask:
            raise ValueError("some actions may be illegal: give action_mask=")
        batch = observations[None] if is_single else observations
        mask = None if action_mask is None else np.asarray(action_mask, np.uint8).reshape(len(batch), -1)
        actions, self._state = self._agent.act(batch, state=self._state, action_mask=mask, deterministic=deterministic)
        if not is_single:
            return actions
        action: Array = actions[0]
        return action if action.ndim else int(action)


def _has_plain_spaces(envs: Any) -> bool:
    """Return whether observations and actions are the environment's own, and not converted by the lab."""
    raw = getattr(envs, "raw_spaces", None)
    if raw is None:
        return True
    return all(isinstance(observation, Box) and getattr(action, "start", 0) == 0 for observation, action in raw)
