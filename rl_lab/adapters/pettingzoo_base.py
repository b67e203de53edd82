"""This module has the common base of LabAECEnv and LabParallelEnv: a batch of one world, with its agents by name.

The environments write actions into the batch's arrays and read results from them; see `pettingzoo` for the classes.
"""

from __future__ import annotations

import operator
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode

from rl_lab.adapters.make import parameters
from rl_lab.adapters.rendering import RENDER_MODES, RenderMixin, check_render_mode, engine_seed
from rl_lab.core.world import Array, World
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch

# The attributes that describe an episode, beside the batch's snapshot; a copy of an environment has the same values.
_EPISODE = "agents agent_selection rewards terminations truncations infos _cumulative_rewards _skip_agent_selection"
_EPISODE += " _live_slots _num_collected _needs_seed"


class AgentSlot(NamedTuple):
    """The indices of an agent's part of the batch's arrays: its own, and those that leave the padding out."""

    agent: str
    agent_index: int
    observation: Any
    mask: Any


class PettingZooBase(RenderMixin):
    """A PettingZoo environment over a batch of one world; LabAECEnv and LabParallelEnv add `reset` and `step`.

    Args:
        world: the world or its name.
        render_mode: None, "rgb_array" or "human".
        max_cycles: the horizon in environment steps; if agents take turns, each move is a step.
        illegal: the effect of an illegal action, see `engine.Batch`: "refuse" raises ValueError, "forfeit" ends the
            episode as PettingZoo's classic games do, "noop" takes no action.
        params: the world's parameters.

    Observations have no padding. If actions can be illegal, an observation is a dict of `observation` and
    `action_mask`, int8 [actions], and infos hold the mask, too. Only agents that act next have legal actions.
    `reset(seed=s)` begins the episode of a Batch with seed s; later resets without a seed continue its random stream.
    """

    def __init__(
        self,
        world: str | World,
        render_mode: str | None = None,
        max_cycles: int | None = None,
        illegal: str = "refuse",
        **params: Any,
    ) -> None:
        check_render_mode(render_mode)
        self._arguments = (world, render_mode, max_cycles, illegal, params)
        definition = world_registry.load(world) if isinstance(world, str) else world
        definition = definition if max_cycles is None else _with_horizon(definition, max_cycles)
        b = Batch(
            definition,
            1,
            parameters(definition, params),
            threads=1,
            autoreset=AutoresetMode.DISABLED,
            illegal=illegal,
        )
        self.batch, self.render_mode = b, render_mode
        self.metadata: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": definition.frames_per_second}
        self.metadata |= {"name": f"{definition.name}_v0", "is_parallelizable": not definition.current_player_field}
        self.possible_agents, self.agents = list(definition.agents), list[str]()
        self._index = {agent: a for a, agent in enumerate(definition.agents)}
        # The spaces are copies, because seeding the random generator of one agent's space must not seed another's.
        spaces = list(zip(definition.agents, definition.observation_spaces, definition.action_spaces, strict=True))
        self.action_spaces: dict[str, Any] = {agent: deepcopy(action) for agent, _, action in spaces}
        self.observation_spaces: dict[str, Any] = {
            agent: _with_mask(deepcopy(observation), action) if definition.has_action_mask else deepcopy(observation)
            for agent, observation, action in spaces
        }
        self._observations, self._actions, self._reward_row = b.observations[0], b.actions[0], b.rewards[0]
        self._action_mask, self._left_episode = b.action_mask[0].view(np.int8), b.left_episode[0]
        self._slots = {agent: _slot(definition, a) for a, agent in enumerate(definition.agents)}
        self._has_action_mask, self._can_leave = definition.has_action_mask, bool(definition.alive_field)
        player_field = definition.current_player_field
        self._current_player = b.states[player_field] if player_field else None
        self._write_action = (
            self._write_discrete_action if isinstance(definition.action, Discrete) else self._write_box_action
        )
        self._live_slots: list[AgentSlot] = []
        self._needs_seed = True

    def observation_space(self, agent: str) -> Any:
        """Return the agent's observation space, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """Return the agent's action space, always the same object."""
        return self.action_spaces[agent]

    @cached_property
    def state_space(self) -> Box:
        """Return the space of `state()`."""
        spaces = self.batch.world.observation_spaces
        low, high = (np.concatenate([getattr(space, side).ravel() for space in spaces]) for side in ("low", "high"))
        return Box(low, high, low.shape, low.dtype)  # type: ignore[arg-type]

    def state(self) -> Array:
        """Return the concatenated observations of all agents, a vector."""
        parts = [self._observations[slot.observation].ravel() for slot in self._slots.values()]
        vector: Array = np.concatenate(parts)
        return vector

    def _begin_episode(self, seed: int | None) -> None:
        if seed is not None or self._needs_seed:
            random_seed = int(np.random.SeedSequence().generate_state(1)[0])
            self.batch.seed(random_seed if seed is None else engine_seed(seed))
        self._needs_seed = False
        self.batch.reset()
        self._live_slots = list(self._slots.values())
        if self._can_leave:
            alive = self.batch.states[self.batch.world.alive_field][0]
            self._live_slots = [slot for slot in self._live_slots if alive[slot.agent_index]]
        self.agents = [slot.agent for slot in self._live_slots]
        if self.render_mode == "human":
            self.render()

    def _write_discrete_action(self, agent: str, index: int, action: Any) -> None:
        try:
            self._actions[index] = operator.index(action)
        except (TypeError, OverflowError):
            raise ValueError(f"action {action!r} of {agent}: expected one in {self.action_spaces[agent]}") from None

    def _write_box_action(self, agent: str, index: int, action: Any) -> None:
        values, space = np.asarray(action), self.action_spaces[agent]
        if values.shape != space.shape or values.dtype.kind not in "fiu":
            raise ValueError(f"action of {agent}, shape {values.shape}, dtype {values.dtype}: expected one in {space}")
        self._actions[index, : space.shape[0]] = values

    def _infos(self) -> dict[str, dict[str, Any]]:
        if not self._has_action_mask:
            return {agent: {} for agent, _, _, _ in self._live_slots}
        action_mask = self._action_mask.copy()
        return {agent: {"action_mask": action_mask[mask]} for agent, _, _, mask in self._live_slots}

    def _rewards(self) -> dict[str, float]:
        rewards = self._reward_row.tolist()
        return {agent: rewards[index] for agent, index, _, _ in self._live_slots}

    def _any_agent_left(self) -> bool:
        return self._can_leave and bool(np.count_nonzero(self._left_episode))  # faster than any()

    def _end_flags(self) -> tuple[dict[str, bool], dict[str, bool]]:
        """Return terminations and truncations; an agent that left the episode is terminated, never truncated."""
        terminated, truncated = bool(self.batch.terminated[0]), bool(self.batch.truncated[0])
        left = self._left_episode.tolist()
        terminations = {slot.agent: terminated or left[slot.agent_index] for slot in self._live_slots}
        return terminations, {slot.agent: truncated and not left[slot.agent_index] for slot in self._live_slots}

    def __reduce__(self) -> tuple[Any, ...]:
        # Compiled code holds the addresses of the arrays, so a copy is a new environment set to the same episode.
        episode = {name: value for name, value in vars(self).items() if name in _EPISODE.split()}
        return _rebuild, (type(self), self._arguments, self.batch.snapshot(), self._actions.copy(), episode)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        rebuild, (kind, arguments, *rest) = self.__reduce__()
        return rebuild(kind, arguments, *deepcopy(rest))


def _rebuild(kind: Any, arguments: tuple[Any, ...], snapshot: dict[str, Array], actions: Array, episode: Any) -> Any:
    """Return a new environment of class `kind` in the same episode."""
    world, render_mode, max_cycles, illegal, params = arguments
    env = kind(world, render_mode, max_cycles, illegal, **params)
    env.batch.restore(snapshot)
    env.batch.actions[0] = actions
    vars(env).update(episode)
    return env


def _with_horizon(world: World, horizon: int) -> World:
    if not isinstance(horizon, int | np.integer) or horizon < 1:
        raise ValueError(f"max_cycles={horizon!r}: expected an integer of at least 1")
    return replace(world, horizon=int(horizon))


def _with_mask(observation: Box, action: Any) -> Dict:
    return Dict({"observation": observation, "action_mask": Box(0, 1, (int(action.n),), np.int8)})


def _slot(world: World, a: int) -> AgentSlot:
    shape, action = world.observation_spaces[a].shape, world.action_spaces[a]
    observation = a if shape == world.observation.shape else (a, slice(shape[0]))
    count = int(getattr(action, "n", world.mask_size))
    return AgentSlot(world.agents[a], a, observation, a if count == world.mask_size else (a, slice(count)))
