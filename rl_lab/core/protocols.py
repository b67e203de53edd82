"""This module declares the protocols of environments that evaluation, learners and wrappers use."""

from __future__ import annotations

from typing import Any, Protocol

from gymnasium.spaces import Box, Discrete

from rl_lab.core.world import Array


class EnvSpec(Protocol):
    """The static description of a world: its spaces, agents, horizon and properties."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def observation(self) -> Box: ...  # noqa: D102
    @property
    def action(self) -> Discrete[Any] | Box: ...  # noqa: D102
    @property
    def horizon(self) -> int: ...  # noqa: D102
    @property
    def reward_threshold(self) -> float | None: ...  # noqa: D102
    @property
    def agents(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def roles(self) -> dict[str, tuple[int, ...]]: ...  # noqa: D102
    @property
    def has_action_mask(self) -> bool: ...  # noqa: D102
    @property
    def is_multi_agent(self) -> bool: ...  # noqa: D102
    @property
    def current_player_field(self) -> str: ...  # noqa: D102
    @property
    def observation_spaces(self) -> tuple[Box, ...]: ...  # noqa: D102
    @property
    def action_spaces(self) -> tuple[Discrete[Any] | Box, ...]: ...  # noqa: D102
    @property
    def frames_per_second(self) -> int: ...  # noqa: D102


class BatchedEnv(Protocol):
    """A batch of N worlds with A agents each; `engine.Batch` documents the arrays and the order of events."""

    num_envs: int
    restores_exactly: bool  # True if a restored snapshot continues bit for bit
    actions: Array
    observations: Array
    rewards: Array
    terminated: Array
    truncated: Array
    done: Array
    action_mask: Array
    acting: Array
    left_episode: Array
    paused: Array

    @property
    def agent_terminated(self) -> Array: ...  # noqa: D102
    @property
    def agent_truncated(self) -> Array: ...  # noqa: D102

    running_returns: Array
    final_observations: Array
    episode_returns: Array
    episode_lengths: Array

    @property
    def world(self) -> EnvSpec: ...  # noqa: D102
    def seed(self, seed: int | Array, first: int = 0) -> None: ...  # noqa: D102
    def reset(self, mask: Array | None = None) -> Array: ...  # noqa: D102
    def step(self) -> int: ...  # noqa: D102
    def elapsed_steps(self, i: int) -> int: ...  # noqa: D102
    def snapshot(self) -> dict[str, Array]: ...  # noqa: D102
    def restore(self, snapshot: dict[str, Array]) -> None: ...  # noqa: D102
    def drain_log(self) -> dict[str, float]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
